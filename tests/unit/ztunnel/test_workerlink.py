"""The link to one worker, with the worker's end of the socket in the test's hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from meshcore import records
from meshcore.records import Rec
from tests.support.processes import open_fds
from ztunnel import workerlink
from ztunnel.workerlink import LinkLost, WorkerLink

DEADLINE = 10.0


def record(kind: Rec, body: bytes = b"", version: int = records.RECORDS_VERSION) -> bytes:
    return records.HEAD.pack(kind, version, records.HEAD.size + len(body)) + body


HELLO = record(Rec.HELLO, struct.pack("=II", 4711, records.RECORDS_VERSION))


class End:
    """The link under test and the other end."""

    def __init__(self) -> None:
        mine, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(DEADLINE)
        self.hello = 0
        self.records: list[tuple[Rec, bytes]] = []
        self.lost: list[str] = []
        self.link = WorkerLink(3, mine, on_hello=self._hello, on_record=self._record, on_lost=self._lost)

    def _hello(self, link: WorkerLink) -> None:
        self.hello += 1

    def _record(self, link: WorkerLink, kind: Rec, data: bytes) -> None:
        self.records.append((kind, data))

    def _lost(self, link: WorkerLink, error: LinkLost) -> None:
        self.lost.append(str(error))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - several sources can make it true
                await asyncio.sleep(0.001)


def check(test: Callable[[End], Awaitable[None]]) -> None:
    async def main() -> None:
        end = End()
        try:
            await test(end)
        finally:
            end.link.close()
            end.sock.close()

    uvloop.run(main())


def test_hello_comes_first() -> None:
    async def test(end: End) -> None:
        ready = [end.link.ready]
        end.sock.send(HELLO)
        await end.until(lambda: end.hello)
        assert [*ready, end.link.ready] == [False, True]
        assert end.link.pid == 4711
        end.sock.send(record(Rec.DRAINED))
        await end.until(lambda: end.records)
        assert end.records[0][0] is Rec.DRAINED

    check(test)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record(Rec.DRAINED), "first record is DRAINED"),
        (record(Rec.HELLO, struct.pack("=II", 1, 99)), "record version 99"),
        (record(Rec.HELLO, b"\0" * 8, version=9), "record version 9"),
        (struct.pack("=HHI", 999, 1, 8), "unknown record type 999"),
        (struct.pack("=HHI", 65, 1, 800), "says 800 bytes"),
        (b"abc", "no head"),
    ],
)
def test_what_is_not_our_protocol_ends_the_link(data: bytes, reason: str) -> None:
    async def test(end: End) -> None:
        end.sock.send(data)
        await end.until(lambda: end.lost)
        assert reason in end.lost[0]
        assert "worker 3" in end.lost[0]
        assert not end.link.open

    check(test)


def test_the_end_of_the_worker_is_told_once() -> None:
    async def test(end: End) -> None:
        end.sock.send(HELLO)
        end.sock.close()
        await end.until(lambda: end.lost)
        end.link.send(b"x")
        end.link.close()
        assert end.lost == ["worker 3: it ended"]

    check(test)


def test_a_worker_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workerlink, "QUEUE_MAX", 2**20)

    async def test(end: End) -> None:
        before = len(open_fds())
        for _ in range(1000):
            end.link.send(b"x" * 16384, [end.sock.fileno()])
        assert len(end.lost) == 1
        assert "did not take" in end.lost[0]
        assert len(open_fds()) <= before  # queued duplicates are closed

    check(test)


def test_records_of_the_largest_size_pass() -> None:
    async def test(end: End) -> None:
        end.link.send(b"x" * records.RECORD_MAX)
        assert len(end.sock.recv(2 * records.RECORD_MAX)) == records.RECORD_MAX

    check(test)
