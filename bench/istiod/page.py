"""The curves and the table of a run as one HTML page that loads nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from jinja2 import Environment, StrictUndefined
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.istiod import summary
from bench.istiod.document import Deaths, Document, Point, Start
from bench.reporting import palette, svg
from bench.reporting.svg import drawing

_WIDTH: Final = 6.8  # inches
_HEIGHT: Final = 2.3  # of two panels beside each other
_MB: Final = 1e6

Curve = Callable[[Point], float | None]


class Panel(NamedTuple):
    """Curves over the number of pods."""

    title: str
    unit: str
    curves: Mapping[str, Curve]


def _of_starts(of: Callable[[Start], float]) -> Curve:
    return lambda point: statistics.median(of(start) for start in point.starts)


def _of_deaths(of: Callable[[Deaths], float]) -> Curve:
    """Milliseconds of what is in seconds."""
    return lambda point: None if point.deaths is None else 1000 * of(point.deaths)


PANELS: Final = (
    Panel(
        "from nothing to all in sync",
        "seconds",
        {"istiod ready": _of_starts(lambda start: start.ready), "all in sync": _of_starts(lambda start: start.total)},
    ),
    Panel(
        "memory (PSS)",
        "MB",
        {
            "nobody connected": _of_starts(lambda start: start.ready_pss / _MB),
            "all in sync": _of_starts(lambda start: start.pss / _MB),
        },
    ),
    Panel(
        "death of an endpoint to the last ACK, after debounce",
        "ms",
        {
            "P50": _of_deaths(lambda deaths: deaths.after_debounce.median),
            "P99": _of_deaths(lambda deaths: deaths.after_debounce.p99),
        },
    ),
    Panel(
        "CPU",
        "ms",
        {
            "a push to all": _of_deaths(summary.per_push),
            "all come back": lambda point: None if point.reconnects is None else 1000 * point.reconnects.cpu.median,
        },
    ),
)

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>istiod at scale</title>
<style>
:root { color-scheme: light dark; --paper: {{ paper.light }}; --muted: #666; --grid: #ccc;
{% for name, colour in colours.items() %}{{ name }}: {{ colour.light }}; {% endfor %} }
@media (prefers-color-scheme: dark) { :root { --paper: {{ paper.dark }}; --muted: #aaa; --grid: #444;
{% for name, colour in colours.items() %}{{ name }}: {{ colour.dark }}; {% endfor %} } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--paper); color: light-dark(#111, #eee); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: normal; }
p { color: var(--muted); }
</style>
<h1>istiod at scale</h1>
<p>Objects from: {{ document.source }}. Debounce {{ "%g" % (1000 * document.debounce) }} ms.
Types: {{ document.types | join(", ") }}.
{% for name, value in document.machine.items() %}{{ name }} {{ value }}{{ ", " if not loop.last else "." }}{% endfor %}
</p>
{{ plot }}
<div class="scroll"><table>
{% for head, values in lines %}
<tr><th scope="row">{{ head }}</th>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
</html>
"""


def render(document: Document) -> str:
    """One document of HTML."""
    heads, rows = summary.rows(document)
    names = list(dict.fromkeys(name for panel in PANELS for name in panel.curves))
    styles = dict(zip(names, palette.styles(()).values(), strict=False))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_PAGE).render(
        document=document,
        lines=[(head, [row[number] for row in rows]) for number, head in enumerate(heads)],
        plot=_Markup(_plot(document.points, styles)),
        colours={style.variable: style.colour for style in styles.values()},
        paper=palette.PAGE,
    )


class _Markup(str):
    """Text that is markup already."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def _plot(points: Sequence[Point], styles: Mapping[str, palette.Style]) -> str:
    panels = [panel for panel in PANELS if any(curve(one) for curve in panel.curves.values() for one in points)]
    rows = (len(panels) + 1) // 2
    with drawing():
        figure = Figure((_WIDTH, _HEIGHT * rows), layout="constrained")
        FigureCanvasSVG(figure)
        for number, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, 2, number)
            for name, curve in panel.curves.items():
                found = [(point.sizes.pods, value) for point in points if (value := curve(point)) is not None]
                style = styles[name]
                axes.plot(*_columns(found), color=style.colour.light, marker=style.marker, label=name, ms=4)
            axes.set_title(f"{panel.title}, {panel.unit}")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks([point.sizes.pods for point in points])
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.grid(visible=True)
            axes.legend()
        figure.supxlabel("pods")
    words = f"{len(panels)} diagrams over the number of pods; the table below has the figures."
    return svg.render(figure, "curves", "istiod over the number of pods", words, styles.values())
