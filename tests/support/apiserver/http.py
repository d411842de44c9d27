"""As much HTTP/1.1 as API clients speak: one request at a time, bodies with a length, answers whole or chunked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 16 * 2**20


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""

    body: bytes


class Response(NamedTuple):
    code: int
    body: Any
    """Encoded as JSON; bytes are sent as they are, as text."""

    headers: Mapping[str, str] = MappingProxyType({})


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    length = min(int(headers.get("content-length", "0")), BODY_BYTES_MAX)
    url = urlsplit(target)
    body = await reader.readexactly(length)
    return Request(method, unquote(url.path), dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


async def write_response(writer: asyncio.StreamWriter, response: Response) -> None:
    raw = isinstance(response.body, bytes)
    body = response.body if raw else msgspec.json.encode(response.body)
    headers = {
        "content-type": "text/plain; charset=utf-8" if raw else "application/json",
        "content-length": str(len(body)),
    }
    writer.write(_head(response.code, headers | dict(response.headers)) + body)
    await writer.drain()


async def start_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(_head(200, {"content-type": "application/json", "transfer-encoding": "chunked"}))
    await writer.drain()


async def write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """An empty chunk ends the body."""
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


def _head(code: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} {code}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
