"""The HTTP/2 engine against the h2 library, and against itself cut at every point (RFC 9113)."""

from __future__ import annotations

import struct
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcore.h2probe import Event, H2Probe

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITY_FLAG, ACK = 1, 4, 8, 32, 1
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:8080")]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def connect_block() -> bytes:
    """The header block of CONNECT without HPACK state: literals, never indexed."""
    block = b""
    for name, value in CONNECT:
        block += b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value
    return block


START = PREFACE + frame(SETTINGS, 0, 0)


def opened(count: int = 1) -> H2Probe:
    """A server with `count` streams open, nothing left to take."""
    probe = H2Probe(True)
    data = START
    for i in range(count):
        data += frame(HEADERS, END_HEADERS, 2 * i + 1, connect_block())
    assert probe.feed(data)
    probe.take_events()
    probe.take_output()
    return probe


def frames_of(data: bytes) -> list[tuple[int, int, int, bytes]]:
    out = []
    while data:
        size = int.from_bytes(data[:3], "big")
        out.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return out


def merged(events: list[Event]) -> list[Event]:
    """DATA events of one stream joined: where a frame was cut is not part of the outcome."""
    out: list[Event] = []
    for event in events:
        if (
            event.kind == "data"
            and out
            and out[-1].kind == "data"
            and out[-1].stream == event.stream
            and not out[-1].value
        ):
            last = out.pop()
            event = Event("data", event.stream, event.value, last.data + event.data)
        out.append(event)
    return out


