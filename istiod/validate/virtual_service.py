"""Checks of VirtualService: what stands around the HTTP rules, and the TCP and TLS rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate import unreachable
from istiod.validate.common import each, export_to, is_ip, required
from istiod.validate.field import Field
from istiod.validate.http_route import http_route
from istiod.validate.names import Hosts, host_fault
from istiod.validate.routes import conditions, gateway_name, weighted
from meshcore.yamldoc import Path

MESH_GATEWAY: Final = "mesh"


def virtual_service(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    delegated = not spec["hosts"]
    if delegated:
        yield from _delegate(spec)
    else:
        yield from _hosts(spec)
    if not spec.filled_of("http", "tcp", "tls"):
        yield spec.error("needs one of http, tcp and tls: a VirtualService without rules routes nothing")
    for gateway in spec["gateways"].texts():
        yield from gateway_name(gateway)
    yield from export_to(spec["exportTo"], obj["metadata"]["namespace"].text)
    yield from each(spec["http"], lambda rule: http_route(rule, delegated=delegated))
    yield from each(spec["tcp"], _tcp_route)
    hosts = Hosts(spec["hosts"].texts()) if spec["hosts"] else None
    yield from each(spec["tls"], lambda rule: _tls_route(rule, hosts))
    for protocol in ("http", "tcp", "tls"):
        yield from unreachable.rules(spec[protocol])


def _delegate(spec: Field) -> Iterator[Problem]:
    """Without hosts it can only be what another one delegates to, and that holds HTTP rules alone."""
    if not spec["http"]:
        yield spec["hosts"].error("missing: only a VirtualService that others delegate to has none, and it needs http")
    for field in spec.filled_of("gateways", "tcp", "tls"):
        text = f"without hosts it is one that others delegate to, which cannot have {field.name}; name its hosts"
        yield field.error(text)


def _hosts(spec: Field) -> Iterator[Problem]:
    gateways = {gateway.text for gateway in spec["gateways"]}
    in_mesh = not gateways or MESH_GATEWAY in gateways
    valid: list[Field] = []
    for host in spec["hosts"].texts():
        fault = host_fault(host.text, wildcard=True)
        if fault and not is_ip(host.text):
            yield host.error(f"{host} {fault}")
        elif host.text == "*" and in_mesh:
            yield host.error("'*' would take over every host of the mesh; name hosts, or gateways other than mesh")
        else:
            valid.append(host)
    yield from _overlaps(valid)


def _overlaps(hosts: list[Field]) -> Iterator[Problem]:
    known, told = Hosts(hosts), set[Path]()
    for host in hosts:
        other = known.covering(host.text, besides=host)
        if other is not None:
            first, second = (host, other) if host.path < other.path else (other, host)
            if second.path not in told:
                yield second.error(f"{second} overlaps with {first}, which stands before it")
            told.add(second.path)


def _tcp_route(rule: Field) -> Iterator[Problem]:
    yield from each(rule["match"], conditions)
    yield from required(rule["route"], "where to send the connections")
    yield from weighted(rule["route"])


def _tls_route(rule: Field, hosts: Hosts | None) -> Iterator[Problem]:
    yield from required(rule["match"], "a TLS rule is chosen by the server name of the client, in match[].sniHosts")
    yield from each(rule["match"], lambda match: _tls_match(match, hosts))
    yield from required(rule["route"], "where to send the connections")
    yield from weighted(rule["route"])


def _tls_match(match: Field, hosts: Hosts | None) -> Iterator[Problem]:
    yield from conditions(match)
    yield from required(match["sniHosts"], "the server names to match")
    for sni in match["sniHosts"].texts():
        if is_ip(sni.text):
            yield sni.warn("a client sends no server name for an IP address, so this will not match")
        elif fault := host_fault(sni.text, wildcard=True):
            yield sni.error(f"{sni} {fault}")
        elif hosts is not None and hosts.covering(sni.text) is None:
            yield sni.error(f"{sni} is not one of the hosts of this VirtualService, nor below one of them")
