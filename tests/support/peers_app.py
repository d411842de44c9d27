"""Applications at the ends of a tunnel: echo, a sink that does not read, and a client that checks every byte."""

from __future__ import annotations

import contextlib
import hashlib
import random
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Handler = Callable[[socket.socket], None]


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that repeat nowhere near, so that a lost or swapped piece changes the hash."""
    return random.Random(seed).randbytes(size)


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def read_all(sock: socket.socket) -> bytes:
    """Until the peer ends its side."""
    parts = []
    while part := sock.recv(262_144):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(262_144, size - len(data)))
        if not part:
            raise AssertionError(f"the connection ended after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


def exchange(sock: socket.socket, data: bytes, timeout: float = 30.0) -> bytes:
    """Send `data` and end the sending side while reading to the end -> what came back."""
    sock.settimeout(timeout)

    def send() -> None:
        with contextlib.suppress(OSError):  # the reader notices what is missing
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return read_all(sock)
    finally:
        sender.join(timeout)


def abort(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def echo(sock: socket.socket) -> None:
    """Give everything back, then end the own side when the peer has."""
    while data := sock.recv(65_536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


class App:
    """An application: a thread per connection runs `handler`; `accepted` are its sockets, `peers` who came."""

    def __init__(self, handler: Handler = echo, listener: socket.socket | None = None) -> None:
        self.handler = handler
        self.listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.settimeout(None)
        self.accepted: list[socket.socket] = []
        self.peers: list[tuple[str, int]] = []
        self._wake, self._woken = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def port(self) -> int:
        return self.address[1]

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while all(key.fileobj is self.listener for key, _ in selector.select()):
                sock, peer = self.listener.accept()
                sock.settimeout(60)
                self.accepted.append(sock)
                self.peers.append((str(peer[0]), int(peer[1])))
                thread = threading.Thread(target=self._handle, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _handle(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # resets and time-outs are what tests provoke
            self.handler(sock)
        if self.handler is echo:
            sock.close()

    def close(self) -> None:
        self._wake.send(b"x")
        self._acceptor.join(5)
        self.listener.close()
        for sock in self.accepted:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)
        self._wake.close()
        self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
