"""A client of HBONE made of `ssl` and the `h2` library: mutual TLS 1.3, HTTP/2, a CONNECT stream for each tunnel.

It speaks as a ztunnel does to another's port 15008 and shares no code with ours. Every failure is an HboneError. A peer
that sends GOAWAY ends its tunnels here, also those that it would still serve: the library takes no frame after it.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from secrets import token_hex
from typing import Final, TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from bench.subjects.base import Address
from bench.users.channel import Channel, HboneError, reason

# What the client side of ztunnel announces.
STREAM_WINDOW: Final = 4 << 20  # bytes
CONNECTION_WINDOW: Final = 16 << 20  # bytes
FRAME_SIZE: Final = 1 << 20  # bytes
HEADER_LIST: Final = 16 << 10  # bytes

_FIRST_WINDOW: Final = 65_535  # RFC 9113 6.9.2
_STATUS_OK: Final = "200"
_GRACE: Final = 2.0  # seconds for the far ends of tunnels that were left

Codes = h2.settings.SettingCodes
Found = TypeVar("Found")


def _code(number: int | None) -> str:
    try:
        return h2.errors.ErrorCodes(number or 0).name
    except ValueError:
        return f"code {number}"


class Tunnel:
    """A CONNECT that was answered with 200, made by `Connection.open`; for one user at a time."""

    def __init__(self, connection: Connection, stream: int, target: str) -> None:
        self.stream = stream
        self.target = target
        self.status = ""
        self.failure = ""
        self.ended = False  # by the peer
        self.left = False  # by the user
        self.chunks: deque[tuple[bytes, int]] = deque()  # bytes, and the credit they took from our windows
        self.news = threading.Event()  # something of the above has changed, or a window
        self._connection = connection

    def send(self, data: bytes) -> None:
        """Send all of it, as the peer's windows allow."""
        self._connection.send(self, data)

    def recv(self) -> bytes:
        """The next bytes, nothing at the end. What is taken is credited to the peer."""
        return self._connection.recv(self)

    def close(self) -> None:
        """Leave it; never fails."""
        self._connection.leave(self)


def _require_whole(tunnel: Tunnel) -> None:
    if tunnel.failure:
        raise HboneError(tunnel.failure)


