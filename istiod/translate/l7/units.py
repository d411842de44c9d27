"""Texts and numbers of Istio's API in the units of the model."""

from __future__ import annotations

import re
from typing import Final

from istiod.objects.virtual_service import Percent
from meshcore.l7 import PPM

_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_MS: Final = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}
MILLISECONDS_MAX: Final = 2**31 - 1
"""24 days; a longer time is cut to it, so that it fits a timer everywhere."""


def milliseconds(text: str | None, default: int = 0) -> int:
    """A duration such as `1h30m` or `0.5s`; `default` if it is absent or no duration. What is not 0 is at least 1."""
    if not text:
        return default
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0 if text == "0" else default
    total = sum(float(number) * _MS[unit] for number, unit in parts)
    return int(min(max(total, 1.0), MILLISECONDS_MAX)) if total else 0


def share(percent: Percent | None, default: int = 0) -> int:
    """Percent to parts per million."""
    return default if percent is None else percent_share(percent.value)


def percent_share(percent: float) -> int:
    return round(min(max(percent, 0.0), 100.0) * PPM / 100)
