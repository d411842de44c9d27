"""Published figure, our figure, Envoy here: one row for each published figure, none of them made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from bench.published import PUBLISHED, Found, Missing, Published
from bench.reporting.merging import Merged
from bench.reporting.units import Scale, ranged, significant, spread, stated, times

State = Literal["", "missing", "unusable"]

NOT_MEASURED: Final = "not measured"


class Cell(NamedTuple):
    """What a table shows; `state` says why it is no figure, `detail` what stands behind it."""

    text: str
    state: State = ""
    detail: str = ""


class Row(NamedTuple):
    """One published figure beside what a document says."""

    group: str
    title: str
    better: str
    published: Cell
    ours: Cell
    envoy: Cell
    over_published: Cell
    over_envoy: Cell
    source: str
    conditions: str
    notes: list[str]


def compare(merged: Merged, published: Sequence[Published] = PUBLISHED) -> list[Row]:
    """A row for each published figure, in its order."""
    return [_row(merged, one) for one in published]


def _row(merged: Merged, one: Published) -> Row:
    ours, envoy = one.ours.look(merged.document), one.envoy.look(merged.document)
    return Row(
        one.group,
        one.title,
        "higher is better" if one.higher_is_better else "lower is better",
        Cell(stated(one.value, one.scale)),
        figure_cell(ours, one.scale),
        figure_cell(envoy, one.scale),
        _over(ours, one.value),
        _over(ours, envoy),
        one.source.title,
        one.source.conditions,
        _notes(merged, one, ours, envoy),
    )


def figure_cell(found: Found | Missing, scale: Scale) -> Cell:
    """The figure with its range; with its flaws when it must not be used."""
    if isinstance(found, Missing):
        return Cell(NOT_MEASURED, "missing", found.reason)
    value, low, high, detail = found.reading
    text = ranged(value, low, high, scale.factor, single=found.measured.rounds < 2)
    text += scale.label if scale.label.startswith("/") else f" {scale.label}"
    if found.flaws:
        return Cell(f"{text}; unusable: {', '.join(found.flaws)}", "unusable", detail)
    return Cell(text, "", detail)


def _over(ours: Found | Missing, other: Found | Missing | float) -> Cell:
    """Ours over the other; no ratio of what is missing or not to be used, nor over nothing."""
    sides = [side for side in (ours, other) if not isinstance(side, float | int)]
    if any(isinstance(side, Missing) for side in sides):
        return Cell("-", "missing")
    if any(isinstance(side, Found) and side.flaws for side in sides):
        return Cell("unusable", "unusable")
    below = other.reading.value if isinstance(other, Found) else other
    if not isinstance(ours, Found) or isinstance(below, Missing) or below <= 0 or ours.reading.value < 0:
        return Cell("-", "missing", "no ratio of figures below zero")
    return Cell(times(ours.reading.value / below))


def _notes(merged: Merged, one: Published, ours: Found | Missing, envoy: Found | Missing) -> list[str]:
    found = []
    for name, side in (("ours", ours), ("Envoy", envoy)):
        if isinstance(side, Found) and side.reading.detail:
            found.append(f"{name}: {side.reading.detail} (the dearest counts)")
    usable = isinstance(ours, Found) and isinstance(envoy, Found) and not (ours.flaws or envoy.flaws)
    if usable and isinstance(ours, Found) and one.ours.quantity in {"vcpu", "cpu per unit"}:
        paired = ours.measured.ratio.get(one.envoy.scenario)
        if paired is not None:
            found.append(f"CPU of whole paths in the same rounds, ours over Envoy: {spread(paired)}")
    if usable and not merged.together(one.ours.load, one.ours.scenario, one.envoy.scenario):
        found.append("ours and Envoy were measured in different runs")
    if one.of_envoy and isinstance(envoy, Found) and not envoy.flaws:
        found.append(f"Envoy here is {significant(envoy.reading.value / one.value)} x the published Envoy")
    if one.caveat:
        found.append(one.caveat)
    return found
