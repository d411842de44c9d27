"""HBONE peers built on the `h2` library: a server for our outbound side and a client for our inbound side."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

TIMEOUT = 20.0
QUIET_CLOSE = (OSError, h2.exceptions.ProtocolError)

Headers = dict[str, str]
Answer = Callable[["ServerConnection", int, Headers], None]


def _texts(headers: Any) -> Headers:
    return {_text(name): _text(value) for name, value in headers}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def uris_of(sock: ssl.SSLSocket) -> tuple[str, ...]:
    """The URI SANs of the peer's certificate."""
    names: Any = (sock.getpeercert() or {}).get("subjectAltName", ())
    return tuple(value for kind, value in names if kind == "URI")


class ServerConnection:
    """One accepted connection. All its work is done by one thread; others call `run`."""

    def __init__(self, server: HboneServer, sock: ssl.SSLSocket) -> None:
        self.server = server
        self.sock = sock
        self.uris = uris_of(sock)
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.requests: list[Headers] = []
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.received: dict[int, bytearray] = {}
        self.closed = threading.Event()
        self._output: dict[int, bytearray] = {}
        self._finish: set[int] = set()
        self._calls: list[Callable[[], None]] = []
        self._wake, self._woken = socket.socketpair()

    def run(self, call: Callable[[], None]) -> None:
        """Have the connection's own thread do something."""
        self._calls.append(call)
        self._wake.send(b"x")

    def reply(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self._output.setdefault(stream, bytearray()).extend(data)
        if end:
            self._finish.add(stream)

    def serve(self) -> None:
        with contextlib.suppress(*QUIET_CLOSE), selectors.DefaultSelector() as selector:
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=self.server.settings)
            self.h2.initiate_connection()
            self.h2.increment_flow_control_window(self.server.connection_window)
            self._flush()
            self.sock.settimeout(TIMEOUT)
            selector.register(self.sock, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self.closed.is_set():
                ready = {key.fileobj for key, _ in selector.select(0 if self.sock.pending() else TIMEOUT)}
                if self._woken in ready:
                    self._woken.recv(100)
                while self._calls:
                    self._calls.pop(0)()
                if self.sock in ready or self.sock.pending():
                    data = self.sock.recv(65_536)
                    if not data:
                        break
                    for event in self.h2.receive_data(data):
                        self._on(event)
                self._flush()
        self.closed.set()
        self.sock.close()

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = _texts(event.headers)
            self.requests.append(headers)
            self.server.answer(self, event.stream_id, headers)
        elif isinstance(event, h2.events.DataReceived):
            self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
            if self.server.consume:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if self.server.echo:
                self.reply(event.stream_id, event.data)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
            if self.server.echo:
                self.reply(event.stream_id, b"", end=True)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)

    def _flush(self) -> None:
        for stream in list(self._output):
            if stream in self.resets:
                self._output.pop(stream)
                continue
            waiting = self._output[stream]
            while waiting:
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(waiting))
                if room <= 0:
                    break
                self.h2.send_data(stream, bytes(waiting[:room]))
                del waiting[:room]
            if not waiting and stream in self._finish:
                self.h2.end_stream(stream)
                self._output.pop(stream)
        if data := self.h2.data_to_send():
            self.sock.sendall(data)


def accept(connection: ServerConnection, stream: int, _: Headers) -> None:
    """200 to every CONNECT."""
    connection.h2.send_headers(stream, [(":status", "200")])


def refuse(status: int) -> Answer:
    def answer(connection: ServerConnection, stream: int, _: Headers) -> None:
        connection.h2.send_headers(stream, [(":status", str(status))], end_stream=True)

    return answer


def silent(_: ServerConnection, __: int, ___: Headers) -> None:
    """No answer at all."""


