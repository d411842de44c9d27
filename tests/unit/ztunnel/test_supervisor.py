"""Supervision of workers: real zygote and processes, the worker itself played in Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from meshcore.records import SLOT_MAX, PageCell, Rec, SlotCell, encode_pod_add, encode_sans
from ztunnel import config
from ztunnel.pages import Pages
from ztunnel.supervisor import FREE_RESPAWNS, Supervisor, respawn_delay
from ztunnel.workerlink import WorkerLink

FAKE = "tests.support.fake_worker"
DEADLINE = 20.0


class Watched:
    """A supervisor and what it reported."""

    def __init__(self, count: int, hung_timeout: float = 60.0) -> None:
        self.pages = Pages(count)
        self.started: list[tuple[int, int]] = []  # index, pid
        self.gone: list[int] = []
        self.records: list[tuple[int, Rec]] = []
        self.supervisor = Supervisor(
            self.pages,
            environment=config.child_environment(),
            on_start=lambda link: self.started.append((link.index, link.pid)),
            on_record=lambda link, kind, record: self.records.append((link.index, kind)),
            on_gone=self.gone.append,
            hung_timeout=hung_timeout,
            worker_module=FAKE,
        )

    def link(self, index: int) -> WorkerLink:
        return self.supervisor.links[index]

    def tell(self, index: int, command: str) -> None:
        self.link(index).send(encode_sans(1, (command,)))


async def until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def watched(count: int = 2, hung_timeout: float = 60.0) -> AsyncIterator[Watched]:
    found = Watched(count, hung_timeout)
    found.supervisor.start()
    try:
        await until(lambda: len(found.started) == count, "all workers to start")
        yield found
    finally:
        found.supervisor.kill()
        found.pages.close()


def test_a_killed_worker_is_back_within_200_ms_and_its_counts_stay() -> None:
    async def main() -> None:
        async with watched() as mesh:
            mesh.tell(0, f"count 5 {SlotCell.OPENED} 42")
            await until(lambda: mesh.pages.read(5)[SlotCell.OPENED] == 42, "the count")
            victim = mesh.link(0).pid
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await until(lambda: len(mesh.started) == 3, "the successor")
            took = time.monotonic() - began
            assert mesh.gone == [0]
            assert mesh.started[2][0] == 0
            assert mesh.started[2][1] != victim
            assert took < 0.2
            assert mesh.pages.read(5)[SlotCell.OPENED] == 42
            assert mesh.pages[0].cell(PageCell.PID) == mesh.link(0).pid

    asyncio.run(main())


def test_descriptors_go_with_a_record_and_stay_ours() -> None:
    async def main() -> None:
        async with watched(1) as mesh:
            mine, theirs = socket.socketpair()
            with mine, theirs:
                fds = [theirs.fileno()] * 4
                mesh.link(0).send(encode_pod_add(1, 1, spoof=False), fds)
                await until(lambda: mesh.records == [(0, Rec.POD_READY)], "POD_READY")
                theirs.send(b"still open")
                assert mine.recv(100) == b"still open"

    asyncio.run(main())


def test_a_worker_that_does_not_read_gets_its_records_later_and_in_order() -> None:
    async def main() -> None:
        async with watched(1) as mesh:
            os.kill(mesh.link(0).pid, signal.SIGSTOP)
            read_end, write_end = os.pipe()
            for pod_id in range(1, 3001):
                mesh.link(0).send(encode_pod_add(pod_id, 1, spoof=False), [write_end] if pod_id == 3000 else ())
            os.close(write_end)  # queued records keep a duplicate
            os.kill(mesh.link(0).pid, signal.SIGCONT)
            await until(lambda: len(mesh.records) == 3000, "all answers")
            os.set_blocking(read_end, False)
            with pytest.raises(BlockingIOError):
                os.read(read_end, 1)  # somebody holds the other end: the worker
            os.close(read_end)

    asyncio.run(main())


@pytest.mark.parametrize("command", ["garbage", "exit 3"])
def test_a_worker_that_fails_is_replaced(command: str) -> None:
    async def main() -> None:
        async with watched() as mesh:
            mesh.tell(1, command)
            await until(lambda: len(mesh.started) == 3, "the successor")
            assert mesh.gone == [1]
            assert mesh.supervisor.restarts == 1

    asyncio.run(main())


def test_a_hung_worker_is_killed_and_an_idle_one_is_not() -> None:
    async def main() -> None:
        async with watched(hung_timeout=0.4) as mesh:
            idle = mesh.link(0).pid
            victim = mesh.link(1).pid
            mesh.tell(1, "hang")
            await until(lambda: len(mesh.started) == 3, "the successor")
            assert mesh.gone == [1]
            assert mesh.link(0).pid == idle
            await until(lambda: not os.path.exists(f"/proc/{victim}"), "the end of the hung one")  # noqa: PTH110

    asyncio.run(main())


def test_crash_loops_wait_longer_and_longer() -> None:
    assert [respawn_delay(n) for n in range(FREE_RESPAWNS + 1)] == [0.0] * (FREE_RESPAWNS + 1)
    delays = [respawn_delay(n) for n in range(FREE_RESPAWNS + 1, FREE_RESPAWNS + 12)]
    assert delays == sorted(delays)
    assert delays[0] == 0.5
    assert delays[-1] == 30.0


def test_a_dead_zygote_is_replaced_and_workers_go_on() -> None:
    async def main() -> None:
        async with watched() as mesh:
            before = dict(mesh.started)
            zygote = int(open(f"/proc/{before[0]}/stat").read().rpartition(")")[2].split()[1])  # noqa: PTH123, SIM115, ASYNC230
            os.kill(zygote, signal.SIGKILL)
            await until(lambda: not os.path.exists(f"/proc/{zygote}"), "the end of the zygote")  # noqa: PTH110
            assert {link.index: link.pid for link in mesh.supervisor.ready_links} == before
            mesh.tell(0, "exit 1")
            await until(lambda: len(mesh.started) == 3, "a worker of the new zygote")
            assert mesh.link(1).pid == before[1]

    asyncio.run(main())


def test_stop_ends_every_process() -> None:
    async def main() -> None:
        async with watched() as mesh:
            pids = [pid for _, pid in mesh.started]
            await mesh.supervisor.stop()
            await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the end of all")  # noqa: PTH110
            assert mesh.supervisor.restarts == 0

    asyncio.run(main())


def test_counters_are_summed_over_workers() -> None:
    pages = Pages(2)
    for page, value in zip(pages.pages, (1, 10), strict=True):
        os.pwrite(page.fd, value.to_bytes(8, "little"), 4096 + 128 * 7 + 8 * SlotCell.RECEIVED)
    assert pages.read(7)[SlotCell.RECEIVED] == 11
    assert sum(pages.read(SLOT_MAX - 1)) == 0
    pages.close()
