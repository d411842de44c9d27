"""Applications behind or in front of a worker: TCP servers that echo, swallow or hang, each in a thread."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tests.support.worker_harness import TIMEOUT, address_of, listen

READ: Final = 65_536
Serve = Callable[[socket.socket], None]


def reset(sock: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def echo(sock: socket.socket) -> None:
    """Send back what comes, and end when the other side has ended."""
    while data := sock.recv(READ):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send and end the direction."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def read_to_end(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(READ):
        data += piece
    return bytes(data)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(READ, size - len(data)))
        if not piece:
            raise AssertionError(f"the connection ended after {len(data)} of {size} bytes")
        data += piece
    return bytes(data)


def silent(sock: socket.socket) -> None:
    """Neither read nor write; App.close() ends it."""
    while sock.fileno() >= 0:
        time.sleep(0.01)


class App:
    """A TCP server whose connections run `serve`, then are closed. `accepted` keeps every connection."""

    def __init__(self, serve: Serve = echo, *, listener: socket.socket | None = None) -> None:
        self._serve = serve
        self._listener = listener or listen()
        self._listener.settimeout(0.1)
        self.address = address_of(self._listener)
        self.accepted: list[socket.socket] = []
        self.peers: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, peer = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            sock.settimeout(TIMEOUT)
            self.peers.append(str(peer[0]))
            self.accepted.append(sock)
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a reset or a closed socket: the test looks at its own end
            self._serve(sock)
        sock.close()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(TIMEOUT)
        self._listener.close()
        self.close_all()

    def close_all(self) -> None:
        """End every connection; new ones are served."""
        for sock in self.accepted:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Background(threading.Thread):
    """A call on its own thread; `join` raises what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - join() raises it
            self._error = error

    def join(self, timeout: float | None = TIMEOUT) -> None:
        super().join(timeout)
        assert not self.is_alive(), f"still running after {timeout} s"
        if self._error is not None:
            raise self._error


def background(call: Callable[[], object]) -> Background:
    thread = Background(call)
    thread.start()
    return thread
