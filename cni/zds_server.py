"""The agent's side of ZDS: hands namespaces to every ztunnel that connects.

Connections are kept in order of arrival. During an upgrade there are two: pods are added at the newest only, removed
at all of them, and each gets the whole snapshot when it arrives. Requests of one connection are strictly in order,
each waits for its ack; whatever breaks that order ends the connection, and ztunnel comes back.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

from meshcore import zds
from meshcore.errors import ConfigError, DeadlineExceeded, MeshError, ProtocolError, Unavailable

log = logging.getLogger(__name__)

DEADLINE_S: Final = 5.0  # upstream: for every read and write
ADD_DEADLINE_S: Final = 30.0  # an Add may have to wait behind a snapshot that is being sent
QUEUE_MAX: Final = 100  # upstream: requests waiting on one connection
ACCEPTS_PER_S: Final = 5  # upstream: a ztunnel that dies at once must not spin the agent
_LISTEN_BACKLOG: Final = 16
_SOCKET_MODE: Final = 0o600  # whoever connects is handed namespaces


class ZtunnelRefused(MeshError, code="zds.refused", retryable=True):
    """ztunnel answered that it cannot take the pod; the text is ztunnel's."""


SnapshotItem = tuple[zds.AddWorkload, int] | tuple[zds.KeepWorkload, None]
"""A pod that is enrolled, with the descriptor of its namespace; Keep when the namespace is not at hand."""


class ZdsServer:
    """Listens on `path`. `snapshot` is asked for all enrolled pods whenever a ztunnel has said hello."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        snapshot: Callable[[], Iterable[SnapshotItem]],
        *,
        on_change: Callable[[], None] = lambda: None,
        deadline: float = DEADLINE_S,
        accepts_per_s: int = ACCEPTS_PER_S,
    ) -> None:
        self.path = Path(path)
        self.snapshot = snapshot
        self.deadline = deadline
        self._on_change = on_change
        self._accepts_per_s = accepts_per_s
        self._accepted: collections.deque[float] = collections.deque(maxlen=accepts_per_s)
        self._listener: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> int:
        """Number of ztunnels that have said hello."""
        return len(self._connections)

    async def start(self) -> None:
        """Bind and listen. Raises ConfigError when another agent has the path, or it cannot be used."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._clear_path()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            try:
                listener.bind(str(self.path))
                self.path.chmod(_SOCKET_MODE)
                listener.listen(_LISTEN_BACKLOG)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise ConfigError(f"ZDS socket {self.path}: {error.strerror or error}") from error
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    async def close(self) -> None:
        """Stop listening and hang up; ztunnels go on with what they know."""
        loop = asyncio.get_running_loop()
        if self._resume is not None:
            self._resume.cancel()
        if self._listener is not None:
            loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self.path.unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, request: zds.AddWorkload, netns: int) -> None:
        """Add a pod at the newest ztunnel and wait for its ack.

        Raises Unavailable when there is no ztunnel or it went away, ZtunnelRefused with its reason,
        DeadlineExceeded; all of them may be retried.
        """
        if not self._connections:
            raise Unavailable("no ztunnel is connected")
        await self._connections[-1].ask(request, netns)

    async def delete(self, uid: str) -> None:
        """Remove a pod at every ztunnel. One that does not do it is logged: it drops the pod at its next snapshot."""
        targets = list(self._connections)
        results = await asyncio.gather(
            *(connection.ask(zds.DelWorkload(uid)) for connection in targets), return_exceptions=True
        )
        for connection, result in zip(targets, results, strict=True):
            if isinstance(result, MeshError):
                log.warning("%s did not remove pod %s: %s", connection.name, uid, result)
            elif isinstance(result, BaseException):
                raise result

    def _clear_path(self) -> None:
        """Remove a socket that a dead agent left; refuse to take the place of a live one."""
        if not self.path.exists():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink(missing_ok=True)
                return
            except BlockingIOError:  # its backlog is full, so somebody listens
                pass
        raise ConfigError(f"ZDS socket {self.path}: another agent is listening there; stop it or choose another path")

    def _accept(self) -> None:
        listener = self._listener
        loop = asyncio.get_running_loop()
        if listener is None:
            return
        wait = self._accepted[0] + 1 - loop.time() if len(self._accepted) == self._accepts_per_s else 0.0
        if wait > 0:
            loop.remove_reader(listener.fileno())
            self._resume = loop.call_later(wait, self._listen_again)
            return
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                log.warning("ZDS: accept failed: %s", error.strerror)
                loop.remove_reader(listener.fileno())
                self._resume = loop.call_later(1.0, self._listen_again)
            return
        self._accepted.append(loop.time())
        sock.setblocking(False)
        self._spawn(self._serve(sock))

    def _listen_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        connection = _Connection(sock, self.deadline)
        try:
            version = zds.decode_hello(await connection.receive())
            if version != zds.HELLO_V1:
                raise ProtocolError(f"it speaks ZDS version {version}, this agent {zds.HELLO_V1}")
            # From here on live requests queue behind the snapshot, so none is lost in between.
            self._connections.append(connection)
            log.info("%s connected", connection.name)
            self._on_change()
            await self._send_snapshot(connection)
            await connection.run()
        except Unavailable as error:
            log.info("%s: %s", connection.name, error)
        except (MeshError, OSError) as error:  # OSError: no descriptors left for the snapshot
            log.warning("%s: connection closed: %s", connection.name, error)
        finally:
            connection.close()
            if connection in self._connections:
                self._connections.remove(connection)
                self._on_change()

    async def _send_snapshot(self, connection: _Connection) -> None:
        # The descriptors are duplicated: a pod may be un-enrolled while the snapshot is on its way.
        items: list[tuple[zds.AddWorkload | zds.KeepWorkload, int | None]] = []
        try:
            items += ((request, None if fd is None else os.dup(fd)) for request, fd in self.snapshot())
            for request, fd in items:
                try:
                    await connection.exchange(zds.encode_request(request), fd)
                except ZtunnelRefused as error:
                    log.warning("%s refused pod %s of the snapshot: %s", connection.name, request.uid, error)
        finally:
            zds.close_all([fd for _, fd in items if fd is not None])
        with contextlib.suppress(ZtunnelRefused):
            await connection.exchange(zds.encode_request(zds.SnapshotSent()), None)
        log.info("%s has the snapshot of %d pods", connection.name, len(items))


