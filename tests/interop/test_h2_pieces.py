"""TLS records and TCP segments fall where they like: the same client bytes mean the same, cut anywhere."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import apps, pki
from tests.support.raw_h2 import (
    ACK,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
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
from tests.support.worker_harness import Address, Harness, deliver

ORDINARY = (
    PREFACE
    + frame(SETTINGS, 0, 0, setting(4, 100_000) + setting(3, 7) + setting(0xF00D, 1))
    + window_update(0, 1_000)
    + frame(HEADERS, PADDED | PRIORITIZED, 1, b"\x03" + bytes(4) + b"\x10" + CONNECT[:20] + bytes(3))
    + frame(CONTINUATION, 0, 1)
    + frame(CONTINUATION, END_HEADERS, 1, CONNECT[20:])
    + frame(PRIORITY, 0, 3, b"\0\0\0\1\x05")
    + frame(DATA, PADDED, 1, b"\x02first" + bytes(2))
    + frame(0xBE, 0xFF, 1, b"an extension nobody knows")
    + connect(3, extra=literal(b"baggage", b"a=b"))
    + frame(DATA, PADDED, 3, b"\x00" + b"third")
    + frame(DATA, 0, 1)
    + frame(PING, 0, 0, b"12345678")
    + connect(5)
    + reset(5)
    + frame(DATA, PADDED | END_STREAM, 1, b"\x01" + b" second" + bytes(1))
    + frame(DATA, END_STREAM, 3)
)
BROKEN = PREFACE + frame(SETTINGS) + connect(1) + frame(DATA, 0, 1, b"hello") + frame(DATA, PADDED, 1, b"\x09abc")


@pytest.fixture(scope="module")
def hbone() -> Iterator[Address]:
    """Port 15008 of a worker in front of an application that echoes."""
    with apps.App() as app, Harness(deliver(app.address)) as worker:
        yield worker.add_pod().hbone
        worker.idle()


def play(hbone: Address, data: bytes, cuts: list[int]) -> None:
    """Send `data` with a TLS record for each piece, as an ordinary client, and require the ordinary outcome."""
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with Raw(hbone, _CONTEXT, start=b"") as raw:
        for start, end in itertools.pairwise(bounds):
            raw.send(data[start:end])
        if data is BROKEN:
            assert raw.goaway() == 1
            return
        ended: set[int] = set()
        bodies = {1: b"", 3: b""}
        while ended != {1, 3}:
            found = raw.next()
            assert found is not None, raw.frames
            if found.kind == DATA and found.stream in bodies:
                bodies[found.stream] += found.payload
                if found.flags & END_STREAM:
                    ended.add(found.stream)
            assert found.kind != RST_STREAM or found.number == 0 or found.stream == 5, found
        assert bodies == {1: b"first second", 3: b"third"}
        assert any(seen.kind == PING and seen.flags & ACK for seen in raw.frames)


_CONTEXT = pki.context("client", pki.credential("peer"))


@pytest.mark.parametrize("data", [ORDINARY, BROKEN], ids=["ordinary", "broken"])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 13, 64, 100_000])
def test_records_of_one_size(hbone: Address, data: bytes, step: int) -> None:
    play(hbone, data, list(range(0, len(data), step)))


def test_a_cut_at_every_point(hbone: Address) -> None:
    for at in range(1, len(ORDINARY)):
        play(hbone, ORDINARY, [at])


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(1, len(ORDINARY) - 1), max_size=30))
def test_cuts_anywhere(hbone: Address, cuts: list[int]) -> None:
    play(hbone, ORDINARY, cuts)


def test_tcp_segments_of_one_byte(hbone: Address) -> None:
    """Also the records themselves come in pieces: encrypted here, sent byte by byte."""
    plain = socket.create_connection(hbone, timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = (ssl.MemoryBIO() for _ in range(2))
    tls = _CONTEXT.wrap_bio(incoming, outgoing)

    def trickle() -> None:
        for byte in outgoing.read():
            plain.sendall(bytes((byte,)))

    def more() -> None:
        incoming.write(plain.recv(65_536))

    body = os.urandom(3_000)
    with plain:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                trickle()
                more()
        trickle()
        tls.write(PREFACE + frame(SETTINGS) + connect(1) + frame(DATA, END_STREAM, 1, body))
        trickle()
        received = b""
        while body[-100:] not in received:
            try:
                received += tls.read(65_536)
            except ssl.SSLWantReadError:
                more()
