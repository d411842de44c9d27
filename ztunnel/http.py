"""A small HTTP/1.1 server for admin, metrics and readiness.

Limits: 8 KiB of head, 2 s to send it (upstream's), a small body that is thrown away, one request at a time on each
connection, and a limit on connections. Answers are whole; nothing is streamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast
from urllib.parse import parse_qsl, unquote

import msgspec

from meshcore.errors import ConfigError, MeshError

log = logging.getLogger("ztunnel.http")

HEAD_MAX: Final = 8192
HEAD_TIMEOUT_S: Final = 2.0
IDLE_TIMEOUT_S: Final = 60.0
ANSWER_TIMEOUT_S: Final = 30.0
BODY_MAX: Final = 65536
CONNECTIONS_MAX: Final = 128
BACKLOG: Final = 128

TEXT: Final = "text/plain; charset=utf-8"
REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(msgspec.Struct, frozen=True):
    """`query` keeps valueless parameters as ""; header names are lower case, repeated ones joined with a comma."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]


class Response(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def text(cls, text: str, status: int = 200) -> Response:
        return cls(status, text.encode())


Handler = Callable[[Request], Awaitable[Response]]


class BadRequest(MeshError, code="http.bad_request"):
    """A request head that is not one; `status` is the answer."""

    def __init__(self, msg: str, status: int = 400) -> None:
        super().__init__(msg)
        self.status = status


def parse_head(head: bytes) -> Request:
    """A request head without its final empty line. Raises BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise BadRequest("not an HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("a header line is not NAME: VALUE")
        key = name.lower()
        headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
    path, _, query = words[1].partition("?")
    keep = headers.get("connection", "").lower()
    headers["connection"] = "close" if keep == "close" or (words[2] == "HTTP/1.0" and keep != "keep-alive") else ""
    return Request(words[0], unquote(path), parse_qsl(query, keep_blank_values=True), headers)


def _body_length(request: Request) -> int:
    if "transfer-encoding" in request.headers:
        raise BadRequest("send a body with Content-Length", 411)
    text = request.headers.get("content-length", "0")
    if not text.isascii() or not text.isdecimal():
        raise BadRequest("Content-Length is not a number")
    if len(text) > 9 or int(text) > BODY_MAX:
        raise BadRequest(f"the body is larger than {BODY_MAX} bytes", 413)
    return int(text)


def render(response: Response, *, close: bool, head_only: bool = False) -> bytes:
    """The bytes of an answer."""
    fields = [
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if close:
        fields.append("connection: close")
    head = "\r\n".join(fields).encode("latin-1") + b"\r\n\r\n"
    return head if head_only else head + response.body


class Server:
    """Serves `routes` (path -> handler) on sockets given to `listen`; other paths are 404."""

    def __init__(self, name: str, routes: Mapping[str, Handler]) -> None:
        self.name = name
        self.connections: set[Connection] = set()
        self._routes = routes
        self._servers: list[asyncio.Server] = []

    async def listen(self, *sockets: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG))

    async def answer(self, request: Request) -> Response:
        handler = self._routes.get(request.path)
        if handler is None:
            return Response.text("not found\n", 404)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await handler(request)
        except TimeoutError:
            return Response.text(f"no answer within {ANSWER_TIMEOUT_S:g} s\n", 503)
        except MeshError as error:
            return Response.text(f"{error}\n", 500)
        except Exception:
            log.exception("BUG: %s of %s failed", request.path, self.name)
            return Response.text("internal error, see the log\n", 500)

    def close(self) -> None:
        """Stop listening, and end connections once what is being answered is answered."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in list(self.connections):
            connection.finish()


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self._skip = 0  # bytes of a body still to come
        self._request: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but it is not their base class.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        if len(self._server.connections) >= CONNECTIONS_MAX:
            transport.abort()
            return
        self._server.connections.add(self)
        self._arm(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._arm(None)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        if not self._buffer and self._request is None:
            self._arm(HEAD_TIMEOUT_S)
        self._buffer += data
        if self._task is not None and len(self._buffer) > HEAD_MAX:
            self._transport.pause_reading()
        self._advance()

    def finish(self) -> None:
        """End now, or after the answer under way."""
        self._closing = True
        if self._task is None and self._transport is not None:
            self._transport.close()

    def _advance(self) -> None:
        """Take the next request out of the buffer when the last one is answered."""
        if self._task is not None or self._closing:
            return
        if self._request is None:
            try:
                self._request = self._take_head()
            except BadRequest as error:
                self._refuse(error)
                return
            if self._request is None:
                return
        taken = min(self._skip, len(self._buffer))
        self._buffer, self._skip = self._buffer[taken:], self._skip - taken
        if self._skip:
            return
        self._arm(None)
        self._task = asyncio.get_running_loop().create_task(self._reply(self._request))

    def _take_head(self) -> Request | None:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > HEAD_MAX:
            raise BadRequest(f"the head is larger than {HEAD_MAX} bytes", 431)
        if not end:
            return None
        request = parse_head(head)
        self._buffer, self._skip = rest, _body_length(request)
        return request

    async def _reply(self, request: Request) -> None:
        response = await self._server.answer(request)
        self._task = None
        self._request = None
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        close = self._closing or request.headers["connection"] == "close"
        self._transport.write(render(response, close=close, head_only=request.method == "HEAD"))
        if close:
            self._closing = True
            self._transport.close()
            return
        self._transport.resume_reading()
        self._arm(HEAD_TIMEOUT_S if self._buffer else IDLE_TIMEOUT_S)
        self._advance()

    def _refuse(self, error: BadRequest) -> None:
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        self._closing = True
        self._arm(None)
        self._transport.write(render(Response.text(f"{error}\n", error.status), close=True))
        self._transport.close()

    def _arm(self, timeout: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._timed_out)

    def _timed_out(self) -> None:
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        if self._buffer or self._request is not None:
            self._refuse(BadRequest("the request did not arrive in time", 408))
        else:
            self._transport.close()


def wildcard(port: int, *, ipv6: bool) -> socket.socket:
    """A bound socket on every address. Raises ConfigError when the port cannot be had."""
    if ipv6:
        with contextlib.suppress(OSError):
            return _bound(socket.AF_INET6, "::", port)
    try:
        return _bound(socket.AF_INET, "0.0.0.0", port)
    except OSError as error:
        raise ConfigError(f"port {port} cannot be used: {error.strerror}") from None


def loopback(port: int, *, ipv6: bool) -> list[socket.socket]:
    """Bound sockets on 127.0.0.1 and, where there is IPv6, ::1. Raises ConfigError as `wildcard`."""
    try:
        sockets = [_bound(socket.AF_INET, "127.0.0.1", port)]
    except OSError as error:
        raise ConfigError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}") from None
    if ipv6:
        with contextlib.suppress(OSError):
            sockets.append(_bound(socket.AF_INET6, "::1", sockets[0].getsockname()[1]))
    return sockets


def _bound(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host == "::1")
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
