"""The control process's end of the socket to one worker."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from meshcore.errors import MeshError, ProtocolError
from meshcore.records import RECORD_MAX, RECORDS_VERSION, Rec, decode_hello, record_type

QUEUE_MAX: Final = 32 * 2**20
"""Bytes waiting for a worker that does not read. More: it is hung, and is replaced."""

RECORDS_PER_TURN: Final = 64  # then the loop serves others
PACKET_OVERHEAD: Final = 256  # bytes a queued record costs besides its content


class LinkLost(MeshError, code="worker.lost", retryable=True):
    """A worker ended, or does not speak our protocol."""


class WorkerLink:
    """Records to and from worker `index`, in order. The socket is the link's own.

    `on_record(link, kind, record)` gets everything after the worker's HELLO, `on_hello(link)` that one, and
    `on_lost(link, error)` is called once, also when the worker is told to end; nothing is called after it.
    """

    def __init__(
        self,
        index: int,
        sock: socket.socket,
        *,
        on_hello: Callable[[WorkerLink], None],
        on_record: Callable[[WorkerLink, Rec, bytes], None],
        on_lost: Callable[[WorkerLink, LinkLost], None],
    ) -> None:
        self.index = index
        self.pid = 0
        self.labels: set[int] = set()
        """Label ids the worker knows."""
        self.sans: set[int] = set()
        """Identity lists the worker knows."""
        self.open = True
        self._sock = sock
        self._on_hello = on_hello
        self._on_record = on_record
        self._on_lost = on_lost
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._queued = 0
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def ready(self) -> bool:
        """The worker has said HELLO and takes records."""
        return self.open and self.pid != 0

    def send(self, record: bytes, fds: Sequence[int] = ()) -> None:
        """Send, or queue in order. The descriptors stay the caller's, who may close them at once."""
        if not self.open:
            return
        if not self._queue:
            try:
                self._write(record, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            except OSError as error:
                self._lose(f"its control socket broke: {error.strerror}")
                return
            else:
                return
        self._queue.append((record, tuple(map(os.dup, fds))))
        self._queued += len(record) + PACKET_OVERHEAD
        if self._queued > QUEUE_MAX:
            self._lose(f"it did not take {self._queued} bytes of records")

    def close(self) -> None:
        """Let go of the worker; `on_lost` is not called. A worker that runs becomes an orphan and goes on."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()

    def _write(self, record: bytes, fds: Sequence[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._sock.sendmsg([record], ancillary, socket.MSG_NOSIGNAL)

    def _writable(self) -> None:
        while self._queue:
            record, fds = self._queue[0]
            try:
                self._write(record, fds)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(f"its control socket broke: {error.strerror}")
                return
            self._queue.popleft()
            self._queued -= len(record) + PACKET_OVERHEAD
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(RECORDS_PER_TURN):
            try:
                record = self._sock.recv(RECORD_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(f"its control socket broke: {error.strerror}")
                return
            if not record:
                self._lose("it ended")
                return
            try:
                self._take(record)
            except ProtocolError as error:
                self._lose(str(error))
            if not self.open:
                return

    def _take(self, record: bytes) -> None:
        kind = record_type(record)
        if self.pid:
            self._on_record(self, kind, record)
            return
        if kind is not Rec.HELLO:
            raise ProtocolError(f"the first record is {kind.name}, not HELLO")
        pid, version = decode_hello(record)
        if version != RECORDS_VERSION:
            raise ProtocolError(f"it speaks record version {version}, this process {RECORDS_VERSION}")
        self.pid = pid
        self._on_hello(self)

    def _lose(self, why: str) -> None:
        if self.open:
            self.close()
            self._on_lost(self, LinkLost(f"worker {self.index}: {why}"))
