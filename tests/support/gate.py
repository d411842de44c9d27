"""Runs a part of the performance gate in the network namespace around it and prints what it found, as JSON.

python -P -m tests.support.gate counts DIRECTORY CASE...
python -P -m tests.support.gate memory DIRECTORY
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from bench import config, isolation
from bench.gate import counts, memory
from bench.gate.counts import Count
from bench.gate.memory import Held

_RUN_WAIT: Final = 240.0  # seconds; ten on an idle machine


def count(cases: Iterable[str], modules: Path, directory: Path, seed: str = "") -> dict[str, Count]:
    """What these cases cost in the build whose modules stand there, with this seed turned on."""
    return msgspec.json.decode(_run(["counts", str(directory), *cases], modules, seed), type=dict[str, Count])


def hold(modules: Path, directory: Path, seed: str = "") -> Held:
    """What the workers of that build hold after many connections."""
    return msgspec.json.decode(_run(["memory", str(directory)], modules, seed), type=Held)


def _run(arguments: list[str], modules: Path, seed: str) -> bytes:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces = ["unshare", *user, "--net", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
    environment = {name: value for name, value in os.environ.items() if name not in {"AMBIENT_BUILD", config.SEED}}
    environment |= {"PYTHONPATH": f"{modules}:{config.ROOT}", config.SEED: seed}
    done = subprocess.run(
        [*namespaces, sys.executable, "-P", "-m", "tests.support.gate", *arguments],
        stdout=subprocess.PIPE,
        env=environment,
        cwd="/",
        timeout=_RUN_WAIT,
        check=True,
    )
    return done.stdout


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(what: str, directory: str, *cases: str) -> None:
    isolation.prepare()
    place = Path(directory)
    found = memory.memory_after(place, _progress) if what == "memory" else counts.measure(cases, place, _progress)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
