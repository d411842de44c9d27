"""Horizontal bars in panels: a bar per scenario, made of parts, with a whisker and a number at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.reporting import svg
from bench.reporting.palette import Style
from bench.reporting.readings import part_of, proxy_of
from bench.reporting.svg import GRID, INK, MUTED, PAPER, drawing, plain
from bench.reporting.units import significant

WIDTH: Final = 5.8  # inches; a phone shows it scaled, so letters must not be small
_BAR: Final = 0.21  # inches
_AROUND: Final = 0.52  # inches of a panel beside its bars: title, axis
_LEGEND: Final = 0.3  # inches
_ROOM: Final = 1.42  # of the longest bar, so that the number behind it fits


class Segment(NamedTuple):
    """A piece of a bar: what a part of a proxy contributes."""

    value: float
    striped: bool = False
    """A part that decides and does not carry traffic."""
    faint: bool = False
    """A proxy that stands beside what is measured."""


class Bar(NamedTuple):
    """One row of a panel."""

    label: str
    scenario: str
    segments: list[Segment]
    note: str
    """Behind the number: why it must not be used."""
    whisker: tuple[float, float] | None = None
    total: float | None = None
    """What the number says, if not the sum of what is measured."""
    apart: bool = False
    """Leave some room above it: a group begins."""

    @property
    def number(self) -> float:
        if self.total is not None:
            return self.total
        return sum(each.value for each in self.segments if not each.faint)

    @property
    def text(self) -> str:
        beside = sum(each.value for each in self.segments if each.faint)
        more = f" + {significant(beside)} beside" if beside else ""
        return significant(self.number) + more + (f"  unusable: {self.note}" if self.note else "")


class Panel(NamedTuple):
    """Bars over one axis."""

    title: str
    unit: str
    bars: list[Bar]

    @property
    def words(self) -> str:
        """The panel for who cannot see it."""
        each = "; ".join(f"{plain(bar.label)} {plain(bar.text)}" for bar in self.bars)
        return f"{plain(self.title)}, {self.unit}: {each}."


class Plot(NamedTuple):
    """A finished plot. `svg` is markup, everything else is text."""

    name: str
    title: str
    caption: str
    svg: str


def segments(
    values: Mapping[str, float], others: frozenset[str], factor: float, *, only: str | None = None
) -> list[Segment]:
    """Process -> value as pieces: of what is measured first, then of the proxies beside; of one proxy with `only`."""
    found = []
    for beside in (False, True):
        for process, value in values.items():
            proxy = proxy_of(process)
            if (proxy in others) is beside and only in {None, proxy}:
                striped = not part_of(process).startswith(("worker", "envoy", "relay"))
                # Differences of two readings can come out a little below nothing, which no bar can show.
                found.append(Segment(max(0.0, value) * factor, striped, beside))
    return found


def draw(name: str, title: str, caption: str, panels: Sequence[Panel], styles: Mapping[str, Style]) -> Plot | None:
    """Panels one below the other; None when no panel has a bar."""
    panels = [panel for panel in panels if panel.bars]
    if not panels:
        return None
    heights = [(_rows(panel.bars)[-1] + 1) * _BAR + _AROUND for panel in panels]
    legend = _legend(panels)
    with drawing():
        figure = Figure((WIDTH, sum(heights) + (_LEGEND if legend else 0)), layout="constrained")
        FigureCanvasSVG(figure)
        grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
        for number, panel in enumerate(panels):
            _panel(figure.add_subplot(grid[number, 0]), panel, styles)
        if legend:
            figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), handlelength=1.6)
    words = " ".join(panel.words for panel in panels)
    return Plot(name, title, caption, svg.render(figure, name, title, words, styles.values()))


def _panel(axes: Axes, panel: Panel, styles: Mapping[str, Style]) -> None:
    rows = _rows(panel.bars)
    for row, bar in zip(rows, panel.bars, strict=True):
        left = 0.0
        colour = styles[bar.scenario].colour.light
        for piece in bar.segments:
            axes.barh(
                row,
                piece.value,
                left=left,
                height=0.72,
                color=colour,
                edgecolor=PAPER,
                linewidth=0.6,
                hatch="/////" if piece.striped else None,
                alpha=0.35 if piece.faint or bar.note else None,
            )
            left += piece.value
        end = left
        if bar.whisker is not None:
            low, high = bar.whisker
            # Its rim keeps it visible on a bar of any colour.
            axes.plot([low, high], [row, row], color=PAPER, linewidth=3, solid_capstyle="butt")
            axes.plot([low, high], [row, row], color=INK, linewidth=1, marker="|", markersize=5)
            end = max(end, high)
        axes.annotate(
            plain(bar.text),
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=MUTED if bar.note else INK,
        )
    longest = max(max(sum(each.value for each in bar.segments), (bar.whisker or (0, 0))[1]) for bar in panel.bars)
    axes.set_xlim(0, longest * _ROOM or 1)
    axes.set_ylim(rows[-1] + 0.6, -0.6)
    axes.set_yticks(rows, [plain(bar.label) for bar in panel.bars])
    axes.tick_params(length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x")
    axes.set_title(plain(panel.title))
    axes.set_xlabel(panel.unit)


def _rows(bars: Sequence[Bar]) -> list[float]:
    """Where each bar stands, from the top."""
    found: list[float] = []
    for bar in bars:
        found.append((found[-1] + (1.6 if bar.apart else 1.0)) if found else 0.0)
    return found


def _legend(panels: Iterable[Panel]) -> list[Patch]:
    pieces = [piece for panel in panels for bar in panel.bars for piece in bar.segments]
    if not any(piece.striped or piece.faint for piece in pieces):
        return []
    found = [Patch(facecolor=MUTED, label="carries traffic")]
    if any(piece.striped for piece in pieces):
        found.append(Patch(facecolor=MUTED, edgecolor=PAPER, hatch="/////", label="control and helpers"))
    if any(piece.faint for piece in pieces):
        found.append(Patch(facecolor=MUTED, alpha=0.35, label="beside, not counted"))
    return found


def frame(height: float) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, for what is no bar. To be called inside `drawing`."""
    figure = Figure((WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(color=GRID)
    axes.tick_params(length=0)
    return figure, axes
