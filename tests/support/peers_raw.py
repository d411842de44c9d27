"""An HTTP/2 peer that writes any frame it is told to, legal or not (RFC 9113, framing by hand, HPACK by `hpack`)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Final, NamedTuple, Self

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 1, 1, 4, 8, 32
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT: Final = 10.0

Field = tuple[str, str]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Error code of RST_STREAM or GOAWAY, increment of WINDOW_UPDATE."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; names are the constants of this module in lower case."""
    numbers = {"header_table_size": 1, "enable_push": 2, "max_streams": 3, "initial_window": 4, "max_frame": 5}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items()))


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def connect_fields(authority: str, *more: Field) -> list[Field]:
    return [(":method", "CONNECT"), (":authority", authority), *more]


class PeerGone(AssertionError):
    """The other side closed the connection, and the test expected something else first."""


class RawPeer:
    """One end of an HTTP/2 connection over TLS. Every read has a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._input = bytearray()
        self.peer_settings: dict[int, int] = {}

    @classmethod
    def dial(
        cls, address: tuple[str, int], context: ssl.SSLContext, *, preface: bool = True, handshake: bool = True
    ) -> Self:
        """Connect as a client, with preface and empty SETTINGS unless told otherwise."""
        plain = socket.create_connection(address, TIMEOUT)
        try:
            peer = cls(context.wrap_socket(plain) if handshake else plain)
        except BaseException:
            plain.close()
            raise
        peer.sock.settimeout(TIMEOUT)
        if preface:
            peer.send(PREFACE + settings(initial_window=1 << 20))
        return peer

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def send_until_refused(self, one: bytes, most: int, batch: int = 200) -> None:
        """Send the same bytes again and again; the other side may close in the middle, which ends it."""
        with contextlib.suppress(OSError):
            for _ in range(0, most, batch):
                self.sock.sendall(one * batch)

    def read(self, timeout: float = TIMEOUT) -> Frame:
        """-> the next frame, whatever it is. SETTINGS are noted and acknowledged on the way."""
        end = time.monotonic() + timeout
        while True:
            if len(self._input) >= 9:
                size = int.from_bytes(self._input[:3], "big")
                if len(self._input) >= 9 + size:
                    head, payload = bytes(self._input[:9]), bytes(self._input[9 : 9 + size])
                    del self._input[: 9 + size]
                    return Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, payload)
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no whole frame within {timeout} s; {len(self._input)} bytes are here")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65_536)
            except (ConnectionError, ssl.SSLError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise PeerGone(f"connection ended: {error}") from error
            if not data:
                raise PeerGone("connection closed")
            self._input += data

    def frames(self, timeout: float = TIMEOUT) -> list[Frame]:
        """-> every frame until the other side closes."""
        found = []
        with contextlib.suppress(PeerGone):
            while True:
                found.append(self.read(timeout))
        return found

    def expect(
        self, kind: int, stream: int | None = None, timeout: float = TIMEOUT, *, ack: bool | None = None
    ) -> Frame:
        """-> the next frame of this kind (and stream); others on the way are taken note of."""
        end = time.monotonic() + timeout
        seen: list[str] = []
        while True:
            try:
                got = self.read(max(end - time.monotonic(), 0.001))
            except (PeerGone, TimeoutError) as error:
                raise type(error)(f"{error}; waited for kind {kind} of stream {stream}, saw {seen}") from error
            self._note(got)
            matches = got.kind == kind and stream in {None, got.stream}
            if matches and (ack is None or bool(got.flags & ACK) == ack):
                return got
            seen.append(f"{got.kind}:{got.stream}:{got.payload[:16].hex()}")

    def _note(self, got: Frame) -> None:
        if got.kind == SETTINGS and not got.flags & ACK:
            for at in range(0, len(got.payload), 6):
                number, value = struct.unpack_from(">HI", got.payload, at)
                self.peer_settings[number] = value
            with contextlib.suppress(OSError):
                self.send(frame(SETTINGS, ACK, 0))

    def goaway(self, timeout: float = TIMEOUT) -> Frame:
        return self.expect(GOAWAY, timeout=timeout)

    def block(self, fields: list[Field]) -> bytes:
        return bytes(self.encoder.encode(fields))

    def headers(self, stream: int, fields: list[Field], flags: int = END_HEADERS) -> bytes:
        return frame(HEADERS, flags, stream, self.block(fields))

    def connect(self, stream: int, authority: str, *more: Field) -> None:
        self.send(self.headers(stream, connect_fields(authority, *more)))

    def status(self, stream: int, timeout: float = TIMEOUT) -> int:
        """-> `:status` of the answer on a stream."""
        return int(dict(self.fields(stream, timeout))[":status"])

    def fields(self, stream: int, timeout: float = TIMEOUT) -> list[Field]:
        got = self.expect(HEADERS, stream, timeout)
        return [(str(name), str(value)) for name, value in self.decoder.decode(got.payload)]

    def ping(self, timeout: float = TIMEOUT) -> None:
        """The other side is there and takes frames in order."""
        payload = struct.pack(">Q", time.monotonic_ns())
        self.send(frame(PING, 0, 0, payload))
        while self.expect(PING, ack=True, timeout=timeout).payload != payload:
            pass

    def round_trip(self, stream: int, data: bytes) -> bytes:
        """Echo on an open stream -> what came back."""
        self.send(frame(DATA, 0, stream, data))
        back = b""
        while len(back) < len(data):
            back += self.expect(DATA, stream).payload
        return back

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
