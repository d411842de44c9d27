"""`ambient bench list`, `run` and `show`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench import config, isolation, measure, results
from bench.errors import BenchError
from bench.scenarios import catalog, loads, summary, syscalls, tables
from bench.scenarios.runner import Options, Runner
from bench.scenarios.world import World

EXIT_UNUSABLE = 3
"""Every load was measured and at least one result is too noisy to use."""

_DEFAULT_ROUNDS = 5
_OVERHEAD = 1.5  # seconds around a slice: waiting for quiet, starting the generator


@click.command(name="list")
def list_command() -> None:
    """Show the scenarios and loads there are.

    \b
    Examples:
      ambient bench list
    """
    out = tables.console()
    scenarios = Table(title="scenarios", title_justify="left", pad_edge=False)
    scenarios.add_column("name", no_wrap=True)
    scenarios.add_column("what it is")
    for one in catalog.SCENARIOS.values():
        scenarios.add_row(one.name, one.title)
    out.print(scenarios)
    table = Table(title="loads", title_justify="left", pad_edge=False)
    for name in ("name", "what it is", "unit", "slice"):
        table.add_column(name, no_wrap=name in {"name", "slice"})
    for each in loads.LOADS.values():
        table.add_row(each.name, each.title, each.unit, f"{each.seconds:g} s")
    out.print(table)
    groups = Table(title="groups of loads", title_justify="left", pad_edge=False)
    groups.add_column("name", no_wrap=True)
    groups.add_column("loads")
    for name, members in loads.GROUPS.items():
        groups.add_row(name, ", ".join(members))
    out.print(groups)


@click.command(name="show")
@click.argument("scenario")
def show_command(scenario: str) -> None:
    """Print what configures the proxies of a scenario: Envoy's JSON, capture rules, manifests.

    Certificates and directories are of a run, so their paths differ from one to the next.

    \b
    Examples:
      ambient bench show envoy-sidecar
      ambient bench show envoy-waypoint-50 | less
    """
    chosen = catalog.SCENARIOS.get(scenario)
    if chosen is None:
        raise BenchError(f"no such scenario: {scenario}; there are {', '.join(catalog.SCENARIOS)}")
    texts = chosen.path().describe()
    if not texts:
        click.echo(f"{scenario}: there is no proxy to configure")
    for name, text in texts.items():
        click.echo(f"# {scenario}: {name}")
        click.echo(text.rstrip("\n") + "\n")


@click.command(name="run")
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@click.option("--load", "names", multiple=True, metavar="NAME", help="A load or group of them; repeatable.  [default]")
@click.option("--against", "rivals", multiple=True, metavar="SCENARIO", help="Measure beside it and show the ratio.")
@click.option("--rounds", type=click.IntRange(1, 100), default=_DEFAULT_ROUNDS, show_default=True, help="Slices each.")
@click.option("--seconds", type=click.FloatRange(1, 7200), help="Length of a slice, in place of the load's own.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--retries", type=click.IntRange(0, 20), default=1, help="Repeats of a slice the machine disturbed.  [1]")
@click.option("--patience", type=float, default=5.0, help="Seconds to wait for a quiet machine before a slice.  [5]")
@click.option("--no-syscalls", is_flag=True, help="Do not count system calls.")
def run_command(
    scenarios: tuple[str, ...],
    names: tuple[str, ...],
    rivals: tuple[str, ...],
    rounds: int,
    seconds: float | None,
    json_file: Path | None,
    retries: int,
    patience: float,
    no_syscalls: bool,
) -> None:
    """Measure scenarios under loads; `ambient bench list` names them, "all" is all of them.

    Everything chosen stands at once and slices take turns, so that the machine's moods meet everybody. The result
    goes to build/bench/run-DATE.json too, where `ambient bench report` finds it. Exit status 3: a result is too noisy.

    \b
    Examples:
      ambient bench run ambient-l4 --against envoy-sidecar
      ambient bench run ambient-l4 envoy-hbone --load sweep --rounds 9 --json sweep.json
      ambient bench run all --load all
      ambient bench run ambient-l4 --load soak                  a quarter of an hour, looking for growth
      ambient bench run ambient-l4 --load locust --rounds 3
    """
    chosen = catalog.choose([*scenarios, *rivals])
    wanted = loads.choose(names or ("default",))
    if json_file is not None and not json_file.parent.is_dir():
        raise BenchError(f"--json {json_file}: there is no directory {json_file.parent}")
    started = datetime.now(UTC)
    began = time.monotonic()
    err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    def progress(text: str) -> None:
        err.print(f"{time.monotonic() - began:6.1f} s  {text}")

    machine = measure.describe_machine() | {"rounds": rounds}
    why = syscalls.unavailable()
    if why and not no_syscalls:
        progress(f"system calls are not counted: {why}")
    isolation.prepare()
    slices = {each: len(chosen) - 1 if each.name in loads.ONCE else len(chosen) * rounds for each in wanted}
    minutes = sum(count * ((seconds or each.seconds) + _OVERHEAD) for each, count in slices.items()) / 60
    progress(f"{len(chosen)} scenarios, {len(wanted)} loads, {rounds} rounds: about {max(1.0, minutes):.0f} minutes")
    options = Options(rounds, seconds, retries, patience, not no_syscalls and not why)
    with World(config.directory() / "world", chosen, progress) as world:
        runner = Runner(world, options, progress)
        runner.run(wanted)
    document = summary.document(machine, config.NOISE_LIMIT, chosen, runner.samples, runner.looks)
    kept = config.ROOT / "build" / "bench" / f"run-{started:%Y%m%d-%H%M%S}.json"
    if json_file is not None:
        results.write(json_file, document)
    try:
        results.write(kept, document)
    except BenchError as error:
        if json_file is None:
            raise
        progress(f"not kept for the report: {error}")
    out = tables.console()
    out.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)
    tables.show(out, document, rivals)
    out.print(f"written to {json_file or kept}", markup=False)
    if any(each.noisy for each in document.measured):
        sys.exit(EXIT_UNUSABLE)
