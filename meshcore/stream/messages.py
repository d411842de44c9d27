"""Messages of the control-plane stream and their framing.

The meaning is that of the delta variant of xDS and of Istio's `CreateCertificate`; the encoding is MessagePack arrays
in field order, so fields are only ever appended. On the wire each message has five bytes in front, as gRPC has: a zero
and the length (u32, big-endian).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from meshcore.errors import MeshError, ProtocolError

CONFIG_PATH: Final = "/ambient.v1.Config/Delta"
SIGN_PATH: Final = "/ambient.v1.Certificates/Sign"
CONTENT_TYPE: Final = "application/x-ambient-msgpack"
WILDCARD: Final = "*"

MESSAGE_MAX: Final = 32 * 2**20
"""Bytes of one message that a receiver accepts by default."""

T = TypeVar("T")
PREFIX: Final = struct.Struct(">BI")
"""In front of each message: a flag, and the length of what follows."""


class _Message(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True, gc=False):
    pass


class Node(_Message, frozen=True):
    """Who subscribes. `id` has upstream's form `ROLE~IP~NAME.NAMESPACE~DOMAIN`; `node` is the Kubernetes node."""

    id: str
    name: str = ""
    namespace: str = ""
    node: str = ""
    service_account: str = ""
    cluster_id: str = ""
    version: str = ""
    metadata: dict[str, str] = {}


class DeltaRequest(_Message, frozen=True):
    """Proxy to istiod: first request (`node`, `initial_versions`), change of subscriptions, ACK or NACK (`error`)."""

    type_url: str
    node: Node | None = None
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: dict[str, str] = {}
    nonce: str = ""
    error: str = ""


class Resource(_Message, frozen=True):
    """One named resource; `body` is the MessagePack of its `meshcore.model` type, left encoded."""

    name: str
    version: str
    body: bytes


class DeltaResponse(_Message, frozen=True):
    """istiod to proxy. `more` says that further parts of the same state follow, so that this one alone is no sync."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    more: bool = False


class SignRequest(_Message, frozen=True):
    """`identity` is a SPIFFE URI, empty for the caller's own; `ttl_seconds` 0 means istiod's default."""

    csr_pem: str
    identity: str = ""
    ttl_seconds: int = 0


class SignResponse(_Message, frozen=True):
    """PEM texts: the leaf, then each intermediate, last the whole root bundle."""

    chain: tuple[str, ...]


class ErrorBody(_Message, frozen=True):
    """What stands in the body of an answer other than 200; `code` is that of a `MeshError`."""

    code: str
    message: str
    retryable: bool = False


_DECODERS: Final[dict[type, Any]] = {}
encode: Final = msgspec.msgpack.Encoder().encode


def frame(message: bytes) -> bytes:
    """`message` behind its prefix."""
    return PREFIX.pack(0, len(message)) + message


def decode(data: bytes, kind: type[T]) -> T:
    """Raises ProtocolError if `data` is not a message of that kind."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    try:
        result: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ProtocolError(f"a {kind.__name__} cannot be decoded: {exc}") from None
    return result


class Unframer:
    """Cuts a byte stream into messages; holds at most one unfinished message."""

    def __init__(self, limit: int = MESSAGE_MAX) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes; raises ProtocolError at a bad prefix or past the limit."""
        pending = self._pending
        pending += data
        start = 0
        while len(pending) - start >= PREFIX.size:
            flag, length = PREFIX.unpack_from(pending, start)
            if flag:
                raise self._marked(flag)
            if length > self._limit:
                raise self._too_long(length)
            end = start + PREFIX.size + length
            if len(pending) < end:
                break
            yield bytes(memoryview(pending)[start + PREFIX.size : end])
            start = end
        if start:
            del pending[:start]

    @property
    def idle(self) -> bool:
        """No message is unfinished."""
        return not self._pending

    def _marked(self, flag: int) -> MeshError:
        """The error for a message that does not begin with zero."""
        return ProtocolError(f"message prefix {flag}: compressed messages are not spoken here")

    def _too_long(self, length: int) -> MeshError:
        return ProtocolError(f"a message of {length} bytes is larger than the limit of {self._limit}")
