"""The accepting side: one task per request, a handler per path, the peer's identity from its verified certificate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import h2.errors
import h2.exceptions
import msgspec

from meshcore.errors import DeadlineExceeded, IdentityError, MeshError, ProtocolError, Unavailable
from meshcore.identity import SCHEME, Identity, parse
from meshcore.stream.h2rpc import DEFAULT_LIMITS, Connection, Headers, Limits, Stream, status_of
from meshcore.stream.messages import CONTENT_TYPE, ErrorBody, Unframer, encode, frame

log = logging.getLogger("meshcore.stream")


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end. Without a client certificate `identity` is None; with one, TLS has verified it."""

    address: str
    identity: Identity | None = None
    dns_names: tuple[str, ...] = ()
    serial: str = ""
    not_after: datetime | None = None

    @property
    def expired(self) -> bool:
        return self.not_after is not None and datetime.now(UTC) >= self.not_after


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Read the verified client certificate; raises IdentityError unless its one URI is a SPIFFE identity."""
    host = str((transport.get_extra_info("peername") or ("?",))[0])
    tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
    certificate: Any = tls.getpeercert()
    if not certificate:
        return Peer(host)
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith(SCHEME):
        raise IdentityError("the client certificate does not carry exactly one SPIFFE URI")
    dns = tuple(value for kind, value in names if kind == "DNS")
    expiry = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    return Peer(host, parse(uris[0]), dns, str(certificate.get("serialNumber", "")), expiry)


class ServerStream(Stream):
    """One request as its handler sees it."""

    def __init__(self, connection: ServerConnection, stream_id: int, headers: Headers) -> None:
        super().__init__(connection, stream_id)
        self.server = connection
        self.peer = connection.peer
        self.answered = False
        self.on_headers(headers)

    @property
    def path(self) -> str:
        return self.headers.get(":path", "")

    async def message(self, limit: int, timeout: float) -> bytes:
        """The one message of a unary request, read to the end of the stream."""
        async with _deadline(timeout, "the request did not arrive"):
            return await self.only_message(Unframer(limit))

    async def only_message(self, unframer: Unframer) -> bytes:
        """The same with a framing of the caller's, who sets the limit of time."""
        found: list[bytes] = []
        while data := await self.receive():
            found += unframer.feed(data)
            if len(found) > 1:
                raise ProtocolError("more than one message in a unary request")
        if len(found) != 1 or not unframer.idle:
            raise ProtocolError("the request ends before its message")
        return found[0]

    def start(
        self, status: int = 200, *, content_type: str = CONTENT_TYPE, more: Headers | None = None, end: bool = False
    ) -> None:
        """Send the answer's headers; with `end` they are all of it."""
        self.answered = True
        headers = [(":status", str(status)), ("content-type", content_type), *(more or ())]
        self.server.send_headers(self.id, headers, end=end)
        self.sent_end = self.sent_end or end

    async def end_with(self, trailers: Headers) -> None:
        """Send trailers, behind everything sent before; they end the stream."""
        async with self._lock:
            self.server.send_headers(self.id, trailers, end=True)
            self.sent_end = True

    async def reply(self, message: bytes, status: int = 200) -> None:
        """Send headers, one message and the end."""
        self.start(status)
        await self.send(frame(message), end=True)


Handler = Callable[[ServerStream], Awaitable[None]]
Finish = Callable[[ServerStream, MeshError | None, int], Awaitable[None]]
"""Ends an answer in the way of its protocol: the error, if there is one, and the HTTP status that suits it."""


async def finish_native(stream: ServerStream, error: MeshError | None, status: int) -> None:
    """An error is the body of an answer of its own; an answer that has begun is left to be reset."""
    if error is None:
        if not stream.sent_end:
            await stream.send(b"", end=True)
    elif stream.error is None and not stream.answered:
        await stream.reply(encode(ErrorBody(error.code, str(error), error.retryable)), status)


