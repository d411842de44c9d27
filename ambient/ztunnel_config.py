"""`ambient ztunnel-config`: what a running ztunnel knows, in the columns of `istioctl ztunnel-config`."""

from __future__ import annotations

import base64
import binascii
import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import click
import msgspec

from ambient.pages import UnexpectedAnswer, as_text, get_json, host_port, table
from meshcore.errors import ConfigError

ADMIN: Final = "127.0.0.1:15000"
NETNS_DIR: Final = Path("/run/netns")
_HINT: Final = "is a ztunnel running there? --admin, --node and --netns say where to look"

Json: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[tuple[str, ...]]


def fetch(host: str, port: int, netns: Path | None) -> Json:
    """The config dump of a ztunnel, from inside `netns` if given. Raises Unavailable or UnexpectedAnswer."""
    return _checked(get_json((host, port), "/config_dump", hint=_HINT, netns=netns), f"{host}:{port}")


def read(file: str) -> Json:
    """A config dump that was saved; `-` is the standard input. Raises ConfigError."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return _checked(msgspec.json.decode(data), file)
    except OSError as error:
        raise ConfigError(f"--file {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(f"--file {file}: this is not JSON") from None


def _checked(dump: Any, where: str) -> Json:
    if not isinstance(dump, dict) or "workloads" not in dump:
        raise UnexpectedAnswer(f"{where}: this is not the config dump of a ztunnel")
    return dump


def node_netns(node: str) -> Path:
    """The network namespace of the ztunnel of a laptop-mesh node (`node-1`), the newest when it was upgraded.

    Raises NoDemo when no mesh runs, ConfigError when it has no such node.
    """
    from ambient.demo import config, state

    found = state.find(config.default_run_dir())
    prefix = f"ztunnel-{node.removeprefix('node-')}"
    alive = {process.name for process in found.processes if process.alive}
    names = sorted(name for name in found.namespaces if name.startswith(prefix) and name in alive)
    if not names:
        raise ConfigError(f"the laptop mesh has no ztunnel on a node {node!r}")
    return Path(f"/proc/{found.namespaces[names[-1]].pid}/ns/net")


class Filters(NamedTuple):
    """What to show of a dump; empty means everything."""

    workload_namespace: str = ""
    workload_node: str = ""
    address: str = ""
    service_namespace: str = ""
    policy_namespace: str = ""
    direction: str = ""


def selected(dump: Json, filters: Filters) -> Json:
    """The dump with only what the filters name."""

    def of(subject: str, condition: Callable[[Json], bool]) -> None:
        found[subject] = [each for each in dump.get(subject, []) if condition(each)]

    found = dict(dump)
    if filters.workload_namespace:
        of("workloads", lambda each: each["namespace"] == filters.workload_namespace)
    if filters.workload_node:
        of("workloads", lambda each: each.get("node") == filters.workload_node)
    if filters.address:
        of("workloads", lambda each: filters.address in each["workloadIps"])
    if filters.service_namespace:
        of("services", lambda each: each["namespace"] == filters.service_namespace)
    if filters.policy_namespace:
        of("policies", lambda each: each["namespace"] == filters.policy_namespace)
    if filters.workload_namespace or filters.direction:
        found["workloadState"] = {
            uid: {**each, "connections": _one_way(each["connections"], filters.direction)}
            for uid, each in dump.get("workloadState", {}).items()
            if filters.workload_namespace in ("", each["info"]["namespace"])
        }
    return found


def _one_way(connections: Json, direction: str) -> Json:
    return {side: each if direction in ("", side) else [] for side, each in connections.items()}


# Tables: a header and rows for each subject


def workloads(dump: Json) -> tuple[tuple[str, ...], Rows]:
    """NAMESPACE, POD NAME, ADDRESS, NODE, WAYPOINT, PROTOCOL."""
    services = {_service_key(each): each["name"] for each in dump.get("services", [])}
    rows = [
        (
            each["namespace"],
            each["name"],
            ",".join(each["workloadIps"]),
            each.get("node", ""),
            _waypoint(each, services),
            each.get("protocol", "TCP"),
        )
        for each in dump.get("workloads", [])
    ]
    return ("NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"), sorted(rows)


def services(dump: Json) -> tuple[tuple[str, ...], Rows]:
    """NAMESPACE, SERVICE NAME, SERVICE VIP, WAYPOINT, ENDPOINTS (healthy/total)."""
    names = {_service_key(each): each["name"] for each in dump.get("services", [])}
    rows = []
    for each in dump.get("services", []):
        endpoints = each.get("endpoints", {}).values()
        healthy = sum(endpoint.get("status", "Healthy") == "Healthy" for endpoint in endpoints)
        vips = ",".join(vip.rpartition("/")[2] for vip in each.get("vips", []))
        rows.append((each["namespace"], each["name"], vips, _waypoint(each, names), f"{healthy}/{len(endpoints)}"))
    return ("NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"), sorted(rows)


def policies(dump: Json) -> tuple[tuple[str, ...], Rows]:
    """NAMESPACE, POLICY NAME, ACTION, SCOPE."""
    rows = [(each["namespace"], each["name"], each["action"], each["scope"]) for each in dump.get("policies", [])]
    return ("NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"), sorted(rows)


def certificates(dump: Json) -> tuple[tuple[str, ...], Rows]:
    """CERTIFICATE NAME, TYPE, STATUS, VALID CERT, SERIAL NUMBER, NOT AFTER, NOT BEFORE."""
    header = ("CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE")
    rows: Rows = []
    now = datetime.now(UTC)
    for each in dump.get("certificates", []):
        chain = each.get("certChain", [])
        if not chain:
            rows.append((each["identity"], "Leaf", each["state"], "false", "", "", ""))
        kinds = [("Leaf" if i == 0 else "Intermediate", one) for i, one in enumerate(chain)]
        kinds += [("Root", one) for one in each.get("rootCerts", [])]
        for kind, one in kinds:
            valid = _time(one["validFrom"]) <= now < _time(one["expirationTime"])
            row = (kind, each["state"], str(valid).lower(), _hexadecimal(one["serialNumber"]))
            rows.append((each["identity"], *row, one["expirationTime"], one["validFrom"]))
    return header, rows


def connections(dump: Json, names_of: Json | None = None) -> tuple[tuple[str, ...], Rows]:
    """WORKLOAD, DIRECTION, LOCAL, REMOTE, REMOTE TARGET, PROTOCOL; peers are named after `names_of`, a whole dump."""
    named = _Names(dump if names_of is None else names_of)
    rows: Rows = []
    for state in dump.get("workloadState", {}).values():
        info = state["info"]
        workload = f"{info['name']}.{info['namespace']}"
        for each in state["connections"]["inbound"]:
            rows.append((workload, "Inbound", each["actualDst"], named(each["src"]), "", each["protocol"]))
        for each in state["connections"]["outbound"]:
            target = named(each["originalDst"])
            rows.append((workload, "Outbound", each["src"], named(each["actualDst"]), target, each["protocol"]))
    return ("WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"), sorted(rows)


class _Names:
    """The name behind an address: a service's host for a virtual IP, `NAME.NAMESPACE` for that of a workload."""

    def __init__(self, dump: Json) -> None:
        self._workloads = {ip: each for each in dump.get("workloads", []) for ip in each["workloadIps"]}
        self._hosts = {
            vip.rpartition("/")[2]: each["hostname"]
            for each in dump.get("services", [])
            for vip in each.get("vips", [])
        }

    def __call__(self, address: str | None) -> str:
        if not address:
            return ""
        ip, _, port = address.rpartition(":")
        ip = ip.strip("[]")
        if ip in self._hosts:
            return f"{self._hosts[ip]}:{port}"
        workload = self._workloads.get(ip)
        return f"{workload['name']}.{workload['namespace']}:{port}" if workload is not None else address


