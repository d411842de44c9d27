"""How long it takes until a proxy has what changed: one clock for each subscription to a type."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from istiod.metrics import Metrics


class _Wait(NamedTuple):
    changed_at: float
    """The first change of the push that is waited for."""

    queued_at: float


class Convergence:
    """Follows one subscription. What changes while a response is under way is measured with the next one.

    The first response of a stream is the proxy's wish, not a change: only what was published after it counts.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._queued: _Wait | None = None
        self._sent: _Wait | None = None
        self._more = False

    def changed(self, changed_at: float) -> None:
        """Something was published that this proxy does not have; its change was noticed at `changed_at`."""
        if self._queued is None:
            self._queued = _Wait(changed_at, self._clock())

    def responded(self, *, more: bool) -> None:
        """A response is on its way; it brings what was queued, or a part of it if there is `more`."""
        self._more = more
        if self._queued is not None:
            self._metrics.observe("pilot_proxy_queue_time", self._clock() - self._queued.queued_at)
            self._sent = self._sent or self._queued
            self._queued = None

    def nothing(self) -> None:
        """What changed makes no difference to this proxy."""
        self._queued = None

    def answered(self, *, accepted: bool) -> None:
        """The proxy acknowledged or refused the response."""
        if not accepted:
            self._sent = None
        elif self._sent is not None and not self._more:
            self._metrics.observe("pilot_proxy_convergence_time", self._clock() - self._sent.changed_at)
            self._sent = None
