"""gRPC as a server speaks it over our HTTP/2: five-byte frames, a status in the trailers, no compression.

Facts: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md. What a message means is not known here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

from meshcore.errors import (
    AuthenticationError,
    AuthorizationError,
    CertificateError,
    ConfigError,
    DeadlineExceeded,
    IdentityError,
    MeshError,
    ProtocolError,
    Unavailable,
)
from meshcore.stream import messages
from meshcore.stream.h2rpc import Headers
from meshcore.stream.messages import PREFIX
from meshcore.stream.server import ServerStream

CONTENT_TYPE: Final = "application/grpc"
RECEIVE_BYTES_MAX: Final = 4 * 2**20
"""Bytes of one message from a client; gRPC's own default and upstream's."""
PIECE_BYTES: Final = 64 * 2**10
"""What is handed to the connection at a time of a message that is made of parts."""
MESSAGE_CHARS_MAX: Final = 2048
"""Of a status text: trailers must fit in the header list that clients accept (8 KiB), and encoding may triple it."""


class Code(enum.IntEnum):
    """The gRPC status codes used here."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Unimplemented(MeshError, code="unimplemented"):
    """The peer asks for something that exists in the protocol and not here."""


class Exhausted(MeshError, code="exhausted", retryable=True):
    """A limit on size or number is reached."""


_CODES: Final[tuple[tuple[type[MeshError], Code], ...]] = (
    (AuthenticationError, Code.UNAUTHENTICATED),
    (AuthorizationError, Code.PERMISSION_DENIED),
    (Unavailable, Code.UNAVAILABLE),
    (DeadlineExceeded, Code.DEADLINE_EXCEEDED),
    (Unimplemented, Code.UNIMPLEMENTED),
    (Exhausted, Code.RESOURCE_EXHAUSTED),
    (CertificateError, Code.INVALID_ARGUMENT),
    (IdentityError, Code.INVALID_ARGUMENT),
    (ProtocolError, Code.INVALID_ARGUMENT),
    (ConfigError, Code.INVALID_ARGUMENT),
)
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def code_of(error: MeshError) -> Code:
    """The status that carries an error; what has none of its own is INTERNAL."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def is_grpc(content_type: str) -> bool:
    """`application/grpc`, also with a suffix or parameters; gRPC-Web is another protocol."""
    rest = content_type.removeprefix(CONTENT_TYPE)
    return rest != content_type and rest[:1] in ("", "+", ";", " ")


def timeout_of(header: str) -> float | None:
    """Seconds of a `grpc-timeout` header, None without one; raises ProtocolError if it is malformed."""
    if not header:
        return None
    found = _TIMEOUT.fullmatch(header)
    if found is None:
        raise ProtocolError(f"grpc-timeout: {header[:20]!r} is not a number and a unit")
    return int(found[1]) * _UNITS[found[2]]


def encoded_text(text: str) -> str:
    """A status text as it stands in `grpc-message`: UTF-8, everything but printable ASCII percent-encoded."""
    data = text[:MESSAGE_CHARS_MAX].encode("utf-8", "replace")
    return "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in data)


def status(code: Code, text: str = "") -> Headers:
    """The trailers that say how a call ended."""
    trailers = [("grpc-status", str(int(code)))]
    return [*trailers, ("grpc-message", encoded_text(text))] if text else trailers


async def finish(stream: ServerStream, error: MeshError | None, http_status: int) -> None:
    """End a call: for `Server(finishers=...)`. A 404 of the router is an unknown method."""
    if stream.error is not None or stream.sent_end:
        return
    if error is None:
        trailers = status(Code.OK)
    else:
        trailers = status(Code.UNIMPLEMENTED if http_status == 404 else code_of(error), str(error))
    if stream.answered:
        await stream.end_with(trailers)
    else:
        stream.start(content_type=CONTENT_TYPE, more=trailers, end=True)


def start(stream: ServerStream) -> None:
    """Accept a call; raises ProtocolError if the request does not speak gRPC."""
    if not is_grpc(stream.headers.get("content-type", "")):
        raise ProtocolError(f"{stream.path[:200]} is a gRPC call: the content-type must be {CONTENT_TYPE}")
    stream.start(content_type=CONTENT_TYPE, more=[("grpc-accept-encoding", "identity")])


class Unframer(messages.Unframer):
    """The framing is ours; what is refused is refused with gRPC's codes: Unimplemented, Exhausted, ProtocolError."""

    def __init__(self, limit: int = RECEIVE_BYTES_MAX) -> None:
        super().__init__(limit)

    def _marked(self, flag: int) -> MeshError:
        if flag == 1:
            return Unimplemented("compressed messages are not understood here: use the identity encoding")
        return ProtocolError(f"a message begins with {flag} where 0 or 1 is expected")

    def _too_long(self, length: int) -> MeshError:
        return Exhausted(f"a message of {length} bytes is larger than the limit of {self._limit}")


async def request(stream: ServerStream, limit: int = RECEIVE_BYTES_MAX) -> bytes:
    """The one message of a unary call, read to the end of the stream."""
    return await stream.only_message(Unframer(limit))


async def send(stream: ServerStream, parts: Iterable[bytes], size: int) -> None:
    """Send one message of `size` bytes given in parts: it is never held as a whole."""
    piece = bytearray(PREFIX.pack(0, size))
    for part in parts:
        piece += part
        if len(piece) >= PIECE_BYTES:
            await stream.send(bytes(piece))
            piece.clear()
    if piece:
        await stream.send(bytes(piece))
