"""Everything the page and the Markdown say, and the page itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench import config, fleet
from bench.fleet import Estimate, Fleet, Option, Prices, Term
from bench.published import CALCULATOR, CALCULATOR_SOURCE, CHARTS, MESH_RATE, MESH_RATE_SOURCE
from bench.reporting import palette, readings
from bench.reporting.comparison import Row, compare
from bench.reporting.merging import Merged
from bench.reporting.plots import plots
from bench.reporting.tables import Group, groups

TEMPLATES: Final = config.ROOT / "bench" / "templates"


class Content(NamedTuple):
    """What is told, before it becomes HTML or Markdown."""

    headline: str
    usable: str
    warnings: list[str]
    comparison: list[tuple[str, list[Row]]]
    """Rows by the group they belong to."""
    groups: list[Group]
    scenarios: list[tuple[str, str]]
    reserved: list[Option]
    implied: list[Term]
    estimate: Estimate
    rate: float
    sizes: Fleet
    prices: Prices


def gather(merged: Merged, rate: float, prices: Prices, sizes: Fleet) -> Content:
    """Work out everything that is told about these documents."""
    document = merged.document
    rows = compare(merged)
    present = list(dict.fromkeys(each.scenario for each in document.measured))
    return Content(
        headline(merged),
        usable(merged),
        merged.warnings,
        [(name, list(each)) for name, each in groupby(rows, key=lambda row: row.group)],
        groups(document),
        [(name, readings.title(document, name)) for name in present],
        fleet.reserved(sizes, prices),
        fleet.implied(),
        fleet.estimate(document, sizes, rate, prices),
        rate,
        sizes,
        prices,
    )


def headline(merged: Merged) -> str:
    """What was measured, when, and on which machine, in a sentence or two."""
    document = merged.document
    scenarios = len({each.scenario for each in document.measured})
    loads = len({each.load for each in document.measured})
    files = f" ({', '.join(merged.files)})" if merged.files else ""
    # Dates of one form sort as text.
    dates = " to ".join(dict.fromkeys(map(_date, (min(merged.dates), max(merged.dates)))))
    return (
        f"{_count(scenarios, 'scenario')} under {_count(loads, 'load')}, measured {dates} on "
        f"{machine(document.machine)}{files}."
    )


def machine(known: Mapping[str, Any]) -> str:
    """The machine in words, then what else the document says of the run."""
    said = {"date", "cpu", "cores", "memory_gb", "kernel"}
    parts = [
        str(known.get("cpu", "an unknown processor")),
        f"{known['cores']} cores" if "cores" in known else "an unknown number of cores",
        *([f"{known['memory_gb']} GB of memory"] if "memory_gb" in known else []),
        *([f"Linux {known['kernel']}"] if "kernel" in known else []),
        *(f"{key.replace('_', ' ')} {_short(value)}" for key, value in known.items() if key not in said),
    ]
    return ", ".join(parts)


def _date(text: str) -> str:
    """ "2026-11-23 10:00 UTC"; what is no such date stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def usable(merged: Merged) -> str:
    """How many results may be used, and which may not and why."""
    measured = merged.document.measured
    if not measured:
        return "Nothing was measured."
    flawed = [(each, flaws) for each in measured if (flaws := readings.flaws(each))]
    if not flawed:
        return f"All {len(measured)} results are usable." if len(measured) > 1 else "The one result is usable."
    alike: dict[tuple[str, str], list[str]] = {}
    for each, flaws in flawed:
        alike.setdefault((each.load, ", ".join(flaws)), []).append(each.scenario)
    named = "; ".join(f"under {load} {', '.join(found)} ({flaws})" for (load, flaws), found in alike.items())
    return f"{len(measured) - len(flawed)} of {_count(len(measured), 'result')} are usable. Not to be used: {named}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def render(merged: Merged, content: Content) -> str:
    """The page: one HTML document that loads nothing."""
    document = merged.document
    styles = palette.styles(each.scenario for each in document.measured)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        content=content,
        plots=plots(document, styles),
        colours=_colours(styles.values()),
        variables={name: style.variable for name, style in styles.items()},
        paper=palette.PAGE,
        noise_limit=document.noise_limit,
        rate_held=f"{readings.RATE_HELD:.0%}",
        calculator=CALCULATOR,
        calculator_source=CALCULATOR_SOURCE,
        charts=CHARTS,
        mesh_rate=MESH_RATE,
        mesh_rate_source=MESH_RATE_SOURCE,
        implied_price=fleet.implied_price(),
    )


def _colours(styles: Iterable[palette.Style]) -> dict[str, palette.Colour]:
    """CSS property -> colour, each once."""
    return {style.variable: style.colour for style in styles}
