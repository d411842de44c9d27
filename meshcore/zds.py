"""ZDS, the protocol by which the node agent hands pod network namespaces to ztunnel.

Transport: UNIX SOCK_SEQPACKET, one protobuf message (package `istio.workload.zds`) per packet. The agent
listens; ztunnel connects, sends ZdsHello first and then answers every WorkloadRequest with exactly one
WorkloadResponse. AddWorkload carries one descriptor (the namespace), no other message carries any.

The five messages need a dozen lines of proto3, so there is no protobuf runtime here. As proto3 asks, unknown
fields are skipped, a repeated scalar keeps its last value and a repeated message is merged.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator, Sequence

import msgspec

from meshcore.errors import DeadlineExceeded, ProtocolError, Unavailable

DEFAULT_SOCKET = "/var/run/ztunnel/ztunnel.sock"
HELLO_V1 = 1  # ZdsHello.Version.V1

PACKET_MAX = 1024
"""Bytes; upstream's receive buffer on both sides (a longer packet would be cut there)."""

ACK_TEXT_MAX = 900
"""Bytes of UTF-8 in an ack's error, so that an ack always fits one packet."""

FDS_MAX = 8
"""Descriptors we make room for, so that a packet with too many can be refused and all of them closed."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of the protobuf encoding
_FIELD_MAX = 2**29 - 1


class WorkloadInfo(msgspec.Struct, frozen=True, gc=False):
    """Who runs in the namespace; ztunnel derives the identity from it."""

    name: str
    namespace: str
    service_account: str


class AddWorkload(msgspec.Struct, frozen=True, gc=False):
    """Start proxying this pod. Its packet carries the namespace's descriptor."""

    uid: str
    info: WorkloadInfo


class KeepWorkload(msgspec.Struct, frozen=True, gc=False):
    """The pod is enrolled but its namespace is not at hand: do not drop it. Only before SnapshotSent."""

    uid: str


class DelWorkload(msgspec.Struct, frozen=True, gc=False):
    """Stop proxying this pod."""

    uid: str


class SnapshotSent(msgspec.Struct, frozen=True, gc=False):
    """All enrolled pods have been named: drop the others."""


Request = AddWorkload | KeepWorkload | DelWorkload | SnapshotSent


def _put_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _put_bytes(field: int, body: bytes) -> bytes:
    return _put_varint(field << 3 | _BYTES) + _put_varint(len(body)) + body


