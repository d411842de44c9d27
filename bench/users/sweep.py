"""Which step of a sweep it is; the conditions are those of Istio 1.24's published measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RATES: Final = (500, 750, 1000, 1250, 1500)  # requests/s over all connections
CONNECTIONS: Final = 4
STEP_SECONDS: Final = 30.0


def step_at(elapsed: float, rates: Sequence[int], step_seconds: float) -> int | None:
    """The index of the rate that holds `elapsed` seconds after the start; None once all have had their time."""
    step = int(elapsed / step_seconds)
    return step if step < len(rates) else None