class _Connection:
    """One ztunnel. `exchange` belongs to the connection's task; others use `ask`."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._queue: collections.deque[tuple[bytes, int | None, asyncio.Future[None]]] = collections.deque()
        self._wake = asyncio.Event()
        self._packet: asyncio.Future[bytes] | None = None
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._early: bytes | None = None
        self._greeted = False
        self.name = f"ztunnel (pid {_peer_pid(sock)})"
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
        self._fail(Unavailable("ztunnel went away"))
        if self._broken.done() and not self._broken.cancelled():
            self._broken.exception()  # it was reported where it happened
        while self._queue:
            _, fd, done = self._queue.popleft()
            _close(fd)
            _set_exception(done, Unavailable("ztunnel went away"))

    async def ask(self, request: zds.Request, netns: int | None = None) -> None:
        """Queue a request and wait for its ack; the descriptor stays the caller's."""
        data = zds.encode_request(request)
        if self._broken.done():
            raise Unavailable("ztunnel went away")
        if len(self._queue) >= QUEUE_MAX:
            raise Unavailable(f"{QUEUE_MAX} requests are already waiting for this ztunnel")
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.append((data, None if netns is None else os.dup(netns), done))
        self._wake.set()
        try:
            async with asyncio.timeout(ADD_DEADLINE_S):
                await done
        except TimeoutError:
            raise DeadlineExceeded(f"ztunnel did not get to the request within {ADD_DEADLINE_S:g} s") from None

    async def run(self) -> None:
        """Carry out queued requests until the connection breaks, which raises why."""
        while True:
            if self._broken.done():
                self._broken.result()
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            data, fd, done = self._queue.popleft()
            error: MeshError = Unavailable("the agent is stopping")
            try:
                if not done.done():  # otherwise the asker has given up
                    await self.exchange(data, fd)
                    if not done.done():
                        done.set_result(None)
            except ZtunnelRefused as refusal:
                error = refusal
            except MeshError as broken:
                error = broken
                raise
            finally:
                _close(fd)
                _set_exception(done, error)

    async def exchange(self, data: bytes, fd: int | None) -> None:
        """Send one request and wait for its ack. Raises ZtunnelRefused for a refusal; other errors end the line."""
        await self._send(data, () if fd is None else (fd,))
        error = zds.decode_ack(await self.receive())
        if error:
            raise ZtunnelRefused(error)

    async def receive(self) -> bytes:
        """The next packet, within the deadline."""
        if self._broken.done():
            self._broken.result()
        if self._early is not None:
            data, self._early = self._early, None
            return data
        self._packet = self._loop.create_future()
        try:
            async with asyncio.timeout(self._deadline):
                return await self._packet
        except TimeoutError:
            raise DeadlineExceeded(f"it did not answer within {self._deadline:g} s") from None
        finally:
            self._packet = None
            self._greeted = True

    async def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        if self._broken.done():
            self._broken.result()
        try:
            zds.send_packet(self._sock, data, fds)
        except BlockingIOError:
            await self._writable()
            try:
                zds.send_packet(self._sock, data, fds)
            except BlockingIOError:
                raise Unavailable("it takes no packets") from None

    async def _writable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def on_writable() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(self._sock.fileno(), on_writable)
        try:
            async with asyncio.timeout(self._deadline):
                await ready
        except TimeoutError:
            raise DeadlineExceeded(f"it took no packet within {self._deadline:g} s") from None
        finally:
            if self._sock.fileno() >= 0:
                self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        try:
            data, fds = zds.recv_packet(self._sock)
        except BlockingIOError:
            return
        except MeshError as error:
            self._fail(error)
            return
        if fds:
            zds.close_all(fds)
            self._fail(ProtocolError("it sent descriptors"))
        elif not data:
            self._fail(Unavailable("hung up"))
        elif self._packet is not None and not self._packet.done():
            self._packet.set_result(data)
        elif not self._greeted and self._early is None:
            self._early = data  # the hello was faster than the task that waits for it
        else:
            self._fail(ProtocolError("it sent a packet that nobody asked for"))

    def _fail(self, error: MeshError) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._packet is not None and not self._packet.done():
            self._packet.set_exception(error)
        if not self._broken.done():
            self._broken.set_exception(error)
        self._wake.set()


def _set_exception(done: asyncio.Future[None], error: MeshError) -> None:
    if not done.done():
        done.set_exception(error)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _peer_pid(sock: socket.socket) -> int:
    ucred = struct.Struct("3i")  # struct ucred of linux/socket.h: pid, uid, gid
    return int(ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size))[0])
