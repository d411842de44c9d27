"""`ambient demo`: build a mesh on this machine, exercise it, report, remove it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

import click

from ambient.demo import config
from meshcore.errors import MeshError

if TYPE_CHECKING:
    from ambient.demo.mesh import Mesh
    from ambient.demo.scenarios.base import Scenario
    from ambient.demo.table import Reporter

EXIT_FAILED: Final = 1
EXIT_TERMINATED: Final = 143


@click.command("demo", short_help="Build a two-node mesh on this machine and exercise it.")
@click.option("--json", "as_json", is_flag=True, help='Print one object {"scenarios": [...], "ok": ...} on stdout.')
@click.option("--keep", is_flag=True, help="Leave the mesh running and say how to look around.")
@click.option("--stop", is_flag=True, help="Remove a mesh that was left running, and do nothing else.")
@click.option("--only", "names", multiple=True, metavar="NAME", help="Run this scenario only (repeatable).")
@click.option("--list", "listing", is_flag=True, help="Print the scenarios and do nothing else.")
@click.option("--verbose", "-v", is_flag=True, help="Show what each scenario observed as soon as it did.")
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where sockets, logs and manifests live; default /run/ambient-demo, or a directory of the user's own.",
)
@click.pass_context
def command(
    ctx: click.Context,
    as_json: bool,
    keep: bool,
    stop: bool,
    names: tuple[str, ...],
    listing: bool,
    verbose: bool,
    run_dir: Path | None,
) -> int:
    """Build two nodes and their pods as network namespaces, run the real mesh on them and try it out.

    Nothing is changed on the machine itself: everything lives in namespaces and in the run directory, and is removed
    at the end, on Ctrl-C, and, after a crash, by the next start. Without root it runs in a user namespace.
    Exit status: 0 when every scenario passed, otherwise 1.

    \b
    Examples:
      ambient demo
      ambient demo --only strict --only permissive --verbose
      ambient demo --keep; ambient exec frontend -- curl -s http://10.77.96.10/; ambient demo --stop
      ambient demo --json | jq .ok
    """
    from ambient.demo.scenarios import ALL
    from ambient.demo.table import Reporter

    if listing:
        width = max(len(each.name) for each in ALL)
        for each in ALL:
            click.echo(f"{each.name:<{width}}  {each.title}")
        return 0
    chosen = _choose(ALL, names)
    directory = (run_dir or config.default_run_dir()).absolute()
    reporter = Reporter(as_json=as_json, verbose=verbose)
    with _signals_end_the_run():
        if stop:
            return _stop(directory, reporter)
        if os.geteuid() != 0:
            _start_again_without_root(directory, reporter)
        return _demo(directory, chosen, reporter, keep=keep)


def _choose(every: Sequence[Scenario], names: Sequence[str]) -> list[Scenario]:
    known = [each.name for each in every]
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "`ambient demo --list` shows them"
            raise click.BadParameter(f"there is no scenario '{name}': {hint}", param_hint="--only")
    return [each for each in every if not names or each.name in names]


def _start_again_without_root(directory: Path, reporter: Reporter) -> NoReturn:
    """Become the same command in a user namespace.

    What an earlier demo left behind is removed before: from inside another user namespace it could not be seen.
    """
    from ambient.demo.rootless import re_execute
    from ambient.demo.state import RunDir

    home = RunDir(directory)
    home.acquire()
    try:
        _remove_leftovers(directory, reporter)
    finally:
        home.release()
    re_execute(sys.argv[1:])


def _remove_leftovers(directory: Path, reporter: Reporter) -> None:
    from ambient.demo.cleanup import remove_mesh

    if count := remove_mesh(directory):
        reporter.note(f"removed {count} processes that an earlier demo left behind")


@contextlib.contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does, through every `finally`."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(directory: Path, reporter: Reporter) -> int:
    from ambient.demo.cleanup import remove_mesh
    from ambient.demo.state import RunDir

    if not directory.exists():
        reporter.note(f"no laptop mesh in {directory}")
        return 0
    home = RunDir(directory)
    home.acquire()
    try:
        count = remove_mesh(directory)
    finally:
        home.remove()
    reporter.note(f"removed a mesh of {count} processes" if count else f"no laptop mesh was running in {directory}")
    return 0


def _demo(directory: Path, chosen: Sequence[Scenario], reporter: Reporter, *, keep: bool) -> int:
    from ambient.demo import runner
    from ambient.demo.cleanup import remove_mesh
    from ambient.demo.mesh import Mesh
    from ambient.demo.state import RunDir

    home = RunDir(directory)
    home.acquire()
    mesh: Mesh | None = None
    kept = False
    try:
        _remove_leftovers(directory, reporter)
        mesh = Mesh(directory, reporter.step)
        try:
            mesh.build()
        except MeshError:
            for name, lines in mesh.component_logs():
                reporter.log(name, lines)
            raise
        reporter.step("the mesh is ready")
        outcomes = runner.run(mesh, chosen, reporter)
        reporter.result([(each.scenario, each.ok, each.observed, each.seconds) for each in outcomes])
        if keep:
            mesh.prepare(enrolled=True)
            reporter.note(_how_to_look_around(mesh))
            kept = True
        return 0 if all(each.ok for each in outcomes) else EXIT_FAILED
    finally:
        if not kept:
            with _uninterrupted():
                if mesh is not None:
                    mesh.take_down()
                remove_mesh(directory)
                home.remove()
        home.release()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the mesh behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _how_to_look_around(mesh: Mesh) -> str:
    from ambient.demo.topology import FRONTEND, WEB

    option = "" if mesh.run_dir == config.default_run_dir() else f"--run-dir {mesh.run_dir} "
    where = option.rstrip()
    return f"""
The mesh is running. Its pods: {", ".join(mesh.pods)}.

  ambient exec {option}{FRONTEND.name} -- curl -s http://{WEB.vip}/hello     a request through the mesh
  ambient exec {option}{mesh.ztunnels["node-1"]} -- ambient ztunnel-config workloads
  ambient exec {option}node-1 -- tcpdump -ni node-link                   what crosses the link between the nodes
  tail -f {mesh.logs}/ztunnel-*.log                   access logs
  ls {mesh.run_dir}/config                              the manifests: edit them and watch what changes

Remove it with: {f"ambient demo {where} --stop" if where else "ambient demo --stop"}
"""
