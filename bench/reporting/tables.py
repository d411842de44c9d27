"""Every measured figure in tables, the same for the page and the Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bench.reporting import names, readings
from bench.reporting.comparison import NOT_MEASURED, Cell
from bench.reporting.units import BYTES, CALLS, COST, GBIT, KB, MB, WORK, inverse, show, significant, spread
from bench.results import Document, Figure, Measured, Memory

PERCENTILES: Final = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9"}

_NOTHING: Final = Cell("")


class Table(NamedTuple):
    """Headers and rows of the same length; the first column names the row."""

    title: str
    headers: list[str]
    rows: list[list[Cell]]


class Group(NamedTuple):
    """What was measured under one load. The first table is the cost."""

    load: str
    title: str
    tables: list[Table]


def groups(document: Document) -> list[Group]:
    """A group for each load, in order; tables and columns that nothing fills are left out."""
    found = []
    for load in names.ordered(each.load for each in document.measured):
        entries = under(document, load)
        tables = [
            cost(entries),
            _latency(entries),
            _ratios(entries),
            _proxies(document, entries),
            _processes(document, entries),
        ]
        found.append(Group(load, names.title(load), [table for table in tables if table.rows]))
    return found


def under(document: Document, load: str) -> list[Measured]:
    """What was measured under a load: scenarios in the order in which the document describes them, then others."""
    order = {each.name: index for index, each in enumerate(document.scenarios)}
    found = {each.scenario: each for each in document.measured if each.load == load}
    return sorted(found.values(), key=lambda each: order.get(each.scenario, len(order)))


def name_cell(measured: Measured) -> Cell:
    """The scenario, and why its figures must not be used."""
    flaws = readings.flaws(measured)
    if flaws:
        return Cell(f"{measured.scenario} (unusable: {', '.join(flaws)})", "unusable")
    return Cell(measured.scenario)


def rate_cell(measured: Measured) -> Cell:
    """What went through in a second; empty for connections that carry nothing."""
    if measured.unit == "tunnel":
        return _NOTHING
    scale = GBIT if measured.unit == "GB" else None
    text = spread(measured.rate, scale.factor if scale else 1.0)
    return Cell(f"{text} {scale.label}" if scale else f"{text}/s")


def cost(entries: Sequence[Measured]) -> Table:
    """CPU, cores, rate, and how good the figures are."""
    unit = COST[entries[0].unit]
    headers = [
        "scenario",
        f"CPU, {unit.label}",
        _per_cpu_second(entries),
        "vCPU",
        "CPU over origin's",
        "rate",
        "rounds",
        "foreign vCPU",
        "errors",
    ]
    rows = []
    for each in entries:
        priced = readings.priced(each)
        figures = [
            Cell(spread(each.cpu_total, unit.factor)),
            _rate_of_cpu(each),
            Cell(spread(each.vcpu)),
            Cell(spread(each.over_origin)),
        ]
        quality = [Cell(str(each.rounds)), Cell(f"{each.foreign:.2f}"), Cell(f"{each.errors:,}")]
        rows.append([name_cell(each), *(figures if priced else [_NOTHING] * len(figures)), rate_cell(each), *quality])
    return Table("Cost", headers, rows)


def _per_cpu_second(entries: Sequence[Measured]) -> str:
    return f"{WORK[entries[0].unit]} per CPU second"


def _rate_of_cpu(measured: Measured) -> Cell:
    """How much a CPU second is good for: the same as the cost, the other way round."""
    return Cell(spread(inverse(measured.cpu_total))) if measured.cpu_total.low > 0 else _NOTHING


def _latency(entries: Sequence[Measured]) -> Table:
    """Microseconds as measured, and over the path without proxies."""
    keys = [key for key in PERCENTILES if any(key in each.latency_us for each in entries)]
    added = [key for key in PERCENTILES if any(key in each.added_us for each in entries)]
    headers = [
        "scenario",
        *(f"{PERCENTILES[key]}, us" for key in keys),
        *(f"added {PERCENTILES[key]}" for key in added),
    ]
    rows = [
        [
            name_cell(each),
            *(_figure(each.latency_us.get(key)) for key in keys),
            *(_figure(each.added_us.get(key)) for key in added),
        ]
        for each in entries
        if each.latency_us or each.added_us
    ]
    return Table("Latency", headers, rows)


def _ratios(entries: Sequence[Measured]) -> Table:
    """CPU over that of the others, formed within each round."""
    others = list(dict.fromkeys(name for each in entries for name in each.ratio))
    headers = ["CPU of ... over", *others]
    rows = [[name_cell(each), *(_figure(each.ratio.get(other)) for other in others)] for each in entries if each.ratio]
    return Table("Ratios within the same rounds", headers, rows)


def _figure(figure: Figure | None) -> Cell:
    return _NOTHING if figure is None else Cell(spread(figure))


def _proxies(document: Document, entries: Sequence[Measured]) -> Table:
    """Memory under load of whole proxies, both ways it can be counted."""
    rows = []
    for each in entries:
        for proxy in readings.proxies(document, each):
            shared, alone = readings.memory_of(each, proxy, "load"), readings.alone_of(each, proxy)
            if shared is not None or alone is not None:
                rows.append([name_cell(each), Cell(proxy), _megabytes(shared), _megabytes(alone)])
    return Table("Memory of whole proxies under load", ["scenario", "proxy", "PSS, MB", "alone, MB"], rows)


def _megabytes(size: int | None) -> Cell:
    return Cell(NOT_MEASURED, "missing") if size is None else Cell(significant(size * MB.factor))


class _Column(NamedTuple):
    header: str
    value: Callable[[Measured, str], str | None]


def _processes(document: Document, entries: Sequence[Measured]) -> Table:
    """One row per process; columns that no process fills are left out."""
    unit = COST[entries[0].unit]
    columns = (
        _Column(f"CPU, {unit.label}", lambda one, name: _spread(one.cpu.get(name), unit.factor)),
        _Column(f"system calls {CALLS[entries[0].unit]}", lambda one, name: _optional(one.syscalls.get(name))),
        _Column("idle, MB", lambda one, name: _memory(one.memory.get("idle", {}).get(name))),
        _Column("under load, MB", lambda one, name: _memory(one.memory.get("load", {}).get(name))),
        _Column("after, MB", lambda one, name: _memory(one.memory.get("after", {}).get(name))),
        _Column("per tunnel", lambda one, name: _optional(one.bytes_per_tunnel.get(name), BYTES.label)),
        _Column("growth", lambda one, name: _growth(one.growth_per_hour.get(name))),
    )
    rows = []
    for each in entries:
        others = readings.beside(document, each.scenario)
        for process in _names(each):
            note = " (beside)" if readings.proxy_of(process) in others else ""
            texts = [column.value(each, process) for column in columns]
            rows.append((name_cell(each), Cell(process + note), texts))
    filled = [index for index in range(len(columns)) if any(texts[index] is not None for *_, texts in rows)]
    headers = ["scenario", "process", *(columns[index].header for index in filled)]
    cells = [[name, process, *(Cell(texts[index] or "") for index in filled)] for name, process, texts in rows]
    return Table("By process; memory is PSS (private)", headers, cells)


def _names(measured: Measured) -> list[str]:
    held = [name for phase in measured.memory.values() for name in phase]
    others = [*measured.syscalls, *measured.bytes_per_tunnel, *measured.growth_per_hour]
    return list(dict.fromkeys([*measured.cpu, *held, *others]))


def _spread(figure: Figure | None, factor: float) -> str | None:
    return None if figure is None else spread(figure, factor)


def _optional(value: float | None, label: str = "") -> str | None:
    return None if value is None else f"{significant(value)} {label}".rstrip()


def _memory(held: Memory | None) -> str | None:
    if held is None:
        return None
    return f"{significant(held.pss * MB.factor)} ({significant(held.private * MB.factor)})"


def _growth(value: float | None) -> str | None:
    return None if value is None else f"{show(value, KB)}/h"


def summary(document: Document, load: str) -> Table:
    """The main figures of one load: what each scenario costs, adds and holds."""
    entries = under(document, load)
    unit = COST[entries[0].unit]
    headers = [
        "scenario",
        f"CPU, {unit.label}",
        _per_cpu_second(entries),
        "vCPU",
        "rate",
        "added P50 / P99 / P99.9, us",
        "PSS / alone of a proxy, MB",
    ]
    rows = []
    for each in entries:
        priced = readings.priced(each)
        added = [each.added_us.get(key) for key in ("p50", "p99", "p999")]
        rows.append(
            [
                name_cell(each),
                Cell(spread(each.cpu_total, unit.factor)) if priced else _NOTHING,
                _rate_of_cpu(each) if priced else _NOTHING,
                Cell(spread(each.vcpu)) if priced else _NOTHING,
                rate_cell(each),
                Cell(
                    " / ".join("-" if one is None else significant(one.median) for one in added) if any(added) else ""
                ),
                _held(document, each) if priced else _NOTHING,
            ]
        )
    return Table(names.title(load), headers, rows)


def _held(document: Document, measured: Measured) -> Cell:
    proxies = readings.proxies(document, measured)
    shared = [each for proxy in proxies if (each := readings.memory_of(measured, proxy, "load")) is not None]
    alone = [each for proxy in proxies if (each := readings.alone_of(measured, proxy)) is not None]
    if not shared and not alone:
        return Cell(NOT_MEASURED, "missing")
    return Cell(" / ".join(significant(max(each) * MB.factor) if each else "-" for each in (shared, alone)))
