"""GETs over anything that sends and receives bytes: HTTP/1.1, one request at a time, answers with a Content-Length."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from bench.users.channel import HboneError

_HEAD_MAX: Final = 16_384  # bytes
_END: Final = b"\r\n\r\n"


class Stream(Protocol):
    def send(self, data: bytes) -> None: ...

    def recv(self) -> bytes:
        """The next bytes, nothing at the end."""


class Answer(NamedTuple):
    status: int
    length: int  # bytes of the body, all of which have come


def get(stream: Stream, host: str, path: str) -> Answer:
    """Ask and read the whole answer; raises HboneError when it is not one."""
    stream.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while _END not in head:
        if len(head) > _HEAD_MAX:
            raise HboneError(f"the answer's head is over {_HEAD_MAX} bytes")
        head += _some(stream, "head")
    head, _, body = head.partition(_END)
    status, length = _parse(head.decode("latin-1"))
    come = len(body)
    while come < length:
        come += len(_some(stream, "body"))
    if come > length:
        raise HboneError(f"the answer is {come - length} bytes longer than its Content-Length says")
    return Answer(status, length)


def _some(stream: Stream, where: str) -> bytes:
    data = stream.recv()
    if not data:
        raise HboneError(f"the tunnel ended in the {where} of the answer")
    return data


def _parse(head: str) -> Answer:
    first, *lines = head.split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or not status.isdigit():
        raise HboneError(f"the answer is not HTTP/1.1: {first[:60]!r}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        raise HboneError("the answer has no Content-Length")
    return Answer(int(status), int(length))
