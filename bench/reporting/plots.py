"""The plots of a document. Each is drawn only from what the document has; a plot without data is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes

from bench.reporting import names, readings, svg
from bench.reporting.bars import Bar, Panel, Plot, Segment, draw, frame, segments
from bench.reporting.palette import Style
from bench.reporting.svg import PAPER, drawing, plain
from bench.reporting.units import CALLS, COST, FROM_MICROSECONDS, GBIT, MB, show, significant
from bench.results import Document, Figure, Measured, Phase

_PERCENTILES: Final = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9"}
_PHASES: Final[tuple[Phase, ...]] = ("idle", "load", "after")
_FLATTENING: Final = 4.0
"""How many times the middle value the largest must be before an axis of latency is drawn in powers of ten."""


def plots(document: Document, styles: Mapping[str, Style]) -> list[Plot]:
    """Those whose data exist, in the order of the page."""
    found = (
        cpu(document, styles),
        sweep(document, styles),
        *latencies(document, styles),
        memory(document, styles),
        bulk(document, styles),
        syscalls(document, styles),
    )
    return [plot for plot in found if plot is not None]


def _under(document: Document, load: str) -> list[Measured]:
    """What was measured under a load, scenarios in the order of the document; of several the last."""
    found = {each.scenario: each for each in document.measured if each.load == load}
    order = [each.name for each in document.scenarios]
    return sorted(found.values(), key=lambda each: order.index(each.scenario) if each.scenario in order else len(order))


def _loads(document: Document, wanted: Callable[[Measured], bool]) -> list[str]:
    return names.ordered(each.load for each in document.measured if wanted(each))


def _flaws(measured: Measured) -> str:
    return ", ".join(readings.flaws(measured))


def _bars(
    document: Document,
    load: str,
    values: Callable[[Measured], Mapping[str, float]],
    factor: float,
    whisker: Callable[[Measured], Figure] | None = None,
) -> list[Bar]:
    """A bar for each scenario that has proxies, stacked by process."""
    found = []
    for one in _under(document, load):
        pieces = segments(values(one), readings.beside(document, one.scenario), factor)
        if pieces:
            figure = whisker(one) if whisker is not None else None
            ends = None if figure is None or figure.samples < 2 else (figure.low * factor, figure.high * factor)
            total = None if figure is None else figure.median * factor
            found.append(Bar(one.scenario, one.scenario, pieces, _flaws(one), ends, total))
    return found


def _medians(measured: Measured) -> dict[str, float]:
    return {process: figure.median for process, figure in measured.cpu.items()}


def cpu(document: Document, styles: Mapping[str, Style]) -> Plot | None:
    """CPU per request and per connection. Of a rate sweep only the published rate; `sweep` shows the rest."""
    loads = _loads(document, lambda each: each.unit in {"request", "connection"} and readings.priced(each))
    panels = []
    for load in names.without_sweeps(loads):
        unit = COST[_under(document, load)[0].unit]
        bars = _bars(document, load, _medians, unit.factor, lambda each: each.cpu_total)
        panels.append(Panel(names.title(load), f"CPU, {unit.label}", bars))
    caption = "All proxies of a scenario together; the line across a bar's end is the range over the rounds."
    return draw("cpu", "CPU per request", caption, panels, styles)


def sweep(document: Document, styles: Mapping[str, Style]) -> Plot | None:
    """Cores over requests/s, for the connection count with the most rates; at least two rates make a line."""
    loads = _loads(document, readings.priced)
    series = max(names.sweeps(loads).values(), key=len, default=[])
    if len(series) < 2:
        return None
    lines: dict[str, list[Measured]] = {}
    for load in series:
        for one in _under(document, load):
            if readings.priced(one) and one.scenario != readings.DIRECT:
                lines.setdefault(one.scenario, []).append(one)
    offered = names.rated(series[0])
    over = f" over {offered.connections} connections" if offered is not None else ""
    title = f"CPU at rising rates{over}"
    words = []
    hollow = False
    with drawing():
        figure, axes = frame(3.6)
        for scenario, points in lines.items():
            _line(axes, styles[scenario], scenario, [each.rate.median for each in points], [e.vcpu for e in points])
            spoilt = [(each.rate.median, each.vcpu.median) for each in points if readings.flaws(each)]
            style = styles[scenario]
            axes.plot(
                [rate for rate, _ in spoilt],
                [cores for _, cores in spoilt],
                linestyle="none",
                marker=style.marker,
                markersize=6,
                markerfacecolor=PAPER,
                markeredgecolor=style.colour.light,
                zorder=5,
            )
            hollow = hollow or bool(spoilt)
            values = ", ".join(
                f"{significant(each.vcpu.median)} vCPU at {each.rate.median:,.0f}/s{_said(each)}" for each in points
            )
            words.append(f"{plain(scenario)}: {values}.")
        axes.set_xlabel("requests/s")
        axes.set_ylabel("vCPU, all proxies of the scenario")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=_columns(lines))
    caption = "Cores that the proxies kept busy at each rate that was reached; whiskers are the range over the rounds."
    caption += " A hollow point is unusable." if hollow else ""
    return Plot("sweep", title, caption, svg.render(figure, "sweep", title, " ".join(words), styles.values()))


def _said(measured: Measured) -> str:
    flaws = _flaws(measured)
    return f" (unusable: {flaws})" if flaws else ""


def _line(
    axes: Axes, style: Style, label: str, xs: Sequence[float], figures: Sequence[Figure], *, faint: bool = False
) -> None:
    middle = [each.median for each in figures]
    # A median outside its range is a broken document; matplotlib refuses lengths below nothing.
    below = [max(0.0, each.median - each.low) for each in figures]
    above = [max(0.0, each.high - each.median) for each in figures]
    axes.errorbar(
        xs,
        middle,
        yerr=[below, above],
        color=style.colour.light,
        marker=style.marker,
        markersize=4.5,
        linewidth=1.5,
        linestyle="dashed" if faint else "solid",
        alpha=0.5 if faint else None,
        elinewidth=0.8,
        capsize=2,
        label=plain(label),
    )


def latencies(document: Document, styles: Mapping[str, Style]) -> list[Plot | None]:
    """Added latency, a plot for each open-loop load. In a closed loop time is what the loop makes of it."""
    loads = _loads(document, lambda each: bool(each.added_us))
    chosen = [load for load in names.without_sweeps(loads) if names.rated(load) or load in {"locust", "soak"}]
    return [_latency(document, load, styles) for load in chosen]


def _latency(document: Document, load: str, styles: Mapping[str, Style]) -> Plot | None:
    entries = [each for each in _under(document, load) if set(each.added_us) & set(_PERCENTILES)]
    if not entries:
        return None
    title = f"Latency added, {names.title(load)}"
    name = f"latency-{names.ordered(each.load for each in document.measured).index(load)}"
    factor = FROM_MICROSECONDS.factor
    words = []
    labels: list[str] = []
    with drawing():
        figure, axes = frame(3.6)
        for index, one in enumerate(entries):
            known = [key for key in _PERCENTILES if key in one.added_us]
            # Side by side, so that whiskers do not cover each other.
            shift = (index - (len(entries) - 1) / 2) * 0.5 / max(1, len(entries))
            xs = [list(_PERCENTILES).index(key) + shift for key in known]
            scaled = [_scaled(one.added_us[key], factor) for key in known]
            flaws = ", ".join(readings.flaws_of_added(document, one))
            label = f"{one.scenario} (unusable)" if flaws else one.scenario
            labels.append(label)
            _line(axes, styles[one.scenario], label, xs, scaled, faint=bool(flaws))
            values = ", ".join(
                f"{_PERCENTILES[key]} {show(one.added_us[key].median, FROM_MICROSECONDS)}" for key in known
            )
            words.append(f"{plain(one.scenario)}: {values}{f' (unusable: {flaws})' if flaws else ''}.")
        axes.set_xticks(range(len(_PERCENTILES)), list(_PERCENTILES.values()))
        axes.set_xlabel("percentile of requests")
        axes.set_ylabel("ms over the path without proxies")
        _stretch(axes, [_scaled(each, factor) for one in entries for each in one.added_us.values()])
        figure.legend(loc="outside lower center", ncols=_columns(labels))
    caption = "What the proxies add to the same percentile of the path without them, in the same round."
    return Plot(name, title, caption, svg.render(figure, name, title, " ".join(words), styles.values()))


def _columns(labels: Iterable[str]) -> int:
    """Of a legend, so that the longest label fits."""
    longest = max((len(plain(label)) for label in labels), default=0)
    return next((columns for columns, fitting in ((3, 22), (2, 36)) if longest <= fitting), 1)


def _scaled(figure: Figure, factor: float) -> Figure:
    return Figure(figure.median * factor, figure.low * factor, figure.high * factor, figure.samples)


def _stretch(axes: Axes, figures: Sequence[Figure]) -> None:
    """Powers of ten when the largest would flatten the others; linear around zero if some reach below it."""
    sizes = sorted(abs(each.median) for each in figures if each.median)
    lowest = min((each.low for each in figures), default=0.0)
    if not sizes or sizes[-1] <= _FLATTENING * sizes[len(sizes) // 2]:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        return
    if lowest > 0:
        axes.set_yscale("log", subs=(2, 5))
    else:
        # Linear up to the middle value: what a difference below zero says is "nothing to be seen".
        axes.set_yscale("symlog", linthresh=sizes[len(sizes) // 2], subs=(2, 5))
    axes.yaxis.set_major_formatter(lambda value, _: significant(value, 1))
    axes.yaxis.set_minor_formatter(lambda value, _: significant(value, 1))
    axes.grid(which="minor")


def memory(document: Document, styles: Mapping[str, Style]) -> Plot | None:
    """PSS of the dearest proxy of each scenario before, under and after one load: the published rate, or the first."""
    loads = _loads(document, lambda each: bool(each.memory))
    chosen = [*names.without_sweeps(loads), *loads]
    if not chosen:
        return None
    load = chosen[0]
    bars = []
    for one in _under(document, load):
        held = {each: readings.memory_of(one, each, "load") or 0 for each in readings.proxies(document, one)}
        if not one.memory or not held:
            continue
        proxy = max(held, key=lambda each: held[each])
        for index, phase in enumerate(each for each in _PHASES if each in one.memory):
            label = phase if index else f"{one.scenario} {proxy}, {phase}"
            bars.append(Bar(label, one.scenario, _memory_of(one, phase, proxy), _flaws(one), apart=index == 0))
    caption = (
        f"PSS of the dearest proxy of each scenario, {names.title(load)}: before the first load, in the middle of it, "
        "and after it."
    )
    return draw("memory", "Memory of one proxy", caption, [Panel(names.title(load), "MB (PSS)", bars)], styles)


def _memory_of(measured: Measured, phase: Phase, proxy: str) -> list[Segment]:
    held = {process: float(each.pss) for process, each in measured.memory.get(phase, {}).items()}
    return segments(held, frozenset(), MB.factor, only=proxy)


def bulk(document: Document, styles: Mapping[str, Style]) -> Plot | None:
    """CPU per GB beside Gbit/s."""
    panels = []
    for load in _loads(document, lambda each: each.unit == "GB"):
        cost = COST["GB"]
        panels += [
            Panel(f"{names.title(load)}: CPU", f"CPU, {cost.label}", _bars(document, load, _medians, 1.0, _total)),
            Panel(f"{names.title(load)}: throughput", GBIT.label, _throughput(document, load)),
        ]
    caption = "CPU of all proxies of a scenario for a gigabyte, and what went through in a second."
    return draw("bulk", "Bulk", caption, panels, styles)


def _total(measured: Measured) -> Figure:
    return measured.cpu_total


def _throughput(document: Document, load: str) -> list[Bar]:
    found = []
    for one in _under(document, load):
        rate = _scaled(one.rate, GBIT.factor)
        ends = (rate.low, rate.high) if rate.samples > 1 else None
        found.append(Bar(one.scenario, one.scenario, [Segment(rate.median)], _flaws(one), ends))
    return found


def syscalls(document: Document, styles: Mapping[str, Style]) -> Plot | None:
    """System calls per piece of work, by process."""
    loads = _loads(document, lambda each: bool(each.syscalls))
    panels = []
    for load in names.without_sweeps(loads):
        unit = next(each.unit for each in _under(document, load) if each.syscalls)
        panels.append(Panel(names.title(load), f"system calls {CALLS[unit]}", _bars(document, load, _calls, 1.0)))
    caption = "Counted in slices of their own, all proxies of a scenario together."
    return draw("syscalls", "System calls", caption, panels, styles)


def _calls(measured: Measured) -> Mapping[str, float]:
    return measured.syscalls
