"""Where the CPU goes: perf on each of our workers while a load runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench import config
from bench.errors import BenchError
from bench.suite import Case, Suite

SECONDS: Final = 5.0
_FREQUENCY: Final = 1999  # Hz; a prime, so that no timer of ours beats with it
_REPORT_WAIT: Final = 60.0
_WITHIN: Final = "\n# With everything called from there\n"
# The kernel's compiler has inlined the entry points of read and write into what is named here.
_CALL: Final = re.compile(
    r"^\s+([\d.]+)%\s+[\d.]+%\s+\S+\s+\[k\]\s+(?:__x64_sys_(\w+)|do_(readv|writev)|ksys_(read|write))\b"
)
_LINE: Final = re.compile(r"^\s+([\d.]+)%\s+(\S+)\s+(?:\[[.k]\]\s+)?(.*?\S)(?:\s+-\s+-)?\s*$")


def profile(suite: Suite, case: Case, directory: Path) -> dict[str, Path]:
    """Run one slice of `case` on our pair under perf -> a text report per worker, in `directory`."""
    suite.need(["ours"])
    directory.mkdir(parents=True, exist_ok=True)
    perf = config.tool("perf")
    recordings: dict[str, tuple[Path, subprocess.Popen[bytes]]] = {}
    try:
        for role, pid in suite.ours.processes.items():
            data = suite.directory / f"perf-{case.name}-{role}.data"
            command = [perf, "record", "-e", "task-clock", "-F", str(_FREQUENCY), "-g", "-p", str(pid)]
            recordings[role] = (
                data,
                subprocess.Popen(
                    [*command, "-o", str(data)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                ),
            )
        case.load(suite.address(case, "ours"), SECONDS, None)
    finally:
        for _, process in recordings.values():
            process.send_signal(signal.SIGINT)
        said = {role: process.communicate(timeout=_REPORT_WAIT)[1] for role, (_, process) in recordings.items()}
    reports = {}
    for role, (data, _) in recordings.items():
        if not data.exists() or data.stat().st_size == 0:
            raise BenchError(f"perf recorded nothing: {said[role].decode(errors='replace').strip()[-300:]}")
        reports[role] = directory / f"perf-{case.name}-{role}.txt"
        reports[role].write_text(_report(perf, data))
    return reports


def _report(perf: str, data: Path) -> str:
    """Two parts: the time inside each symbol, then, from _WITHIN on, the time inside it and all that it called."""
    own = _perf_report(perf, data, "--no-children", "--percent-limit", "0.05")
    return own + _WITHIN + _perf_report(perf, data, "--children", "--percent-limit", "0.3")


def _perf_report(perf: str, data: Path, *options: str) -> str:
    command = [perf, "report", "-i", str(data), "--stdio", "-g", "none", "--sort", "dso,symbol", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_REPORT_WAIT, check=False)
    if done.returncode:
        raise BenchError(f"perf report failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def top(report: str, count: int) -> list[tuple[float, str, str]]:
    """The dearest symbols of a report: (percent, object, symbol)."""
    found = [match for line in report.partition(_WITHIN)[0].splitlines() if (match := _LINE.match(line))]
    return [(float(match[1]), match[2], match[3]) for match in found[:count]]


def by_call(report: str) -> list[tuple[float, str]]:
    """(percent, system call) with all that the kernel did in it, the dearest first."""
    found = [match for line in report.partition(_WITHIN)[2].splitlines() if (match := _CALL.match(line))]
    return [(float(match[1]), match[match.lastindex or 2]) for match in found]


def by_object(report: str) -> Mapping[str, float]:
    """Percent per shared object, the dearest first."""
    shares: dict[str, float] = {}
    for percent, name, _ in top(report, 100_000):
        shares[name] = shares.get(name, 0.0) + percent
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
