"""`ambient bench istiod`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console

from bench import config, isolation, measure
from bench.errors import BenchError
from bench.istiod import document, stages, summary
from bench.istiod.cluster import SOURCES, SourceName
from bench.istiod.document import Document, Point
from bench.istiod.fleet import Sizes
from bench.istiod.world import Options, World
from bench.scenarios.tables import console
from istiod.push import Published

EXIT_UNUSABLE: Final = 3
CURVE: Final = (100, 300, 1_000, 3_000, 10_000)
_SEED: Final = 1
_HOT: Final = 10  # functions of a profile that are shown

Progress = Callable[[str], None]


class Effort(NamedTuple):
    """How often everything is done; 0 leaves it out. `rate` is in pods a second."""

    starts: int
    deaths: int
    reconnects: int
    rollout: int
    rate: float


class Run(NamedTuple):
    """What one invocation does with every size."""

    options: Options
    effort: Effort
    progress: Progress


QUICK: Final = Effort(starts=1, deaths=20, reconnects=1, rollout=100, rate=50.0)
_QUICK_PODS: Final = (1_000,)


@click.command(name="istiod")
@click.option("--pods", "wanted", multiple=True, type=click.IntRange(10, 100_000), help="A size; repeatable.  [curve]")
@click.option("--source", type=click.Choice(SOURCES), default="fake", show_default=True, help="Where the objects are.")
@click.option("--ztunnels", type=click.IntRange(1, 1000), default=Sizes().ztunnels, show_default=True)
@click.option("--waypoints", type=click.IntRange(0, 1000), default=Sizes().waypoints, show_default=True)
@click.option("--starts", type=click.IntRange(1, 100), default=3, show_default=True, help="Cold starts for each size.")
@click.option("--deaths", type=click.IntRange(0, 10_000), default=100, show_default=True, help="Endpoints that fail.")
@click.option("--reconnects", type=click.IntRange(0, 100), default=3, show_default=True, help="Times everybody leaves.")
@click.option("--rollout", type=click.IntRange(0, 100_000), default=1000, show_default=True, help="Pods to replace.")
@click.option("--rate", type=click.FloatRange(0.1, 1000), default=50.0, show_default=True, help="Of them a second.")
@click.option(
    "--debounce", type=click.FloatRange(0, 10), default=0.1, show_default=True, help="PILOT_DEBOUNCE_AFTER, s."
)
@click.option("--client-processes", type=click.IntRange(1, 64), default=1, show_default=True, help="For the clients.")
@click.option("--quick", is_flag=True, help="1,000 pods and few repetitions: a look, not a result.")
@click.option("--profile", is_flag=True, help="Show where istiod's time goes, by cProfile, instead of timing it.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), help="Tables and curves, a page.")
def istiod_command(
    wanted: tuple[int, ...],
    source: SourceName,
    ztunnels: int,
    waypoints: int,
    starts: int,
    deaths: int,
    reconnects: int,
    rollout: int,
    rate: float,
    debounce: float,
    client_processes: int,
    quick: bool,
    profile: bool,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure istiod with a large cluster and all its proxies connected.

    istiod, the API server and the clients, which speak the real protocol, are processes of their own. For every size:
    cold starts until all clients hold everything; one endpoint at a time failing, until the last client's ACK; all
    clients coming back at once; a rollout. What clients hold is compared with the cluster, name by name. The result
    goes to build/bench/istiod-DATE.json too. Exit status 3: the machine was too busy for the result to be used.

    \b
    Examples:
      ambient bench istiod --quick                          a minute
      ambient bench istiod                                  100 to 10,000 pods
      ambient bench istiod --pods 10000 --deaths 500 --json big.json --html big.html
      ambient bench istiod --pods 3000 --source kubernetes  a real kube-apiserver
      ambient bench istiod --pods 3000 --profile            the ten dearest functions
    """
    began = time.monotonic()
    err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

    def progress(text: str) -> None:
        err.print(f"{time.monotonic() - began:6.1f} s  {text}")

    for name, file in (("--json", json_file), ("--html", html_file)):
        if file is not None and not file.parent.is_dir():
            raise BenchError(f"{name} {file}: there is no directory {file.parent}")
    sizes = Sizes(ztunnels=ztunnels, waypoints=waypoints)
    pods = wanted or (_QUICK_PODS if quick else CURVE)
    effort = QUICK if quick else Effort(starts, deaths, reconnects, rollout, rate)
    run = Run(Options(source, client_processes, debounce, profile), effort, progress)
    machine = measure.describe_machine() | {"client processes": client_processes}
    isolation.prepare()
    if profile:
        for number in pods:
            asyncio.run(_profiled(run, sizes.scaled(number)))
        return
    points = [asyncio.run(_measured(run, sizes.scaled(number))) for number in sorted(set(pods))]
    result = Document(
        document.FORMAT, machine, source, debounce, sorted(Published().resources), points, summary.memory(points)
    )
    kept = config.ROOT / "build" / "bench" / f"istiod-{machine['date'].replace(':', '')[:17]}.json"
    for file in (json_file, kept):
        if file is not None:
            document.write(file, result)
    if html_file is not None:
        from bench.istiod.page import render  # drawing takes half a second to import

        document.write_text(html_file, render(result))
    out = console()
    out.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)
    summary.show(out, result)
    out.print(f"written to {json_file or kept}", markup=False)
    if any(point.noisy for point in points):
        sys.exit(EXIT_UNUSABLE)


