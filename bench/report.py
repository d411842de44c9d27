"""What comes out: progress while it works, tables at the end, and one JSON document."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import config, profiling
from bench.bars import Row
from bench.suite import CASES, Slice

FORMAT: Final = 1
"""Version of the JSON document."""

_PLAIN_WIDTH: Final = 250
_CELLS: Final = ("READ", "WRITE", "SPLICE", "EPOLL_WAIT", "EPOLL_CTL", "ACCEPT", "CONNECT", "CLOSE", "SOCKOPT", "SETNS")
_TOP: Final = 12


class Reporter:
    """Progress goes to stderr, results to stdout."""

    def __init__(self) -> None:
        self._err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        # Without a terminal there is no width to respect: a wrapped table cannot be searched.
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        self._err.print(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def machine(self, machine: Mapping[str, Any]) -> None:
        self._out.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)

    def bars(self, rows: Sequence[Row]) -> None:
        table = Table(pad_edge=False)
        for name in ("", "bar", "what", "ours", "Envoy", "ratio", "limit", "note"):
            table.add_column(name, no_wrap=name in {"", "bar", "ours", "Envoy", "ratio", "limit"}, overflow="fold")
        for row in rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} x"
            table.add_row(_verdict(row.ok), row.bar, row.what, row.ours, row.rival, ratio, row.limit, row.note)
        self._out.print(table)

    def slices(self, slices: Sequence[Slice]) -> None:
        """Medians per case and subject."""
        table = Table(pad_edge=False)
        for name in ("case", "subject", "CPU", "by process", "over origin", "rate", "p50 / p90 / p99 us", "foreign"):
            table.add_column(name, no_wrap=True)
        for group in grouped(slices):
            table.add_row(*_detail(group))
        self._out.print(table)

    def syscalls(self, slices: Sequence[Slice]) -> None:
        """System calls of our workers per piece of work, from their counter pages."""
        table = Table(pad_edge=False, title="system calls of our workers per request, connection or MB")
        for name in ("case", "worker", *(cell.lower() for cell in _CELLS)):
            table.add_column(name, no_wrap=True)
        for case, role, cells in syscalls_per_work(slices):
            table.add_row(case, role, *(f"{cells[cell]:.2f}" for cell in _CELLS))
        if table.row_count:
            self._out.print(table)

    def profile(self, case: str, reports: Mapping[str, Path]) -> None:
        for role, path in reports.items():
            text = path.read_text()
            shares = ", ".join(f"{name} {share:.0f} %" for name, share in list(profiling.by_object(text).items())[:5])
            self._out.print(f"profile of our {role} worker, {case}: {shares}  ({path})", markup=False)
            calls = ", ".join(f"{name} {percent:.0f} %" for percent, name in profiling.by_call(text)[:_TOP])
            self._out.print(f"  system calls: {calls}", markup=False)
            for percent, name, symbol in profiling.top(text, _TOP):
                self._out.print(f"  {percent:5.1f} %  {name:<28} {symbol}", markup=False)


def _verdict(ok: bool | None) -> str:
    return {True: "[green]pass[/green]", False: "[bold red]MISS[/bold red]", None: "[dim]info[/dim]"}[ok]


def grouped(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one case and subject together, in the order they first appear."""
    groups: dict[tuple[str, str], list[Slice]] = {}
    for one in slices:
        groups.setdefault((one.case, one.subject), []).append(one)
    return list(groups.values())


def _detail(group: Sequence[Slice]) -> tuple[str, ...]:
    first = group[0]
    bulk = CASES[first.case].unit == "GB"
    scale, unit = (1.0, "s/GB") if bulk else (1e6, "us")

    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    costs = [one.cost * scale for one in group]
    each = {role: middle(one.usage.cpu[role] / one.outcome.work for one in group) * scale for role in first.usage.cpu}
    rate = middle(one.outcome.rate for one in group)
    latency = [middle(one.outcome.latency_us.get(key, 0.0) for one in group) for key in ("p50", "p90", "p99")]
    noisy = sum(one.noisy for one in group)
    return (
        first.case,
        first.subject,
        f"{middle(costs):.2f} {unit} [{min(costs):.2f}-{max(costs):.2f}]" if first.usage.cpu else "",
        " ".join(f"{role} {value:.2f}" for role, value in each.items()),
        f"{middle(one.per_origin for one in group):.2f}" if first.usage.cpu else "",
        f"{rate * 8:.1f} Gbit/s" if bulk else f"{rate:.0f}/s",
        " / ".join(f"{value:.0f}" for value in latency) if any(latency) else "",
        f"{middle(one.usage.foreign for one in group):.2f}" + (f" ({noisy} of {len(group)} noisy)" if noisy else ""),
    )


def syscalls_per_work(slices: Sequence[Slice]) -> list[tuple[str, str, dict[str, float]]]:
    """(case, worker, calls per piece of work); bulk counts per megabyte."""
    found = []
    for group in grouped(slices):
        first = group[0]
        work = sum(one.outcome.work for one in group) * (1000 if CASES[first.case].unit == "GB" else 1)
        for role in first.cells:
            cells = {cell: sum(one.cells[role][cell] for one in group) / work for cell in _CELLS}
            found.append((first.case, role, cells))
    return found


def as_object(machine: Mapping[str, Any], rows: Sequence[Row], slices: Sequence[Slice]) -> dict[str, Any]:
    """The JSON document: what was found, and every slice it was taken from."""
    return {
        "format": FORMAT,
        "machine": dict(machine),
        "noise_limit": config.NOISE_LIMIT,
        "bars": [row._asdict() for row in rows],
        "slices": [_slice_object(one) for one in slices],
    }


def _slice_object(one: Slice) -> dict[str, Any]:
    found = one._asdict()
    found["outcome"] = one.outcome._asdict()
    found["usage"] = one.usage._asdict()
    found["memory"] = {role: each._asdict() for role, each in one.memory.items()}
    return found | {"cost": one.cost, "per_origin": one.per_origin, "noisy": one.noisy}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")
