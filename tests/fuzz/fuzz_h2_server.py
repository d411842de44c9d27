"""Fuzz entry of a whole worker: any bytes after the preface, on one TLS connection to 15008, never harm another."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
from collections.abc import Iterator

from meshcore.records import PageCell
from tests.support import apps, pki
from tests.support.raw_h2 import (
    CONNECT,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
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

START = frame(SETTINGS)
SEEDS = (
    b"\x00" + START + connect(1) + frame(DATA, 0, 1, b"hello") + frame(DATA, END_STREAM, 1),
    b"\x01" + START + connect(1) + connect(3) + frame(DATA, PADDED, 3, b"\x02abcd\0\0") + reset(1) + reset(3),
    b"\x07" + frame(SETTINGS, 0, 0, setting(4, 0) + setting(5, 16_384)) + connect(1) + window_update(1, 9),
    b"\x40"
    + START
    + frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"\0\0\0\0\1" + CONNECT)
    + frame(PING, 0, 0, bytes(8)),
    b"\x10" + START + frame(HEADERS, END_HEADERS, 1, CONNECT + literal(b"baggage", b"a=b") + b"\x82\x84\x87"),
    b"\x00" + START + frame(HEADERS, 0, 1, CONNECT[:9]) + frame(9, END_HEADERS, 1, CONNECT[9:]) + window_update(0, 1),
)
CHECK_EVERY = 16  # inputs between two looks at what the worker still holds

_count = itertools.count(1)
_context = functools.cache(lambda: pki.context("client", pki.credential("peer")))


@contextlib.contextmanager
def _scene() -> Iterator[tuple[Harness, Address, Raw]]:
    with apps.App() as app, Harness(deliver(app.address), config={"log_access": 0}) as worker:
        address = worker.add_pod().hbone
        with Raw(address) as neighbour:
            neighbour.send(connect(1))
            yield worker, address, neighbour


@functools.cache
def _started() -> tuple[Harness, Address, Raw]:
    """One worker for the whole run: what an input leaves behind meets the next one."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_scene())


def fuzz_one(data: bytes) -> None:
    """The first byte chooses the size of the TLS records (0: one record), the rest comes after the preface."""
    worker, address, neighbour = _started()
    step = data[0] % 128 if data else 0
    with Raw(address, _context(), start=PREFACE) as raw:
        body = data[1:]
        size = step or len(body) or 1
        for at in range(0, len(body), size):
            raw.send(body[at : at + size])
    assert worker.alive(), worker.report()
    if next(_count) % CHECK_EVERY == 0:
        neighbour.send(frame(DATA, 0, 1, b"x"))
        assert neighbour.wait(DATA, 1).payload == b"x"
        worker.wait_cell(PageCell.FLOWS_OPEN, 1)
        worker.wait_cell(PageCell.BUFFERS_OUT, 0)
