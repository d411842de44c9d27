"""A queue of keys with retries: a key is worked on by one task at a time, and once for many events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

BACKOFF_FIRST_S: Final = 0.005  # upstream's queue: 5 ms, doubled up to 5 s
BACKOFF_MAX_S: Final = 5.0


class WorkQueue(Generic[Key]):
    """`work(key)` answers whether the key is done with; otherwise it comes again after a growing pause."""

    def __init__(self, work: Callable[[Key], Awaitable[bool]], workers: int) -> None:
        self._work = work
        self._workers = workers
        self._ready: asyncio.Queue[Key] = asyncio.Queue()  # bounded by the number of keys: each is in it once
        self._dirty: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def add(self, key: Key) -> None:
        """Work on `key` soon. While it is being worked on, it is remembered and comes again afterwards."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._dirty:
            return
        self._dirty.add(key)
        self.idle.clear()
        if key not in self._busy:
            self._ready.put_nowait(key)

    def hurry(self, key: Key) -> None:
        """As `add`, and forget how often it failed."""
        self._failures.pop(key, None)
        self.add(key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._dirty.discard(key)
            self._busy.add(key)
            try:
                done = await self._work(key)
            finally:
                self._busy.discard(key)
            if key in self._dirty:
                self._ready.put_nowait(key)
            elif done:
                self._failures.pop(key, None)
            else:
                self._later(key)
            if not self._dirty and not self._busy:
                self.idle.set()

    def _later(self, key: Key) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 20))
        self._timers[key] = asyncio.get_running_loop().call_later(delay, self.add, key)
