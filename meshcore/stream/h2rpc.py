"""HTTP/2 connections for few, long streams of messages: what client and server share.

One connection is one asyncio protocol around an `h2` state machine. A receiver gives stream credit back when its
consumer took the bytes; the connection's window holds every stream's, so one slow stream never stalls another. A sender
waits for stream credit and for the transport. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import msgspec

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
from meshcore.stream.guard import FRAME_BYTES_MAX, FrameGuard

Headers = list[tuple[str, str]]


class Limits(msgspec.Struct, frozen=True):
    """Limits of one connection. Times in seconds, sizes in bytes; ping numbers are upstream ztunnel's."""

    stream_window: int = 128 * 2**10
    max_streams: int = 100
    header_bytes: int = 16 * 2**10
    message_bytes: int = 32 * 2**20
    write_buffer: int = 256 * 2**10
    write_buffer_abort: int = 2**20
    """A peer that makes us answer control frames and does not read is cut off at this backlog."""
    ping_interval: float = 30.0
    ping_timeout: float = 10.0
    connect_timeout: float = 5.0
    tls_timeout: float = 10.0
    response_timeout: float = 10.0
    send_timeout: float = 60.0
    """How long a sender waits for credit or for the socket before it gives the stream up."""
    idle_timeout: float = 300.0
    """A server closes a connection that had no stream for this long."""
    control_frames: int = 2000
    """RESET, PING, SETTINGS, PRIORITY and empty DATA frames a peer may send in ten seconds."""


DEFAULT_LIMITS: Final = Limits()
_FIRST_WINDOW: Final = 65_535  # RFC 9113 section 6.9.2
CONTROL_PERIOD: Final = 10.0

_STATUS: Final[tuple[tuple[type[MeshError], int], ...]] = (
    (AuthenticationError, 401),
    (AuthorizationError, 403),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
    (CertificateError, 400),
    (IdentityError, 400),
    (ProtocolError, 400),
    (ConfigError, 400),
)


def status_of(error: MeshError) -> int:
    """The HTTP status that carries an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_of(code: str, message: str, status: int) -> MeshError:
    """The typed error of an answer; an unknown code is judged by its status."""
    kinds = [kind for kind, number in _STATUS if kind.code == code or (not code and number == status)]
    return kinds[0](message) if kinds else (Unavailable(message) if status in (429, 502, 503) else MeshError(message))


def check_tls(transport: asyncio.BaseTransport) -> None:
    """Raise ProtocolError unless the connection is TLS 1.3 and speaks HTTP/2."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        raise ProtocolError("the connection is not TLS")
    if tls.version() != "TLSv1.3":
        raise ProtocolError(f"TLS 1.3 is required, the peer offered {tls.version()}")
    if tls.selected_alpn_protocol() != "h2":
        raise ProtocolError("the peer does not speak HTTP/2 (ALPN h2)")