class HboneServer:
    """An HBONE server: TLS with client certificates, 200 to a CONNECT, everything echoed; each of it can be changed."""

    def __init__(self, context: ssl.SSLContext, listener: socket.socket | None = None) -> None:
        self.context = context
        self.answer: Answer = accept
        self.echo = True
        self.consume = True
        self.settings: dict[h2.settings.SettingCodes, int] = {
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 200,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20,
        }
        self.connection_window = 4 << 20
        self.connections: list[ServerConnection] = []
        self.handshake_errors: list[str] = []
        self.plain_bytes = 0
        self.listener = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.listener.settimeout(0.1)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def requests(self) -> list[Headers]:
        return [headers for connection in self.connections for headers in connection.requests]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                plain, _ = self.listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(plain,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(TIMEOUT)
        try:
            sock = self.context.wrap_socket(plain, server_side=True)
        except OSError as error:
            self.handshake_errors.append(str(error))
            plain.close()
            return
        connection = ServerConnection(self, sock)
        self.connections.append(connection)
        connection.serve()

    def close(self) -> None:
        self._stopping.set()
        self._acceptor.join(5)
        self.listener.close()
        for connection in self.connections:
            connection.closed.set()
            with contextlib.suppress(OSError):
                connection.run(lambda: None)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HboneClient:
    """An HBONE client for one thread: what it waits for, it pumps for."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, *, window: int = 1 << 20) -> None:
        plain = socket.create_connection(address, TIMEOUT)
        try:
            self.sock = context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        self.uris = uris_of(self.sock)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.consume = True
        self.responses: dict[int, Headers] = {}
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaways: list[tuple[int, int]] = []
        self.pongs = 0
        self.closed = False
        self.settings_seen = False
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(4 << 20)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.sock.sendall(data)

    def pump(self, timeout: float = TIMEOUT) -> None:
        """Take what is there; wait for the first byte at most this long."""
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(262_144)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self._on(event)
        self.sock.settimeout(TIMEOUT)
        self.flush()

    def wait(self, condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if self.closed:
                raise AssertionError(f"the connection closed before: {what}")
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"after {timeout:g} s still not: {what}")
            self.pump(left)

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.responses[event.stream_id] = _texts(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
            if self.consume:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append((int(event.last_stream_id or 0), int(event.error_code or 0)))
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings_seen = True

    def request(self, authority: str, *more: tuple[str, str]) -> int:
        """Send a CONNECT -> its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(":method", "CONNECT"), (":authority", authority), *more])
        self.received[stream] = bytearray()
        self.flush()
        return stream

    def open(self, authority: str, *more: tuple[str, str]) -> int:
        """A CONNECT that must be answered with 200 -> its stream."""
        stream = self.request(authority, *more)
        status = self.status(stream)
        assert status == 200, f"CONNECT {authority}: {status}"
        return stream

    def status(self, stream: int, timeout: float = TIMEOUT) -> int:
        def done() -> bool:
            return stream in self.responses or stream in self.resets

        self.wait(done, f"an answer on stream {stream}", timeout)
        assert stream in self.responses, f"stream {stream} was reset with {self.resets[stream]}"
        return int(self.responses[stream][":status"])

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send as the windows allow, reading in between."""
        at = 0
        while at < len(data):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data) - at)
            if room <= 0:
                self.flush()
                self.pump()
                if self.closed or stream in self.resets:
                    raise AssertionError(f"stream {stream} ended after {at} of {len(data)} bytes")
                continue
            self.h2.send_data(stream, data[at : at + room])
            at += room
            if at % (1 << 20) < room:
                self.flush()
                self.sock.setblocking(False)
                with contextlib.suppress(ssl.SSLWantReadError, BlockingIOError):
                    for event in self.h2.receive_data(self.sock.recv(262_144)):
                        self._on(event)
                self.sock.settimeout(TIMEOUT)
        if end:
            self.h2.end_stream(stream)
        self.flush()

    def read(self, stream: int, size: int) -> bytes:
        self.wait(lambda: len(self.received[stream]) >= size, f"{size} bytes on stream {stream}")
        return bytes(self.received[stream])

    def echo(self, authority: str, data: bytes) -> bytes:
        """One whole exchange on a stream of its own -> what came back."""
        stream = self.open(authority)
        self.send(stream, data, end=True)
        self.wait(lambda: stream in self.ended, f"the end of stream {stream}")
        return bytes(self.received.pop(stream))

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
