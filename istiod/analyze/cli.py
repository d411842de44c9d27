"""`ambient analyze`: look at files, at a cluster, or at what files would make of a cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from istiod.analyze import cluster, codes, config, files, suppress
from istiod.analyze.codes import LEVELS, Level
from istiod.analyze.message import Message
from istiod.analyze.output import FORMATS
from istiod.analyze.run import Options, analyze
from istiod.analyze.world import World
from istiod.kube import credentials
from istiod.kube.client import KubeClient
from istiod.kube.credentials import Credentials
from istiod.store import DEFAULT_REVISION
from istiod.translate.common import MeshConfig
from meshcore.errors import ConfigError

EXIT_FOUND: Final = 79
"""Upstream's exit code for messages at or above the threshold."""

_COUNTED: Final = (("error", Level.ERROR), ("warning", Level.WARNING), ("remark", Level.INFO))
_LEVEL: Final = click.Choice(list(LEVELS), case_sensitive=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--kube", "--use-kube", "-k", is_flag=True, help="Read a cluster; files are laid over it.")
@click.option("--kubeconfig", default="", metavar="FILE", help="KUBECONFIG.  [default: ~/.kube/config, or the pod's]")
@click.option("--context", default="", metavar="NAME", help="A context of the kubeconfig.  [default: its current one]")
@click.option("--namespace", "-n", default="", metavar="NAME", help="Tell about this namespace only.")
@click.option("--all-namespaces", "-A", is_flag=True, help="Tell about every namespace of the cluster.")
@click.option("--output", "-o", type=click.Choice(list(FORMATS)), default="log", show_default=True)
@click.option("--output-threshold", type=_LEVEL, default="Info", show_default=True, help="Leave out what is below.")
@click.option("--failure-threshold", type=_LEVEL, default="Error", show_default=True, help="Exit with 79 from here on.")
@click.option("--suppress", "-S", "suppressions", multiple=True, metavar="CODE=OBJECT", help="Leave out; repeatable.")
@click.option("--root-namespace", "-i", "--istioNamespace", default="istio-system", show_default=True, metavar="NAME")
@click.option("--revision", "-r", default=DEFAULT_REVISION, show_default=True, metavar="NAME")
@click.option("--cluster-domain", default="cluster.local", show_default=True, metavar="NAME")
@click.option("--list-codes", is_flag=True, help="Print every code with its level and meaning.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    paths: tuple[str, ...],
    kube: bool,
    kubeconfig: str,
    context: str,
    namespace: str,
    all_namespaces: bool,
    output: str,
    output_threshold: str,
    failure_threshold: str,
    suppressions: tuple[str, ...],
    root_namespace: str,
    revision: str,
    cluster_domain: str,
    list_codes: bool,
) -> None:
    """Find mistakes in the objects of a mesh, before they are applied or in a cluster.

    PATH is a file, a directory with everything below it, or - for the standard input. A message can be silenced at its
    object with the annotation galley.istio.io/analyze-suppress (codes separated by commas, or *).

    Exit codes: 0 in order, 79 messages at or above the threshold, 1 something cannot be read, 2 a wrong command line.

    \b
    Examples:
      ambient analyze ./mesh
      ambient analyze --kube -n shop
      ambient analyze --kube -A new-route.yaml --failure-threshold Warning
      kubectl get all,gateway -o yaml | ambient analyze -
      ambient analyze ./mesh -S "IST0101=VirtualService *.legacy" -o json
    """
    if list_codes:
        click.echo(codes.listing(), nl=False)
        return
    if not paths and not kube:
        raise ConfigError("nothing to analyse: name files or directories, - for the standard input, or --kube")
    if namespace and all_namespaces:
        raise ConfigError("--namespace and --all-namespaces exclude each other")
    silenced = tuple(map(suppress.parse, suppressions))
    settings = MeshConfig(root_namespace=root_namespace, cluster_domain=cluster_domain)
    access = _credentials(kubeconfig, context) if kube else None
    own = namespace or (access.namespace if access is not None else "default")
    world = World(settings, revision=revision, namespace=own)
    told = namespace
    if access is not None:
        told = "" if all_namespaces else own
        asyncio.run(_read_cluster(world, access, told))
    files.read(world, paths, sys.stdin.buffer)
    world.close()
    if not world.written and not world.faults:
        click.echo(f"There are no objects in {', '.join(paths) or 'the cluster'}.", err=True)
    messages = analyze(world, Options(told, silenced))
    shown = [one for one in messages if one.code.level >= LEVELS[output_threshold]]
    if shown or output != "log":
        click.echo(FORMATS[output](shown), nl=False)
    _sum_up(messages, _subject(paths, told, kube=kube), aside=output != "log")
    if any(one.code.level >= LEVELS[failure_threshold] for one in messages):
        ctx.exit(EXIT_FOUND)


def _credentials(kubeconfig: str, context: str) -> Credentials:
    kubeconfig = kubeconfig or config.kubeconfig()
    if not kubeconfig and not Path(credentials.SERVICE_ACCOUNT).is_dir():
        raise ConfigError("there is no kubeconfig (KUBECONFIG, ~/.kube/config), and this is no pod: name --kubeconfig")
    return credentials.load(kubeconfig, context)


async def _read_cluster(world: World, found: Credentials, namespace: str) -> None:
    """Read it, telling on a terminal how far it is."""
    progress = _Progress(visible=sys.stderr.isatty())
    try:
        async with KubeClient(found, user_agent="ambient-analyze") as client:
            await cluster.read(world, client, namespace=namespace, progress=progress)
    finally:
        progress.end()


class _Progress:
    """One line on a terminal that says what is being read."""

    def __init__(self, *, visible: bool) -> None:
        self._visible = visible

    def __call__(self, what: str) -> None:
        if self._visible:
            click.echo(f"\r\x1b[Kreading {what}", nl=False, err=True)

    def end(self) -> None:
        if self._visible:
            click.echo("\r\x1b[K", nl=False, err=True)


def _subject(paths: Sequence[str], namespace: str, *, kube: bool) -> str:
    if namespace:
        return f"namespace: {namespace}"
    return "all namespaces" if kube else ", ".join(paths)


def _sum_up(messages: Sequence[Message], subject: str, *, aside: bool) -> None:
    """One line about all messages, shown or not; that there are none is the result itself, unless a program reads."""
    if not messages:
        click.echo(f"No validation issues found when analyzing {subject}.", err=aside)
        return
    counts = [(word, sum(one.code.level is level for one in messages)) for word, level in _COUNTED]
    summary = ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts if count)
    click.echo(f"Found when analyzing {subject}: {summary}.", err=True)
