"""A drain waits for its workers, whatever happened to workers before."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from meshcore.records import Rec
from ztunnel.drain import Drain
from ztunnel.supervisor import Supervisor
from ztunnel.workerlink import WorkerLink


class Link:
    def __init__(self, index: int) -> None:
        self.index = index


class Workers:
    """Two workers, of which we see what they are told."""

    def __init__(self) -> None:
        self.ready_links = [Link(0), Link(1)]
        self.told: list[int] = []
        self.stopped = False

    def hold(self) -> None:
        pass

    def broadcast(self, record: bytes) -> None:
        self.told.append(record[0])

    async def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("crashed_before", [False, True])
def test_workers_are_stopped_only_when_all_have_drained(crashed_before: bool) -> None:
    async def main() -> None:
        workers = Workers()
        drain = Drain(cast(Supervisor, workers), lambda: None)
        if crashed_before:
            drain.lost(0)
        run = asyncio.create_task(drain.run(5.0))
        for link in workers.ready_links:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert workers.told == [Rec.DRAIN]
            assert not workers.stopped
            drain.drained(cast(WorkerLink, link))
        assert await asyncio.wait_for(run, 1.0)
        assert workers.stopped

    asyncio.run(main())