SUBJECTS: Final[Mapping[str, tuple[str, Callable[[Json], tuple[tuple[str, ...], Rows]]]]] = {
    "workloads": ("workloads", workloads),
    "services": ("services", services),
    "policies": ("policies", policies),
    "certificates": ("certificates", certificates),
    "connections": ("workloadState", connections),
}


ALIASES: Final[Mapping[str, str]] = {
    "workload": "workloads",
    "service": "services",
    "policy": "policies",
    "certificate": "certificates",
    "connection": "connections",
}


def _service_key(service: Json) -> str:
    return f"{service['namespace']}/{service['hostname']}"


def _waypoint(thing: Json, names: Mapping[str, str]) -> str:
    reference = thing.get("waypoint")
    if not reference:
        return "None"
    destination = str(reference["destination"])
    return names.get(destination, destination.rpartition("/")[2])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _hexadecimal(serial: str) -> str:
    return f"{int(serial):x}" if serial.isdecimal() else serial


def _readable(dump: Iterable[Json]) -> Iterable[Json]:
    """Certificates as PEM text instead of base64 of it."""
    for each in dump:
        for one in [*each.get("certChain", []), *each.get("rootCerts", [])]:
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                one["pem"] = base64.b64decode(one["pem"]).decode()
    return dump


def _show(subject: str, dump: Json, output: str, names_of: Json) -> str:
    """`names_of` is the dump in which addresses are looked up."""
    if output == "short":
        chosen = SUBJECTS.values() if subject == "all" else (SUBJECTS[subject],)
        renders = [render for _, render in chosen]
        return "\n\n".join(
            table(*(connections(dump, names_of) if render is connections else render(dump))) for render in renders
        )
    content: Any = dump
    if subject != "all":
        content = dump.get(SUBJECTS[subject][0], [])
        content = _readable(content) if subject == "certificates" else content
    return as_text(content, output)


