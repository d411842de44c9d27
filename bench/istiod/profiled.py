"""istiod under cProfile.

    python -P -m bench.istiod.profiled FILE OPTIONS

runs `ambient istiod OPTIONS`. SIGUSR1 writes what was gathered since the start, or since the last one, to FILE.NUMBER
and begins anew; calls that last across the signal count from it on.
"""

from __future__ import annotations

import cProfile
import itertools
import signal
import sys
from pathlib import Path
from types import FrameType

from istiod.cli import command


def main() -> None:
    file = sys.argv[1]
    numbers = itertools.count(1)
    profile = cProfile.Profile()

    def dump(_: int, __: FrameType | None) -> None:
        profile.disable()
        draft = Path(f"{file}.draft")
        profile.dump_stats(draft)
        draft.replace(f"{file}.{next(numbers)}")
        profile.clear()
        profile.enable()

    signal.signal(signal.SIGUSR1, dump)
    profile.enable()
    command.main(sys.argv[2:], prog_name="ambient istiod")


if __name__ == "__main__":
    main()
