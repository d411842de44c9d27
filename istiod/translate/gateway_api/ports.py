"""The ports of services, with their names."""

from __future__ import annotations

from typing import NamedTuple

from istiod.objects import Service
from istiod.translate.graph import View
from istiod.translate.services import entry_of_host, published, tcp_ports


class PortInfo(NamedTuple):
    number: int
    name: str


def service_ports(view: View, namespace: str, hostname: str) -> tuple[PortInfo, ...] | None:
    """The TCP ports of a Service, or of the host of a ServiceEntry; None if there is neither."""
    name = view.settings.service_name(namespace, hostname)
    service = view.get(Service, namespace, name) if name else None
    if service is not None and published(service):
        return tuple(PortInfo(port.port, port.name) for port in tcp_ports(service))
    entry = view.ask(entry_of_host, namespace, hostname)
    if entry is None:
        return None
    return tuple(PortInfo(port.number, port.name) for port in entry.spec.ports if port.protocol.upper() != "UDP")
