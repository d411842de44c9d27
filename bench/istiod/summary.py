"""What a run prints, and what its points come to together."""

from __future__ import annotations

import pstats
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.istiod.document import Cost, Deaths, Document, Memory, Point, Reconnects, Rollout, Start

_MB: Final = 1e6


def memory(points: Sequence[Point]) -> Memory | None:
    """Least squares over the sizes; None with fewer than two of them."""
    if len({point.sizes.pods for point in points}) < 2:
        return None
    pods = [float(point.sizes.pods) for point in points]
    alone = [statistics.median(float(start.ready_pss) for start in point.starts) for point in points]
    held = [statistics.median(float(start.held) for start in point.starts) for point in points]
    grown = [statistics.median(float(start.pss - start.ready_pss) for start in point.starts) for point in points]
    per_pod, base = statistics.linear_regression(pods, alone)
    return Memory(base, per_pod, statistics.linear_regression(held, grown).slope)


def start_line(start: Start) -> str:
    return (
        f"ready after {start.ready:.2f} s, synced {start.sync:.2f} s later; CPU {start.ready_cpu:.2f} + "
        f"{start.cost.cpu:.2f} s, {start.cost.received / _MB:.0f} MB sent, PSS {start.ready_pss / _MB:.0f} -> "
        f"{start.pss / _MB:.0f} MB{_noise(start.cost)}"
    )


def deaths_line(deaths: Deaths) -> str:
    total, after = deaths.total, deaths.after_debounce
    return (
        f"P50 {1000 * total.median:.0f} ms, P99 {1000 * total.p99:.0f} ms; after debounce P50 "
        f"{1000 * after.median:.0f} ms, P99 {1000 * after.p99:.0f} ms; {1000 * per_push(deaths):.1f} ms CPU and "
        f"{deaths.cost.received / deaths.pushes / 1000:.1f} KB a push{_noise(deaths.cost)}"
    )


def reconnects_line(reconnects: Reconnects) -> str:
    last = reconnects.costs[-1]
    return (
        f"{reconnects.seconds.median:.2f} s, CPU {reconnects.cpu.median:.2f} s, "
        f"{last.received / _MB:.2f} MB to clients, {last.sent / _MB:.1f} MB from them, "
        f"PSS {reconnects.pss / _MB:.0f} MB{_noise(last)}"
    )


def rollout_line(rollout: Rollout) -> str:
    cost = rollout.cost
    return (
        f"{rollout.pods} pods in {rollout.changing:.1f} s, the last known {rollout.settled:.2f} s later, "
        f"each P50 {rollout.stale.median:.1f} s, P99 {rollout.stale.p99:.1f} s; CPU {cost.cpu:.2f} s, "
        f"{cost.responses} responses, {cost.received / _MB:.1f} MB{_noise(cost)}"
    )


def _noise(cost: Cost) -> str:
    return f", foreign {cost.foreign:.2f}"


def per_push(deaths: Deaths) -> float:
    """CPU seconds of istiod from a changed pod to the ACKs of all clients."""
    return deaths.cost.cpu / deaths.pushes


def _median(point: Point, of: Callable[[Start], float]) -> float:
    return statistics.median(of(start) for start in point.starts)


def _range(point: Point, of: Callable[[Start], float], digits: int = 2) -> str:
    values = [of(start) for start in point.starts]
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def rows(document: Document) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table: a size each."""
    heads = [
        "pods",
        "services",
        "ready, s",
        "synced, s",
        "CPU ready, s",
        "CPU sync, s",
        "sent, MB",
        "PSS ready, MB",
        "PSS synced, MB",
        "peak RSS, MB",
        "death P50, ms",
        "death P99, ms",
        "after debounce P50, ms",
        "P99, ms",
        "CPU/push, ms",
        "KB/push",
        "reconnect, s",
        "CPU, s",
        "down/up, MB",
        "rollout CPU, s",
        "a pod known P50, s",
        "P99, s",
        "rollout, MB",
    ]
    return heads, [_row(point) for point in document.points]


def _row(point: Point) -> list[str]:
    deaths, reconnects, rollout = point.deaths, point.reconnects, point.rollout
    row = [
        f"{point.sizes.pods}" + (" (noisy)" if point.noisy else ""),
        f"{point.sizes.services}",
        _range(point, lambda start: start.ready),
        _range(point, lambda start: start.sync),
        _range(point, lambda start: start.ready_cpu),
        _range(point, lambda start: start.cost.cpu),
        f"{_median(point, lambda start: start.cost.received) / _MB:.1f}",
        f"{_median(point, lambda start: start.ready_pss) / _MB:.0f}",
        f"{_median(point, lambda start: start.pss) / _MB:.0f}",
        f"{_median(point, lambda start: start.peak_rss) / _MB:.0f}",
    ]
    if deaths is None:
        row += [""] * 6
    else:
        figures = (deaths.total.median, deaths.total.p99, deaths.after_debounce.median, deaths.after_debounce.p99)
        row += [f"{1000 * value:.0f}" for value in figures]
        row += [f"{1000 * per_push(deaths):.1f}", f"{deaths.cost.received / deaths.pushes / 1000:.1f}"]
    if reconnects is None:
        row += [""] * 3
    else:
        last = reconnects.costs[-1]
        row += [f"{reconnects.seconds.median:.2f}", f"{reconnects.cpu.median:.2f}"]
        row.append(f"{last.received / _MB:.1f}/{last.sent / _MB:.1f}")
    if rollout is None:
        row += [""] * 4
    else:
        row += [f"{rollout.cost.cpu:.2f}", f"{rollout.stale.median:.2f}", f"{rollout.stale.p99:.2f}"]
        row.append(f"{rollout.cost.received / _MB:.1f}")
    return row


def show(out: Console, document: Document) -> None:
    """The table turned: a column for each size, since there are more figures than sizes."""
    heads, found = rows(document)
    table = Table(title=f"istiod over {document.source}", title_justify="left", pad_edge=False)
    table.add_column("")
    for _ in found:
        table.add_column(justify="right", no_wrap=True)
    for number, head in enumerate(heads):
        table.add_row(head, *(row[number] for row in found))
    out.print(table)
    if (held := document.memory) is not None:
        out.print(
            f"memory: {held.base / _MB:.0f} MB, {held.per_pod / 1000:.2f} KB for each pod, "
            f"{held.per_held:.0f} bytes for each resource that a client holds",
            markup=False,
        )


def show_profile(out: Console, title: str, file: Path, count: int) -> None:
    """The functions that took most time themselves."""
    stats: Any = pstats.Stats(str(file))  # its type does not tell of its fields, which its documentation shows
    table = Table(title=f"{title}: {stats.total_tt:.2f} s under cProfile", title_justify="left", pad_edge=False)
    for head in ("own, s", "share", "with callees, s", "calls", "function"):
        table.add_column(head, justify="left" if head == "function" else "right", no_wrap=True)
    hottest = sorted(stats.stats.items(), key=lambda item: -item[1][2])
    for (path, line, name), (_, calls, own, whole, _) in hottest[:count]:
        place = name if path == "~" else f"{Path(path).parent.name}/{Path(path).name}:{line} {name}"
        share = f"{100 * own / stats.total_tt:.0f} %" if stats.total_tt else ""
        table.add_row(f"{own:.2f}", share, f"{whole:.2f}", f"{calls}", escape(place))
    out.print(table)
