"""Requests from inside pods, made by curl and by the load generator."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from ambient.demo.errors import CheckFailed
from ambient.demo.processes import Processes, wait_until
from meshcore.errors import DeadlineExceeded

_LOADGEN: Final = str(Path(__file__).with_name("loadgen.py"))
_SPLIT: Final = "\n%{http_code} %{exitcode} %{local_port} %{errormsg}"


class Reply(NamedTuple):
    """What curl got. `status` is 0 when there was no reply, and then `error` says why."""

    status: int
    body: str
    exit_code: int
    error: str
    local_port: int = 0

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def client(self) -> str:
        """The client's address as the nginx of the demo saw it."""
        return self.field("client")

    @property
    def pod(self) -> str:
        """The pod that answered."""
        return self.field("pod")

    def field(self, name: str) -> str:
        for word in self.body.split():
            key, _, value = word.partition("=")
            if key == name:
                return value
        return ""

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status else f"curl error {self.exit_code} ({self.error})"


def curl(processes: Processes, netns: str, url: str, *options: str, timeout: float = 5.0) -> Reply:
    """One request with the real curl, run in a pod. `timeout` in seconds covers all of it."""
    command = ["curl", "-sS", "--globoff", "--max-time", f"{timeout:g}", "-w", _SPLIT, *options, url]
    done = processes.run(command, netns=netns, timeout=timeout + 5.0)
    body, _, line = done.stdout.rpartition("\n")
    words = line.split(" ", 3)
    if len(words) < 4 or not words[0].isdecimal():
        return Reply(0, "", done.returncode, done.stderr.strip() or "curl printed nothing")
    return Reply(int(words[0]), body, int(words[1]), words[3], int(words[2]))


class LoadResult(NamedTuple):
    """Counts of a load. `answers`: pod -> (count, time of its first answer, begin of its last answered request)."""

    ok: int
    failed: dict[str, int]
    answers: dict[str, tuple[int, float, float]]
    examples: tuple[tuple[float, float, str], ...] = ()
    slowest: float = 0.0

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    def kinds(self) -> str:
        """The failures by kind, in words."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.failed.items())) or "none failed"


class Client:
    """One load generator in a pod. Lines that it prints are read by a thread of ours."""

    def __init__(self, processes: Processes, netns: str, arguments: list[str]) -> None:
        self._process = processes.popen([sys.executable, "-I", "-S", _LOADGEN, *arguments], netns=netns)
        self._latest: dict[str, Any] = {}
        self._final: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._read, name="loadgen-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            fields = json.loads(line)
            self._latest = fields
            if fields.get("final"):
                self._final = fields

    @property
    def latest(self) -> dict[str, Any]:
        """The last line that it printed."""
        if self._process.poll() is not None and not self._latest:
            raise CheckFailed(f"the load generator ended: {self._errors()}")
        return self._latest

    def await_first(self, timeout: float) -> dict[str, Any]:
        """Wait for the first line that it prints."""
        return wait_until(lambda: self.latest, "the first line of the load generator", timeout)

    def _errors(self) -> str:
        text = (self._process.stderr.read() if self._process.stderr else "").strip()
        return text.splitlines()[-1] if text else f"status {self._process.poll()}"

    def finish(self, timeout: float) -> dict[str, Any]:
        """Wait for its last line; raises CheckFailed when it ends without one."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.close()
            raise CheckFailed(f"the load generator was not done within {timeout:g} s: {self._latest}") from None
        self._thread.join(5.0)
        if self._final is None:
            raise CheckFailed(f"the load generator ended: {self._errors()}")
        return self._final

    def end_input(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(5.0)
        self._thread.join(5.0)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


class Load:
    """New connections at a steady rate while the block runs; `result` afterwards."""

    def __init__(self, processes: Processes, netns: str, host: str, port: int, *, rate: float, limit: int = 64) -> None:
        self._client = Client(processes, netns, ["new", host, str(port), "/load", str(rate), str(limit)])
        self.result = LoadResult(0, {}, {})

    def __enter__(self) -> Self:
        try:
            self.wait_for_more(20)
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._client.end_input()
                self.result = _result(self._client.finish(30.0))
        finally:
            self._client.close()

    @property
    def now(self) -> LoadResult:
        """The counts so far."""
        return _result(self._client.latest)

    def wait_for_more(self, count: int, timeout: float = 15.0) -> None:
        """Wait until `count` more requests have been answered; failures do not count."""
        start = self.now.ok
        try:
            wait_until(lambda: self.now.ok >= start + count, f"{count} more answers", timeout)
        except DeadlineExceeded as error:
            raise CheckFailed(f"{error}; so far {self.now.ok} answers, {self.now.kinds()}") from error


def _result(fields: dict[str, Any]) -> LoadResult:
    return LoadResult(
        fields.get("ok", 0),
        fields.get("failed", {}),
        {pod: (int(count), first, last) for pod, (count, first, last) in fields.get("answers", {}).items()},
        tuple((began, ended, kind) for began, ended, kind in fields.get("examples", ())),
        fields.get("slowest", 0.0),
    )
