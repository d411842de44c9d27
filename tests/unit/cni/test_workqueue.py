"""The work queue: one task a key at a time, many events are one job, failures come back later and later."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

from cni import workqueue
from cni.workqueue import WorkQueue

TIMEOUT = 5.0


def run(work: Callable[[str], Awaitable[bool]], test: Callable[[WorkQueue[str]], Awaitable[None]]) -> None:
    async def main() -> None:
        queue = WorkQueue(work, 3)
        task = asyncio.create_task(queue.run())
        try:
            async with asyncio.timeout(TIMEOUT):
                await test(queue)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_events_for_a_key_are_one_job_and_never_two_at_once() -> None:
    jobs: list[str] = []
    running = 0

    async def work(key: str) -> bool:
        nonlocal running
        running += 1
        assert running == 1
        jobs.append(key)
        await asyncio.sleep(0)
        running -= 1
        return True

    async def test(queue: WorkQueue[str]) -> None:
        for _ in range(5):
            queue.add("a")
        await queue.idle.wait()
        assert jobs == ["a"]

    run(work, test)


def test_an_event_during_the_job_makes_another_job() -> None:
    jobs = 0
    entered, release = asyncio.Event(), asyncio.Event()

    async def work(_: str) -> bool:
        nonlocal jobs
        jobs += 1
        entered.set()
        await release.wait()
        return True

    async def test(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await entered.wait()
        queue.add("a")
        queue.add("a")
        release.set()
        await queue.idle.wait()
        assert jobs == 2

    run(work, test)


def test_a_failure_comes_back_with_a_growing_pause() -> None:
    times: list[float] = []
    finished = asyncio.Event()

    async def work(_: str) -> bool:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 5:
            finished.set()
        return len(times) == 5

    async def test(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await finished.wait()
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        for number, pause in enumerate(pauses):
            assert pause >= workqueue.BACKOFF_FIRST_S * 2**number * 0.9

    run(work, test)


def test_hurry_does_not_wait_for_the_pause() -> None:
    jobs = 0
    second = asyncio.Event()

    async def work(_: str) -> bool:
        nonlocal jobs
        jobs += 1
        if jobs == 12:
            second.set()
        return False

    async def test(queue: WorkQueue[str]) -> None:
        for _ in range(12):  # by backoff alone the last would come after ten seconds
            queue.hurry("a")
            await queue.idle.wait()
        await second.wait()

    run(work, test)


def test_other_keys_go_on_while_one_is_stuck() -> None:
    stuck, other = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> bool:
        if key == "stuck":
            await stuck.wait()
        else:
            other.set()
        return True

    async def test(queue: WorkQueue[str]) -> None:
        queue.add("stuck")
        queue.add("other")
        await other.wait()
        assert not queue.idle.is_set()
        stuck.set()
        await queue.idle.wait()

    run(work, test)
