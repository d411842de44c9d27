"""Our HBONE server at the edges of what RFC 9113 allows, and abuse that no single frame gives away."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from meshcore.records import PageCell, Rec
from tests.support import apps, peer_h2
from tests.support.raw_h2 import (
    CANCEL,
    CONNECT,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    Raw,
    connect,
    frame,
    literal,
    reset,
    setting,
    window_update,
)
from tests.support.worker_harness import Harness, Pod, deliver, eventually

MIB = 1 << 20
BUFFER = 16_384  # bytes, what PageCell.BUFFERS_* count
AUTHORITY = "10.0.0.7:80"


@pytest.fixture(scope="module")
def app() -> Iterator[apps.App]:
    with apps.App() as made:
        yield made


@pytest.fixture(scope="module")
def worker(app: apps.App) -> Iterator[Harness]:
    with Harness(deliver(app.address), config={"tls_timeout_ms": 1_000}) as made:
        yield made


@pytest.fixture(scope="module")
def pod(worker: Harness) -> Pod:
    return worker.add_pod()


@pytest.fixture(autouse=True)
def _unharmed(worker: Harness, pod: Pod) -> Iterator[None]:
    """A client of its own is served before and after, and everything is given back."""
    with peer_h2.client(pod.hbone) as neighbour:
        stream = neighbour.connect(AUTHORITY)
        yield
        neighbour.echoes(stream, b"undisturbed")
    worker.idle()
    assert worker.alive()


@pytest.fixture
def raw(pod: Pod) -> Iterator[Raw]:
    with Raw(pod.hbone) as made:
        yield made


def opened(raw: Raw, stream: int = 1) -> None:
    raw.send(connect(stream))
    assert raw.status(stream) == "200"


def until_closed(raw: Raw) -> None:
    """Read until the worker hangs up, or is silent: then a counter that did not move fails the test."""
    with contextlib.suppress(TimeoutError):
        while raw.next(2.0) is not None:
            pass


def echoed(raw: Raw, stream: int, size: int) -> bytes:
    back = b""
    while len(back) < size:
        back += raw.wait(DATA, stream).payload
    return back


def test_every_byte_in_a_record_of_its_own(raw: Raw) -> None:
    for byte in connect(1) + frame(DATA, 0, 1, b"slowly"):
        raw.send(bytes((byte,)))
    assert raw.status(1) == "200"
    assert echoed(raw, 1, 6) == b"slowly"


def test_priority_and_unknown_frames_are_ignored(raw: Raw) -> None:
    raw.send(
        frame(0xFA, 0, 0, b"extension")
        + frame(PRIORITY, 0, 5, bytes(4) + b"\x10")
        + frame(HEADERS, END_HEADERS | PRIORITIZED, 1, bytes(4) + b"\x10" + CONNECT)
        + frame(0xFB, 0, 1, b"extension")
    )
    assert raw.status(1) == "200"


def test_end_stream_on_the_request(raw: Raw) -> None:
    raw.send(connect(1, flags=END_HEADERS | END_STREAM))
    assert raw.status(1) == "200"
    assert raw.wait(DATA, 1).flags & END_STREAM


def test_trailers_end_their_stream_only(raw: Raw) -> None:
    opened(raw)
    opened(raw, 3)
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"x", b"y")))
    assert raw.wait(RST_STREAM, 1).number == PROTOCOL_ERROR
    raw.send(frame(DATA, 0, 3, b"sibling"))
    assert echoed(raw, 3, 7) == b"sibling"


def test_the_largest_frame_we_announce_is_taken(raw: Raw) -> None:
    raw.send(frame(SETTINGS, 0, 0, setting(4, MIB)) + window_update(0, MIB))
    opened(raw)
    raw.send(frame(DATA, END_STREAM, 1, bytes(MIB)))
    echoed(raw, 1, MIB)


def test_frames_are_not_larger_than_the_client_allows(raw: Raw) -> None:
    raw.send(frame(SETTINGS, 0, 0, setting(4, MIB)) + window_update(0, MIB))
    opened(raw)
    raw.send(frame(DATA, 0, 1, bytes(16_384)) * 20)
    left = 20 * 16_384
    while left:
        size = len(raw.wait(DATA, 1).payload)
        assert size <= 16_384
        left -= size


def test_a_window_that_turned_negative(raw: Raw) -> None:
    """RFC 9113 section 6.9.2: after a smaller INITIAL_WINDOW_SIZE the debt is paid before a byte goes out."""
    opened(raw)
    raw.send(frame(DATA, 0, 1, bytes(1000)))
    echoed(raw, 1, 1000)
    raw.send(frame(SETTINGS, 0, 0, setting(4, 500)) + frame(DATA, 0, 1, bytes(100)))
    raw.ping()
    raw.send(window_update(1, 550))
    assert len(raw.wait(DATA, 1).payload) == 50
    raw.send(window_update(1, 50))
    assert len(raw.wait(DATA, 1).payload) == 50


def test_open_streams_outlive_the_clients_goaway(raw: Raw) -> None:
    opened(raw)
    raw.send(frame(GOAWAY, 0, 0, bytes(8)))
    raw.send(frame(DATA, END_STREAM, 1, b"after goaway"))
    assert echoed(raw, 1, 12) == b"after goaway"


def test_nothing_but_padding_is_a_flood(worker: Harness, raw: Raw) -> None:
    """As empty as empty frames: no byte for the application, and work for us."""
    opened(raw)
    with worker.counts(PageCell.H2_EMPTY_FLOOD):
        raw.send(frame(DATA, PADDED, 1, b"\0") * 20_000)
        until_closed(raw)


PROVOKE: dict[str, Callable[[int], bytes]] = {
    "WINDOW_UPDATE of 0": lambda stream: window_update(stream, 0),
    "trailers": lambda stream: frame(HEADERS, END_HEADERS, stream, CONNECT),
}


@pytest.mark.parametrize("how", PROVOKE)
def test_resets_provoked_at_our_end_are_a_flood(worker: Harness, raw: Raw, how: str) -> None:
    """CVE-2025-8671 ("MadeYouReset"): the client breaks each stream so that the server resets it."""
    with worker.counts(PageCell.H2_RESET_FLOOD):
        for first in range(1, 20_001, 400):
            raw.send(b"".join(connect(stream) + PROVOKE[how](stream) for stream in range(first, first + 400, 2)))
        until_closed(raw)


def test_window_updates_in_mass_cost_their_sender_only(raw: Raw) -> None:
    opened(raw)
    raw.send(window_update(1, 1) * 50_000)
    with contextlib.suppress(AssertionError):
        raw.ping()


def test_answers_that_nobody_reads_do_not_pile_up(worker: Harness, raw: Raw) -> None:
    before = worker.memory_kb()
    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened(raw)
    with worker.counts(PageCell.H2_PING_FLOOD):
        raw.send(frame(PING, 0, 0, bytes(8)) * 50_000)
    assert worker.memory_kb() < before + 4096


def test_a_client_that_opens_streams_and_reads_nothing(worker: Harness, pod: Pod) -> None:
    """200 streams, each with 64 KiB to come back: what waits for the client is bounded."""
    with Raw(pod.hbone) as raw:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.send(frame(SETTINGS, 0, 0, setting(4, MIB)) + window_update(0, 64 * MIB))
        raw.send(b"".join(connect(stream) for stream in range(1, 401, 2)))
        raw.send(b"".join(frame(DATA, 0, stream, os.urandom(16_384)) * 4 for stream in range(1, 401, 2)))
        eventually(lambda: worker.cell(PageCell.FLOWS_OPEN) >= 200, "200 streams")
        assert worker.cell(PageCell.BUFFERS_HIGH) * BUFFER < 16 * MIB
        raw.abort()


def test_broken_tls_record_in_the_middle(raw: Raw) -> None:
    opened(raw)
    plain = socket.socket(fileno=raw.sock.detach())
    with plain:
        plain.settimeout(10)
        plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(65_536):
                pass


def test_half_open_connections_do_not_pile_up(worker: Harness, pod: Pod) -> None:
    tunnels = worker.cell(PageCell.TUNNELS_OPEN)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(pod.hbone, 10))
        worker.wait_cell(PageCell.TUNNELS_OPEN, tunnels + 100)
        worker.wait_cell(PageCell.TUNNELS_OPEN, tunnels)


def test_a_half_sent_preface_is_dropped(worker: Harness, pod: Pod) -> None:
    with worker.counts(PageCell.TLS_TIMEOUT), Raw(pod.hbone, start=PREFACE[:10]) as raw:
        until_closed(raw)


def test_new_streams_after_our_goaway_are_not_served(app: apps.App) -> None:
    with Harness(deliver(app.address)) as worker, Raw(worker.add_pod().hbone) as raw:
        opened(raw)
        worker.drain(20_000)
        last = [int.from_bytes(raw.wait(GOAWAY).payload[:4], "big") for _ in range(2)]
        assert last == [0x7FFF_FFFF, 1]
        assert raw.frames[-1].number == NO_ERROR
        accepted = len(app.accepted)
        raw.send(connect(3) + frame(DATA, 0, 1, b"the old one"))
        assert echoed(raw, 1, 11) == b"the old one"
        assert len(app.accepted) == accepted
        assert not worker.count(Rec.DRAINED)
        raw.send(reset(1, CANCEL))
        worker.wait_record(Rec.DRAINED)
