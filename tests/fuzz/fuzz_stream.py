"""Fuzz entry of what istiod reads before it knows the caller: HTTP/2 frames, message framing, requests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from meshcore.errors import MeshError
from meshcore.stream.delta import ServerType
from meshcore.stream.messages import DeltaRequest, Node, Resource, SignRequest, Unframer, decode, encode, frame
from meshcore.stream.server import Server, ServerConnection, ServerStream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SEEDS = (
    PREFACE + b"\0\0\0\4\0\0\0\0\0",
    PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\4\1\5\0\0\0\1\x82\x86\x84\x41",
    PREFACE + b"\0\0\x08\6\0\0\0\0\0abcdefgh" + b"\0\0\4\3\0\0\0\0\1\0\0\0\0",
    frame(encode(DeltaRequest("t", Node("x"), ("*", "a"), ("b",), {"a": "1", "zz": "2"}, "1", "e"))),
    frame(encode(DeltaRequest("t"))) + frame(encode(SignRequest("csr", "spiffe://a/ns/b/sa/c", -1))),
    frame(b"\x97") + b"\1\0\0\0\0",
    b"\0\xff\xff\xff\xff",
)
STORE = {name: Resource(name, "1", name.encode() * 50) for name in ("a", "b", "c")}


class _Tls:
    def version(self) -> str:
        return "TLSv1.3"

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def getpeercert(self) -> dict[str, Any]:
        return {}


class _Transport(asyncio.Transport):
    closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"ssl_object": _Tls(), "peername": ("127.0.0.1", 1)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        del data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


async def _drain(stream: ServerStream) -> None:
    stream.start()
    while await stream.receive(1):
        pass


def fuzz_one(data: bytes) -> None:
    asyncio.run(_connection(data))
    _messages(data)


async def _connection(data: bytes) -> None:
    connection = ServerConnection(Server({"/x": _drain}))
    connection.connection_made(_Transport())
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if connection.error is None:
            connection.data_received(piece)
            await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)


def _messages(data: bytes) -> None:
    server = ServerType("t", part_bytes=60)
    try:
        for message in Unframer(4096).feed(data):
            server.request(decode(message, DeltaRequest), STORE)
            server.next(STORE)
    except MeshError:
        pass
    with contextlib.suppress(MeshError):
        decode(data, SignRequest)
