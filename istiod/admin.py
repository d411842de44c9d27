"""Ports 8080 (/ready, /debug) and 15014 (/metrics): small HTTP/1.1 answers, one per connection."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from meshcore.errors import Unavailable

HEAD_TIMEOUT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 8192
CONNECTIONS_MAX: Final = 100


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Answer]
_REASONS: Final = {200: "OK", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def text(body: str, status: int = 200) -> Answer:
    return Answer(status, body.encode())


def json(value: Any) -> Answer:
    """Bytes as base64, enumerations as numbers: what msgspec makes of the models."""
    return Answer(200, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", "application/json")


class AdminServer:
    """Answers GET and HEAD. Paths in `local` are for callers on this host only: they show the whole mesh."""

    def __init__(self, routes: Mapping[str, Route], local: Mapping[str, Route] | None = None) -> None:
        self._routes = dict(routes)
        self._local = dict(local or {})
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
        except OSError as exc:
            raise Unavailable(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                if len(self._open) > CONNECTIONS_MAX:
                    return
                head = await reader.readuntil(b"\r\n\r\n")
                answer, bodyless = self._answer(head, str((writer.get_extra_info("peername") or ("",))[0]))
                lines = (
                    f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}",
                    f"content-type: {answer.content_type}",
                    f"content-length: {len(answer.body)}",
                    "connection: close",
                    "",
                    "",
                )
                writer.write("\r\n".join(lines).encode() + (b"" if bodyless else answer.body))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    await writer.wait_closed()

    def _answer(self, head: bytes, peer: str) -> tuple[Answer, bool]:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        method = parts[0]
        if method not in (b"GET", b"HEAD") or len(parts) != 3:
            return text("only GET is answered here\n", 405), False
        path = parts[1].partition(b"?")[0].decode("latin-1")
        route = self._routes.get(path)
        if route is None and path in self._local:
            route = self._local[path] if _loopback(peer) else lambda: text("only for callers on this host\n", 403)
        if route is None:
            known = "\n".join(sorted((*self._routes, *self._local)))
            return text(f"not found; there is\n{known}\n", 404), method == b"HEAD"
        return route(), method == b"HEAD"


def _loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
