"""Checks of WorkloadEntry and WorkloadGroup, and of the endpoints of a ServiceEntry, which are workload entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import choice, is_ip, labels, needs_one, port_number, required, whole
from istiod.validate.field import Field
from istiod.validate.names import host_fault, is_part_name

_SOCKET: Final = "unix://"
_PROBES: Final = ("httpGet", "tcpSocket", "exec", "grpc")


def workload_entry(obj: Field) -> Iterator[Problem]:
    yield from entry(obj["spec"])


def entry(spec: Field) -> Iterator[Problem]:
    """One workload; the address may be an IP, a host name, or unix:///PATH."""
    address = spec["address"]
    if not address:
        if spec["network"]:
            yield address.warn(f"missing: it is reached through the gateway of network {spec['network']} only")
        else:
            yield address.error("missing")
    elif address.text.startswith(_SOCKET):
        if not address.text.removeprefix(_SOCKET).startswith(("/", "@")):
            yield address.error(f"{address} is not an absolute path: unix:///PATH")
        if spec["ports"]:
            yield spec["ports"].error("a Unix socket has no ports; leave them out")
    elif (
        isinstance(address.value, str)
        and not is_ip(address.text)
        and (fault := host_fault(address.text, wildcard=False))
    ):
        yield address.error(f"{address} is neither an IP address nor a host name: it {fault}")
    for name, port in spec["ports"].members():
        yield from port_name(port, name)
        yield from required(port)
        yield from port_number(Field(port.value or None, port.path))
    yield from labels(spec["labels"])
    yield from whole(spec["weight"])


def port_name(field: Field, name: str) -> Iterator[Problem]:
    """The name of a port, which says its protocol too."""
    if not is_part_name(name):
        yield field.error(f"{name[:80]!r} is not a name of a port: letters, digits and '-' only")


def is_socket(endpoint: Field) -> bool:
    return endpoint["address"].text.startswith(_SOCKET)


def workload_group(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from labels(spec["metadata"]["labels"])
    template = spec["template"]
    if not template.given:
        yield template.error("missing: it says what the entries of the group look like")
    yield from labels(template["labels"])
    for name, port in template["ports"].members():
        yield from port_name(port, name)
        yield from port_number(port)
    if spec["probe"].given:
        yield from _probe(spec["probe"])


def _probe(probe: Field) -> Iterator[Problem]:
    yield from needs_one(probe, *_PROBES)
    http = probe["httpGet"]
    if http.given:
        yield from choice(Field(http["scheme"].text.upper() or None, http["scheme"].path), ("HTTP", "HTTPS"))
        for header in http["httpHeaders"]:
            yield from required(header["name"])
    for way in probe.given_of("httpGet", "tcpSocket", "grpc"):
        yield from required(way["port"])
        yield from port_number(Field(way["port"].value or None, way["port"].path))
    command = probe["exec"]
    if command.given:
        yield from required(command["command"])
