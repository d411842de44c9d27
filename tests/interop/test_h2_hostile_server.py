"""Our HBONE client against servers that break or abuse HTTP/2: left with the right code, and nothing is kept."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import hpack
import pytest

from meshcore.records import Flag, PageCell, SlotCell
from tests.support import apps, pki
from tests.support.raw_h2 import (
    COMPRESSION_ERROR,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    Raw,
    frame,
    literal,
    reset,
    window_update,
)
from tests.support.worker_harness import TIMEOUT, Address, Harness, eventually, tunnel

MIB = 1 << 20
OK = b"\x88"  # HPACK: `:status 200`, static index 8


class RawServer(Raw):
    """The server's end of a connection; the preface has been read and checked."""

    def __init__(self, plain: socket.socket) -> None:
        self.sock = pki.context("server", pki.credential("peer")).wrap_socket(plain, server_side=True)
        self.sock.settimeout(TIMEOUT)
        self.frames: list[Frame] = []
        self.closed = False
        self._buffer = bytearray()
        self._decoder = hpack.Decoder()
        assert apps.read_exactly(self.sock, len(PREFACE)) == PREFACE

    def accept(self) -> None:
        """SETTINGS, then 200 to the first CONNECT."""
        self.send(frame(SETTINGS))
        self.wait(HEADERS, 1)
        self.send(frame(HEADERS, END_HEADERS, 1, OK))


@contextlib.contextmanager
def server(script: Callable[[RawServer], object]) -> Iterator[Address]:
    """An HBONE server that runs `script` on each connection. What the script raises fails the test."""
    failures: list[BaseException] = []

    def serve(plain: socket.socket) -> None:
        try:
            script(RawServer(plain))
        except AssertionError as error:
            failures.append(error)

    with apps.App(serve) as app:
        yield app.address
    assert not failures, failures[0]


def dial(harness: Harness) -> None:
    """One application connection; it ends without a byte."""
    with socket.create_connection(harness.add_pod().outbound, TIMEOUT) as sock:
        sock.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(10) == b""


