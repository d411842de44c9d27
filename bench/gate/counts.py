"""The cases of the gate and their price in instructions.

A count is the same on a busy machine as on a quiet one, so the gate can be much stricter than any time would allow.
What it does not see: the kernel, caches and waiting. The ratios against Envoy are there for those.

How well counts repeat, twelve runs, half of them with both processors taken by others: request 0.01 %, bulk 0.01 %,
stream 0.1 %, lookup and match 0.3 %, between the lowest and the highest; our own part of them within 0.5 %. policy
repeats to the instruction, but changes by up to 1 % with the length of the path at which the sources stand.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from bench import config
from bench.errors import BenchError
from bench.gate import callgrind, environment, replay
from bench.gate.callgrind import Profile
from bench.gate.replay import Replay
from bench.suite import Progress

_MASKS: Final = 8  # of the `match` case: sixteen is the most a worker has
_POLICIES: Final = 50
_CUT: Final = "*getppid*"  # the programs call it between their rounds and never else
_WAIT: Final = 120.0  # seconds for a program under valgrind, which takes five on an idle machine
# And nothing else: what stands in the environment moves everything in memory, and Python's caches hash by address.
_ENVIRONMENT: Final = {"LC_ALL": "C", "PYTHONHASHSEED": "0"}
_OURS: Final = ("meshcore", "ztunnel", "waypoint")


class Count(msgspec.Struct, frozen=True):
    """Instructions for one piece of work, in all processes that take part in it."""

    total: float
    ours: float | None
    """Of these, in our own extension modules; None where the work is done in Python."""
    objects: dict[str, float]
    """The same by object file: `ztunnel/_flow` for ours, `libcrypto.so.3` for others."""


class Case(NamedTuple):
    """One piece of work. It is done `pieces` times, three times as often again, and the difference is counted."""

    about: str
    pieces: int
    total_needs: tuple[str, ...]
    """What must be as it was (environment.py) for totals to be compared."""
    ours_needs: tuple[str, ...] = environment.COMPILED
    through: Callable[[Replay, int], Profile] | None = None
    """Through a pair of workers, or ..."""
    program: Callable[[int], list[str]] | None = None
    """... a program that takes the number of pieces of its rounds."""


def _lookups(masks: int) -> Callable[[int], list[str]]:
    def command(pieces: int) -> list[str]:
        arguments = (config.BUILD, config.FLOWS, masks, pieces, 3 * pieces)
        return [sys.executable, "-I", "-S", str(config.PROGRAMS / "lookups.py"), *map(str, arguments)]

    return command


def _policies(pieces: int) -> list[str]:
    # Not isolated (-I): the program's environment holds nothing but the seed of its hashes.
    packages = Path(msgspec.__file__).parent.parent
    arguments = (f"{config.BUILD}:{config.ROOT}:{packages}", _POLICIES, pieces, 3 * pieces)
    return [sys.executable, "-S", "-s", "-P", str(config.PROGRAMS / "policies.py"), *map(str, arguments)]


CASES: Final[Mapping[str, Case]] = {
    "request": Case("an HTTP request of 1 KB", 100, environment.WORKER, through=replay.request),
    "bulk": Case("1 MB one way", 2, environment.WORKER, through=replay.bulk),
    "stream": Case("a new connection", 10, environment.WORKER, through=replay.stream),
    "lookup": Case(f"a flow-table hit among {config.FLOWS:,}", 100_000, environment.NATIVE, program=_lookups(1)),
    "match": Case(
        f"a flow-table hit under the last of {_MASKS} masks", 20_000, environment.NATIVE, program=_lookups(_MASKS)
    ),
    "policy": Case(
        f"a decision under {_POLICIES} policies", 10, environment.INTERPRETED, ours_needs=(), program=_policies
    ),
}
"""By name, in the order in which they run and are shown."""


def measure(names: Iterable[str], directory: Path, progress: Progress) -> dict[str, Count]:
    """Count these cases, in the bench's own network namespace (isolation.py). Raises BenchError.

    Workers and programs run side by side, one of each at a time; their files go to `directory` and
    are removed.
    """
    wanted = set(names)
    if unknown := sorted(wanted - CASES.keys()):
        raise BenchError(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    chosen = {name: case for name, case in CASES.items() if name in wanted}
    with tempfile.TemporaryDirectory(prefix="counts-", dir=directory) as place:
        profiles = _profiles(chosen, Path(place), progress)
    return {name: count(profiles[name], 2 * case.pieces, case) for name, case in chosen.items()}


def _profiles(chosen: Mapping[str, Case], directory: Path, progress: Progress) -> dict[str, Profile]:
    """-> by case, instructions for twice its pieces."""
    profiles: dict[str, Profile] = {}
    with _Programs() as programs:
        pending = {
            name: programs.start(case.program(case.pieces), directory / f"{name}.callgrind")
            for name, case in chosen.items()
            if case.program is not None
        }
        if any(case.through for case in chosen.values()):
            progress("starting two workers under callgrind")
            with Replay(directory) as pair:
                for name, case in chosen.items():
                    if case.through is not None:
                        progress(f"{name}: {5 * case.pieces} times under callgrind")
                        profiles[name] = case.through(pair, case.pieces)
        for name, future in pending.items():
            progress(f"{name}: {4 * chosen[name].pieces:,} times under callgrind")
            profiles[name] = future.result()
    return profiles


class _Programs:
    """Runs programs one after the other, beside whatever else happens. A context manager; leaving it ends them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gate")
        self._running: subprocess.Popen[str] | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._running is not None:
            self._running.kill()
        self._thread.shutdown(cancel_futures=True)

    def start(self, command: list[str], out: Path) -> Future[Profile]:
        """Queue a program -> the difference between its last two rounds."""
        return self._thread.submit(self._run, command, out)

    def _run(self, command: list[str], out: Path) -> Profile:
        with subprocess.Popen(
            [config.tool("setpriv"), "--pdeathsig", "KILL", *callgrind.command(out, _CUT), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT,
        ) as process:
            self._running = process
            if self._ended:
                process.kill()
            try:
                errors = process.communicate(timeout=_WAIT)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                raise BenchError(f"{out.stem} has not ended within {_WAIT:g} s under callgrind") from None
            finally:
                self._running = None
        parts = callgrind.Parts(out).read()
        if process.returncode or len(parts) < 2:
            text = (errors.strip() or f"{len(parts)} rounds were counted").splitlines()[-1]
            raise BenchError(f"{out.stem} under callgrind failed with status {process.returncode}: {text}")
        difference = Counter(parts[-1])
        difference.subtract(parts[-2])
        return difference


def count(profile: Profile, pieces: int, case: Case) -> Count:
    """A profile of so many pieces -> what one of them costs; object files below half an instruction are left out."""
    objects: Counter[str] = Counter()
    for path, instructions in profile.items():
        objects[_short(path)] += instructions
    each = {name: round(value / pieces, 1) for name, value in objects.most_common() if abs(value) >= pieces / 2}
    own = sum(value for name, value in objects.items() if name.startswith(tuple(f"{package}/" for package in _OURS)))
    return Count(round(profile.total() / pieces, 1), round(own / pieces, 1) if case.ours_needs else None, each)


def _short(path: str) -> str:
    file = Path(path)
    if file.parent.parent == config.BUILD and file.parent.name in _OURS:
        return f"{file.parent.name}/{file.name.partition('.')[0]}"
    return file.name or "unknown"