def _put_text(field: int, text: str) -> bytes:
    return _put_bytes(field, text.encode()) if text else b""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """-> (value, offset behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ProtocolError("ZDS message ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ProtocolError("ZDS message has a number of more than 10 bytes")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value): int for a varint, bytes for a length-delimited field; the rest is skipped."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field <= _FIELD_MAX:
            raise ProtocolError(f"ZDS message has field number {field}, outside of 1 to {_FIELD_MAX}")
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ProtocolError(f"ZDS field {field} has wire type {kind}, which proto3 does not use")
        if size > len(data) - at:
            raise ProtocolError(f"ZDS field {field} says {size} bytes, {len(data) - at} are left")
        if kind == _BYTES:
            yield field, data[at : at + size]
        at += size


def _check_size(data: bytes) -> None:
    if len(data) > PACKET_MAX:
        raise ProtocolError(f"a ZDS message of {len(data)} bytes is over the limit of {PACKET_MAX}")


def _texts(data: bytes, wanted: Sequence[int]) -> list[str]:
    """The string fields `wanted` of a message, in that order, empty where absent."""
    found: dict[int, str] = {}
    for field, value in _fields(data):
        if field in wanted and isinstance(value, bytes):
            try:
                found[field] = value.decode()
            except UnicodeDecodeError:
                raise ProtocolError(f"ZDS field {field} is not UTF-8") from None
    return [found.get(field, "") for field in wanted]


def _message(data: bytes, wanted: int) -> bytes | None:
    """The sub-message in field `wanted`, or None. Several are merged: in protobuf that is concatenation."""
    parts = [value for field, value in _fields(data) if field == wanted and isinstance(value, bytes)]
    return b"".join(parts) if parts else None


def _oneof(data: bytes, members: Sequence[int], what: str) -> tuple[int, bytes]:
    """The last oneof member that is set and its merged body."""
    chosen, body = 0, b""
    for field, value in _fields(data):
        if field in members and isinstance(value, bytes):
            body = body + value if field == chosen else value
            chosen = field
    if not chosen:
        raise ProtocolError(f"{what} carries none of the payloads this version knows")
    return chosen, body


def encode_hello(version: int = HELLO_V1) -> bytes:
    return _put_varint(1 << 3 | _VARINT) + _put_varint(version) if version else b""


def decode_hello(data: bytes) -> int:
    """-> the version the peer speaks; 0 when it names none. The caller decides whether it can talk to it."""
    _check_size(data)
    version = 0
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            version = value
    return version


_ADD, _DEL, _SNAPSHOT, _KEEP = 1, 2, 3, 5  # WorkloadRequest.payload


def encode_request(request: Request) -> bytes:
    """Raises ProtocolError when the names in it make it longer than a packet."""
    match request:
        case AddWorkload(uid, WorkloadInfo(name, namespace, account)):
            info = _put_text(1, name) + _put_text(2, namespace) + _put_text(3, account)
            data = _put_bytes(_ADD, _put_text(1, uid) + _put_bytes(2, info))
        case DelWorkload(uid):
            data = _put_bytes(_DEL, _put_text(2, uid))
        case KeepWorkload(uid):
            data = _put_bytes(_KEEP, _put_text(1, uid))
        case _:
            data = _put_bytes(_SNAPSHOT, b"")
    _check_size(data)
    return data


def decode_request(data: bytes) -> Request:
    """Raises ProtocolError for anything that is not one complete request."""
    _check_size(data)
    kind, body = _oneof(data, (_ADD, _DEL, _SNAPSHOT, _KEEP), "WorkloadRequest")
    if kind == _SNAPSHOT:
        _texts(body, ())
        return SnapshotSent()
    (uid,) = _texts(body, (2,) if kind == _DEL else (1,))
    if kind == _DEL:
        return DelWorkload(uid)
    if kind == _KEEP:
        return KeepWorkload(uid)
    info = _message(body, 2)
    if info is None:
        raise ProtocolError(f"AddWorkload of {uid!r} has no workload_info")
    return AddWorkload(uid, WorkloadInfo(*_texts(info, (1, 2, 3))))


def encode_ack(error: str = "") -> bytes:
    """WorkloadResponse{ack}. A non-empty `error` refuses the request; it is cut to ACK_TEXT_MAX bytes."""
    text = error.encode()[:ACK_TEXT_MAX].decode("utf-8", "ignore")
    return _put_bytes(1, _put_text(1, text))


def decode_ack(data: bytes) -> str:
    """-> the error text, empty when the request was carried out."""
    _check_size(data)
    _, body = _oneof(data, (1,), "WorkloadResponse")
    return _texts(body, (1,))[0]


def send_packet(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet. The descriptors stay the caller's.

    Raises Unavailable when the peer is gone, DeadlineExceeded when the socket has a timeout and it ran out;
    BlockingIOError passes, for a non-blocking caller.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        raise
    except TimeoutError:
        raise DeadlineExceeded("the ZDS peer did not take a packet in time") from None
    except OSError as error:
        raise Unavailable(f"the ZDS packet was not sent: {error.strerror}") from error


def recv_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one packet -> (data, descriptors, which are the caller's now and have CLOEXEC set).

    Empty data means that the peer closed. Raises ProtocolError when data or control data did not fit;
    descriptors that came with it are closed. Other errors as `send_packet`.
    """
    space = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(PACKET_MAX, space, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except TimeoutError:
        raise DeadlineExceeded("the ZDS peer sent nothing in time") from None
    except OSError as error:
        raise Unavailable(f"the ZDS connection broke: {error.strerror}") from error
    received = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(body[: len(body) - len(body) % received.itemsize])
    fds = received.tolist()
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        what = f"is longer than {PACKET_MAX} bytes" if flags & socket.MSG_TRUNC else "carries too many descriptors"
        raise ProtocolError(f"a ZDS packet {what}")
    return data, fds


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def take_netns(request: Request, fds: Sequence[int]) -> int | None:
    """Check what came with a request: -> the namespace's descriptor of an AddWorkload, None for the others.

    Raises ProtocolError, with every descriptor closed, when there are more or fewer than the message allows.
    """
    allowed = 1 if isinstance(request, AddWorkload) else 0
    if len(fds) != allowed:
        close_all(fds)
        raise ProtocolError(f"{type(request).__name__} came with {len(fds)} descriptors instead of {allowed}")
    return fds[0] if fds else None
