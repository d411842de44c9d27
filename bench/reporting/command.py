"""`ambient bench report`: result documents in, one HTML page and one Markdown file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import click

from bench import config, fleet
from bench.errors import BenchError
from bench.fleet import Fleet, Prices
from bench.published import MESH_RATE

RESULTS: Final = config.ROOT / "build" / "bench"
"""Where runs leave their documents and the report goes, unless told otherwise."""
_PATTERN: Final = "run-*.json"
_EXIT_ERROR: Final = 2


class Report(NamedTuple):
    """What was written, and what the reader of it should be told."""

    html: Path
    markdown: Path
    warnings: list[str]


def newest(directory: Path) -> Path:
    """The result document that was written last. Raises BenchError when there is none."""
    try:
        found = [(path.stat().st_mtime_ns, path.name, path) for path in directory.glob(_PATTERN)]
    except OSError as error:
        raise BenchError(f"{directory} cannot be searched for results: {error.strerror}") from error
    if not found:
        raise BenchError(f"there is no {_PATTERN} in {directory}: run `ambient bench run` first, or name a file")
    return max(found)[2]


def report(
    documents: Sequence[Path],
    out: Path,
    *,
    rate: float = MESH_RATE,
    prices: Prices | None = None,
    sizes: Fleet | None = None,
) -> Report:
    """Write report.html and report.md into `out`, which is made if absent.

    Several documents become one: for the same scenario and load the later file counts. Raises BenchError that names the
    file and the field when a document cannot be read, and the file when one cannot be written.
    """
    # Imported here: drawing takes half a second to import, which `--help` need not wait for.
    try:
        from bench.reporting import markdown, merging, page
    except ModuleNotFoundError as error:
        raise BenchError(f"{error.name} is not installed: pip install 'ambient-mesh[bench]'") from error
    merged = merging.read(documents)
    content = page.gather(merged, rate, prices or fleet.default_prices(), sizes or Fleet())
    written = Report(out / "report.html", out / "report.md", merged.warnings)
    _write(written.html, page.render(merged, content))
    _write(written.markdown, markdown.render(merged, content))
    return written


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error


class _Failed(click.ClickException):
    """What is wrong with a file, in the words of every error of the bench."""

    exit_code = _EXIT_ERROR

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"ambient bench: error: {self.format_message()}", err=True, file=file)


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Where report.html and report.md go.  [build/bench]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=MESH_RATE,
    help=f"Requests/s through the whole fleet.  [{MESH_RATE:,}, the mesh of Istio's load test]",
)
@click.option(
    "--price",
    type=click.FloatRange(min=0),
    default=fleet.implied_price(),
    help=f"Dollars for a vCPU and year.  [{fleet.implied_price():.2f}, what the published calculator implies]",
)
@click.option(
    "--price-gb",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Dollars for a GB of memory and year.  [0: the implied price of a vCPU has its memory in it]",
)
@click.option("--pods", type=click.IntRange(1), default=Fleet().pods, help=f"Of the fleet.  [{Fleet().pods:,}]")
@click.option("--namespaces", type=click.IntRange(1), default=Fleet().namespaces, help=f"[{Fleet().namespaces:,}]")
@click.option("--nodes", type=click.IntRange(1), default=Fleet().nodes, help=f"[{Fleet().nodes:,}]")
def report_command(
    files: tuple[Path, ...],
    out: Path,
    rate: float,
    price: float,
    price_gb: float,
    pods: int,
    namespaces: int,
    nodes: int,
) -> None:
    """Make one HTML page with plots, and Markdown, from results of `ambient bench run`.

    FILE is a result; without one the newest build/bench/run-*.json is taken. Several become one report: where two say
    something of the same scenario and load, the later one counts. The page needs nothing else: it can be mailed.

    It sets what others have published beside our figures and Envoy's from the same run, shows every figure with its
    range, marks results of a noisy machine as unusable, and works out what a fleet would cost.

    \b
    Examples:
      ambient bench report                             the newest run, into build/bench
      ambient bench report base.json waypoint.json     two runs of one machine as one report
      ambient bench report run.json --out /tmp/report  somewhere else
      ambient bench report --rate 500000 --price 350   a busier fleet on cheaper machines
    """
    try:
        written = report(
            files or (newest(RESULTS),),
            out,
            rate=rate,
            prices=Prices(price, price_gb),
            sizes=Fleet(pods, namespaces, nodes),
        )
    except BenchError as error:
        raise _Failed(str(error)) from error
    for warning in written.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(written.html)
    click.echo(written.markdown)
