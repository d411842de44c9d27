"""Colours of the scenarios: the same everywhere, for a light page and a dark one.

Chosen so that any two differ in the eyes of people with any of the three colour deficiencies, and each has a contrast
of 3:1 or more against its page. Lines also differ by marker, bars by label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class Colour(NamedTuple):
    """Hexadecimal, for a light page and for a dark one."""

    light: str
    dark: str


PAGE: Final = Colour("#ffffff", "#16181c")

SCENARIOS: Final[dict[str, Colour]] = {
    "direct": Colour("#3d3d3d", "#e4e4e4"),
    "relay": Colour("#5e5e5e", "#b1b1b1"),
    "ambient-l4": Colour("#005e98", "#207ff3"),
    "ambient-l4-policies": Colour("#1b9ec3", "#29b1f3"),
    "ambient-waypoint": Colour("#108d6f", "#4feb97"),
    "envoy-hbone": Colour("#ad8c2c", "#ecbe1f"),
    "envoy-sidecar": Colour("#a83308", "#e47338"),
    "envoy-waypoint-1": Colour("#e5579f", "#ba5d73"),
    "envoy-waypoint-50": Colour("#670e78", "#bd7eb0"),
    "envoy-waypoint-10000": Colour("#8959cb", "#9164b0"),
}
# For scenarios that have no colour of their own yet. They repeat when there are more.
_OTHERS: Final = (Colour("#2f6b2f", "#8fd18f"), Colour("#6b4a2f", "#d1a98f"), Colour("#2f3f6b", "#8f9fd1"))
_MARKERS: Final = "osD^vP*Xph"


class Style(NamedTuple):
    """How one scenario looks. `variable` is the CSS custom property that holds its colour."""

    colour: Colour
    variable: str
    marker: str


def styles(scenarios: Iterable[str]) -> dict[str, Style]:
    """A style for each scenario, whatever its name; those we know always look the same."""
    known = list(SCENARIOS)
    unknown = [name for name in dict.fromkeys(scenarios) if name not in SCENARIOS]
    found = {
        name: Style(SCENARIOS[name], f"--scenario-{index}", _MARKERS[index % len(_MARKERS)])
        for index, name in enumerate(known)
    }
    for index, name in enumerate(unknown):
        # Colours are told apart by value in the drawing, so whoever shares a colour shares the property.
        which = index % len(_OTHERS)
        found[name] = Style(_OTHERS[which], f"--scenario-{len(known) + which}", _MARKERS[index % len(_MARKERS)])
    return found