class Stream:
    """One request and its answer. `headers` and `trailers` are those received; one task receives, several may send."""

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.opened = asyncio.Event()
        self.error: MeshError | None = None
        self._connection = connection
        self._chunks: deque[tuple[bytes, int]] = deque()
        self._arrived = asyncio.Event()
        self._credit = asyncio.Event()
        self._lock = asyncio.Lock()
        self._ended = False
        self.sent_end = False

    @property
    def connection(self) -> Connection:
        return self._connection

    async def receive(self, timeout: float | None = None) -> bytes:
        """The next bytes; empty at the end of the stream. Raises the error that ended it, or DeadlineExceeded.

        Without `timeout` the wait is bounded by the connection's keepalive.
        """
        while not self._chunks:
            if self._ended:
                return b""
            if self.error is not None:
                raise _afresh(self.error)
            self._arrived.clear()
            await _within(self._arrived, timeout, "no data from the peer")
        data, credit = self._chunks.popleft()
        self._connection.give_credit(self.id, credit)
        return data

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send all of `data` in order with other senders; returns once the connection has taken it."""
        async with self._lock:
            view = memoryview(data)
            while True:
                room = await self._room(len(view))
                piece, view = view[:room], view[room:]
                last = not view
                self._connection.send_data(self.id, bytes(piece), end=end and last)
                if last:
                    break
            self.sent_end = self.sent_end or end

    def reset(self, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        """Give the stream up in both directions; no error if it is over."""
        self._connection.reset(self, code)

    async def _room(self, wanted: int) -> int:
        connection = self._connection
        while True:
            if self.error is not None:
                raise _afresh(self.error)
            if connection.error is not None:
                raise _afresh(connection.error)
            if connection.writable.is_set():
                room = connection.room(self.id)
                if room or not wanted:
                    return room
                self._credit.clear()
                await _within(self._credit, connection.limits.send_timeout, "the peer does not read")
            else:
                await _within(connection.writable, connection.limits.send_timeout, "the peer does not read")

    def on_headers(self, headers: Headers) -> None:
        self.headers.update(headers)
        self.opened.set()

    def on_data(self, data: bytes, credit: int) -> None:
        self._chunks.append((data, credit))
        self._arrived.set()

    def on_end(self) -> None:
        self._ended = True
        self.opened.set()
        self._arrived.set()

    def on_credit(self) -> None:
        self._credit.set()

    def on_error(self, error: MeshError) -> None:
        if self.error is None:
            self.error = error
        self.opened.set()
        self._arrived.set()
        self._credit.set()


class Connection(asyncio.Protocol):
    """The shared half: sockets, credit, keepalive, abuse limits. Subclasses decide what a new stream means."""

    def __init__(self, *, client_side: bool, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.error: MeshError | None = None
        self.writable = asyncio.Event()
        self.closed = asyncio.Event()
        self.streams: dict[int, Stream] = {}
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pinged = False
        self._silent = True
        self._heard = self._loop.time()
        self.idle_since = 0.0
        self._control = 0
        self._control_since = self._heard
        self._client_side = client_side
        self._guard = FrameGuard(preface=not client_side)
        config = h2.config.H2Configuration(client_side=client_side, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        try:
            check_tls(transport)
        except ProtocolError as exc:
            self._fail(exc)
            return
        limits, connection = self.limits, self._h2
        self._transport.set_write_buffer_limits(limits.write_buffer)
        codes = h2.settings.SettingCodes
        wanted = {
            codes.INITIAL_WINDOW_SIZE: limits.stream_window,
            codes.MAX_CONCURRENT_STREAMS: limits.max_streams,
            codes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            codes.ENABLE_PUSH: 0,
            codes.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
        }
        if not self._client_side:
            del wanted[codes.ENABLE_PUSH]
        connection.local_settings = h2.settings.Settings(client=self._client_side, initial_values=wanted)
        connection.decoder.max_header_list_size = limits.header_bytes
        connection.initiate_connection()
        whole = min(max(limits.stream_window * limits.max_streams, _FIRST_WINDOW + 1), 2**31 - 1)
        connection.increment_flow_control_window(whole - _FIRST_WINDOW)
        self.writable.set()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(limits.ping_interval, self._tick)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._pinged = self._silent = False
        try:
            self._guard.feed(data)
            events = self._h2.receive_data(data)
        except ProtocolError as exc:
            self._fail(exc)
            return
        except (h2.exceptions.ProtocolError, ValueError) as exc:  # ValueError: a header that is not UTF-8
            self._fail(ProtocolError(f"HTTP/2: {exc}"))
            return
        for event in events:
            if self.error is None:
                self._on_event(event)
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            self._end(AuthenticationError(f"TLS: {exc.reason or exc}"))
        elif exc is not None:
            self._end(Unavailable(f"the connection was lost: {exc}"))
        elif self._silent and self._client_side:
            # asyncio's server side closes without a TLS alert when it refuses a client certificate
            self._end(Unavailable("the server closed the connection at once; it may refuse our client certificate"))
        else:
            self._end(Unavailable("the peer closed the connection"))
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self.closed.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def close(self) -> None:
        """Say goodbye and close; open streams end with Unavailable."""
        if self.error is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection()
            self.flush()
            self._end(Unavailable("the connection was closed"))
            if self._transport is not None:
                self._transport.close()

    async def wait_closed(self, timeout: float) -> None:
        """Wait until the socket is gone; after `timeout` seconds it is cut."""
        try:
            async with asyncio.timeout(timeout):
                await self.closed.wait()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Hand what h2 has produced to the transport."""
        data = self._h2.data_to_send()
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > self.limits.write_buffer_abort:
            self._end(ProtocolError("the peer asks and does not read"))
            transport.abort()

    def room(self, stream_id: int) -> int:
        """Bytes that may be sent on a stream now, at most one frame."""
        try:
            return min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
        except h2.exceptions.ProtocolError as exc:
            raise Unavailable(f"the stream is over: {exc}") from None

    def send_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        try:
            self._h2.send_data(stream_id, data, end_stream=end)
        except h2.exceptions.ProtocolError as exc:
            raise Unavailable(f"the stream is over: {exc}") from None
        self.flush()

    def give_credit(self, stream_id: int, credit: int) -> None:
        if self.error is None and credit:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.acknowledge_received_data(credit, stream_id)
            self.flush()

    def reset(self, stream: Stream, code: h2.errors.ErrorCodes) -> None:
        if self.streams.pop(stream.id, None) is not None and self.error is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.reset_stream(stream.id, code)
            self.flush()
        self._drop_chunks(stream)
        stream.on_error(Unavailable("the stream was given up"))

    def forget(self, stream: Stream) -> None:
        """The stream is over in both directions; what its consumer did not take is credited."""
        self.streams.pop(stream.id, None)
        self._drop_chunks(stream)

    def on_stream(self, stream_id: int, headers: Headers) -> None:
        """A peer opened a stream; only servers allow it."""
        raise ProtocolError("HTTP/2: the server opened a stream")

    def _drop_chunks(self, stream: Stream) -> None:
        while stream._chunks:  # noqa: SLF001 - the two classes are one mechanism
            self.give_credit(stream.id, stream._chunks.popleft()[1])  # noqa: SLF001

    def _on_event(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        match event:
            case h2.events.DataReceived(data=data, flow_controlled_length=credit):
                if not data:
                    self._count_control()
                if stream is None or not data:
                    self.give_credit(event.stream_id or 0, credit or 0)
                if stream is not None and data:
                    stream.on_data(bytes(data), credit or 0)
            case h2.events.RequestReceived(stream_id=stream_id, headers=headers):
                self.on_stream(stream_id or 0, _decoded(headers))
            case h2.events.ResponseReceived(headers=headers):
                if stream is not None:
                    stream.on_headers(_decoded(headers))
            case h2.events.TrailersReceived(headers=headers):
                if stream is not None:
                    stream.trailers.update(_decoded(headers))
            case h2.events.StreamEnded():
                if stream is not None:
                    stream.on_end()
            case h2.events.StreamReset(error_code=code):
                self._count_control()
                if stream is not None:
                    self.streams.pop(stream.id, None)
                    stream.on_error(Unavailable(f"the peer reset the stream (error {_code(code)})"))
            case _:
                self._on_control(event, stream)

    def _on_control(self, event: h2.events.Event, stream: Stream | None) -> None:
        match event:
            case h2.events.WindowUpdated():
                self._credit_arrived(stream)
            case h2.events.RemoteSettingsChanged():
                self._count_control()
                self._credit_arrived(None)
            case h2.events.PingReceived() | h2.events.PriorityUpdated():
                self._count_control()
            case h2.events.ConnectionTerminated(error_code=code):
                self._fail(Unavailable(f"the peer is going away (error {_code(code)})"))
            case _:
                pass

    def _credit_arrived(self, stream: Stream | None) -> None:
        for one in (stream,) if stream is not None else tuple(self.streams.values()):
            one.on_credit()

    def _count_control(self) -> None:
        now = self._loop.time()
        if now - self._control_since > CONTROL_PERIOD:
            self._control, self._control_since = 0, now
        self._control += 1
        if self._control > self.limits.control_frames:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            self._fail(ProtocolError("HTTP/2: a flood of control frames"))

    def _tick(self) -> None:
        if self.error is not None or self._transport is None:
            return
        now = self._loop.time()
        if self._pinged:
            self._end(Unavailable("the peer does not answer PING"))
            self.abort()
            return
        if self.idle_since and now - self.idle_since > self.limits.idle_timeout:
            self.close()
            return
        quiet = now - self._heard
        if quiet < self.limits.ping_interval:
            self._timer = self._loop.call_later(self.limits.ping_interval - quiet, self._tick)
            return
        self._pinged = True
        self._h2.ping(b"ambient\0")
        self._timer = self._loop.call_later(self.limits.ping_timeout, self._tick)
        self.flush()

    def _fail(self, error: MeshError) -> None:
        self.flush()
        self._end(error)
        if self._transport is not None:
            self._transport.close()
            self._timer = self._loop.call_later(self.limits.ping_timeout, self.abort)

    def _end(self, error: MeshError) -> None:
        if self.error is not None:
            return
        self.error = error
        self.writable.set()
        if self._timer is not None:
            self._timer.cancel()
        streams, self.streams = tuple(self.streams.values()), {}
        for stream in streams:
            stream.on_error(error)
        self.on_end(error)

    def on_end(self, error: MeshError) -> None:
        """The connection has failed or was closed; called once."""


def _afresh(error: MeshError) -> MeshError:
    """The same error without a traceback, to be raised.

    One that is raised holds the frames of who waited, and they hold the connection: kept by the connection, it would be
    a circle, and all that a subscriber had would stay in memory until the collector comes by.
    """
    return copy.copy(error)


async def _within(event: asyncio.Event, timeout: float | None, what: str) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        raise DeadlineExceeded(f"{what} for {timeout:g} s") from None


def _decoded(headers: Any) -> Headers:
    return [(str(name), str(value)) for name, value in headers or ()]


def _code(code: Any) -> str:
    return getattr(code, "name", str(code))


class ClientConnection(Connection):
    """The dialling side."""

    def __init__(self, *, authority: str, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(client_side=True, limits=limits)
        self._authority = authority

    def open(self, path: str, headers: Headers, *, end: bool = False) -> Stream:
        """Start a POST; raises Unavailable if the connection cannot carry another stream."""
        if self.error is not None:
            raise _afresh(self.error)
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, pseudo + headers, end_stream=end)
        except h2.exceptions.ProtocolError as exc:
            raise Unavailable(f"no further stream on this connection: {exc}") from None
        stream = self.streams[stream_id] = Stream(self, stream_id)
        self.flush()
        return stream

    async def response(self, stream: Stream, timeout: float | None = None) -> int:
        """Wait for the answer's headers; returns the status."""
        limit = self.limits.response_timeout if timeout is None else timeout
        await _within(stream.opened, limit, "no answer from the server")
        status = stream.headers.get(":status", "")
        if not status and stream.error is not None:
            raise _afresh(stream.error)
        if not status.isdigit():
            raise ProtocolError("an answer without a status")
        return int(status)


async def connect(
    address: tuple[str, int], tls: ssl.SSLContext, server_name: str, limits: Limits = DEFAULT_LIMITS
) -> ClientConnection:
    """Dial, authenticate the server by `server_name`; raises Unavailable, AuthenticationError or DeadlineExceeded."""
    loop = asyncio.get_running_loop()
    host, port = address
    where = f"{host}:{port}"
    make: Callable[[], ClientConnection] = lambda: ClientConnection(authority=server_name, limits=limits)  # noqa: E731
    try:
        async with asyncio.timeout(limits.connect_timeout + limits.tls_timeout):
            _, connection = await loop.create_connection(
                make, host, port, ssl=tls, server_hostname=server_name, ssl_handshake_timeout=limits.tls_timeout
            )
    except TimeoutError:
        raise DeadlineExceeded(f"{where}: no connection within the time limit") from None
    except ssl.SSLCertVerificationError as exc:
        raise AuthenticationError(f"{where}: the server's certificate is refused: {exc.verify_message}") from None
    except ssl.SSLError as exc:
        raise AuthenticationError(f"{where}: TLS: {exc.reason or exc}") from None
    except OSError as exc:
        raise Unavailable(f"{where}: {exc.strerror or exc}") from None
    if connection.error is not None:
        raise _afresh(connection.error)
    return connection
