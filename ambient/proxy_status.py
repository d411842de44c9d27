"""`ambient proxy-status`: whether proxies have what istiod published, in the columns of `istioctl proxy-status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import click
import msgspec

from ambient.pages import Row, UnexpectedAnswer, as_text, get_json, host_port, table
from meshcore.errors import ConfigError

ISTIOD: Final = "127.0.0.1:8080"
PATH: Final = "/debug/syncz"
IGNORED: Final = "IGNORED"
"""What a proxy does not subscribe to."""
ORDER: Final = ("CDS", "LDS", "EDS", "RDS", "ECDS", "SDS", "NDS", "PCDS", "WADS", "WDS")
"""Columns as upstream orders them, those of ztunnel last; a type that is not here stands behind them."""
ALWAYS: Final = ("CDS", "LDS", "EDS", "RDS", "ECDS", "WADS", "WDS")
_HINT: Final = "is an istiod running there? --istiod says where to look, in a cluster behind `kubectl port-forward`"

Rows: TypeAlias = list[Row]


class Subscription(msgspec.Struct, rename="camel"):
    """One type of one proxy. `state` is SYNCED, STALE, NOT SENT or ERROR."""

    name: str
    state: str
    sent: int = 0
    acked: int = 0
    held: int = 0
    rejected: str = ""
    last_rejected: str = ""


class Proxy(msgspec.Struct, rename="camel"):
    """One connection, as istiod's page syncz shows it. `proxy` is the node id; `types` are by type url."""

    proxy: str
    types: dict[str, Subscription]
    connection_id: str = ""
    cluster: str = ""
    istiod: str = ""
    version: str = ""
    address: str = ""
    identity: str = ""
    node: str = ""
    connected_at: str = ""

    @property
    def name(self) -> str:
        """`NAME.NAMESPACE` of the node id."""
        parts = self.proxy.split("~")
        return parts[2] if len(parts) == 4 else self.proxy or "?"

    def states(self) -> dict[str, str]:
        """By short name of the type. Two types with one name show the state of the one that is worse off."""
        worst = ("ERROR", "STALE", "NOT SENT", "SYNCED")
        found: dict[str, str] = {}
        for one in self.types.values():
            both = {found.get(one.name, one.state), one.state}
            found[one.name] = next((state for state in worst if state in both), one.state)
        return found


def fetch(address: tuple[str, int]) -> tuple[list[Proxy], list[Any]]:
    """The proxies of an istiod, and the same as it said it. Raises Unavailable or UnexpectedAnswer."""
    found = get_json(address, PATH, hint=_HINT)
    try:
        return msgspec.convert(found, list[Proxy]), found
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer(
            f"{address[0]}:{address[1]} answered to {PATH} with something else than istiod: {error}"
        ) from None


def summary(proxies: Sequence[Proxy]) -> tuple[Row, Rows]:
    """NAME, CLUSTER, ISTIOD, VERSION, SUBSCRIBED TYPES."""
    rows = []
    for one in proxies:
        names = sorted(one.states(), key=_place)
        types = f"{len(names)} ({','.join(names)})" if names else "0"
        rows.append((one.name, one.cluster, one.istiod, one.version, types))
    return ("NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"), sorted(rows)


def verbose(proxies: Sequence[Proxy]) -> tuple[Row, Rows]:
    """NAME, CLUSTER, a column for each type, ISTIOD, VERSION."""
    columns = sorted({*ALWAYS, *(name for one in proxies for name in one.states())}, key=_place)
    rows = []
    for one in proxies:
        states = one.states()
        rows.append((one.name, one.cluster, *(states.get(name, IGNORED) for name in columns), one.istiod, one.version))
    return ("NAME", "CLUSTER", *columns, "ISTIOD", "VERSION"), sorted(rows)


def details(proxy: Proxy) -> str:
    """One proxy: who it is, each of its types, and what it refused."""
    facts = [
        ("Name", proxy.name),
        ("Connection", proxy.connection_id),
        ("Node id", proxy.proxy),
        ("Identity", proxy.identity),
        ("Node", proxy.node),
        ("Address", proxy.address),
        ("Connected", proxy.connected_at),
        ("Cluster", proxy.cluster),
        ("Istiod", proxy.istiod),
        ("Version", proxy.version),
    ]
    width = max(len(name) for name, _ in facts) + 2
    header = ("TYPE", "STATUS", "RESPONSES", "ACKED", "RESOURCES", "TYPE URL")
    types = sorted(proxy.types.items(), key=lambda item: (_place(item[1].name), item[0]))
    rows = [(one.name, one.state, str(one.sent), str(one.acked), str(one.held), url) for url, one in types]
    parts = ["\n".join(f"{name + ':':<{width}}{value}" for name, value in facts if value), table(header, rows)]
    for _, one in types:
        if one.rejected:
            parts.append(f"{one.name} was refused: {one.rejected}")
        elif one.last_rejected:
            parts.append(f"{one.name} was refused before, and accepted since: {one.last_rejected}")
    return "\n\n".join(parts)


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


@click.command("proxy-status", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("proxy", required=False)
@click.option(
    "--istiod",
    "istiods",
    multiple=True,
    default=(ISTIOD,),
    show_default=True,
    metavar="HOST:PORT",
    help="istiod's debug port; repeatable, for several replicas.",
)
@click.option("-v", "--verbose", "wide", is_flag=True, help="One column for each type.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(proxy: str | None, istiods: tuple[str, ...], wide: bool, output: str) -> None:
    """Show the proxies that are connected to istiod, and whether each has what was published.

    PROXY is NAME.NAMESPACE, NAME, or a node id: all about this one, with what it last refused.

    SYNCED: acknowledged. STALE: sent or due, not yet acknowledged. NOT SENT: nothing to send. ERROR: refused.
    IGNORED: not subscribed.

    istiod answers only callers on its own host, and those behind `kubectl port-forward`.

    \b
    Examples:
      ambient proxy-status
      ambient proxy-status --verbose
      ambient proxy-status ztunnel-x7k2p.istio-system
      kubectl -n istio-system port-forward deploy/istiod 8080 & ambient proxy-status -o json
    """
    addresses = [host_port(text, "--istiod") for text in istiods]
    found: list[Proxy] = []
    raw: list[Any] = []
    for address in addresses:
        proxies, said = fetch(address)
        chosen = [proxy is None or _is(proxy, one) for one in proxies]
        found += [one for one, wanted in zip(proxies, chosen, strict=True) if wanted]
        raw += [one for one, wanted in zip(said, chosen, strict=True) if wanted]
    if proxy is not None and not found:
        raise ConfigError(f"no proxy {proxy!r} is connected to {', '.join(istiods)}")
    if output == "json":
        click.echo(as_text(raw, "json"))
    elif proxy is not None:
        click.echo("\n\n".join(details(one) for one in found))
    else:
        click.echo(table(*(verbose(found) if wide else summary(found))))


def _is(wanted: str, proxy: Proxy) -> bool:
    return wanted in (proxy.proxy, proxy.name, proxy.name.partition(".")[0], proxy.connection_id)
