"""Instructions that a process has executed, counted by valgrind's callgrind and told apart by object file.

Callgrind writes what it has counted since the last time whenever the process enters a function of a given name. Whoever
can make the process call that function can therefore cut a run into pieces without stopping it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from bench import config
from bench.errors import BenchError

_COST: Final = re.compile(r"[0-9+*-]\S* (\d+)$")
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)

Profile = Counter[str]
"""Instructions by object file, the file by its path."""


def command(out: Path, cut: str) -> list[str]:
    """What to put before a program so that its counts go to `out`.1, `out`.2 ..., one at every call of `cut`.

    `cut` may have the wildcards * and ?.
    """
    options = ["--tool=callgrind", "--quiet", f"--callgrind-out-file={out}", f"--dump-before={cut}"]
    return [config.tool("valgrind"), *options]


class Parts:
    """The pieces that a process under `command` has written, read as they come."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._next = 1

    def read(self, most: int = sys.maxsize) -> list[Profile]:
        """The next pieces, at most so many, in order. The one that is just being written counts as not yet there."""
        found: list[Profile] = []
        while len(found) < most:
            try:
                text = self._out.with_name(f"{self._out.name}.{self._next}").read_text()
            except FileNotFoundError:
                break
            if _TOTAL.search(text) is None:
                break
            found.append(parse(text))
            self._next += 1
        return found


def parse(text: str) -> Profile:
    """One piece -> its profile. Raises BenchError when the lines do not add up to the sum that stands below them."""
    costs: Profile = Counter()
    names: dict[str, str] = {}
    current = ""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(("ob=", "cob=")):
            # Names are written out once: "(3) /usr/lib/libc.so.6", then "(3)".
            number, _, name = line.partition("=")[2].partition(" ")
            name = names.setdefault(number, name or number)
            current = name if line.startswith("ob=") else current
        elif line.startswith("calls="):
            next(lines, None)  # what the callee has cost, which its own lines say as well
        elif cost := _COST.match(line):
            costs[current] += int(cost[1])
    total = _TOTAL.search(text)
    if total is None or costs.total() != int(total[1]):
        raise BenchError(
            f"callgrind's output is not understood: its lines add up to {costs.total()} instructions, not to "
            f"{total[1] if total else 'any sum'}"
        )
    return costs
