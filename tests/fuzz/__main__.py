"""Run a fuzz entry for a while: `python -m tests.fuzz NAME [--seconds N] [--seed N]`."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ENTRIES = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.fuzz_{name}")


def damaged(source: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with bytes changed, cut, doubled, or joined to another seed."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        at = source.randint(0, len(data))
        match source.randint(0, 4):
            case 0 if data:
                data[at % len(data)] = source.randint(0, 255)
            case 1:
                data[at:at] = source.randbytes(source.randint(1, 8))
            case 2:
                del data[at : at + source.randint(1, 16)]
            case 3:
                data[at:at] = data[at : at + source.randint(1, 32)]
            case _:
                data += source.choice(seeds)
    return bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=ENTRIES)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="repeat a run")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    entry, source, count = load(arguments.name), random.Random(seed), 0
    seeds = getattr(entry, "SEEDS", ()) or (b"",)
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        data = damaged(source, seeds)
        try:
            entry.fuzz_one(data)
        except Exception as error:
            error.add_note(f"{arguments.name}: input {data!r} (seed {seed}, round {count})")
            raise
        count += 1
    sys.stdout.write(f"{arguments.name}: {count} inputs, no fault (seed {seed})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
