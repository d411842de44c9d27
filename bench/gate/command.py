"""`ambient bench gate`: the three parts together, and the way to accept a change of the instruction counts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import config, isolation
from bench.errors import BenchError
from bench.gate import baselines, counts, environment, memory, ratios
from bench.gate.baselines import Finding
from bench.suite import Progress

EXIT_FAILED: Final = 1

COUNTS: Final = "counts"
RATIOS: Final = "ratios"
MEMORY: Final = "memory"
PARTS: Final = (COUNTS, MEMORY, RATIOS)


@click.command(name="gate")
@click.option("--only", "wanted", multiple=True, type=click.Choice(PARTS), help="A part; may be repeated.  [all]")
@click.option("--update-baseline", is_flag=True, help="Accept the instruction counts as they are; needs --reason.")
@click.option("--reason", default="", metavar="TEXT", help="Why they have changed; it is kept in the baseline.")
def gate_command(wanted: tuple[str, ...], update_baseline: bool, reason: str) -> None:
    """Refuse a change that makes the mesh slower or fatter; exit status 1 when it does.

    \b
    counts   instructions of the hot path under callgrind, for replayed inputs: fails 3 % above the baseline
    memory   private memory of workers after thousands of connections, and its growth: fails above the ceilings
    ratios   CPU per request and connection over Envoy's in one interleaved run: fails above a bound, tried twice

    What is accepted stands in bench/baselines. A change that is meant to cost more updates the counts and says why.

    \b
    Examples:
      ambient bench gate
      ambient bench gate --only counts
      ambient bench gate --update-baseline --reason "keepalive is set for every connection"
    """
    if update_baseline and not reason.strip():
        raise click.UsageError("--update-baseline needs --reason TEXT: it is kept with the numbers")
    if reason and not update_baseline:
        raise click.UsageError("--reason is for --update-baseline")
    if update_baseline and wanted and COUNTS not in wanted:
        raise click.UsageError("--update-baseline is for the counts: ceilings and bounds are edited by hand")
    parts = (COUNTS,) if update_baseline else [part for part in PARTS if not wanted or part in wanted]
    began = time.monotonic()
    err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    def progress(text: str) -> None:
        err.print(f"{time.monotonic() - began:6.1f} s  {text}")

    isolation.prepare()
    findings: list[tuple[str, Finding]] = []
    for part in parts:
        directory = config.directory() / part
        directory.mkdir()
        findings += [(part, each) for each in _run(part, directory, progress, reason if update_baseline else "")]
    _print(findings)
    err.print(f"{time.monotonic() - began:6.1f} s  done")
    if baselines.failed(each for _, each in findings):
        sys.exit(EXIT_FAILED)


def _run(part: str, directory: Path, progress: Progress, reason: str) -> Sequence[Finding]:
    if part == COUNTS:
        found = counts.measure(counts.CASES, directory, progress)
        here = environment.describe()
        baseline = baselines.update(found, here, reason) if reason else baselines.read()
        return baselines.compare(found, here, baseline)
    if part == MEMORY:
        return memory.judge(memory.memory_after(directory, progress), memory.read())
    if part == RATIOS:
        return ratios.check(directory, progress)
    raise BenchError(f"no such part: {part}")


def _print(findings: Sequence[tuple[str, Finding]]) -> None:
    words = {True: "pass", False: "FAIL", None: "skip"}
    for part, each in findings:
        click.echo(f"{words[each.ok]}  {part:<7} {each.case:<9} {each.text}")