OFFENCES: dict[str, tuple[bytes, int]] = {
    "DATA on an idle stream": (frame(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
    "HEADERS on an idle stream": (frame(HEADERS, END_HEADERS, 7, OK), PROTOCOL_ERROR),
    "stream opened by the server": (frame(HEADERS, END_HEADERS, 2, OK), PROTOCOL_ERROR),
    "PUSH_PROMISE though push is off": (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + OK), PROTOCOL_ERROR),
    "frame over the announced size": (frame(DATA, 0, 1, size=MIB + 1), FRAME_SIZE_ERROR),
    "window overflow": (window_update(0, 0x7FFF_FFFF), FLOW_CONTROL_ERROR),
    "bad padding": (frame(DATA, PADDED, 1, b"\x09abc"), PROTOCOL_ERROR),
    "HPACK garbage": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\x0f"), COMPRESSION_ERROR),
    "noise": (bytes(range(1, 200)), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", OFFENCES)
def test_a_broken_frame_ends_the_tunnel(name: str) -> None:
    data, expected = OFFENCES[name]
    codes: list[int] = []

    def offend(peer: RawServer) -> None:
        peer.accept()
        peer.send(data)
        codes.append(peer.goaway())

    with server(offend) as address, Harness(tunnel(address)) as worker:
        dial(worker)
        eventually(lambda: codes == [expected], lambda: f"GOAWAY {expected}; seen: {codes}")
        worker.wait_cell(PageCell.H2_GOAWAY_SENT, 1)
        worker.idle()


FLOODS: dict[str, tuple[bytes, PageCell]] = {
    "ping": (frame(PING, 0, 0, bytes(8)), PageCell.H2_PING_FLOOD),
    "settings": (frame(SETTINGS), PageCell.H2_SETTINGS_FLOOD),
    "empty DATA": (frame(DATA, 0, 1), PageCell.H2_EMPTY_FLOOD),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_stopped(name: str) -> None:
    one, counter = FLOODS[name]
    codes: list[int] = []

    def drown(peer: RawServer) -> None:
        peer.accept()
        peer.send(one * 5_000)
        codes.append(peer.goaway())

    with server(drown) as address, Harness(tunnel(address)) as worker:
        dial(worker)
        worker.wait_cell(counter, 1)
        eventually(lambda: codes == [ENHANCE_YOUR_CALM], lambda: f"GOAWAY; seen: {codes}")
        worker.idle()


def test_header_list_of_an_answer_is_bounded() -> None:
    def boast(peer: RawServer) -> None:
        peer.send(frame(SETTINGS))
        peer.wait(HEADERS, 1)
        peer.send(frame(HEADERS, END_HEADERS, 1, OK + literal(b"x", b"y" * 1000) * 20))
        while peer.next() is not None:
            pass

    with server(boast) as address, Harness(tunnel(address)) as worker:
        dial(worker)
        worker.wait_slot(SlotCell.FAILED + Flag.CONNECT, 1)
        worker.idle()
        assert worker.cell(PageCell.H2_HEADERS_TOO_BIG) == 1, "what a peer broke is not tried again"
        assert "http status" not in worker.wait_log("error=")


def test_data_before_the_answer_is_refused() -> None:
    def hurry(peer: RawServer) -> None:
        peer.send(frame(SETTINGS))
        peer.wait(HEADERS, 1)
        peer.send(frame(DATA, 0, 1, b"too early"))
        peer.next()

    with server(hurry) as address, Harness(tunnel(address)) as worker:
        dial(worker)
        worker.wait_slot(SlotCell.FAILED + Flag.CONNECT, 1)
        worker.idle()


def test_interim_answers_are_skipped() -> None:
    def hints_first(peer: RawServer) -> None:
        peer.send(frame(SETTINGS))
        peer.wait(HEADERS, 1)
        peer.send(frame(HEADERS, END_HEADERS, 1, literal(b":status", b"103")))
        peer.send(frame(HEADERS, END_HEADERS, 1, OK) + frame(DATA, 0, 1, b"hello"))
        peer.next()

    with server(hints_first) as address, Harness(tunnel(address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, TIMEOUT) as sock:
            assert apps.read_exactly(sock, 5) == b"hello"
        worker.idle()


def test_a_server_without_settings_is_left() -> None:
    done = threading.Event()
    config = {"tls_timeout_ms": 400, "response_timeout_ms": 400}
    with server(lambda _: done.wait(TIMEOUT)) as address, Harness(tunnel(address), config=config) as worker:
        dial(worker)
        done.set()
        worker.idle()
        assert "timed out" in worker.wait_log("error=")


@pytest.mark.parametrize("window", [1, 100])
def test_the_window_of_the_server_is_kept_to_the_byte(window: int) -> None:
    body = bytes(range(1, 201))
    received = bytearray()

    def drip(peer: RawServer) -> None:
        peer.send(frame(SETTINGS, 0, 0, b"\0\4" + window.to_bytes(4, "big")))
        peer.wait(HEADERS, 1)
        peer.send(frame(HEADERS, END_HEADERS, 1, OK))
        while len(received) < len(body):
            piece = peer.wait(DATA, 1).payload
            assert len(piece) <= window
            received.extend(piece)
            peer.send(frame(WINDOW_UPDATE, 0, 1, len(piece).to_bytes(4, "big")))

    with server(drip) as address, Harness(tunnel(address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, TIMEOUT) as sock:
            sock.sendall(body)
            eventually(lambda: received == body, "every byte")
        worker.idle()


def test_the_settings_of_the_client_are_upstreams() -> None:
    seen: dict[int, int] = {}
    credit: list[int] = []

    def look(peer: RawServer) -> None:
        payload = peer.wait(SETTINGS).payload
        for at in range(0, len(payload), 6):
            seen[int.from_bytes(payload[at : at + 2], "big")] = int.from_bytes(payload[at + 2 : at + 6], "big")
        credit.append(peer.wait(WINDOW_UPDATE, 0).number)

    with server(look) as address, Harness(tunnel(address)) as worker:
        dial(worker)
        eventually(lambda: bool(credit), "SETTINGS and WINDOW_UPDATE")
        # ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE; no MAX_CONCURRENT_STREAMS
        assert seen == {2: 0, 4: 4 * MIB, 5: MIB, 6: 16 << 10}
        assert set(credit) == {16 * MIB - 65_535}


def test_a_server_that_has_ended_and_wants_no_more() -> None:
    """RFC 9113 section 8.1: END_STREAM, then RST_STREAM(NO_ERROR)."""
    ended = threading.Event()

    def enough(peer: RawServer) -> None:
        peer.accept()
        peer.send(frame(DATA, END_STREAM, 1, b"enough"))
        assert ended.wait(TIMEOUT)
        peer.send(reset(1, NO_ERROR))
        while peer.next() is not None:
            pass

    with server(enough) as address, Harness(tunnel(address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, TIMEOUT) as sock:
            sock.settimeout(TIMEOUT)
            sock.sendall(b"an upload that goes on")
            assert apps.read_to_end(sock) == b"enough"
            assert worker.cell(PageCell.FLOWS_OPEN) == 1, "the other direction goes on"
            ended.set()
            worker.wait_cell(PageCell.FLOWS_OPEN, 0)
        worker.idle()