class ServerConnection(Connection):
    """Routes requests to handlers; a handler's MeshError becomes the answer, anything else a plain 500."""

    def __init__(self, server: Server) -> None:
        super().__init__(client_side=False, limits=server.limits)
        self.peer = Peer("?")
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections.add(self)
        super().connection_made(transport)
        if self.error is None:
            try:
                self.peer = peer_of(transport)
            except IdentityError as exc:
                self._fail(exc)
        if self.error is None and len(self._server.connections) > self._server.max_connections:
            self._fail(Unavailable("too many connections"))
        self.idle_since = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(self)

    def on_stream(self, stream_id: int, headers: Headers) -> None:
        stream = ServerStream(self, stream_id, headers)
        self.streams[stream_id] = stream
        self.idle_since = 0.0
        task = self._loop.create_task(self._run(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_end(self, error: MeshError) -> None:
        for task in self._tasks:
            task.cancel()

    def send_headers(self, stream_id: int, headers: Headers, *, end: bool = False) -> None:
        try:
            self._h2.send_headers(stream_id, headers, end_stream=end)
        except h2.exceptions.ProtocolError as exc:
            raise Unavailable(f"the stream is over: {exc}") from None
        self.flush()

    async def _run(self, stream: ServerStream) -> None:
        try:
            error, status = await self._answer(stream)
            finish = self._server.finish(stream.headers.get("content-type", ""))
            with contextlib.suppress(MeshError):
                await finish(stream, error, status)
        finally:
            ended = stream._ended  # noqa: SLF001 - the request was read to its end
            if stream.sent_end and ended:
                self.forget(stream)
            else:
                stream.reset(h2.errors.ErrorCodes.NO_ERROR if stream.sent_end else h2.errors.ErrorCodes.CANCEL)
            if not self.streams:
                self.idle_since = self._loop.time()

    async def _answer(self, stream: ServerStream) -> tuple[MeshError | None, int]:
        """Run the handler; returns what went wrong and the HTTP status for it."""
        handler = self._server.routes.get(stream.path)
        if stream.headers.get(":method") != "POST" or handler is None:
            return ProtocolError(f"no such call: {stream.path[:100]}"), 404
        if self._server.draining:
            return Unavailable("the server is shutting down"), 503
        try:
            await handler(stream)
        except MeshError as exc:
            return exc, status_of(exc)
        except Exception:
            log.exception("BUG: the handler of %s failed", stream.path)
            return MeshError("internal error"), 500
        return None, 200


class Server:
    """A listening socket, its connections and its routes. `finishers` end the answers to requests of a content-type."""

    def __init__(
        self,
        routes: Mapping[str, Handler],
        *,
        limits: Limits = DEFAULT_LIMITS,
        max_connections: int = 10_000,
        finishers: Iterable[tuple[Callable[[str], bool], Finish]] = (),
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.max_connections = max_connections
        self.connections: set[ServerConnection] = set()
        self.draining = False
        self.port = 0
        self._finishers = tuple(finishers)
        self._server: asyncio.Server | None = None

    def finish(self, content_type: str) -> Finish:
        """How answers to requests of this content-type end."""
        return next((finish for speaks, finish in self._finishers if speaks(content_type)), finish_native)

    async def start(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        """Listen; raises Unavailable if the address cannot be bound."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: ServerConnection(self),
                host,
                port,
                ssl=tls,
                backlog=1024,
                reuse_address=True,
                ssl_handshake_timeout=self.limits.tls_timeout,
            )
        except OSError as exc:
            raise Unavailable(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, timeout: float = 5.0) -> None:
        """Accept no more, give running requests `timeout` seconds, then close every connection."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while any(c.streams for c in self.connections) and loop.time() < deadline:  # noqa: ASYNC110 - once, bounded
            await asyncio.sleep(0.02)
        connections = tuple(self.connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(c.wait_closed(2.0) for c in connections))


@contextlib.asynccontextmanager
async def _deadline(seconds: float, what: str) -> Any:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"{what} within {seconds:g} s") from None
