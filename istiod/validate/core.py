"""Checks of the kinds of Kubernetes itself, of what istiod uses of them, and of the metadata of every kind."""

from __future__ import annotations

from collections.abc import Iterator

from istiod.problem import Problem
from istiod.validate.common import choice, ip_address, labels, port_number
from istiod.validate.field import Field
from istiod.validate.names import is_label, is_subdomain

_SERVICE_NAME = "kubernetes.io/service-name"


def metadata(obj: Field) -> Iterator[Problem]:
    """Names and labels by the rules of the API server."""
    meta = obj["metadata"]
    name = meta["name"]
    if name.text and not is_subdomain(name.text):
        yield name.error(f"{name} is not a name: lower-case letters, digits, '-' and '.' only, 253 at most")
    if meta["namespace"].text and not is_label(meta["namespace"].text):
        yield meta["namespace"].error(f"{meta['namespace']} is not a name: lower-case letters, digits and '-' only")
    yield from labels(meta["labels"])


def pod(obj: Field) -> Iterator[Problem]:
    status = obj["status"]
    if status["podIP"]:
        yield from ip_address(status["podIP"])
    for entry in status["podIPs"]:
        yield from ip_address(Field(entry["ip"].text, entry["ip"].path))
    for field in ("containers", "initContainers"):
        for container in obj["spec"][field]:
            for port in container["ports"]:
                yield from port_number(port["containerPort"])


def service(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    for address in (spec["clusterIP"], *spec["clusterIPs"]):
        if address.value not in (None, "", "None"):
            yield from ip_address(address)
    seen: set[tuple[int | float, str]] = set()
    for port in spec["ports"]:
        number = port["port"]
        yield from port_number(number)
        if port["targetPort"].number is not None:
            yield from port_number(port["targetPort"])
        if number.number is not None:
            key = (number.number, port["protocol"].text or "TCP")
            if key in seen:
                yield number.error(f"port {key[0]}/{key[1]} stands twice")
            seen.add(key)
        if len(spec["ports"]) > 1 and not port["name"]:
            yield port["name"].error("missing: with several ports each needs a name")


def endpoint_slice(obj: Field) -> Iterator[Problem]:
    family = obj["addressType"].text or "IPv4"
    yield from choice(Field(family, obj["addressType"].path), ("IPv4", "IPv6", "FQDN"))
    if not obj["metadata"]["labels"][_SERVICE_NAME]:
        yield obj["metadata"]["labels"].warn(f"the label {_SERVICE_NAME} is missing: the slice belongs to no service")
    for endpoint in obj["endpoints"] if family != "FQDN" else ():
        for address in endpoint["addresses"].texts():
            yield from ip_address(address)
            if (":" in address.text) != (family == "IPv6"):
                yield address.error(f"{address} is not an {family} address, which addressType asks for")
    for port in obj["ports"]:
        yield from port_number(port["port"])
