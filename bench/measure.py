"""What a process costs, read from /proc: scheduler run time, memory, and what the rest of the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.errors import BenchError

_BUSY: Final = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal of /proc/stat
_LOOK: Final = 0.25  # seconds; /proc/stat counts in hundredths
_HEAD: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")  # first line of a mapping in smaps
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What happened between `Meter.start` and `Meter.stop`. `cpu` is in seconds per process name."""

    seconds: float
    cpu: dict[str, float]
    foreign: float  # cores that neither the subjects nor the bench used
    steal: float  # cores the hypervisor gave to somebody else; part of `foreign`


class Memory(NamedTuple):
    """Bytes of one process or several: proportional share, and what it alone holds."""

    pss: int
    private: int


def run_time(pid: int) -> float:
    """Seconds that all threads of `pid` have run, from the scheduler: exact, where utime counts ticks."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except OSError as error:
        raise BenchError(f"process {pid} has ended while it was measured") from error
    return total / 1e9


def memory(pids: Iterable[int]) -> Memory:
    """Memory of the processes together, from smaps_rollup."""
    pss = private = 0
    for pid in pids:
        held = _rollup(pid)
        pss += held["Pss"]
        private += held["Private_Clean"] + held["Private_Dirty"]
    return Memory(pss * 1024, private * 1024)


def _rollup(pid: int) -> dict[str, int]:
    """smaps_rollup of a process, KiB by name."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError as error:
        raise BenchError(f"memory of process {pid} cannot be read: {error.strerror}") from error
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}


def memory_alone(pids: Iterable[int]) -> int:
    """Bytes the processes would hold on a machine where nobody else maps their files: PSS, with each file page whole.

    A page of a file counts once, by the process that has most of that mapping. Anonymous pages are shared with
    relatives by fork only, so their proportional share is exact.
    """
    files: dict[tuple[str, str, str], int] = {}
    total = 0
    for pid in pids:
        total += sum(_rollup(pid).get(name, 0) for name in ("Pss_Anon", "Pss_Shmem"))
        mapping = ("", "", "")
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except OSError as error:
            raise BenchError(f"memory of process {pid} cannot be read: {error.strerror}") from error
        resident = 0
        for line in lines:
            name, _, value = line.partition(":")
            if name == "Rss":
                resident = int(value.split()[0])
            elif name == "Anonymous" and mapping[2] not in {"", "0"}:
                # A private mapping of a file: pages that were written to are anonymous, and counted above.
                files[mapping] = max(files.get(mapping, 0), resident - int(value.split()[0]))
            elif _HEAD.match(line):
                fields = line.split(maxsplit=5)
                mapping = (fields[3], fields[2], fields[4])
    return (total + sum(files.values())) * 1024


def children(pid: int) -> list[int]:
    """All descendants of `pid`: with it, the processes of a component that is given by its first one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def _machine() -> tuple[float, float]:
    """-> (busy, stolen) seconds of all processors since boot."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[i] for i in _BUSY) / _TICKS, fields[7] / _TICKS


def await_quiet(limit: float, patience: float) -> bool:
    """Wait up to `patience` seconds for a moment in which the machine uses less than `limit` cores -> was there one?

    To be called while the subjects are idle.
    """
    deadline = time.monotonic() + patience
    while True:
        before, began = _machine()[0], time.monotonic()
        time.sleep(_LOOK)
        if (_machine()[0] - before) / (time.monotonic() - began) <= limit:
            return True
        if time.monotonic() > deadline:
            return False


def _own() -> float:
    """Seconds of the bench itself and of the load generators that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


class Meter:
    """Run time of named processes over a slice; `others` are ours too, but nobody asks what each of them cost."""

    def __init__(self, processes: Mapping[str, int], others: Iterable[int] = ()) -> None:
        self._processes = dict(processes)
        self._others = tuple(others)
        self._before: dict[str, float] = {}

    def start(self) -> None:
        self._before = self._read()
        self._machine = _machine()
        self._began = time.monotonic()

    def stop(self) -> Usage:
        seconds = time.monotonic() - self._began
        machine = _machine()
        spent = {name: value - self._before[name] for name, value in self._read().items()}
        ours = sum(spent.values())
        del spent["bench"], spent["others"]
        foreign = (machine[0] - self._machine[0] - ours) / seconds
        return Usage(seconds, spent, max(0.0, foreign), (machine[1] - self._machine[1]) / seconds)

    def _read(self) -> dict[str, float]:
        times = {name: run_time(pid) for name, pid in self._processes.items()}
        return times | {"bench": _own(), "others": sum(map(run_time, self._others))}


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank of an ordered sequence; 0 < share <= 1."""
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]


class Spread(NamedTuple):
    """A median with what it was taken from."""

    median: float
    low: float
    high: float
    samples: int


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


def describe_machine() -> dict[str, Any]:
    """What a figure needs beside it to mean anything."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(int(total.split()[1]) / 1024**2, 1),
        "kernel": platform.release(),
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
