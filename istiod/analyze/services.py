"""Services: names of ports, and several Services before the same pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.analyze.message import Message, message
from istiod.analyze.world import SYSTEM_NAMESPACES, TEMPLATES, Workload, World
from istiod.objects import Service, ServicePort
from istiod.translate.waypoints import MANAGED
from meshcore.manifests import Key

PROTOCOLS: Final = frozenset(
    {"grpc", "grpc-web", "http", "http2", "https", "mongo", "mysql", "redis", "tcp", "tls", "udp", "hbone"}
)
"""What the name of a port can begin with."""
_APP_PROTOCOLS: Final = PROTOCOLS | {
    "h2c",
    "kubernetes.io/h2c",
    "kubernetes.io/ws",
    "kubernetes.io/wss",
    "ws",
    "wss",
    "all",
}
_WITHOUT_ADDRESS: Final = frozenset({"grpc", "grpc-web", "http", "http2", "https", "tls"})
_HINT: Final = "Name it PROTOCOL or PROTOCOL-SUFFIX, for example http-web, or set appProtocol."


def protocol(port: ServicePort) -> str:
    """By `appProtocol`, else by the name; empty if neither tells."""
    if port.app_protocol:
        return port.app_protocol.lower() if port.app_protocol.lower() in _APP_PROTOCOLS else ""
    name = port.name.lower()
    if name == "grpc-web" or name.startswith("grpc-web-"):
        return "grpc-web"
    word = name.partition("-")[0]
    return word if word in PROTOCOLS else ""


def port_names(world: World) -> Iterator[Message]:
    for (namespace, name), service in world.store.of(Service).items():
        if namespace in SYSTEM_NAMESPACES or MANAGED in service.metadata.labels:
            continue
        key: Key = ("Service", namespace, name)
        for index, port in enumerate(service.spec.ports):
            path = ("spec", "ports", index, "name")
            found = protocol(port)
            if service.spec.type == "ExternalName":
                if found not in _WITHOUT_ADDRESS and port.protocol == "TCP":
                    yield message("IST0150", key, path, _HINT, name=port.name, port=port.port)
            elif not found and not port.app_protocol and port.protocol == "TCP":
                yield message("IST0118", key, path, _HINT, name=port.name, port=port.port)


def shared_pods(world: World) -> Iterator[Message]:
    """Workloads that several Services send to, with different ideas of a port."""
    services: dict[str, list[Service]] = {}
    for (namespace, _), service in world.store.of(Service).items():
        if service.spec.selector and service.spec.type != "ExternalName":
            services.setdefault(namespace, []).append(service)
    for namespace, workloads in world.workloads.items():
        for workload in workloads:
            if workload.key[0] in TEMPLATES or not _made(world, workload):
                mine = [s for s in services.get(namespace, ()) if s.spec.selector.items() <= workload.labels.items()]
                if len(mine) > 1:
                    yield from _protocols(workload.key, mine)
                    yield from _numbers(workload.key, mine)


def _made(world: World, workload: Workload) -> bool:
    """Whether something made the pod: its maker is told about, once."""
    return bool(world.written[workload.key].root["metadata"]["ownerReferences"])


def _protocols(key: Key, services: list[Service]) -> Iterator[Message]:
    """One port of the pods, taken for different protocols."""
    seen: dict[int | str, dict[str, set[str]]] = {}
    for service in services:
        for port in service.spec.ports:
            if port.protocol == "TCP":
                target = seen.setdefault(port.target_port or port.port, {})
                target.setdefault(protocol(port) or "tcp", set()).add(service.metadata.name)
    for number, found in seen.items():
        names = sorted(set().union(*found.values()))
        if len(found) > 1 and len(names) > 1:
            protocols = ", ".join(sorted(found))
            yield message("IST0116", key, services=", ".join(names), port=number, protocols=protocols)


def _numbers(key: Key, services: list[Service]) -> Iterator[Message]:
    """One port of the pods, offered under different numbers."""
    seen: dict[int | str, dict[int, set[str]]] = {}
    for service in services:
        for port in service.spec.ports:
            if port.protocol == "TCP":
                seen.setdefault(port.target_port or port.port, {}).setdefault(port.port, set()).add(
                    service.metadata.name
                )
    for target, found in seen.items():
        names = sorted(set().union(*found.values()))
        if len(found) > 1 and len(names) > 1:
            ports = ", ".join(map(str, sorted(found)))
            yield message("IST0137", key, services=", ".join(names), target=target, ports=ports)
