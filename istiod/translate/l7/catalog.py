"""The services a rule can send to: Kubernetes Services and hosts of ServiceEntries, found by hostname."""

from __future__ import annotations

from typing import Final

import msgspec

from istiod.objects import Service, ServiceEntry
from istiod.translate.graph import View
from istiod.translate.services import canonical_entry, entry_of_host, published, races, tcp_ports
from meshcore.l7 import Protocol, Resolution

_PROTOCOLS: Final = {
    "http": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "h2c": Protocol.HTTP2,
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTP,
    "grpc": Protocol.GRPC,
    "tcp": Protocol.TCP,
    "tls": Protocol.TLS,
    "https": Protocol.TLS,
    "mongo": Protocol.TCP,
    "mysql": Protocol.TCP,
    "redis": Protocol.TCP,
}
_SERVER_FIRST: Final = frozenset({25, 53, 3306, 27017})
"""Ports whose server speaks first, or that never carry HTTP: there is nothing to find out."""
_RESOLUTIONS: Final = {
    "NONE": Resolution.ORIGINAL,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
    "DYNAMIC_DNS": Resolution.DYNAMIC_DNS,
}


class ServiceInfo(msgspec.Struct, frozen=True):
    """What rules must know of a service. `kind` and `name` are those of its object."""

    namespace: str
    hostname: str
    kind: str
    name: str
    ports: tuple[tuple[int, Protocol], ...]
    resolution: Resolution = Resolution.ENDPOINTS
    race: bool = False
    subject_alt_names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.hostname}"

    def port(self, wanted: int, otherwise: int) -> int:
        """A destination's port: the one named, the only one, or that of the request; 0 if there is no such port."""
        number = wanted or (self.ports[0][0] if len(self.ports) == 1 else otherwise)
        return number if any(number == port for port, _ in self.ports) else 0


def port_protocol(name: str, declared: str, number: int) -> Protocol:
    """`appProtocol` (or a ServiceEntry's protocol) wins over the prefix of the port's name."""
    word = (declared or name).lower()
    if word.startswith("grpc-web"):
        return Protocol.GRPC_WEB
    found = _PROTOCOLS.get(word) or _PROTOCOLS.get(word.partition("-")[0])
    if found is None:
        return Protocol.TCP if number in _SERVER_FIRST else Protocol.AUTO
    return found


def service_info(view: View, namespace: str, hostname: str) -> ServiceInfo | None:
    """The service of a namespace with a hostname: a Kubernetes Service, else the oldest ServiceEntry."""
    name = view.settings.service_name(namespace, hostname)
    service = view.get(Service, namespace, name) if name else None
    if service is not None and published(service):
        ports = tuple((p.port, port_protocol(p.name, p.app_protocol, p.port)) for p in tcp_ports(service))
        return ServiceInfo(namespace, hostname, "Service", name, ports)
    entry = view.ask(entry_of_host, namespace, hostname)
    return _of_entry(entry, hostname) if entry is not None else None


def locate(view: View, hostname: str, near: str) -> ServiceInfo | None:
    """The service a hostname means for a client of the namespace `near`: its own first, then the canonical one."""
    home = view.ask(service_info, near, hostname)
    if home is not None:
        return home
    parts = hostname.split(".")
    if len(parts) > 2 and view.settings.service_name(parts[1], hostname):
        found = view.ask(service_info, parts[1], hostname)
        if found is not None and found.kind == "Service":
            return found
    owner = view.ask(canonical_entry, hostname)
    return view.ask(service_info, owner, hostname) if owner else None


def full_hostname(view: View, host: str, namespace: str) -> str:
    """A short name is of the namespace that it is written in; a name with a dot, and `*`, stay."""
    host = host.lower().removesuffix(".")
    return host if "." in host or host == "*" or not host else view.settings.hostname(namespace, host)


def spellings(view: View, hostname: str, namespace: str) -> tuple[tuple[str, ...], ...]:
    """How an object in `namespace` can write a hostname: in full or short, then by a wildcard, the most specific first.
    The texts of one group mean the same.
    """
    short = view.settings.service_name(namespace, hostname)
    found = [(hostname, short) if short else (hostname,)]
    rest = hostname.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        found.append((f"*.{rest}",))
    found.append(("*",))
    return tuple(found)


def _of_entry(entry: ServiceEntry, hostname: str) -> ServiceInfo:
    spec, meta = entry.spec, entry.metadata
    return ServiceInfo(
        meta.namespace,
        hostname,
        "ServiceEntry",
        meta.name,
        tuple(
            (port.number, port_protocol(port.name, port.protocol, port.number))
            for port in spec.ports
            if port.protocol.upper() != "UDP"
        ),
        _RESOLUTIONS.get(spec.resolution, Resolution.ENDPOINTS),
        races(entry),
        spec.subject_alt_names,
    )
