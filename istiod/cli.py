"""`ambient istiod`: run the control plane, or make a bootstrap token for a node."""

from __future__ import annotations

import asyncio
import logging
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from istiod import config
from meshcore.errors import ConfigError

_LIFETIME: Final = "30d"
_EXIT_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config-dir", metavar="DIR", help="Kubernetes YAML, several documents a file; watched.")
@click.option("--state-dir", metavar="DIR", help="CA key and certificate; private to istiod, kept over restarts.")
@click.option("--status-dir", metavar="DIR", help="Where agents and istiod note the status of objects.")
@click.option("--kubeconfig", metavar="FILE", help="KUBECONFIG: the API server to watch, when not run in a pod of it.")
@click.option("--context", metavar="NAME", help="A context of the kubeconfig.  [default: its current one]")
@click.option(
    "--revision", metavar="NAME", help="REVISION: leave objects labelled for another one.  [default: default]"
)
@click.option(
    "--exclude-namespace", "exclude_namespaces", multiple=True, metavar="NAME", help="Do not read it; repeatable."
)
@click.option("--kubernetes-api-qps", "api_qps", type=float, help="Requests a second to the API server.  [default: 80]")
@click.option("--kubernetes-api-burst", "api_burst", type=int, help="Requests at once.  [default: 160]")
@click.option(
    "--ca-dir", metavar="DIR", help="A CA of your own: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem."
)
@click.option("--address", metavar="IP", help="Address to listen on.  [default: 0.0.0.0]")
@click.option("--port", type=int, help="Configuration and certificates, TLS 1.3.  [default: 15012]")
@click.option("--http-port", type=int, help="/ready and /debug; 0 = off.  [default: 8080]")
@click.option("--monitoring-port", type=int, help="/metrics; 0 = off.  [default: 15014]")
@click.option("--webhook-port", type=int, help="Validating webhook; 0 = off.  [default: 15017 in a cluster]")
@click.option("--san", "sans", multiple=True, metavar="NAME", help="Further name or address proxies dial; repeatable.")
@click.option("--trust-domain", metavar="NAME", help="TRUST_DOMAIN.  [default: cluster.local]")
@click.option("--cluster-id", metavar="NAME", help="CLUSTER_ID.  [default: Kubernetes]")
@click.option(
    "--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]), show_default=True
)
@click.pass_context
def command(ctx: click.Context, /, log_level: str, **options: Any) -> None:
    """Run the control plane: over the Kubernetes API, or over a directory of the same YAML.

    In a pod it needs no option: the objects are those of the pod's cluster. Elsewhere --kubeconfig names a cluster, or
    --config-dir a directory, which is watched.

    What is wrong in an object is logged as soon as it is read, for a file with its line and field; the last good
    version stays in force. Over a directory, the root certificate that proxies need is exported to
    STATE_DIR/root-cert.pem; in a cluster every namespace gets it as the ConfigMap istio-ca-root-cert.

    \b
    Examples:
      ambient istiod
      ambient istiod --kubeconfig ~/.kube/config --context staging
      ambient istiod --config-dir ./mesh --state-dir /var/lib/ambient/istiod
      ambient istiod --config-dir ./mesh --state-dir ./state --address 10.0.0.1 --san istiod.example
      ambient istiod token --state-dir ./state --node node-1 > node-1.token
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = options
        return
    settings = config.load(options)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(log_level.upper())
    for chatty in ("watchfiles", "httpx2", "httpcore2"):  # a line a request, or a line a file
        logging.getLogger(chatty).setLevel(logging.WARNING)
    import uvloop

    uvloop.run(serve(settings))


@command.command()
@click.option("--state-dir", metavar="DIR", help="That of the istiod that will check the token.")
@click.option("--node", required=True, metavar="NAME", help="The node whose ztunnel will use the token.")
@click.option("--namespace", default="istio-system", show_default=True, metavar="NAME")
@click.option("--service-account", default="ztunnel", show_default=True, metavar="NAME")
@click.option("--ttl", default=_LIFETIME, show_default=True, metavar="DURATION", help="For example 12h or 30d.")
@click.pass_context
def token(ctx: click.Context, state_dir: str | None, node: str, namespace: str, service_account: str, ttl: str) -> None:
    """Print a token with which one node's ztunnel gets its first certificate.

    Whoever holds the token can get certificates for the pods of that node: keep it as a key.

    \b
    Examples:
      ambient istiod token --state-dir ./state --node node-1 > node-1.token
      ambient istiod token --state-dir ./state --node node-1 --ttl 12h
    """
    from istiod.auth import TokenKey

    state_dir = state_dir or (ctx.obj or {}).get("state_dir")
    if not state_dir:
        raise click.UsageError("Missing option '--state-dir'.")
    for name, value in (("--node", node), ("--namespace", namespace), ("--service-account", service_account)):
        if not value or "/" in value or not value.isascii() or len(value) > 253:
            raise ConfigError(f"{name}: {value!r} is not a name")
    lifetime = timedelta(seconds=config.duration(ttl, "--ttl"))
    Path(state_dir).mkdir(parents=True, exist_ok=True)
    click.echo(TokenKey.load(state_dir).mint(f"{namespace}/{service_account}", node, lifetime))


async def serve(settings: config.Settings) -> None:
    """Run until SIGTERM or SIGINT; a second one ends the handing over of proxies."""
    from istiod.app import open_istiod

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _EXIT_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    istiod = await open_istiod(settings)

    def asked() -> None:
        if stop.is_set():
            istiod.hurry()
        stop.set()

    for number in _EXIT_SIGNALS:
        loop.add_signal_handler(number, asked)
    try:
        await istiod.start()
        await istiod.run(stop)
    finally:
        await istiod.close()