class Connection:
    """A connection to an HBONE server, verified to be `expected`, a SPIFFE URI; each stream carries a tunnel.

    `timeout` in seconds holds for each wait. It is there when the server's settings are, because only then is it known
    that the server has accepted the client's certificate.
    """

    def __init__(self, address: Address, context: ssl.SSLContext, expected: str, timeout: float) -> None:
        self._channel = channel = Channel(address, context, timeout)
        self._where = channel.where
        self._timeout = timeout
        self._news = threading.Event()
        self._tunnels: dict[int, Tunnel] = {}
        self._taken = 0  # places for tunnels, used or reserved
        self._settled = False
        self._failure = ""
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        if channel.protocol != "h2":
            self._refuse(f"{self._where} does not speak HTTP/2 over TLS (ALPN)")
        if expected not in channel.uris:
            self._refuse(f"{self._where} is {', '.join(channel.uris) or 'nobody with a URI'}, not {expected}")
        announced = {
            Codes.ENABLE_PUSH: 0,
            Codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Codes.MAX_FRAME_SIZE: FRAME_SIZE,
            Codes.MAX_HEADER_LIST_SIZE: HEADER_LIST,
        }
        # Before the first SETTINGS frame nothing waits for an ACK, so the values hold at once.
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=announced)
        self._h2.max_inbound_frame_size = FRAME_SIZE
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _FIRST_WINDOW)
        threading.Thread(target=self._read, name=f"hbone {self._where}", daemon=True).start()
        with channel.lock:
            self._stage()
        self._flush()
        try:
            self._await_settings()
        except BaseException:
            self.close()
            raise

    def _await_settings(self) -> None:
        def ready() -> bool | None:
            self._require_alive()
            return self._settled or None

        if not self._until(self._news, ready, self._timeout):
            raise HboneError(f"{self._where} sent no SETTINGS within {self._timeout:g} s")

    def _refuse(self, text: str) -> None:
        self._channel.close()
        self._channel.release()
        raise HboneError(text)

    # --- tunnels ---

    @property
    def alive(self) -> bool:
        """Whether it may still take tunnels."""
        return not self._failure

    def reserve(self, limit: int) -> bool:
        """Take the place of one more tunnel, of `limit` at most -> whether there was one. `open` uses it up."""
        with self._channel.lock:
            most = min(limit, self._h2.remote_settings.max_concurrent_streams)
            free = not self._failure and self._taken < most
            self._taken += free
            return free

    def open(self, target: str, extra: tuple[tuple[str, str], ...] = ()) -> Tunnel:
        """CONNECT to `target`, HOST:PORT, with `extra` headers beyond ztunnel's own. Needs a reserved place."""
        host, port = self._channel.local
        headers = [
            (":method", "CONNECT"),
            (":authority", target),
            ("forwarded", f'for="{f"[{host}]" if ":" in host else host}:{port}"'),
            ("traceparent", f"00-{token_hex(16)}-{token_hex(8)}-00"),
            *extra,
        ]
        with self._channel.lock:
            try:
                self._require_alive()
                stream = self._h2.get_next_available_stream_id()
                self._h2.send_headers(stream, headers)
            except (HboneError, h2.exceptions.H2Error) as error:
                self._taken -= 1
                raise HboneError(f"CONNECT {target}: {error}") from error
            tunnel = Tunnel(self, stream, target)
            self._tunnels[stream] = tunnel
            self._stage()
        try:
            self._flush()
            self._await_answer(tunnel)
        except BaseException:
            self.leave(tunnel)
            raise
        return tunnel

    def _require_alive(self) -> None:
        if self._failure:
            raise HboneError(self._failure)

    def _await_answer(self, tunnel: Tunnel) -> None:
        def ready() -> str | None:
            if not tunnel.status:  # a server may reset what it has answered
                _require_whole(tunnel)
            return tunnel.status or None

        status = self._await(tunnel, ready, "answer to CONNECT")
        if status != _STATUS_OK:
            raise HboneError(f"{self._where} answered CONNECT {tunnel.target} with {status}")

    def send(self, tunnel: Tunnel, data: bytes) -> None:
        """Send all of `data`, waiting for windows."""
        view = memoryview(data)

        def ready() -> int | None:
            _require_whole(tunnel)
            room = min(self._h2.local_flow_control_window(tunnel.stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                return None
            self._h2.send_data(tunnel.stream, bytes(view[:room]))
            self._stage()
            return room

        while view:
            view = view[self._await(tunnel, ready, "window to send") :]
            self._flush()

    def recv(self, tunnel: Tunnel) -> bytes:
        """What has come, at least one byte; nothing at the end."""

        def ready() -> bytes | None:
            if not tunnel.chunks:
                _require_whole(tunnel)
                return b"" if tunnel.ended else None
            data = b"".join(chunk for chunk, _ in tunnel.chunks)
            self._credit(tunnel)
            self._stage()
            return data

        data = self._await(tunnel, ready, "bytes")
        self._flush()
        return data

    def leave(self, tunnel: Tunnel) -> None:
        """End our side; a tunnel that was never answered or has failed is reset instead. Never fails."""
        with self._channel.lock:
            if tunnel.left:
                return
            tunnel.left = True
            self._credit(tunnel)
            with contextlib.suppress(h2.exceptions.H2Error):  # the stream may be closed already
                if tunnel.status == _STATUS_OK and not tunnel.failure:
                    self._h2.end_stream(tunnel.stream)
                else:
                    self._h2.reset_stream(tunnel.stream, h2.errors.ErrorCodes.CANCEL)
                    tunnel.ended = True
            if tunnel.ended or tunnel.failure:
                self._forget(tunnel)
            self._stage()
        self._flush()

    def _forget(self, tunnel: Tunnel) -> None:
        """Its stream is closed on both sides, so its place is free."""
        if self._tunnels.pop(tunnel.stream, None) is not None:
            self._taken -= 1
            self._news.set()

    def _await(self, tunnel: Tunnel, ready: Callable[[], Found | None], what: str) -> Found:
        try:
            found = self._until(tunnel.news, ready, self._timeout)
        except h2.exceptions.H2Error as error:
            raise HboneError(f"the tunnel to {tunnel.target} over {self._where}: {error}") from error
        if found is None:
            tunnel.failure = f"no {what} from {tunnel.target} over {self._where} within {self._timeout:g} s"
            raise HboneError(tunnel.failure)
        return found

    def _until(self, news: threading.Event, ready: Callable[[], Found | None], timeout: float) -> Found | None:
        """Call `ready`, with the lock held, until it finds something -> what it found; None after `timeout` seconds.

        A condition variable would do the same but for this: a greenlet that is killed while it takes its lock again
        gives back a lock that it does not have.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._channel.lock:
                news.clear()
                if (found := ready()) is not None:
                    return found
            if not news.wait(max(0.0, deadline - time.monotonic())):
                return None

    def _credit(self, tunnel: Tunnel) -> None:
        """Give back what the chunks took, which are then gone."""
        taken = sum(credit for _, credit in tunnel.chunks)
        tunnel.chunks.clear()
        if taken and not self._failure:
            self._h2.acknowledge_received_data(taken, tunnel.stream)

    # --- the connection ---

    def close(self) -> None:
        """End it with all its tunnels; never fails. Those that were left may end in good order first."""
        self._until(self._news, self._has_parted, _GRACE)
        with self._channel.lock:
            with contextlib.suppress(h2.exceptions.H2Error):
                self._h2.close_connection()
            self._stage()
        self._fail("the connection was closed")

    def _has_parted(self) -> bool | None:
        return bool(self._failure) or not any(tunnel.left for tunnel in self._tunnels.values()) or None

    def _stage(self) -> None:
        self._channel.stage(self._h2.data_to_send())

    def _flush(self) -> None:
        """What cannot be sent ends the connection, which is how its tunnels come to know."""
        try:
            self._channel.flush()
        except OSError as error:
            self._fail(f"cannot send to {self._where}: {reason(error)}")

    def _fail(self, text: str) -> None:
        with self._channel.lock:
            self._failure = self._failure or text
            for tunnel in self._tunnels.values():
                tunnel.failure = tunnel.failure or self._failure
                tunnel.news.set()
            self._news.set()
        self._channel.close()

    def _read(self) -> None:
        try:
            while data := self._channel.receive():
                with self._channel.lock:
                    events = self._h2.receive_data(data)
                    for event in events:
                        self._take(event)
                    self._stage()
                    if self._failure:
                        break
                self._flush()
            self._fail(f"{self._where} closed the connection{self._suspicion()}")
        except HboneError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"{self._where}: {reason(error)}{self._suspicion()}")
        except h2.exceptions.H2Error as error:
            self._fail(f"{self._where} broke the rules of HTTP/2, or went on after GOAWAY: {error}")
        finally:
            self._channel.release()

    def _suspicion(self) -> str:
        return "" if self._settled else " before its SETTINGS: it may have refused the client's certificate"

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                self._settled = True
                self._news.set()
                self._window_moved(0)
            case h2.events.WindowUpdated():
                self._window_moved(event.stream_id)
            case h2.events.ConnectionTerminated():
                said = (event.additional_data or b"").decode("utf-8", "replace")
                self._failure = f"{self._where} sent GOAWAY {_code(event.error_code)}{said and ': '}{said}"
            case h2.events.DataReceived() if event.stream_id not in self._tunnels:
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case (
                h2.events.ResponseReceived()
                | h2.events.DataReceived()
                | h2.events.StreamEnded()
                | h2.events.StreamReset()
            ) if (tunnel := self._tunnels.get(event.stream_id)) is not None:
                self._take_of(tunnel, event)

    def _take_of(
        self,
        tunnel: Tunnel,
        event: h2.events.ResponseReceived | h2.events.DataReceived | h2.events.StreamEnded | h2.events.StreamReset,
    ) -> None:
        match event:
            case h2.events.ResponseReceived():
                # The library types header names as bytes, whatever `header_encoding` made of them.
                headers = {str(name): str(value) for name, value in event.headers}
                tunnel.status = headers.get(":status", "no status")
            case h2.events.DataReceived():
                tunnel.chunks.append((event.data, event.flow_controlled_length))
                if tunnel.left:
                    self._credit(tunnel)
            case h2.events.StreamEnded():
                tunnel.ended = True
            case h2.events.StreamReset():
                if not (tunnel.ended and event.error_code == h2.errors.ErrorCodes.NO_ERROR):  # RFC 9113 8.1
                    tunnel.failure = f"{self._where} reset the tunnel to {tunnel.target}: {_code(event.error_code)}"
                tunnel.ended = True
        if tunnel.left and tunnel.ended:
            self._forget(tunnel)
        tunnel.news.set()

    def _window_moved(self, stream: int) -> None:
        for tunnel in self._tunnels.values():
            if stream in (0, tunnel.stream):
                tunnel.news.set()
