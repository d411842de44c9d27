"""Starting, watching and ending the processes of the mesh."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple, TypeVar

from ambient.demo.errors import CheckFailed, DemoError
from meshcore.errors import DeadlineExceeded

T = TypeVar("T")

_POLL: Final = 0.02  # seconds between two looks at a condition
_TAIL: Final = 256 * 1024  # bytes of a log that are looked at
_KILL_WAIT: Final = 5.0  # seconds until a killed process must be gone


def wait_until(condition: Callable[[], T | None], what: str, timeout: float, every: float = _POLL) -> T:
    """Call `condition` until it returns something true, and return that.

    `timeout` is in seconds. Raises DeadlineExceeded, which says `what` did not happen.
    """
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what}: not within {timeout:g} s")
        time.sleep(every)
    return found


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it is gone or a zombie. Tells a reused pid apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    """Direct children of all threads of `pid`, oldest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return sorted(found, key=lambda child: (start_time(child) or 0, child))


class Process:
    """One process of ours, with its log file."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self.started = start_time(popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._popen.poll()

    def require_alive(self) -> None:
        """Raises DemoError, with the end of the log, when the process has ended."""
        if (status := self.exit_status) is not None:
            raise DemoError(f"{self.name} ended with status {status}: {last_line(self.log)}")

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        """-> the exit status; raises DeadlineExceeded after `timeout` seconds."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"{self.name} has not ended within {timeout:g} s") from error

    def stop(self, timeout: float = _KILL_WAIT) -> None:
        """SIGTERM, then SIGKILL after `timeout` seconds."""
        self.signal(signal.SIGTERM)
        try:
            self.wait(timeout)
        except DeadlineExceeded:
            self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(_KILL_WAIT)


class Pipe(NamedTuple):
    """A process with its three pipes."""

    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def require_success(self, what: str, timeout: float) -> None:
        """Wait for its end; raises CheckFailed with what it wrote to stderr unless the status is 0."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"{what}: not done within {timeout:g} s") from None
        if status:
            raise CheckFailed(f"{what}: {self.stderr.read().decode(errors='replace').strip() or f'status {status}'}")


class Processes:
    """All processes of one run: started with one environment, logging into one directory."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self.logs = logs
        self._environment = dict(environment)
        self._all: dict[str, Process] = {}
        self.on_change: Callable[[], None] = lambda: None

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        netns: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `command` in the network namespace at `netns`; it is known by `name` until it is stopped."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                enter(netns, command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment | dict(settings or {}),
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is for the demo, which then ends the rest in order
            )
        process = Process(name, popen, log)
        self._all[name] = process
        self.on_change()
        return process

    def run(
        self,
        command: Sequence[str],
        *,
        netns: str | None = None,
        timeout: float = 10.0,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises DeadlineExceeded; a status other than 0 is the caller's to judge."""
        try:
            return subprocess.run(
                enter(netns, command),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=self._environment,
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"{command[0]} has not ended within {timeout:g} s") from error

    def popen(self, command: Sequence[str], *, netns: str | None = None) -> subprocess.Popen[str]:
        """A process whose pipes the caller owns, and ends."""
        return subprocess.Popen(
            enter(netns, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )

    @contextlib.contextmanager
    def pipe(self, command: Sequence[str], *, netns: str | None = None) -> Iterator[Pipe]:
        """A process with binary pipes; it is killed if it still runs when the block ends."""
        process = subprocess.Popen(
            enter(netns, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )
        streams = [stream for stream in (process.stdin, process.stdout, process.stderr) if stream]
        try:
            yield Pipe(process, *streams)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(_KILL_WAIT)
            for stream in streams:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def get(self, name: str) -> Process | None:
        return self._all.get(name)

    def forget(self, name: str) -> None:
        self._all.pop(name, None)
        self.on_change()

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._all.values()))

    def stop_all(self, timeout: float = 3.0) -> None:
        """End everything, the youngest first: SIGTERM for all, SIGKILL for what is left after `timeout` seconds."""
        running = list(self._all.values())[::-1]
        for process in running:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except DeadlineExceeded:
                process.kill()
        self._all.clear()
        self.on_change()


def enter(netns: str | None, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in a network namespace; nsenter replaces itself, so the pid stays."""
    return list(command) if netns is None else ["nsenter", f"--net={netns}", "--", *command]


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = tail(log, 0, 20)
    return lines[-1] if lines else f"its log {log.name} is empty"


def tail(log: Path, offset: int, limit: int) -> list[str]:
    """At most `limit` lines from the end of what stands after byte `offset`."""
    try:
        with log.open("rb") as file:
            start = max(offset, os.fstat(file.fileno()).st_size - _TAIL)
            file.seek(start)
            if start > offset:
                file.readline()  # the rest of a line that began before
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-limit:]
