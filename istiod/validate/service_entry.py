"""Checks of ServiceEntry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import ADDRESSES_REQUIRED, Problem
from istiod.validate.common import (
    each,
    export_to,
    ip_block,
    is_ip,
    port_number,
    required,
    selected_labels,
    unique,
)
from istiod.validate.field import Field
from istiod.validate.names import host_fault
from istiod.validate.protocols import is_nameless, protocol
from istiod.validate.workload import entry, is_socket, port_name

_DNS: Final = ("DNS", "DNS_ROUND_ROBIN")
_DYNAMIC: Final = "DYNAMIC_DNS"
_AUTO_ALLOCATE: Final = "networking.istio.io/enable-autoallocate-ip"


def service_entry(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    resolution = spec["resolution"].text or "NONE"
    yield from required(spec["hosts"], "name the hosts of the service")
    for host in spec["hosts"].texts():
        yield from _host(host)
    yield from _addresses(spec["addresses"], resolution)
    yield from each(spec["ports"], _port)
    yield from unique((port["number"] for port in spec["ports"]), "port")
    if spec["workloadSelector"].given:
        if spec["endpoints"]:
            yield spec["endpoints"].error("cannot stand beside workloadSelector: choose one of them")
        if resolution == "NONE":
            yield spec["workloadSelector"].warn("has no effect with resolution NONE, which does not look at endpoints")
        yield from selected_labels(spec["workloadSelector"]["labels"])
    ports = {port["name"].text for port in spec["ports"]}
    yield from each(spec["endpoints"], lambda endpoint: _endpoint(endpoint, ports, resolution))
    yield from _resolution(spec, resolution)
    yield from _told_apart(spec, resolution)
    yield from _needs_address(obj, resolution)
    yield from export_to(spec["exportTo"], obj["metadata"]["namespace"].text, nobody=True)


def _host(host: Field) -> Iterator[Problem]:
    if host.text == "*":
        yield host.error("'*' would take over every host of the mesh; name hosts, such as *.example.com")
    elif fault := host_fault(host.text, wildcard=True):
        yield host.error(f"{host} {fault}")
    elif host.text.startswith("*") and not host.text.startswith("*."):
        yield host.warn(f"{host} is half a wildcard, which proxies match unevenly; write *. and a domain")


def _addresses(addresses: Field, resolution: str) -> Iterator[Problem]:
    for address in addresses.texts():
        yield from ip_block(address)
        if "/" in address.text and resolution not in ("NONE", "STATIC"):
            yield address.error(f"{address} is a range, which needs resolution NONE or STATIC; this is {resolution}")


def _port(port: Field) -> Iterator[Problem]:
    yield from required(port["name"])
    if port["name"].text:
        yield from port_name(port["name"], port["name"].text)
    yield from required(port["number"])
    for number in port.filled_of("number", "targetPort"):
        yield from port_number(number)
    yield from protocol(port["protocol"])


def _endpoint(endpoint: Field, ports: set[str], resolution: str) -> Iterator[Problem]:
    yield from entry(endpoint)
    address = endpoint["address"]
    if resolution == "STATIC" and address.text and not is_socket(endpoint) and not is_ip(address.text):
        yield address.error(f"{address} is a host name; resolution STATIC needs IP addresses, DNS takes names")
    if is_socket(endpoint):
        if resolution != "STATIC":
            yield address.error(f"a Unix socket needs resolution STATIC; this is {resolution}")
        if len(ports) != 1:
            yield address.error("a Unix socket serves one port: the entry must have exactly one")
    for name, port in endpoint["ports"].members():
        if name not in ports:
            yield port.error(f"the entry has no port named {name[:80]!r}")


def _resolution(spec: Field, resolution: str) -> Iterator[Problem]:
    endpoints, hosts = spec["endpoints"], spec["hosts"]
    if resolution == "NONE" and endpoints:
        yield endpoints.error("resolution NONE connects to where the client asked for; for endpoints use STATIC or DNS")
    if resolution in _DNS and not endpoints and not spec["workloadSelector"].given:
        for host in hosts.texts():
            if "*" in host.text:
                yield host.error(
                    f"resolution {resolution} cannot look up a wildcard: name endpoints, or use {_DYNAMIC}"
                )
    if resolution == "DNS_ROUND_ROBIN" and len(endpoints) > 1:
        yield endpoints.error("resolution DNS_ROUND_ROBIN has one endpoint at most; use DNS")
    if resolution == _DYNAMIC:
        yield from _dynamic(spec)


def _dynamic(spec: Field) -> Iterator[Problem]:
    for host in spec["hosts"].texts():
        if not host.text.startswith("*"):
            yield host.error(f"resolution {_DYNAMIC} is for wildcards; for {host} use DNS")
    for field in spec.filled_of("addresses", "endpoints"):
        yield field.error(f"resolution {_DYNAMIC} looks up the host that the client asks for: leave them out")
    for port in spec["ports"]:
        spoken = port["protocol"]
        if is_nameless(spoken):
            yield spoken.error(f"resolution {_DYNAMIC} needs a protocol that names the host: HTTP, HTTP2, GRPC or TLS")
    if spec["location"].text == "MESH_INTERNAL":
        yield spec["location"].error(f"resolution {_DYNAMIC} is for hosts outside the mesh; use MESH_EXTERNAL")


def _told_apart(spec: Field, resolution: str) -> Iterator[Problem]:
    """Several hosts behind one port need a protocol in which a client says which it wants."""
    if len(spec["hosts"]) < 2 or resolution == "NONE":
        return
    for port in spec["ports"]:
        spoken = port["protocol"]
        if is_nameless(spoken):
            yield spoken.error("several hosts need a protocol that tells them apart, HTTP or TLS")


def _needs_address(obj: Field, resolution: str) -> Iterator[Problem]:
    """Plain TCP is told by its address alone."""
    spec = obj["spec"]
    allocated = (
        obj["metadata"]["labels"][_AUTO_ALLOCATE].text != "false"
        and resolution != "NONE"
        and all("*" not in host.text for host in spec["hosts"])
    )
    if spec["addresses"] or allocated or resolution == _DYNAMIC:
        return
    for port in spec["ports"]:
        if is_nameless(port["protocol"]):
            text = "without addresses a TCP port takes every connection to it, and none is allocated for this entry"
            yield spec["addresses"].warn(text, code=ADDRESSES_REQUIRED)
            return
