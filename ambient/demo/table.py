"""What the user sees: progress while it works, the table at the end, or one JSON object."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from ambient.demo.scenarios.base import Scenario

_WIDE: Final = 300  # columns


class Reporter:
    """Progress on stderr: plain lines when that is no terminal. Everything else goes to stdout."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._out = Console(highlight=False)
        if not self._out.is_terminal:
            # Without a terminal there is no width to respect: a wrapped table in a CI log cannot be searched.
            self._out = Console(highlight=False, width=_WIDE)
        self._json = as_json
        self._verbose = verbose
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """One step of the building."""
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {_plain(text)}")

    def begin(self, scenario: Scenario) -> None:
        if self._verbose:
            self.step(f"{scenario.name}: {scenario.title}")

    def end(self, scenario: Scenario, ok: bool, observed: str, seconds: float) -> None:
        verdict = "[green]pass[/green]" if ok else "[bold red]FAIL[/bold red]"
        text = f"{verdict}  {scenario.name} [dim]({seconds:.1f} s)[/dim]"
        if self._verbose or not ok:
            text += f"  {_plain(observed)}"
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}")

    def log(self, process: str, lines: Iterable[str]) -> None:
        """The end of a log that belongs to a failure."""
        for line in lines:
            self._console.print(f"          [dim]{_plain(process)} |[/dim] {_plain(line)}")

    def result(self, rows: list[tuple[Scenario, bool, str, float]]) -> None:
        """The table, or the JSON object."""
        if self._json:
            print(json.dumps(as_object(rows)))
            return
        table = Table(show_lines=False, pad_edge=False)
        for name, style in (("", ""), ("scenario", "bold"), ("observed", ""), ("s", "dim")):
            table.add_column(name, style=style, overflow="fold", no_wrap=name in {"", "scenario", "s"})
        for scenario, ok, observed, seconds in rows:
            verdict = "[green]pass[/green]" if ok else "[bold red]FAIL[/bold red]"
            table.add_row(verdict, scenario.name, _plain(observed), f"{seconds:.1f}")
        self._out.print(table)
        passed = sum(ok for _, ok, _, _ in rows)
        self._out.print(f"{passed} of {len(rows)} scenarios passed in {time.monotonic() - self._began:.0f} s")

    def note(self, text: str) -> None:
        """Lines for the user that are no part of the result."""
        self._console.print(_plain(text))


def as_object(rows: Iterable[tuple[Scenario, bool, str, float]]) -> dict[str, Any]:
    """The object that --json prints."""
    scenarios = [{"name": scenario.name, "ok": ok, "observed": observed} for scenario, ok, observed, _ in rows]
    return {"scenarios": scenarios, "ok": all(each["ok"] for each in scenarios)}


def _plain(text: str) -> str:
    """Text in which nothing is taken for a style."""
    return text.replace("[", r"\[")
