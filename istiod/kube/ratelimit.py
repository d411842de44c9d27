"""A token bucket for requests and the waits between attempts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from meshcore.errors import Unavailable

Clock = Callable[[], float]
"""Monotonic seconds."""
Sleep = Callable[[float], Awaitable[object]]

WAIT_MAX_S: Final = 30.0
"""Who would have to queue longer is refused instead."""
BACKOFF_MIN_S: Final = 0.8
BACKOFF_MAX_S: Final = 30.0
"""Both are those of client-go's reflector."""


class TokenBucket:
    """`rate` requests a second, and `burst` of them at once; callers are served in the order they came."""

    def __init__(self, rate: float, burst: int, *, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"a bucket of rate {rate} and burst {burst} lets nothing through")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._sleep = sleep
        self._tokens = self._burst
        self._filled = clock()

    async def acquire(self) -> None:
        """Wait for a turn. Raises Unavailable if that would take longer than WAIT_MAX_S."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        wait = (1.0 - self._tokens) / self._rate
        if wait > WAIT_MAX_S:
            raise Unavailable(
                f"requests to the API server queue for {wait:.0f} s at {self._rate:g} per second; raise the limit"
            )
        self._tokens -= 1.0  # below zero: a place in the queue, taken before the wait
        if wait > 0:
            await self._sleep(wait)


class Backoff:
    """Exponential with full jitter: the n-th wait is anywhere between 0 and min(`most`, `least` * 2**n) seconds."""

    def __init__(
        self,
        least: float = BACKOFF_MIN_S,
        most: float = BACKOFF_MAX_S,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._least = least
        self._most = most
        self._uniform = uniform
        self._ceiling = least

    def next(self) -> float:
        wait = self._uniform(0.0, self._ceiling)
        self._ceiling = min(self._most, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        self._ceiling = self._least
