"""What a run prints: one table per load, ratios against the rivals that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.results import Document, Figure, Measured

_MB: Final = 1_000_000
_GROWTH: Final = 1_000  # bytes an hour from which memory is said to grow; less is a straight line's own error
_PLAIN_WIDTH: Final = 220


def console() -> Console:
    found = Console(highlight=False)
    # Without a terminal there is no width to respect: a wrapped table cannot be searched.
    return found if found.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def by_proxy(values: Mapping[str, float]) -> dict[str, float]:
    """PROXY/PART -> value, summed to PROXY -> value."""
    found: dict[str, float] = {}
    for name, value in values.items():
        proxy = name.partition("/")[0]
        found[proxy] = found.get(proxy, 0.0) + value
    return found


def by_part(values: Mapping[str, float]) -> dict[str, float]:
    """PROXY/PART -> value, with the workers of a proxy summed: "ztunnel-1 workers", "ztunnel-1 control"."""
    found: dict[str, float] = {}
    for name, value in values.items():
        proxy, _, part = name.partition("/")
        label = f"{proxy} {'workers' if part.startswith('worker-') else part}"
        found[label] = found.get(label, 0.0) + value
    return found


def show(out: Console, document: Document, rivals: Sequence[str]) -> None:
    """Every load of the document."""
    for load in dict.fromkeys(each.load for each in document.measured):
        group = [each for each in document.measured if each.load == load]
        table = Table(title=f"{load} ({group[0].unit})", title_justify="left", pad_edge=False)
        for name in ("scenario", "CPU", "parts", "cores", "rate", "p50/p99/p99.9 added us", "MB PSS/alone", "calls"):
            table.add_column(name, no_wrap=name in {"scenario", "CPU", "rate"}, overflow="fold")
        for rival in rivals:
            table.add_column(f"x {rival}", no_wrap=True)
        table.add_column("note", overflow="fold")
        for each in group:
            table.add_row(*_row(each), *(_ratio(each.ratio.get(rival)) for rival in rivals), _note(each))
        out.print(table)


def _row(each: Measured) -> tuple[str, ...]:
    if not each.cpu:
        return each.scenario, "", "", "", _rate(each), _latency(each.latency_us, "direct "), "", ""
    held = by_proxy({key: one.pss / _MB for key, one in each.memory.get("load", {}).items()})
    memory = ", ".join(
        f"{name} {value:.1f}" + (f"/{each.alone[name] / _MB:.1f}" if name in each.alone else "")
        for name, value in held.items()
    )
    calls = ", ".join(f"{name} {value:.1f}" for name, value in by_proxy(each.syscalls).items())
    if each.unit == "tunnel":
        cost = f"{sum(each.bytes_per_tunnel.values()):.0f} B/tunnel"
        parts = ", ".join(f"{name} {value:.0f}" for name, value in by_part(each.bytes_per_tunnel).items() if value >= 1)
    else:
        cost = _cost(each)
        scale = 1.0 if each.unit == "GB" else 1e6
        digits = 2 if each.unit == "GB" else 1
        spent = by_part({name: one.median * scale for name, one in each.cpu.items()})
        parts = ", ".join(f"{name} {value:.{digits}f}" for name, value in spent.items() if name[-6:] != "zygote")
    cores = f"{each.vcpu.median:.3f}"
    return each.scenario, cost, parts, cores, _rate(each), _latency(each.added_us, ""), memory, calls


def _cost(each: Measured) -> str:
    found = each.cpu_total
    if each.unit == "GB":
        return f"{found.median:.2f} s/GB [{found.low:.2f}-{found.high:.2f}]"
    return f"{found.median * 1e6:.1f} us [{found.low * 1e6:.1f}-{found.high * 1e6:.1f}]"


def _rate(each: Measured) -> str:
    if each.unit == "tunnel":
        return f"{each.rate.median:.0f} open"
    return f"{each.rate.median * 8:.1f} Gbit/s" if each.unit == "GB" else f"{each.rate.median:.0f}/s"


def _latency(found: Mapping[str, Figure], prefix: str) -> str:
    if not found:
        return ""
    return prefix + " / ".join(f"{found[key].median:.0f}" for key in ("p50", "p99", "p999") if key in found)


def _ratio(found: Figure | None) -> str:
    return "" if found is None else f"{found.median:.2f} [{found.low:.2f}-{found.high:.2f}]"


def _note(each: Measured) -> str:
    parts = []
    if each.noisy:
        parts.append(f"NOISY, not to be used (foreign {each.foreign:.2f})")
    if each.errors:
        parts.append(f"{each.errors} errors")
    if each.growth_per_hour:
        growing = {name: value for name, value in each.growth_per_hour.items() if value >= _GROWTH}
        parts += [f"{name} grows {value / 1000:.0f} KB/h" for name, value in growing.items()] or ["no growth"]
    return ", ".join(parts)
