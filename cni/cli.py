"""`ambient cni`: the node agent, and a look at what it programs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click


@click.group("cni", short_help="Node agent: enrols pods and programs redirection.")
def command() -> None:
    """Node agent: enrols pods and programs redirection.

    \b
    Examples:
      ambient cni agent --config-dir ./mesh --status-dir ./status --node node1 --zds-socket ./ztunnel.sock
      ambient cni rules --netns /run/netns/web
      ambient cni cleanup --netns /run/netns/web
    """


@command.command()
@click.option("--config-dir", required=True, type=click.Path(file_okay=False), help="Directory of Kubernetes YAML.")
@click.option("--status-dir", required=True, type=click.Path(file_okay=False), help="Where enrolment is noted.")
@click.option("--node", help="Name of this node (spec.nodeName of its pods).  [env: NODE_NAME]")
@click.option("--zds-socket", "zds_path", type=click.Path(dir_okay=False), help="Socket ztunnel connects to.")
@click.option("--ipv6/--no-ipv6", default=None, help="Capture IPv6 too (default). Without, IPv6 bypasses the mesh.")
@click.option("--dns-capture/--no-dns-capture", default=None, help="Send DNS of pods to port 15053 (default off).")
@click.option("--probe-uid", type=int, help="User id of the prober; default the kubelet's, else 0; -1 = any user.")
@click.option("--exclude-namespace", "excluded_namespaces", multiple=True, help="Never enrol pods of it (repeatable).")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Port of /metrics, default 15014; 0 = off.")
@click.option(
    "--health-port", type=click.IntRange(0, 65535), help="Port of /healthz and /readyz, default 8000; 0 = off."
)
@click.option("--uninstall-on-exit", is_flag=True, help="Take all rules away at the end instead of leaving them.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def agent(log_level: str, **options: Any) -> None:
    """Run the node agent until SIGTERM.

    Pods are the Pod objects of the directory with spec.nodeName equal to --node; their annotation
    cni.ambient.mesh/netns names the network namespace. A pod is enrolled when it, or its namespace, has the label
    istio.io/dataplane-mode=ambient. On exit the rules stay, so that a new agent can take over without a gap.

    \b
    Example (two nodes on one machine, run in the network namespace of the node):
      ip netns exec node1 ambient cni agent --config-dir ./mesh --status-dir ./status \\
        --node node1 --zds-socket /run/mesh/node1/ztunnel.sock --metrics-port 0
    """
    from cni.config import load

    _start_logging(log_level)
    options["excluded_namespaces"] = options["excluded_namespaces"] or None
    _run(load(options))


@command.command()
@click.option("--netns", "path", required=True, type=click.Path(), help="Path of the pod's network namespace.")
def rules(path: str) -> None:
    """Print what is programmed in a pod, with counters.

    \b
    Example:
      ambient cni rules --netns /run/netns/web
    """
    from cni.redirect import Redirector
    from cni.rules_nft import NftBackend

    with _namespace(path) as netns:
        rows = Redirector(NftBackend()).show(netns)
    if not rows:
        click.echo("nothing is programmed there")
    for row in rows:
        count = f"{row['packets']:>8} packets {row['bytes']:>10} bytes" if "packets" in row else ""
        click.echo(f"{row['table']:<22} {row['chain']:<18} {row['rule']:<45} {count}".rstrip())


@command.command()
@click.option("--netns", "path", required=True, type=click.Path(), help="Path of the pod's network namespace.")
def cleanup(path: str) -> None:
    """Remove what is programmed in a pod.

    For a pod that was left behind; a running agent does this itself when the pod's label goes.

    \b
    Example:
      ambient cni cleanup --netns /run/netns/web
    """
    from cni.redirect import Redirector
    from cni.rules_nft import NftBackend

    with _namespace(path) as netns:
        removed = Redirector(NftBackend()).remove(netns)
    click.echo("removed" if removed else "nothing was programmed there")


@contextlib.contextmanager
def _namespace(path: str) -> Iterator[int]:
    from meshcore.netns import open_netns

    netns = open_netns(path)
    try:
        yield netns
    finally:
        os.close(netns)


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _run(settings: Any) -> None:
    import uvloop

    from cni.agent import Agent

    # Each pod costs a descriptor or two, and the usual soft limit of 1024 is for programs that use select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await Agent(settings).run(stop)

    uvloop.run(main())