async def _measured(run: Run, sizes: Sizes) -> Point:
    effort, progress = run.effort, run.progress
    progress(f"{sizes.pods} pods, {sizes.services} services: the cluster")
    async with World(config.directory() / f"istiod-{sizes.pods}", sizes, run.options) as world:
        starts = []
        for number in range(effort.starts):
            starts.append(await stages.start(world))
            progress(f"start {number + 1}: {summary.start_line(starts[-1])}")
        quiet = await stages.quiet(world)
        progress(f"nothing is recomputed any more {quiet:.1f} s later")
        deaths = await stages.deaths(world, effort.deaths, _SEED, progress) if effort.deaths else None
        if deaths is not None:
            progress(f"deaths: {summary.deaths_line(deaths)}")
        reconnects = await stages.reconnects(world, effort.reconnects) if effort.reconnects else None
        if reconnects is not None:
            progress(f"reconnects: {summary.reconnects_line(reconnects)}")
        rollout = await stages.rollout(world, effort.rollout, effort.rate) if effort.rollout else None
        if rollout is not None:
            progress(f"rollout: {summary.rollout_line(rollout)}")
        await stages.verify(world)
        progress("every client holds what the cluster is")
    costs = [each.cost for each in (*starts, deaths, rollout) if each is not None]
    costs += reconnects.costs if reconnects is not None else []
    noisy = 2 * sum(cost.foreign > config.NOISE_LIMIT for cost in costs) > len(costs)
    return Point(sizes, starts, quiet, deaths, reconnects, rollout, noisy)


async def _profiled(run: Run, sizes: Sizes) -> None:
    """Run a start, some deaths and a reconnect under cProfile, and show each."""
    out = console()
    async with World(config.directory() / f"profile-{sizes.pods}", sizes, run.options) as world:
        run.progress(f"{sizes.pods} pods: start")
        await stages.start(world)
        summary.show_profile(out, "initial sync", await world.dump_profile(), _HOT)
        await stages.quiet(world)
        summary.show_profile(out, "until nothing is recomputed", await world.dump_profile(), _HOT)
        if run.effort.deaths:
            run.progress("deaths")
            await stages.deaths(world, run.effort.deaths, _SEED, run.progress)
            summary.show_profile(out, "deaths and recoveries", await world.dump_profile(), _HOT)
        if run.effort.reconnects:
            run.progress("reconnects")
            await stages.reconnects(world, run.effort.reconnects)
            summary.show_profile(out, f"{run.effort.reconnects} reconnects", await world.dump_profile(), _HOT)
        if run.effort.rollout:
            run.progress("rollout")
            await stages.rollout(world, run.effort.rollout, run.effort.rate)
            summary.show_profile(out, "rollout", await world.dump_profile(), _HOT)
