"""When a user's requests are due, and how finely their times are kept."""

from __future__ import annotations

import math
from typing import Final

BACKLOG_MAX: Final = 1.0  # seconds of late requests that are made up for; beyond that they are given up
_DIGITS: Final = 3
_STEP_MIN: Final = 0.001  # ms


class Schedule:
    """Slots of one user, `1 / rate` seconds apart, on a grid that all users of a process share.

    `share` says where in that interval this user's slots lie, 0 <= share < 1: with index/N the requests of N users are
    evenly spaced, where users that start together would ask together. A late user asks again at once until it has
    caught up, so that a hiccup changes neither the rate nor the spacing.
    """

    def __init__(self, now: float, rate: float, share: float) -> None:
        """`now` in seconds of any steady clock, `rate` in requests/s; the first slot is the next on the grid."""
        self._align(now, rate, share)

    def _align(self, now: float, rate: float, share: float) -> None:
        self._rate, self._share = rate, share
        period = 1 / rate
        self.due = now + (share * period - now) % period

    def advance(self, now: float, rate: float, share: float) -> float:
        """Go to the next slot -> seconds until it is due, 0 when it is late."""
        if (rate, share) != (self._rate, self._share):
            self._align(now, rate, share)
        else:
            period = 1 / rate
            self.due += period
            if self.due < now - BACKLOG_MAX:
                self.due += math.ceil((now - self.due) / period) * period
        return max(0.0, self.due - now)


def rounded(response_ms: float) -> float:
    """A response time in ms -> the same to three digits, and no finer than 1 us: what the statistics count under."""
    if response_ms < _STEP_MIN:
        return 0.0
    return round(response_ms, min(_DIGITS, _DIGITS - 1 - math.floor(math.log10(response_ms))))
