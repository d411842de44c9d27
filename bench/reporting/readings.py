"""Looking things up in a document: one scenario under one load, its proxies, and whether the figures may be used."""

from __future__ import annotations

from typing import Final, NamedTuple

from bench.reporting import names
from bench.results import Document, Figure, Measured, Phase

RATE_HELD: Final = 0.98
"""Share of an offered rate below which a figure is not one at that rate: the path could not keep up."""


DIRECT: Final = "direct"
"""The scenario without a proxy, over which added latency is told."""


class Reading(NamedTuple):
    """A number of a document in its units, and the range it may have been in. `detail` says what it is made of."""

    value: float
    low: float
    high: float
    detail: str = ""


def find(document: Document, scenario: str, load: str) -> Measured | None:
    """One scenario under one load; of several the last one."""
    found = [each for each in document.measured if each.scenario == scenario and each.load == load]
    return found[-1] if found else None


def title(document: Document, scenario: str) -> str:
    """The scenario in words; its name when the document does not describe it."""
    return next((each.title for each in document.scenarios if each.name == scenario), scenario)


def beside(document: Document, scenario: str) -> frozenset[str]:
    """The proxies that stand in the path and are not what is measured."""
    return frozenset(name for each in document.scenarios if each.name == scenario for name in each.beside)


def proxy_of(process: str) -> str:
    return process.partition("/")[0]


def part_of(process: str) -> str:
    return process.partition("/")[2] or process


def proxies(document: Document, measured: Measured) -> list[str]:
    """The proxies that are measured, in the order of the document."""
    others = beside(document, measured.scenario)
    processes = [*measured.cpu, *(name for held in measured.memory.values() for name in held)]
    return [name for name in dict.fromkeys(map(proxy_of, processes)) if name not in others]


def flaws(measured: Measured) -> list[str]:
    """Why the figures are not to be used; empty when they may be."""
    found = []
    if measured.noisy:
        found.append("noisy")
    if measured.errors:
        found.append("1 error" if measured.errors == 1 else f"{measured.errors:,} errors")
    offered = names.rated(measured.load)
    if offered is not None and measured.rate.median < RATE_HELD * offered.rate:
        found.append(f"rate not held: {measured.rate.median:,.0f}/s of {offered.rate:,}/s")
    return found


def flaws_of_added(document: Document, measured: Measured) -> list[str]:
    """The same for added latency: a difference is no better than its lower end."""
    bare = find(document, DIRECT, measured.load)
    return [*flaws(measured), *(f"{DIRECT}: {flaw}" for flaw in (flaws(bare) if bare is not None else []))]


def cpu_of(measured: Measured, proxy: str) -> Reading | None:
    """CPU seconds per unit of a proxy, all parts. The range adds theirs: no narrower than the true one."""
    parts = [figure for process, figure in measured.cpu.items() if proxy_of(process) == proxy]
    return _added(parts) if parts else None


def _added(parts: list[Figure]) -> Reading:
    return Reading(
        sum(each.median for each in parts), sum(each.low for each in parts), sum(each.high for each in parts)
    )


def vcpu_of(measured: Measured, proxy: str) -> Reading | None:
    """Cores that a proxy kept busy: its CPU per unit at the rate that was reached."""
    cost = cpu_of(measured, proxy)
    if cost is None:
        return None
    rate = measured.rate.median
    return Reading(cost.value * rate, cost.low * rate, cost.high * rate)


def memory_of(measured: Measured, proxy: str, phase: Phase) -> int | None:
    """PSS of a proxy in bytes, all parts together; None when it was not read in that phase."""
    parts = [held.pss for process, held in measured.memory.get(phase, {}).items() if proxy_of(process) == proxy]
    return sum(parts) if parts else None


def alone_of(measured: Measured, proxy: str) -> int | None:
    """Bytes of a proxy as if nothing else mapped its files; None when a run did not look."""
    return measured.alone.get(proxy)


def tunnel_bytes_of(measured: Measured, proxy: str) -> float | None:
    """Private bytes per idle tunnel of a proxy, all parts together; None when the load held no tunnels."""
    parts = [grown for process, grown in measured.bytes_per_tunnel.items() if proxy_of(process) == proxy]
    return sum(parts) if parts else None


def priced(measured: Measured) -> bool:
    """Has the scenario proxies at all? `direct` has none, so a CPU of zero there is no measurement."""
    return bool(measured.cpu)
