"""Keeps the workers running: zygote, forks, respawn, hung workers.

A worker's end shows as the end of its socket, at once; the zygote's report, which follows, says why. Listeners and
counters belong to the control process, so a new worker goes on where the old one stopped.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Final

from meshcore.records import PageCell, Rec, encode_sans_del, encode_stop
from ztunnel import child, zygote
from ztunnel.child import Child
from ztunnel.pages import Pages
from ztunnel.workerlink import LinkLost, WorkerLink

log = logging.getLogger("ztunnel.supervisor")

WORKER_MODULE: Final = "ztunnel._fastpath"
ZYGOTE_FD: Final = 3

QUICK_S: Final = 10.0
"""A worker that lived less than this crashed quickly."""
FREE_RESPAWNS: Final = 3
"""So many quick crashes in a row are answered at once; then waits grow."""
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
HELLO_TIMEOUT_S: Final = 10.0
ZYGOTE_RETRY_S: Final = 1.0


def respawn_delay(quick_crashes: int) -> float:
    """Seconds until the worker is started again after so many quick crashes in a row."""
    extra = quick_crashes - FREE_RESPAWNS
    return 0.0 if extra <= 0 else min(BACKOFF_MIN_S * 2.0 ** (extra - 1), BACKOFF_MAX_S)


class Supervisor:
    """`count` workers. `on_start(link)`: a (new) worker waits for its state; `on_record` as for WorkerLink;
    `on_gone(index)`: a worker ended, before its successor starts."""

    def __init__(
        self,
        pages: Pages,
        *,
        environment: Mapping[str, str],
        on_start: Callable[[WorkerLink], None],
        on_record: Callable[[WorkerLink, Rec, bytes], None],
        on_gone: Callable[[int], None],
        hung_timeout: float,
        worker_module: str = WORKER_MODULE,
    ) -> None:
        self.links: dict[int, WorkerLink] = {}
        self.restarts = 0
        self._pages = pages
        self._environment = environment
        self._on_start = on_start
        self._on_record = on_record
        self._on_gone = on_gone
        self._hung_timeout = hung_timeout
        self._module = worker_module
        self._loop = asyncio.get_running_loop()
        self._zygote: Child | None = None
        self._zygote_sock: socket.socket | None = None
        self._quick: dict[int, int] = {}
        self._processes: dict[int, tuple[int, int]] = {}  # worker index -> pid, pidfd; may have ended
        self._started: dict[int, float] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._probed: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._all_ended = asyncio.Event()

    # Life

    def start(self) -> None:
        """Start the zygote and all workers; `on_start` says when each is there."""
        self._start_zygote()
        for index in range(len(self._pages.pages)):
            self._fork(index)
        self._later(self._hung_timeout / 4, self._look_for_hung)

    @property
    def ready_links(self) -> list[WorkerLink]:
        return [link for link in self.links.values() if link.ready]

    def broadcast(self, record: bytes) -> None:
        for link in self.ready_links:
            link.send(record)

    def hold(self) -> None:
        """From now on workers that end are not replaced."""
        self._stopping = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def stop(self, timeout: float = 2.0) -> None:
        """End workers and zygote: ask, wait up to `timeout` seconds, then kill."""
        self.hold()
        self.broadcast(encode_stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                self._note_end()
                await self._all_ended.wait()
        self.kill()

    def kill(self) -> None:
        """End everything now."""
        self.hold()
        for link in self.links.values():
            link.close()
        self.links.clear()
        for index in list(self._processes):
            self._kill(index)
        if self._zygote_sock is not None:
            self._loop.remove_reader(self._zygote_sock.fileno())
            self._zygote_sock.close()
            self._zygote_sock = None
        if self._zygote is not None:
            self._zygote.signal(signal.SIGKILL)

    # Zygote

    def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._zygote = child.spawn(
                ["-I", "-S", str(child.HOME / "zygote.py"), str(ZYGOTE_FD), child.ROOT, self._module],
                {ZYGOTE_FD: theirs.fileno()},
                self._environment,
                self._zygote_ended,
            )
        ours.setblocking(False)
        self._zygote_sock = ours
        self._loop.add_reader(ours.fileno(), self._zygote_says)

    def _zygote_ended(self, status: int) -> None:
        if self._zygote_sock is not None:
            self._loop.remove_reader(self._zygote_sock.fileno())
            self._zygote_sock.close()
            self._zygote_sock = None
        self._zygote = None
        if self._stopping:
            return
        log.error("the zygote %s; its workers go on, starting another", child.describe(status))
        self._later(0.0 if self.links else ZYGOTE_RETRY_S, self._restart_zygote)

    def _restart_zygote(self) -> None:
        self._start_zygote()
        for index in range(len(self._pages.pages)):
            if index not in self.links:
                self._fork(index)

    def _zygote_says(self) -> None:
        assert self._zygote_sock is not None  # noqa: S101 - the reader is removed with the socket
        while True:
            try:
                data = self._zygote_sock.recv(zygote.REPLY.size)
            except OSError:
                return
            if not data:
                self._loop.remove_reader(self._zygote_sock.fileno())
                return
            index, pid, kind, status = zygote.REPLY.unpack(data)
            if kind == zygote.STARTED:
                self._know(index, pid)
                if index not in self.links:
                    self._kill(index)
            else:
                self._forget(index, pid)
                level = logging.INFO if self._stopping or status == 0 else logging.ERROR
                log.log(level, "worker %d (pid %d) %s", index, pid, child.describe(status))

    # Workers

    def _fork(self, index: int) -> None:
        """Ask the zygote for a worker. Without a zygote, the one that comes is asked."""
        if self._stopping or self._zygote_sock is None or index in self.links:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = array.array("i", [theirs.fileno(), self._pages[index].fd])
            try:
                self._zygote_sock.sendmsg(
                    [zygote.REQUEST.pack(index)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_NOSIGNAL
                )
            except OSError:
                ours.close()  # the zygote is gone: its successor gets the request
                return
        link = WorkerLink(index, ours, on_hello=self._hello, on_record=self._on_record, on_lost=self._lost)
        self.links[index] = link
        self._started[index] = self._loop.time()
        self._later(HELLO_TIMEOUT_S, lambda: self._require_hello(link))

    def _hello(self, link: WorkerLink) -> None:
        self._know(link.index, link.pid)
        self._probed.pop(link.index, None)
        log.debug("worker %d (pid %d) is there", link.index, link.pid)
        self._on_start(link)

    def _require_hello(self, link: WorkerLink) -> None:
        if link.open and not link.ready:
            link.close()
            self._lost(link, LinkLost(f"worker {link.index}: it did not report within {HELLO_TIMEOUT_S:g} s"))

    def _lost(self, link: WorkerLink, error: LinkLost) -> None:
        index = link.index
        del self.links[index]
        self._on_gone(index)
        if self._stopping:
            self._note_end()
            return
        self._kill(index)
        self.restarts += 1
        lived = self._loop.time() - self._started[index]
        self._quick[index] = self._quick.get(index, 0) + 1 if lived < QUICK_S else 1
        delay = respawn_delay(self._quick[index])
        log.error("%s; starting another%s", error, f" in {delay:g} s" if delay else "")
        if delay:
            self._later(delay, lambda: self._fork(index))
        else:
            self._fork(index)

    def _know(self, index: int, pid: int) -> None:
        """Note the process of a worker; by a pidfd, because a pid may have become somebody else's when we kill."""
        known = self._processes.get(index)
        if known is not None and known[0] == pid:
            return
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            if known is not None:
                os.close(known[1])
            self._processes[index] = (pid, fd)

    def _forget(self, index: int, pid: int) -> None:
        """The zygote has seen the end of this process."""
        known = self._processes.get(index)
        if known is not None and known[0] == pid:
            del self._processes[index]
            os.close(known[1])
        self._note_end()

    def _note_end(self) -> None:
        if self._stopping and not self.links and not self._processes:
            self._all_ended.set()

    def _kill(self, index: int) -> None:
        known = self._processes.pop(index, None)
        if known is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(known[1], signal.SIGKILL)
            os.close(known[1])

    # Hung workers

    def _look_for_hung(self) -> None:
        """An idle worker turns its loop only when something happens: a record that changes nothing makes it."""
        now = self._loop.time()
        for index, link in list(self.links.items()):
            if not link.ready:
                continue
            clock = self._pages[index].cell(PageCell.CLOCK_MS)
            probe = self._probed.get(index)
            if probe is None or probe[0] != clock:
                self._probed[index] = (clock, now)
                link.send(encode_sans_del(0))
            elif now - probe[1] >= self._hung_timeout:
                del self._probed[index]
                link.close()
                self._lost(link, LinkLost(f"worker {index}: its loop has stood still for {now - probe[1]:.1f} s"))
        self._later(self._hung_timeout / 4, self._look_for_hung)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            if not self._stopping:
                call()

        handle = self._loop.call_later(delay, run)
        self._timers.add(handle)
