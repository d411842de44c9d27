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
            command = [perf, "record", "-e", "task-clock", "-F", str(_FREQUENCY), "-p", str(pid), "-o", str(data)]
            recordings[role] = (
                data,
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True),
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
    command = [perf, "report", "-i", str(data), "--stdio", "--no-children", "--sort", "dso,symbol", "--percent-limit"]
    done = subprocess.run([*command, "0.05"], capture_output=True, text=True, timeout=_REPORT_WAIT, check=False)
    if done.returncode:
        raise BenchError(f"perf report failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def top(report: str, count: int) -> list[tuple[float, str, str]]:
    """The dearest symbols of a report: (percent, object, symbol)."""
    found = [match for line in report.splitlines() if (match := _LINE.match(line))]
    return [(float(match[1]), match[2], match[3]) for match in found[:count]]


def by_object(report: str) -> Mapping[str, float]:
    """Percent per shared object, the dearest first."""
    shares: dict[str, float] = {}
    for percent, name, _ in top(report, 100_000):
        shares[name] = shares.get(name, 0.0) + percent
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