@click.command("ztunnel-config", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject", metavar="SUBJECT", type=click.Choice([*SUBJECTS, *ALIASES, "all"]))
@click.option("--admin", default=ADMIN, show_default=True, metavar="HOST:PORT", help="The ztunnel's admin port.")
@click.option("--node", metavar="NAME", help="The ztunnel of this node of the laptop mesh.")
@click.option("--netns", metavar="PATH", help="Look from inside this network namespace (a name or a path).")
@click.option("--file", metavar="FILE", help="A saved config dump instead of a running ztunnel; - is stdin.")
@click.option("--workload-namespace", default="", metavar="NAME", help="Only workloads, connections of this namespace.")
@click.option("--workload-node", default="", metavar="NAME", help="Only workloads on this node.")
@click.option("--address", default="", metavar="IP", help="Only the workload with this address.")
@click.option("--service-namespace", default="", metavar="NAME", help="Only services of this namespace.")
@click.option("--policy-namespace", default="", metavar="NAME", help="Only policies of this namespace.")
@click.option("--direction", type=click.Choice(["inbound", "outbound"]), help="Only connections of this direction.")
@click.option("--raw", is_flag=True, help="Show the addresses of peers instead of their names.")
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", show_default=True)
def command(
    subject: str,
    admin: str,
    node: str | None,
    netns: str | None,
    file: str | None,
    direction: str | None,
    raw: bool,
    output: str,
    **filters: str,
) -> None:
    """Show what a running ztunnel knows.

    SUBJECT is workloads, services, policies, certificates, connections or all.

    \b
    Examples:
      ambient ztunnel-config workloads
      ambient ztunnel-config workloads --workload-namespace shop --workload-node node-1
      ambient ztunnel-config certificates --node node-1
      ambient ztunnel-config connections --netns ztunnel-1 --direction outbound --raw
      ambient ztunnel-config services -o json
      ambient ztunnel-config all -o json > dump.json; ambient ztunnel-config policies --file dump.json
    """
    if sum(place is not None for place in (node, netns, file)) > 1:
        raise click.UsageError("--node, --netns and --file all say where to look: give one")
    if file is not None:
        dump = read(file)
    else:
        place = node_netns(node) if node else None
        if netns:
            place = Path(netns) if "/" in netns else NETNS_DIR / netns
        dump = fetch(*host_port(admin, "--admin"), place)
    shown = selected(dump, Filters(direction=direction or "", **filters))
    click.echo(_show(ALIASES.get(subject, subject), shown, output, {} if raw else dump))