def recorded_client() -> bytes:
    """What the h2 library's client sends for two tunnels with data, a ping and a reset, and padding."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, [*CONNECT, (b"baggage", b"k8s.cluster.name=Kubernetes")])
    client.send_data(1, b"a" * 5000)
    client.send_headers(3, CONNECT)
    client.send_data(3, b"b" * 100, pad_length=20)
    client.ping(b"12345678")
    client.send_data(1, b"", end_stream=True)
    client.reset_stream(3, 8)
    return (
        client.data_to_send()
        + frame(HEADERS, 0, 5, connect_block()[:7])
        + frame(CONTINUATION, END_HEADERS, 5, connect_block()[7:])
    )


RECORDED = recorded_client()


def outcome(pieces: list[bytes]) -> tuple[list[Event], bytes]:
    probe = H2Probe(True)
    for piece in pieces:
        assert probe.feed(piece), probe.error
    return merged(probe.take_events()), probe.take_output()


WHOLE = outcome([RECORDED])


def test_the_recorded_client_is_understood() -> None:
    kinds = [(event.kind, event.stream) for event in WHOLE[0]]
    assert [kind for kind in kinds if kind[0] == "headers"] == [("headers", 1), ("headers", 3), ("headers", 5)]
    assert Event("data", 1, 1, b"a" * 5000) not in WHOLE[0]  # the end came later, by itself
    assert b"".join(event.data for event in WHOLE[0] if event.kind == "data" and event.stream == 3) == b"b" * 100
    assert ("reset", 0) in kinds


def test_a_cut_anywhere_changes_nothing() -> None:
    for at in range(1, len(RECORDED)):
        assert outcome([RECORDED[:at], RECORDED[at:]]) == WHOLE, f"cut at {at}"


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 9, 64])
def test_small_pieces_change_nothing(step: int) -> None:
    assert outcome([RECORDED[i : i + step] for i in range(0, len(RECORDED), step)]) == WHOLE


class Referee:
    """Our engine on one side, the h2 library on the other."""

    def __init__(self, *, ours_is_server: bool) -> None:
        self.ours = H2Probe(ours_is_server)
        self.theirs = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=ours_is_server, header_encoding=None)
        )
        self.theirs.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.exchange()

    def exchange(self) -> None:
        for _ in range(6):
            assert self.ours.feed(self.theirs.data_to_send()), self.ours.error
            self.events += self.theirs.receive_data(self.ours.take_output())

    def received(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream)


@given(st.lists(st.binary(max_size=3000), max_size=8), st.lists(st.binary(max_size=3000), max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_tunnel_with_the_h2_library_as_client(up: list[bytes], down: list[bytes]) -> None:
    referee = Referee(ours_is_server=True)
    referee.theirs.send_headers(1, CONNECT)
    referee.exchange()
    referee.ours.answer(1, [(b":status", b"200")])
    for piece in up:
        referee.theirs.send_data(1, piece)
    for piece in down:
        referee.ours.data(1, piece)
    referee.exchange()
    got = b"".join(e.data for e in referee.ours.take_events() if e.kind == "data")
    assert got == b"".join(up)
    assert referee.received(1) == b"".join(down)


@given(st.lists(st.binary(max_size=3000), max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_tunnel_with_the_h2_library_as_server(up: list[bytes]) -> None:
    referee = Referee(ours_is_server=False)
    stream = referee.ours.open([*CONNECT, (b"baggage", b"x=y")])
    referee.exchange()
    request = next(e for e in referee.events if isinstance(e, h2.events.RequestReceived))
    assert (b"baggage", b"x=y") in [tuple(field) for field in request.headers or []]
    referee.theirs.send_headers(stream, [(b":status", b"200")])
    for piece in up:
        referee.ours.data(stream, piece)
    referee.exchange()
    assert referee.received(stream) == b"".join(up)
    assert ("header", b":status200") in [(e.kind, e.data) for e in referee.ours.take_events()]


def test_settings_announce_our_limits() -> None:
    referee = Referee(ours_is_server=True)
    remote = referee.theirs.remote_settings
    assert remote.initial_window_size == 4 << 20
    assert remote.max_frame_size == 1 << 20
    assert remote.max_concurrent_streams == 200
    assert remote.max_header_list_size == 65536
    assert referee.theirs.outbound_flow_control_window == 16 << 20


def test_credit_comes_back_as_bytes_are_consumed() -> None:
    referee = Referee(ours_is_server=True)
    referee.theirs.send_headers(1, CONNECT)
    for _ in range(40):
        referee.theirs.send_data(1, bytes(65536))
        referee.exchange()
    before = referee.theirs.local_flow_control_window(1)
    referee.ours.consumed(1, 40 * 65536)
    referee.exchange()
    assert referee.theirs.local_flow_control_window(1) == before + 40 * 65536


# Connection errors: what is sent after the handshake, the code the peer must be told, and the limit that was passed.
BROKEN = {
    "data on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "data on an idle stream": (frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
    "headers on stream 0": (frame(HEADERS, END_HEADERS, 0, connect_block()), PROTOCOL_ERROR),
    "headers on an even stream": (frame(HEADERS, END_HEADERS, 2, connect_block()), PROTOCOL_ERROR),
    "padding longer than the frame": (frame(DATA, PADDED, 1, b"\x05abc"), PROTOCOL_ERROR),
    "padded frame without a length": (frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    "frame over the limit": ((1 << 20 | 1).to_bytes(3, "big") + bytes((DATA, 0, 0, 0, 0, 1)), FRAME_SIZE_ERROR),
    "push promise from a client": (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
    "settings on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "settings of odd size": (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "settings ack with payload": (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "initial window too large": (frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 1 << 31)), FLOW_CONTROL_ERROR),
    "frame size too small": (frame(SETTINGS, 0, 0, struct.pack("!HI", 5, 100)), PROTOCOL_ERROR),
    "push neither on nor off": (frame(SETTINGS, 0, 0, struct.pack("!HI", 2, 2)), PROTOCOL_ERROR),
    "ping of the wrong size": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "ping on a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "reset of an idle stream": (frame(RST_STREAM, 0, 7, bytes(4)), PROTOCOL_ERROR),
    "reset on stream 0": (frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "zero connection window update": (frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL_ERROR),
    "connection window overflow": (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
    "window update of an idle stream": (frame(WINDOW_UPDATE, 0, 11, b"\0\0\0\1"), PROTOCOL_ERROR),
    "continuation without headers": (frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
    "another frame inside a header block": (
        frame(HEADERS, 0, 3, connect_block()[:4]) + frame(PING, 0, 0, bytes(8)),
        PROTOCOL_ERROR,
    ),
    "header block that HPACK refuses": (frame(HEADERS, END_HEADERS, 3, b"\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "stream id going backwards": (
        frame(HEADERS, END_HEADERS, 9, connect_block()) + frame(HEADERS, END_HEADERS, 7, connect_block()),
        STREAM_CLOSED,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_frame_ends_the_connection(name: str) -> None:
    data, code = BROKEN[name]
    probe = opened()
    assert not probe.feed(data)
    assert probe.error == code


def test_anything_but_the_preface_is_refused() -> None:
    probe = H2Probe(True)
    assert not probe.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert probe.error == PROTOCOL_ERROR


def test_the_first_frame_must_be_settings() -> None:
    probe = H2Probe(True)
    assert not probe.feed(PREFACE + frame(PING, 0, 0, bytes(8)))
    assert probe.error == PROTOCOL_ERROR


LATE_WINDOW = 100_000


def reset_with_window_left(server: bool) -> H2Probe:
    """Stream 1 was open with a window of LATE_WINDOW and has just been reset from this side; one byte had come."""
    probe = H2Probe(server, window=LATE_WINDOW)
    if server:
        assert probe.feed(START + frame(HEADERS, END_HEADERS, 1, connect_block()))
    else:
        assert probe.feed(frame(SETTINGS, 0, 0))
        assert probe.open(CONNECT) == 1
    assert probe.feed(frame(DATA, 0, 1, b"x") if server else b"")
    probe.reset(1, CANCEL)
    probe.take_output()
    return probe


def resets_of(probe: H2Probe) -> list[tuple[int, int]]:
    """(stream, code) of each RST_STREAM that was sent."""
    return [
        (stream, int.from_bytes(payload, "big"))
        for kind, _, stream, payload in frames_of(probe.take_output())
        if kind == RST_STREAM
    ]


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_what_was_on_its_way_when_a_stream_was_reset_is_ignored(server: bool) -> None:
    probe = reset_with_window_left(server)
    for number in range(5000):  # five times a flood, all in the same millisecond
        assert probe.feed(frame(DATA, 0, 1, b"x" * 10)), f"{number}: error {probe.error}"
    assert probe.feed(frame(DATA, END_STREAM, 1))
    assert resets_of(probe) == []
    assert probe.abuse == 0


def test_resets_of_many_streams_do_not_end_the_connection_of_the_others() -> None:
    probe = H2Probe(True, window=LATE_WINDOW)
    assert probe.feed(START)
    for stream in range(1, 4001, 2):
        assert probe.feed(frame(HEADERS, END_HEADERS, stream, connect_block()))
        probe.answer(stream, [(b":status", b"200")])
        probe.reset(stream, CANCEL)
        assert probe.feed(frame(DATA, 0, stream, b"late") + frame(DATA, END_STREAM, stream)), (stream, probe.error)


@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_more_than_the_window_of_a_reset_stream_is_an_error_and_then_a_flood(server: bool) -> None:
    probe = reset_with_window_left(server)
    left = LATE_WINDOW - 1 if server else LATE_WINDOW
    for size in [10_000] * (left // 10_000) + [left % 10_000] * (left % 10_000 > 0):
        assert probe.feed(frame(DATA, 0, 1, bytes(size)))
    assert probe.feed(frame(DATA, END_STREAM, 1))
    assert resets_of(probe) == []
    assert probe.feed(frame(DATA, 0, 1, b"x"))
    assert resets_of(probe) == [(1, STREAM_CLOSED)]
    assert not all(probe.feed(frame(DATA, 0, 1, b"x")) for _ in range(1000))


# Stream errors: the connection goes on, the stream is reset with the code.
STREAM_ERRORS = {
    "zero window update": (frame(WINDOW_UPDATE, 0, 1, bytes(4)), PROTOCOL_ERROR),
    "window overflow": (frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
    "trailers": (frame(HEADERS, END_HEADERS | END_STREAM, 1, connect_block()), PROTOCOL_ERROR),
    "data after the end": (frame(DATA, END_STREAM, 1, b"x") + frame(DATA, 0, 1, b"y"), STREAM_CLOSED),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_stream_error_resets_the_stream_only(name: str) -> None:
    data, code = STREAM_ERRORS[name]
    probe = opened(2)
    assert probe.feed(data + frame(PING, 0, 0, b"12345678")), probe.error
    sent = frames_of(probe.take_output())
    assert (RST_STREAM, 0, 1, code.to_bytes(4, "big")) in sent
    assert (PING, ACK, 0, b"12345678") in sent
    assert probe.streams == 1


def test_data_past_the_stream_window_resets_the_stream() -> None:
    probe = H2Probe(True, window=1000)
    assert probe.feed(START + frame(HEADERS, END_HEADERS, 1, connect_block()))
    assert probe.feed(frame(DATA, 0, 1, bytes(1000)))  # at the limit
    assert probe.streams == 1
    assert probe.feed(frame(DATA, 0, 1, b"x"))  # past it
    assert probe.streams == 0
    assert (RST_STREAM, 0, 1, FLOW_CONTROL_ERROR.to_bytes(4, "big")) in frames_of(probe.take_output())


def test_data_past_the_connection_window_ends_the_connection() -> None:
    probe = H2Probe(True, window=1 << 20, conn_window=70000)
    assert probe.feed(START + frame(HEADERS, END_HEADERS, 1, connect_block()))
    big = frame(DATA, 0, 1, bytes(80000))
    assert not probe.feed(big)
    assert probe.error == FLOW_CONTROL_ERROR


def test_streams_past_the_limit_are_refused() -> None:
    probe = opened(200)
    assert probe.streams == 200
    assert probe.feed(frame(HEADERS, END_HEADERS, 401, connect_block()))
    assert (RST_STREAM, 0, 401, REFUSED_STREAM.to_bytes(4, "big")) in frames_of(probe.take_output())
    assert probe.streams == 200


def test_header_compression_state_survives_a_refused_stream() -> None:
    """The block of a stream nobody wants still moves the HPACK table (RFC 9113 section 4.3)."""
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    theirs.initiate_connection()
    probe = H2Probe(True, streams_max=1)
    for stream in (1, 3, 5):
        theirs.send_headers(stream, [*CONNECT, (b"baggage", b"k8s.namespace.name=default")])
    assert probe.feed(theirs.data_to_send())
    theirs.reset_stream(1, 8)
    theirs.send_headers(7, [*CONNECT, (b"baggage", b"k8s.namespace.name=default")])
    assert probe.feed(theirs.data_to_send())
    last = [e.data for e in probe.take_events() if e.kind == "header" and e.stream == 7]
    assert last[-1] == b"baggagek8s.namespace.name=default"


# Floods: how one piece looks, how many pieces a well-behaved peer may send, the limit's name.
FLOODS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "ping": (lambda i: frame(PING, 0, 0, bytes(8)), 100, 2),
    "settings": (lambda i: frame(SETTINGS, 0, 0), 49, 3),
    "empty data": (lambda i: frame(DATA, 0, 1), 1000, 4),
    "padding without data": (lambda i: frame(DATA, PADDED, 1, b"\x03abc"), 1000, 4),
    "provoked reset": (
        lambda i: (
            frame(HEADERS, END_HEADERS, 2 * i + 3, connect_block()) + frame(WINDOW_UPDATE, 0, 2 * i + 3, bytes(4))
        ),
        1000,
        1,
    ),
    "priority": (lambda i: frame(PRIORITY, 0, 1, bytes(5)), 1000, 4),
    "rapid reset": (
        lambda i: frame(HEADERS, END_HEADERS, 2 * i + 3, connect_block()) + frame(RST_STREAM, 0, 2 * i + 3, bytes(4)),
        1000,
        1,
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_refused_at_its_limit_and_not_before(name: str) -> None:
    piece, limit, abuse = FLOODS[name]
    probe = opened()
    for i in range(limit):
        assert probe.feed(piece(i)), f"refused at {i} of {limit}: {probe.error}"
    assert not probe.feed(piece(limit))
    assert probe.error == ENHANCE_YOUR_CALM
    assert probe.abuse == abuse


def test_a_slow_stream_of_pings_is_fine() -> None:
    probe = opened()
    for i in range(500):
        assert probe.feed(frame(PING, 0, 0, bytes(8)), now_ms=i * 200)


def test_resets_of_answered_streams_are_not_a_flood() -> None:
    probe = opened(0)
    for i in range(3000):
        stream = 2 * i + 1
        assert probe.feed(frame(HEADERS, END_HEADERS, stream, connect_block()))
        probe.answer(stream, [(b":status", b"200")])
        assert probe.feed(frame(RST_STREAM, 0, stream, bytes(4)))
        probe.take_output()


def test_a_continuation_flood_is_refused() -> None:
    probe = opened()
    assert probe.feed(frame(HEADERS, 0, 3, connect_block()[:1]))
    for _ in range(64):
        if not probe.feed(frame(CONTINUATION, 0, 3, b"\x10")):
            break
    probe.feed(frame(CONTINUATION, 0, 3, b"\x10"))
    assert probe.error in (ENHANCE_YOUR_CALM, COMPRESSION_ERROR)


def test_a_header_list_at_the_limit_passes_and_past_it_does_not() -> None:
    def block(size: int) -> bytes:
        """One literal field whose name, value and 32 bytes of overhead make `size`."""
        value = b"v" * (size - 32 - 1)
        length = len(value)
        encoded, rest = b"\x7f", length - 127
        while rest >= 128:
            encoded += bytes((rest % 128 + 128,))
            rest //= 128
        return b"\x10\x01x" + encoded + bytes((rest,)) + value

    fits = opened()
    assert fits.feed(frame(HEADERS, END_HEADERS, 3, block(65536)))
    over = opened()
    assert not over.feed(frame(HEADERS, END_HEADERS, 3, block(65537)))
    assert over.error == ENHANCE_YOUR_CALM


def test_goaway_of_the_peer_is_passed_on() -> None:
    probe = opened()
    assert probe.feed(frame(GOAWAY, 0, 0, struct.pack("!II", 1, 0) + b"debug data of any length" * 20))
    assert Event("goaway", 1, 0, b"") in probe.take_events()


def test_unknown_frames_are_ignored() -> None:
    probe = opened()
    assert probe.feed(frame(200, 255, 1, b"whatever") + frame(PING, 0, 0, b"12345678"))
    assert (PING, ACK, 0, b"12345678") in frames_of(probe.take_output())


def test_a_smaller_initial_window_may_turn_stream_windows_negative() -> None:
    probe = opened()
    probe.answer(1, [(b":status", b"200")])
    probe.data(1, bytes(60000))
    assert probe.feed(frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 1000)))
    assert probe.send_window(1) == 1000 - 60000
    assert probe.feed(frame(WINDOW_UPDATE, 0, 1, (60000).to_bytes(4, "big")))
    assert probe.send_window(1) == 1000


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_garbage_never_breaks_the_engine(data: bytes) -> None:
    probe = opened(3)
    probe.feed(data)
    probe.take_events()
    probe.take_output()
