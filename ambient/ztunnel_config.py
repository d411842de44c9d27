"""`ambient ztunnel-config`: what a running ztunnel knows, in the columns of `istioctl ztunnel-config`."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
import msgspec

from meshcore.errors import ConfigError, MeshError, Unavailable
from meshcore.netns import inside, open_netns

ADMIN: Final = "127.0.0.1:15000"
TIMEOUT_S: Final = 10.0
NETNS_DIR: Final = Path("/run/netns")

Json: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[tuple[str, ...]]


class NotZtunnel(MeshError, code="ztunnel_config.answer"):
    """What answered is not a ztunnel's admin port."""


def fetch(host: str, port: int, netns: Path | None, path: str = "/config_dump") -> Json:
    """GET a JSON object from an admin port, from inside `netns` if given. Raises Unavailable or NotZtunnel."""
    where = f"{host}:{port}" + (f" in {netns}" if netns else "")
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        with _entered(netns):
            connection.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as error:
        hint = "is a ztunnel running there? --admin, --node and --netns say where to look"
        raise Unavailable(f"nothing answers at {where}: {error}; {hint}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise NotZtunnel(f"{where} answered with status {answer.status}: {body[:200].decode(errors='replace').strip()}")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotZtunnel(f"{where} answered with something that is not a config dump") from None


@contextlib.contextmanager
def _entered(netns: Path | None) -> Iterator[None]:
    if netns is None:
        yield
        return
    fd = open_netns(netns)
    try:
        with inside(fd):
            yield  # a socket that is made here stays in this namespace wherever the thread goes
    finally:
        os.close(fd)


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


def connections(dump: Json) -> tuple[tuple[str, ...], Rows]:
    """WORKLOAD, DIRECTION, LOCAL, REMOTE, REMOTE TARGET, PROTOCOL."""
    names = {address: each for each in dump.get("workloads", []) for address in each["workloadIps"]}
    hosts = {
        vip.rpartition("/")[2]: each["hostname"] for each in dump.get("services", []) for vip in each.get("vips", [])
    }

    def named(address: str | None) -> str:
        if not address:
            return ""
        ip, _, port = address.rpartition(":")
        ip = ip.strip("[]")
        if ip in hosts:
            return f"{hosts[ip]}:{port}"
        return f"{names[ip]['name']}.{names[ip]['namespace']}:{port}" if ip in names else address

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


SUBJECTS: Final[Mapping[str, tuple[str, Callable[[Json], tuple[tuple[str, ...], Rows]]]]] = {
    "workloads": ("workloads", workloads),
    "services": ("services", services),
    "policies": ("policies", policies),
    "certificates": ("certificates", certificates),
    "connections": ("workloadState", connections),
}


def table(header: tuple[str, ...], rows: Rows) -> str:
    """Columns as wide as they must be, three blanks apart."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


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


def _readable(dump: Any) -> Any:
    """Certificates as PEM text instead of base64 of it."""
    for each in dump:
        for one in [*each.get("certChain", []), *each.get("rootCerts", [])]:
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                one["pem"] = base64.b64decode(one["pem"]).decode()
    return dump


def _show(subject: str, dump: Json, output: str) -> str:
    if output == "short":
        if subject != "all":
            return table(*SUBJECTS[subject][1](dump))
        return "\n\n".join(table(*render(dump)) for _, render in SUBJECTS.values())
    content: Any = dump
    if subject != "all":
        content = dump.get(SUBJECTS[subject][0], [])
        content = _readable(content) if subject == "certificates" else content
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError("-o yaml needs PyYAML, which is not installed: pip install pyyaml, or use -o json") from None
    return str(yaml.safe_dump(content, sort_keys=False)).rstrip()


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--admin {text!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


@click.command("ztunnel-config", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject", type=click.Choice([*SUBJECTS, "all"]))
@click.option("--admin", default=ADMIN, show_default=True, metavar="HOST:PORT", help="The ztunnel's admin port.")
@click.option("--node", metavar="NAME", help="The ztunnel of this node of the laptop mesh.")
@click.option("--netns", metavar="PATH", help="Look from inside this network namespace (a name or a path).")
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", show_default=True)
def command(subject: str, admin: str, node: str | None, netns: str | None, output: str) -> None:
    """Show what a running ztunnel knows: SUBJECT is workloads, services, policies, certificates, connections or all.

    \b
    Examples:
      ambient ztunnel-config workloads
      ambient ztunnel-config certificates --node node-1
      ambient ztunnel-config connections --netns ztunnel-1
      ambient ztunnel-config services -o json
    """
    if node and netns:
        raise click.UsageError("--node and --netns both say where to look: give one")
    place: Path | None = None
    if node:
        place = node_netns(node)
    elif netns:
        place = Path(netns) if "/" in netns else NETNS_DIR / netns
    host, port = _host_port(admin)
    click.echo(_show(subject, fetch(host, port, place), output))
