"""Clients of 15008 that break or abuse HTTP/2: each ends alone, named by the right code, and is counted."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from meshcore.records import PageCell
from tests.support import apps, peer_h2, pki
from tests.support.raw_h2 import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Raw,
    connect,
    frame,
    literal,
    reset,
    setting,
    window_update,
)
from tests.support.worker_harness import Harness, Pod, deliver, eventually


class Scene(NamedTuple):
    worker: Harness
    pod: Pod


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """One worker for all: what one client does must not be felt by the next."""
    config = {"tls_timeout_ms": 1_000}
    with apps.App() as app, Harness(deliver(app.address), config=config) as worker:
        yield Scene(worker, worker.add_pod())
        worker.idle()


@pytest.fixture
def neighbour(scene: Scene) -> Iterator[None]:
    """A good client on a connection of its own, unharmed; afterwards everything is given back."""
    with peer_h2.client(scene.pod.hbone) as peer:
        stream = peer.connect("10.0.0.7:80")
        peer.echoes(stream, b"before")
        yield
        assert scene.worker.alive()
        peer.echoes(stream, b"after")
    scene.worker.idle()


CONNECTION_ERRORS: dict[str, tuple[bytes, int, PageCell]] = {
    "CONTINUATION without HEADERS": (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "DATA on an idle stream": (frame(DATA, 0, 5, b"x"), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "DATA on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "HEADERS on stream 0": (frame(HEADERS, END_HEADERS, 0, CONNECT), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "even stream id": (connect(2), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "stream id going back": (connect(5) + reset(5) + connect(3), STREAM_CLOSED, PageCell.H2_BAD_FRAME),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + CONNECT), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "frame over the limit": (frame(DATA, 0, 1, size=(1 << 20) + 1), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "padding longer than DATA": (
        connect(1) + frame(DATA, PADDED, 1, b"\x05abcd"),
        PROTOCOL_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "padding longer than HEADERS": (
        frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + CONNECT),
        PROTOCOL_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "PADDED without a pad length": (connect(1) + frame(DATA, PADDED, 1), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "PRIORITY flag without priority": (
        frame(HEADERS, PRIORITIZED | END_HEADERS, 1, b"abc"),
        FRAME_SIZE_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "zero WINDOW_UPDATE of the connection": (window_update(0, 0), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "window overflow of the connection": (
        window_update(0, 0x7FFFFFFF),
        FLOW_CONTROL_ERROR,
        PageCell.H2_WINDOW_OVERFLOW,
    ),
    "window overflow by SETTINGS": (
        connect(1) + window_update(1, 0x7FFFFFFF - 65_535) + frame(SETTINGS, 0, 0, setting(4, 65_536)),
        FLOW_CONTROL_ERROR,
        PageCell.H2_WINDOW_OVERFLOW,
    ),
    "initial window over 2^31-1": (
        frame(SETTINGS, 0, 0, setting(4, 0x80000000)),
        FLOW_CONTROL_ERROR,
        PageCell.H2_WINDOW_OVERFLOW,
    ),
    "MAX_FRAME_SIZE too small": (frame(SETTINGS, 0, 0, setting(5, 100)), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "ENABLE_PUSH of 2": (frame(SETTINGS, 0, 0, setting(2, 2)), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, b"12345"), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "SETTINGS ACK with a body": (frame(SETTINGS, ACK, 0, setting(4, 1)), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "PING of 7 bytes": (frame(PING, 0, 0, b"1234567"), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "PING on a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "RST_STREAM of 3 bytes": (connect(1) + frame(RST_STREAM, 0, 1, b"123"), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "RST_STREAM of an idle stream": (reset(7), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "RST_STREAM on stream 0": (reset(0), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "WINDOW_UPDATE of 5 bytes": (frame(WINDOW_UPDATE, 0, 0, b"12345"), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "WINDOW_UPDATE of an idle stream": (window_update(9, 1), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, b"1234567"), FRAME_SIZE_ERROR, PageCell.H2_BAD_FRAME),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, b"12345"), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
    "HEADERS cut by another frame": (
        frame(HEADERS, 0, 1, CONNECT) + frame(PING, 0, 0, b"12345678"),
        PROTOCOL_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "CONTINUATION of another stream": (
        frame(HEADERS, 0, 1, CONNECT) + frame(CONTINUATION, END_HEADERS, 3),
        PROTOCOL_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "HPACK index out of range": (
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x7f"),
        COMPRESSION_ERROR,
        PageCell.H2_BAD_FRAME,
    ),
    "HPACK block cut short": (frame(HEADERS, END_HEADERS, 1, CONNECT[:-3]), COMPRESSION_ERROR, PageCell.H2_BAD_FRAME),
    "garbage": (bytes(range(1, 200)), PROTOCOL_ERROR, PageCell.H2_BAD_FRAME),
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_broken_frame_ends_its_connection_only(scene: Scene, name: str) -> None:
    data, code, counter = CONNECTION_ERRORS[name]
    with scene.worker.counts(counter), scene.worker.counts(PageCell.H2_GOAWAY_SENT), Raw(scene.pod.hbone) as raw:
        raw.send(data)
        assert raw.goaway() == code


FLOODS: dict[str, tuple[Callable[[int], bytes], PageCell]] = {
    "rapid reset": (lambda i: connect(2 * i + 1) + reset(2 * i + 1), PageCell.H2_RESET_FLOOD),
    "ping": (lambda _: frame(PING, 0, 0, b"12345678"), PageCell.H2_PING_FLOOD),
    "settings": (lambda _: frame(SETTINGS), PageCell.H2_SETTINGS_FLOOD),
    "empty DATA": (lambda i: (connect(1) if i == 0 else b"") + frame(DATA, 0, 1), PageCell.H2_EMPTY_FLOOD),
    "priority": (lambda i: frame(PRIORITY, 0, 2 * i + 1, b"12345"), PageCell.H2_EMPTY_FLOOD),
    "empty unknown frames": (lambda _: frame(0xEE), PageCell.H2_EMPTY_FLOOD),
    "empty CONTINUATION": (
        lambda i: frame(HEADERS, 0, 1, CONNECT) if i == 0 else frame(CONTINUATION, 0, 1),
        PageCell.H2_HEADERS_TOO_BIG,
    ),
    "CONTINUATION": (
        lambda i: frame(HEADERS, 0, 1, CONNECT) if i == 0 else frame(CONTINUATION, 0, 1, literal(b"a", b"b")),
        PageCell.H2_HEADERS_TOO_BIG,
    ),
    "DATA on a closed stream": (
        lambda i: (connect(1) + reset(1) if i == 0 else b"") + frame(DATA, 0, 1, b"x"),
        PageCell.H2_EMPTY_FLOOD,
    ),
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_stopped(scene: Scene, name: str) -> None:
    make, counter = FLOODS[name]
    with scene.worker.counts(counter), scene.worker.counts(PageCell.H2_GOAWAY_SENT), Raw(scene.pod.hbone) as raw:
        raw.send(b"".join(make(i) for i in range(5_000)))
        assert raw.goaway() == ENHANCE_YOUR_CALM


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("how", ["one field", "many fields", "bomb"])
def test_a_header_list_over_64_kib_is_refused(scene: Scene, how: str) -> None:
    """The bomb is small on the wire: one long value in the table, then named again and again."""
    if how == "one field":
        block = CONNECT + literal(b"x", b"y" * (64 << 10))
    elif how == "many fields":
        block = CONNECT + literal(b"x", b"y" * 1000) * 70
    else:
        block = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + CONNECT + b"\xbe" * 2000
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    data = frame(HEADERS, 0, 1, pieces[0])
    data += b"".join(frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:]) + frame(CONTINUATION, END_HEADERS, 1)
    with scene.worker.counts(PageCell.H2_HEADERS_TOO_BIG), Raw(scene.pod.hbone) as raw:
        raw.send(data)
        assert raw.goaway() == ENHANCE_YOUR_CALM


def test_a_header_list_below_64_kib_passes(scene: Scene) -> None:
    with Raw(scene.pod.hbone) as raw:
        raw.send(frame(HEADERS, 0, 1, CONNECT))
        for _ in range(3):
            raw.send(frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 16_000)))
        raw.send(frame(CONTINUATION, END_HEADERS, 1))
        assert raw.status(1) == "200"


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("step", [1, 2, 3, 7, 20])
def test_a_header_block_in_pieces_is_one_block(scene: Scene, step: int) -> None:
    with Raw(scene.pod.hbone) as raw:
        raw.send(frame(HEADERS, 0, 1, CONNECT[:step]))
        for at in range(step, len(CONNECT), step):
            raw.send(frame(CONTINUATION, 0, 1, CONNECT[at : at + step]))
        raw.send(frame(CONTINUATION, END_HEADERS, 1))
        assert raw.status(1) == "200"
        raw.send(frame(DATA, END_STREAM, 1, b"echo"))
        assert raw.wait(DATA, 1).payload == b"echo"


STREAM_ERRORS: dict[str, tuple[bytes, int]] = {
    "zero WINDOW_UPDATE": (window_update(1, 0), PROTOCOL_ERROR),
    "window overflow": (window_update(1, 0x7FFFFFFF), FLOW_CONTROL_ERROR),
    "trailers": (frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"a", b"b")), PROTOCOL_ERROR),
    "second CONNECT": (connect(1), PROTOCOL_ERROR),
    "DATA after END_STREAM": (frame(DATA, END_STREAM, 1) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
    "DATA after RST_STREAM": (reset(1) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_stream_error_ends_its_stream_only(scene: Scene, name: str) -> None:
    data, code = STREAM_ERRORS[name]

    def hang(sock: socket.socket) -> None:
        sock.recv(100)
        sock.recv(100)

    with apps.App(hang) as app, Raw(scene.pod.hbone) as raw:
        before, scene.worker.decide = scene.worker.decide, deliver(app.address)
        scene.worker.flush(max(scene.worker.verdicts), reevaluate=False)
        try:
            raw.send(connect(1))
            assert raw.status(1) == "200"
            raw.send(data)
            assert raw.wait(RST_STREAM, 1).number == code
            raw.ping()
        finally:
            scene.worker.decide = before
            scene.worker.flush(max(scene.worker.verdicts), reevaluate=False)


def test_data_over_the_stream_window_is_refused(scene: Scene) -> None:
    """The application does not read, so the window is never given back."""
    with apps.App(apps.silent) as app, Harness(deliver(app.address), config={"stream_window": 100_000}) as worker:
        with Raw(worker.add_pod().hbone) as raw, worker.counts(PageCell.H2_WINDOW_OVERFLOW):
            raw.send(connect(1))
            raw.send(frame(DATA, 0, 1, os.urandom(60_000)) * 80)
            assert raw.wait(RST_STREAM, 1).number == FLOW_CONTROL_ERROR
            raw.ping()
        worker.idle()


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE[:-1] + b"x", b"\0" * 24, PREFACE + frame(PING, 0, 0, b"12345678")],
)
def test_anything_but_the_preface_and_settings_is_refused(scene: Scene, start: bytes) -> None:
    with scene.worker.counts(PageCell.H2_BAD_FRAME), Raw(scene.pod.hbone, start=start) as raw:
        assert raw.goaway() == PROTOCOL_ERROR


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("start", [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS)[:5]])
def test_a_client_that_never_finishes_its_preface_is_dropped(scene: Scene, start: bytes) -> None:
    with scene.worker.counts(PageCell.TLS_TIMEOUT), Raw(scene.pod.hbone, start=start) as raw:
        while raw.next() is not None:
            pass


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_client_that_never_finishes_its_handshake_is_dropped(scene: Scene, start: bytes) -> None:
    with scene.worker.counts(PageCell.TLS_TIMEOUT), socket.create_connection(scene.pod.hbone, timeout=10) as sock:
        sock.sendall(start)
        assert sock.recv(100) == b""


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", bytes(2000), struct.pack(">BHH", 22, 0x301, 4) + b"abcd"])
def test_garbage_instead_of_tls_is_dropped(scene: Scene, junk: bytes) -> None:
    with scene.worker.counts(PageCell.TLS_ACCEPT_FAIL), socket.create_connection(scene.pod.hbone, timeout=10) as sock:
        sock.sendall(junk)
        try:
            while sock.recv(1000):
                pass
        except ConnectionResetError:
            pass


@pytest.mark.usefixtures("neighbour")
def test_clients_that_vanish_leave_nothing_behind(scene: Scene) -> None:
    before = scene.worker.cell(PageCell.TUNNELS_OPEN)
    context = pki.context("client", pki.credential("peer"))
    for i in range(30):
        raw = Raw(scene.pod.hbone, context)
        raw.send(b"".join(connect(2 * n + 1) + frame(DATA, 0, 2 * n + 1, b"x" * 100) for n in range(i)))
        if i % 2:
            raw.abort()
        else:
            raw.close()
    eventually(lambda: scene.worker.cell(PageCell.TUNNELS_OPEN) == before, "the connections are gone")
    eventually(lambda: scene.worker.cell(PageCell.FLOWS_OPEN) == 1, "their flows are gone")


@pytest.mark.usefixtures("neighbour")
def test_slow_resets_are_not_a_flood(scene: Scene) -> None:
    """A hundred applications that change their mind are an ordinary day."""
    with Raw(scene.pod.hbone) as raw:
        for i in range(100):
            raw.send(connect(2 * i + 1) + reset(2 * i + 1, CANCEL))
        raw.ping()
