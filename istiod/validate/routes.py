"""Checks that the rules of HTTP, TCP and TLS share: conditions, destinations and weights."""

from __future__ import annotations

from collections.abc import Iterator

from istiod.problem import Problem
from istiod.validate.common import (
    ip_block,
    is_ip,
    labels,
    namespace_name,
    object_name,
    port_number,
    required,
    whole,
)
from istiod.validate.field import Field
from istiod.validate.names import host_fault, is_label, is_part_name, is_subdomain


def gateway_name(field: Field) -> Iterator[Problem]:
    """`mesh`, `NAME` or `NAMESPACE/NAME`."""
    namespace, slash, name = field.text.partition("/")
    if not slash and "." in field.text:
        yield field.warn(f"{field} is a short form that is going away; write NAMESPACE/NAME")
        return
    name = name if slash else namespace
    if (slash and not is_label(namespace)) or not is_subdomain(name):
        yield field.error(f"{field} is neither 'mesh', NAME nor NAMESPACE/NAME")


def conditions(match: Field) -> Iterator[Problem]:
    """What every kind of match may ask for."""
    for subnet in match["destinationSubnets"].texts():
        yield from ip_block(subnet)
    yield from (problem for subnet in match.filled_of("sourceSubnet") for problem in ip_block(subnet))
    yield from port_number(match["port"])
    yield from labels(match["sourceLabels"])
    for gateway in match["gateways"].texts():
        yield from gateway_name(gateway)
    yield from namespace_name(match["sourceNamespace"])


def destination(field: Field) -> Iterator[Problem]:
    """A host, a subset and a port of it."""
    if not field.given:
        yield field.error("missing: a route needs a destination")
        return
    host = field["host"]
    if not host:
        yield host.error("missing")
    elif host.text == "*":
        yield host.error("'*' is no destination; name one host")
    elif (fault := host_fault(host.text, wildcard=True)) and not is_ip(host.text) and isinstance(host.value, str):
        yield host.error(f"{host} {fault}")
    subset = field["subset"]
    if subset.text and not is_part_name(subset.text):
        yield subset.error(f"{subset} is not the name of a subset: letters, digits and '-' only")
    if field["port"].given:
        yield from required(field["port"]["number"])
        yield from port_number(field["port"]["number"])


def weighted(routes: Field) -> Iterator[Problem]:
    """Destinations and their weights."""
    total = 0.0
    for route in routes:
        if route.given:
            yield from destination(route["destination"])
            yield from whole(route["weight"])
            total += route["weight"].number or 0
    if len(routes) > 1 and total == 0:
        yield routes.error("the weights add up to 0, so nothing is routed; give each destination a weight")


def delegate(field: Field) -> Iterator[Problem]:
    """The VirtualService to which a rule delegates."""
    yield from required(field["name"])
    yield from object_name(field["name"])
    yield from namespace_name(field["namespace"])
