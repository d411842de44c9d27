"""Starting helper processes of this program and learning of their end, without `subprocess`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import ztunnel

HOME: Final = Path(ztunnel.__file__).parent
ROOT: Final = str(HOME.parent)
"""The directory that holds our packages."""


class Child:
    """A process of ours. `on_exit(wait status)` is called once; `close` forgets the process without ending it."""

    def __init__(self, pid: int, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._ended)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    @property
    def running(self) -> bool:
        return self._pidfd >= 0

    def close(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> None:
        self.close()
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, 0)
            self._on_exit(status)


def spawn(
    arguments: Sequence[str],
    keep: Mapping[int, int],
    environment: Mapping[str, str],
    on_exit: Callable[[int], None],
) -> Child:
    """Run this Python with `arguments`. `keep` maps numbers in the child to descriptors of ours; stdout and stderr
    stay. Everything else of ours is CLOEXEC."""
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in keep.items()]
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        environment,
        file_actions=actions,
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )
    return Child(pid, on_exit)


def describe(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.waitstatus_to_exitcode(status)}"
