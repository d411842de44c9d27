"""HTTP/2 frames by hand over TLS, for clients that do what no library would (RFC 9113 section 4.1)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Final, NamedTuple, Self

import hpack

from tests.support import peer_h2
from tests.support.worker_harness import TIMEOUT, Address

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 1, 4, 8, 32
ACK: Final = 1
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
HEAD: Final = 9  # bytes


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last 32 bits: an error code, or a window increment."""
        return int.from_bytes(self.payload[:4] if self.kind != GOAWAY else self.payload[4:8], "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, size: int | None = None) -> bytes:
    """A frame; `size` lies about its length."""
    length = len(payload) if size is None else size
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that is never indexed, so that a block means the same on every connection (RFC 7541, 6.2.3)."""
    return b"\x10" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An integer with a prefix of 7 bits (RFC 7541 section 5.1)."""
    if size < 127:
        return bytes((size,))
    out, size = bytearray((127,)), size - 127
    while size >= 128:
        out.append(size % 128 + 128)
        size //= 128
    return bytes((*out, size))


CONNECT: Final = literal(b":method", b"CONNECT") + literal(b":authority", b"10.0.0.7:80")


def connect(stream: int, *, extra: bytes = b"", flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, CONNECT + extra)


class Raw:
    """A client of a worker's 15008 that has sent its preface and an empty SETTINGS, unless told not to."""

    _hung_up = False  # the other end, which may be before it has taken all that is sent

    def __init__(self, address: Address, context: ssl.SSLContext | None = None, *, start: bytes | None = None) -> None:
        self.sock = peer_h2.tls_connect(address, context)
        self.frames: list[Frame] = []
        self.closed = False
        self._buffer = bytearray()
        self._decoder = hpack.Decoder()
        self.send(PREFACE + frame(SETTINGS) if start is None else start)

    def send(self, data: bytes) -> None:
        """Send; a worker that has hung up in the meantime is no error, for its last words are what counts."""
        if self._hung_up:
            return
        self.sock.settimeout(TIMEOUT)
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._hung_up = True

    def next(self, timeout: float = TIMEOUT) -> Frame | None:
        """-> the next frame, None at the end of the connection."""
        end = time.monotonic() + timeout
        while True:
            if len(self._buffer) >= HEAD:
                size = int.from_bytes(self._buffer[:3], "big")
                if len(self._buffer) >= HEAD + size:
                    head, payload = bytes(self._buffer[:HEAD]), bytes(self._buffer[HEAD : HEAD + size])
                    del self._buffer[: HEAD + size]
                    found = Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
                    self.frames.append(found)
                    return found
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(65_536)
            except (ConnectionResetError, ssl.SSLEOFError):
                data = b""
            if not data:
                self.closed = True
                return None
            self._buffer += data

    def wait(self, kind: int, stream: int | None = None, *, flags: int = 0, timeout: float = TIMEOUT) -> Frame:
        """Read until a frame of this kind, stream and at least these flags."""
        end = time.monotonic() + timeout
        while True:
            found = self.next(max(end - time.monotonic(), 0.001))
            if found is None:
                raise AssertionError(f"the connection ended before frame type {kind}; seen: {self.frames[-8:]}")
            if found.kind == kind and stream in (None, found.stream) and found.flags & flags == flags:
                return found

    def status(self, stream: int) -> str:
        """Wait for the answer on a stream; answers of other streams are decoded on the way."""
        while True:
            found = self.wait(HEADERS)
            headers = {bytes(name): bytes(value) for name, value in self._decoder.decode(found.payload, raw=True)}
            if found.stream == stream:
                return headers[b":status"].decode()

    def goaway(self) -> int:
        """Wait for the end of the connection -> the error code of the GOAWAY before it."""
        code = None
        while (found := self.next()) is not None:
            if found.kind == GOAWAY:
                code = found.number
        assert code is not None, f"the connection ended without GOAWAY; seen: {self.frames[-8:]}"
        return code

    def ping(self) -> None:
        """Require that the connection still answers."""
        self.send(frame(PING, 0, 0, b"alive???"))
        self.wait(PING, flags=ACK)

    def abort(self) -> None:
        """Go away with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
