"""Numbers with their units, as the page and the Markdown write them."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from bench.results import Figure, Unit


class Scale(NamedTuple):
    """A unit to show: the value of a document times `factor`, and the word behind it."""

    factor: float
    label: str


VCPU: Final = Scale(1.0, "vCPU")
MB: Final = Scale(1e-6, "MB")  # decimal, like GB and Gbit: the published figures do not say which they mean
MIB: Final = Scale(1 / 1024**2, "MiB")
GB: Final = Scale(1e-9, "GB")
GIB: Final = Scale(1 / 1024**3, "GiB")
KB: Final = Scale(1e-3, "KB")
BYTES: Final = Scale(1.0, "B")
MICROSECONDS: Final = Scale(1e6, "us")
FROM_MICROSECONDS: Final = Scale(1e-3, "ms")
GBIT: Final = Scale(8.0, "Gbit/s")
PER_SECOND: Final = Scale(1.0, "/s")

COST: Final[dict[Unit, Scale]] = {
    "request": Scale(1e6, "us/request"),
    "connection": Scale(1e6, "us/connection"),
    "GB": Scale(1.0, "s/GB"),
    "tunnel": Scale(1e6, "us/tunnel"),
}
"""CPU of one piece of work, from seconds."""

WORK: Final[dict[Unit, str]] = {
    "request": "requests",
    "connection": "connections",
    "GB": "GB",
    "tunnel": "tunnels",
}
"""Several pieces of work: "connections per CPU second"."""

CALLS: Final[dict[Unit, str]] = {
    "request": "per request",
    "connection": "per connection",
    "GB": "per MB",  # a run counts them so: a call moves kilobytes
    "tunnel": "per tunnel",
}


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never an exponent, thousands apart: 0.0612, 12.3, 1,234."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "?"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


def stated(value: float, scale: Scale, digits: int = 3) -> str:
    """A number without zeros at its end, as somebody wrote it down: "0.06 vCPU"."""
    text = significant(value * scale.factor, digits)
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text + scale.label if scale.label.startswith("/") else f"{text} {scale.label}"


def show(value: float, scale: Scale, digits: int = 3) -> str:
    """ "12.3 MB" """
    text = significant(value * scale.factor, digits)
    return text + scale.label if scale.label.startswith("/") else f"{text} {scale.label}".rstrip()


def spread(figure: Figure, factor: float = 1.0) -> str:
    """ "121 [118-130]": the median, and the range it was taken from unless there was one round only."""
    return ranged(figure.median, figure.low, figure.high, factor, single=figure.samples < 2)


def ranged(value: float, low: float, high: float, factor: float = 1.0, *, single: bool = False) -> str:
    """The same of three numbers."""
    text = significant(value * factor)
    if single or low == high:
        return text
    # A dash between negative numbers would read as another minus.
    between = " to " if low < 0 else "-"
    return f"{text} [{significant(low * factor)}{between}{significant(high * factor)}]"


def inverse(figure: Figure) -> Figure:
    """Pieces of work per CPU second, from CPU seconds per piece. None of them may be free."""
    return Figure(1 / figure.median, 1 / figure.high, 1 / figure.low, figure.samples)


def times(ratio: float) -> str:
    """ "0.73 x" """
    return f"{significant(ratio)} x"
