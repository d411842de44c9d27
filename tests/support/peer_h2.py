"""The other end of an HBONE connection, made of Python's `ssl` and the `h2` library: nothing of ours."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.support import pki
from tests.support.worker_harness import TIMEOUT, Address, address_of, listen

Codes = h2.settings.SettingCodes
READ: Final = 65_536
Headers = Iterable[tuple[str, str]]


class Stream:
    """One CONNECT as seen from here."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.headers: dict[str, str] = {}
        self.data = bytearray()
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", "0"))


class Peer:
    """An HTTP/2 connection over TLS. Nothing happens between calls: `pump` reads until a condition holds.

    `credit` says whether received bytes are given back to the sender's windows at once.
    """

    def __init__(self, sock: ssl.SSLSocket, *, client: bool, settings: dict[Codes, int] | None = None) -> None:
        self.sock = sock
        self.credit = True
        self.closed = False
        self.goaway: int | None = None
        self.pongs = 0
        self.streams: dict[int, Stream] = {}
        self.events: list[h2.events.Event] = []
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            # Before the first SETTINGS frame nothing is pending an ACK, so the values hold at once.
            self.h2.local_settings = h2.settings.Settings(client=client, initial_values=settings)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.sock.settimeout(TIMEOUT)
            self.sock.sendall(data)

    def step(self, timeout: float) -> bool:
        """Take what arrives within `timeout` seconds -> whether anything did."""
        if not self.sock.pending() and not select.select([self.sock], [], [], timeout)[0]:
            return False
        self.sock.settimeout(TIMEOUT)
        try:
            data = self.sock.recv(READ)
        except (ConnectionResetError, ssl.SSLEOFError):
            data = b""
        if not data:
            self.closed = True
            return True
        for event in self.h2.receive_data(data):
            self.events.append(event)
            self._take(event)
        with contextlib.suppress(OSError):  # the other end may have gone after its last words
            self.flush()
        return True

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
            stream = self.streams.setdefault(event.stream_id, Stream(event.stream_id))
            stream.headers = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].data += event.data
            if self.credit and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1

    def pump(self, until: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Read until the condition holds; fail naming `what`."""
        end = time.monotonic() + timeout
        while not until():
            left = end - time.monotonic()
            if left <= 0 or self.closed:
                why = "the connection ended" if self.closed else f"not within {timeout} s"
                raise AssertionError(f"{what}: {why}; GOAWAY {self.goaway}, last events {self.events[-5:]}")
            self.step(left)

    def open(self, authority: str, extra: Headers = (), *, end: bool = False) -> Stream:
        """Send a CONNECT, without waiting for the answer."""
        return self.request([(":method", "CONNECT"), (":authority", authority), *extra], end=end)

    def request(self, headers: Headers, *, end: bool = False) -> Stream:
        stream = Stream(self.h2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.h2.send_headers(stream.id, list(headers), end_stream=end)
        self.flush()
        return stream

    def answered(self, stream: Stream) -> int:
        """Wait for the answer -> its status."""
        self.pump(lambda: stream.status != 0 or stream.reset is not None, f"answer on stream {stream.id}")
        return stream.status

    def connect(self, authority: str, extra: Headers = ()) -> Stream:
        """A CONNECT that must succeed."""
        stream = self.open(authority, extra)
        assert self.answered(stream) == 200, (stream.headers, stream.reset)
        return stream

    def send(self, stream: Stream, data: bytes, *, end: bool = False, pad: int | None = None) -> None:
        """Send bytes as the windows allow, reading meanwhile."""
        view = memoryview(data)
        while view:
            self.pump(lambda: self.h2.local_flow_control_window(stream.id) > (pad or 0) + 1, "window to send")
            room = self.h2.local_flow_control_window(stream.id) - (0 if pad is None else pad + 1)
            size = min(len(view), room, self.h2.max_outbound_frame_size - (0 if pad is None else pad + 1))
            self.h2.send_data(stream.id, bytes(view[:size]), pad_length=pad)
            self.flush()
            view = view[size:]
            self.step(0)
        if end:
            self.h2.end_stream(stream.id)
            self.flush()

    def received(self, stream: Stream, size: int, timeout: float = TIMEOUT) -> bytes:
        """Wait for that many bytes of a stream."""
        self.pump(lambda: len(stream.data) >= size or stream.reset is not None, f"{size} bytes", timeout)
        return bytes(stream.data)

    def ended(self, stream: Stream, timeout: float = TIMEOUT) -> bytes:
        """Wait for END_STREAM -> all bytes of the stream."""
        self.pump(lambda: stream.ended or stream.reset is not None, f"end of stream {stream.id}", timeout)
        assert stream.ended, f"stream {stream.id} was reset with {stream.reset}"
        return bytes(stream.data)

    def echoes(self, stream: Stream, data: bytes) -> None:
        """Require that what is sent comes back."""
        before = len(stream.data)
        self.send(stream, data)
        assert self.received(stream, before + len(data))[before:] == data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tls_connect(address: Address, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A TLS connection of a good mesh client, unless another context is given."""
    plain = socket.create_connection(address, timeout=TIMEOUT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return (context or pki.context("client", pki.credential("peer"))).wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def client(
    address: Address, context: ssl.SSLContext | None = None, *, settings: dict[Codes, int] | None = None
) -> Peer:
    """An HBONE client of a worker's 15008."""
    peer = Peer(tls_connect(address, context), client=True, settings=settings)
    peer.pump(lambda: h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS in peer.h2.remote_settings, "SETTINGS")
    return peer


def echo(peer: Peer) -> None:
    """Answer every CONNECT with 200 and send back what comes, each direction ended as the other side ends it."""
    sent: dict[int, int] = {}
    while not peer.closed:
        peer.step(0.2)
        for stream in list(peer.streams.values()):
            if stream.reset is not None or sent.get(stream.id) == -1:
                continue
            if stream.id not in sent:
                peer.h2.send_headers(stream.id, [(":status", "200")])
                sent[stream.id] = 0
            sent[stream.id] = _echo_back(peer, stream, sent[stream.id])
        with contextlib.suppress(OSError):
            peer.flush()


def _echo_back(peer: Peer, stream: Stream, at: int) -> int:
    """-> bytes sent so far, -1 after the end."""
    while at < len(stream.data):
        size = min(len(stream.data) - at, peer.h2.local_flow_control_window(stream.id), peer.h2.max_outbound_frame_size)
        if size == 0:
            return at
        peer.h2.send_data(stream.id, bytes(stream.data[at : at + size]))
        at += size
    if stream.ended:
        peer.h2.end_stream(stream.id)
        return -1
    return at


class Server:
    """An HBONE server, one thread per connection, each running `serve`."""

    def __init__(
        self,
        serve: Callable[[Peer], None] = echo,
        *,
        context: ssl.SSLContext | None = None,
        settings: dict[Codes, int] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.peers: list[Peer] = []
        self.refused: list[Exception] = []
        self.accepted = 0
        self._serve = serve
        self._settings = settings
        self._context = context or pki.context("server", pki.credential("peer"))
        self._listener = listener or listen()
        self._listener.settimeout(0.1)
        self.address = address_of(self._listener)
        self._failures: list[BaseException] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock = self._listener.accept()[0]
            except TimeoutError:
                continue
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, plain: socket.socket) -> None:
        plain.settimeout(TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock = self._context.wrap_socket(plain, server_side=True)
        except (OSError, ssl.SSLError) as error:
            self.refused.append(error)
            plain.close()
            return
        peer = None
        try:
            peer = Peer(sock, client=False, settings=self._settings)
            self.peers.append(peer)
            self._serve(peer)
        except OSError:
            pass  # the worker went away, which is for the test to judge
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread by close()
            self._failures.append(error)
        finally:
            if peer is not None:
                peer.closed = True
            sock.close()

    def close(self, *, check: bool = True) -> None:
        self._stopped.set()
        self._listener.close()
        for peer in self.peers:
            peer.closed = True
        for thread in self._threads:
            thread.join(TIMEOUT)
        if check and self._failures:
            raise AssertionError(f"the HBONE server failed: {self._failures[0]!r}") from self._failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(check=error is None)
