"""System calls of processes, counted by the kernel's tracepoint through perf: the same way for every subject."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from bench import config
from bench.errors import BenchError

T = TypeVar("T")

_EVENT: Final = "raw_syscalls:sys_enter"
_START: Final = 0.3  # seconds until perf has attached itself
_WAIT: Final = 10.0


def unavailable() -> str:
    """Why system calls cannot be counted here; "" when they can."""
    try:
        perf = config.tool("perf")
    except BenchError as error:
        return str(error)
    done = subprocess.run(
        [perf, "stat", "-e", _EVENT, "true"], capture_output=True, text=True, timeout=_WAIT, check=False
    )
    return "" if done.returncode == 0 else f"perf has no {_EVENT} here (it needs root and tracefs)"


def count(processes: Mapping[str, int], work: Callable[[], T], directory: Path) -> tuple[T, dict[str, int]]:
    """Do `work` -> what it returned, and the system calls that each process made meanwhile.

    Slower than without: a slice that is counted is not also timed.
    """
    perf = config.tool("perf")
    running: dict[str, tuple[Path, subprocess.Popen[bytes]]] = {}
    try:
        for number, (name, pid) in enumerate(processes.items()):
            output = directory / f"syscalls-{number}"
            command = [perf, "stat", "-x", ",", "-e", _EVENT, "-o", str(output), "-p", str(pid)]
            running[name] = (
                output,
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True),
            )
        for _, process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_START / len(running))
                raise BenchError(f"perf ended at once: {_said(process)}")
        result = work()
    finally:
        for _, process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for _, process in running.values():
            _said(process)
    return result, {name: _read(output) for name, (output, _) in running.items()}


def _said(process: subprocess.Popen[bytes]) -> str:
    try:
        return process.communicate(timeout=_WAIT)[1].decode(errors="replace").strip()
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_WAIT)
        return "it did not end"


def _read(output: Path) -> int:
    for line in output.read_text().splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith(_EVENT):
            # A process that made no call at all counts as nothing, not as a number.
            return int(fields[0]) if fields[0].isdigit() else 0
    raise BenchError(f"perf wrote no count: {output.read_text().strip()[-200:]}")
