"""Service and ServiceEntry to `meshcore.model.Service`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from istiod import objects
from istiod.objects import ServiceEntry
from istiod.translate.common import MeshConfig, app_protocol, packed, small_number
from istiod.translate.graph import View
from istiod.translate.indexes import ENTRIES_BY_BARE_HOST, ENTRIES_BY_HOST
from istiod.translate.meshconfig import entry_visibility, mesh_config
from istiod.translate.waypoints import namespace_defaults, service_binding
from meshcore.model import (
    Address,
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    NetworkAddress,
    Port,
    Service,
    Visibility,
)

TRAFFIC_DISTRIBUTION: Final = "networking.istio.io/traffic-distribution"
INGRESS_USE_WAYPOINT: Final = "istio.io/ingress-use-waypoint"
DYNAMIC: Final = "DYNAMIC_DNS"
BY_NAME: Final = ("DNS", "DNS_ROUND_ROBIN", DYNAMIC)
"""Resolutions that ask DNS."""
CONNECT_STRATEGY: Final = "istio.io/connect-strategy"
RACE: Final = "RACE_FIRST_TCP_CONNECT"
PORT_MAX: Final = 65535
_CLOSE: Final = (LbScope.NETWORK, LbScope.REGION, LbScope.ZONE)
_PREFERENCES: Final = {
    "preferclose": _CLOSE,
    "prefersamezone": _CLOSE,
    "prefersamenode": (*_CLOSE, LbScope.SUBZONE, LbScope.NODE),
}
"""In small letters: annotations may say them in any case."""
_UNPUBLISHED: Final = "NONE"


def service_addresses(view: View, namespace: str, name: str) -> Mapping[str, Address]:
    """The resource of a Kubernetes Service, by its name."""
    service = view.get(objects.Service, namespace, name)
    if service is None or not published(service):
        return {}
    mesh = view.ask(mesh_config)
    meta, spec = service.metadata, service.spec
    defaults = view.ask(namespace_defaults, namespace)
    binding = view.ask(service_binding, "Service", namespace, name)
    addresses = (packed(ip) for ip in cluster_ips(service))
    translated = Service(
        name=name,
        namespace=namespace,
        hostname=mesh.hostname(namespace, name),
        addresses=tuple(NetworkAddress(mesh.network, raw) for raw in addresses if raw is not None),
        ports=tuple(
            Port(port.port, target_number(port), app_protocol(port.name, port.app_protocol))
            for port in tcp_ports(service)
        ),
        waypoint=binding.address,
        load_balancing=_load_balancing(service, dict(defaults.annotations)),
        ip_families=_families(spec.ip_families),
        canonical=True,
        ingress_use_waypoint=_ingress_use_waypoint(meta.labels, dict(defaults.labels)),
        weighted_waypoints=binding.weighted,
    )
    return {f"{namespace}/{translated.hostname}": Address(service=translated)}


def entry_addresses(view: View, namespace: str, host: str) -> Mapping[str, Address]:
    """The resource of one host of the ServiceEntries of a namespace: a Kubernetes Service of that name goes first,
    then the oldest entry.
    """
    name = view.settings.service_name(namespace, host)
    service = view.get(objects.Service, namespace, name) if name else None
    if service is not None and published(service):
        return {}
    entry = view.ask(entry_of_host, namespace, host)
    if entry is None:
        return {}
    visibility = view.ask(entry_visibility, namespace)
    if visibility == _UNPUBLISHED:
        return {}
    mesh = view.ask(mesh_config)
    binding = view.ask(service_binding, "ServiceEntry", namespace, entry.metadata.name)
    defaults = view.ask(namespace_defaults, namespace)
    translated = Service(
        name=entry.metadata.name,
        namespace=namespace,
        hostname=host,
        addresses=_virtual_addresses(entry, host, mesh),
        ports=entry_ports(entry),
        subject_alt_names=entry.spec.subject_alt_names,
        waypoint=binding.address,
        load_balancing=_entry_load_balancing(entry, dict(defaults.annotations)),
        canonical=view.ask(canonical_entry, host) == namespace,
        ingress_use_waypoint=_ingress_use_waypoint(entry.metadata.labels, dict(defaults.labels)),
        weighted_waypoints=binding.weighted,
        visibility=Visibility.NAMESPACE if visibility == "NAMESPACE" else Visibility.PUBLIC,
    )
    return {f"{namespace}/{host}": Address(service=translated)}


def entry_of_host(view: View, namespace: str, host: str) -> ServiceEntry | None:
    """The ServiceEntry that stands for a host in a namespace: the oldest."""
    entries = view.find(ENTRIES_BY_HOST, (namespace, host))
    return min(entries, key=_age) if entries else None


def canonical_entry(view: View, host: str) -> str:
    """The namespace whose ServiceEntry owns a host for clients elsewhere; empty if a Kubernetes Service does."""
    parts = host.split(".")
    if len(parts) > 2 and view.settings.service_name(parts[1], host):
        service = view.get(objects.Service, parts[1], parts[0])
        if service is not None and published(service):
            return ""
    public = [
        entry
        for entry in view.find(ENTRIES_BY_BARE_HOST, (host,))
        if view.ask(entry_visibility, entry.metadata.namespace) == "PUBLIC"
    ]
    return min(public, key=_age).metadata.namespace if public else ""


def entry_keys(view: View, entry: ServiceEntry) -> list[str]:
    """The service keys that the endpoints of a ServiceEntry serve: its hosts, where it is the one that counts."""
    namespace = entry.metadata.namespace
    if view.ask(entry_visibility, namespace) == _UNPUBLISHED:
        return []
    keys = []
    for host in entry.spec.hosts:
        name = view.settings.service_name(namespace, host)
        service = view.get(objects.Service, namespace, name) if name else None
        owner = view.ask(entry_of_host, namespace, host)
        if (
            (service is None or not published(service))
            and owner is not None
            and owner.metadata.name == entry.metadata.name
        ):
            keys.append(f"{namespace}/{host}")
    return keys


def published(service: objects.Service) -> bool:
    """ExternalName services are only names."""
    return not service.external_name


def races(entry: ServiceEntry) -> bool:
    """Whether all addresses of a host are to be tried at once; only a waypoint can."""
    return entry.metadata.annotations.get(CONNECT_STRATEGY) == RACE


def cluster_ips(service: objects.Service) -> tuple[str, ...]:
    """The virtual addresses; none for a headless service. Load balancer addresses are no virtual addresses."""
    spec = service.spec
    return tuple(ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip not in ("", "None"))


def tcp_ports(service: objects.Service) -> list[objects.ServicePort]:
    """Proxies carry TCP; a UDP port of the same number must not hide a TCP one."""
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def target_number(port: objects.ServicePort) -> int:
    """0 for a named target: it differs from pod to pod."""
    if isinstance(port.target_port, str):
        return small_number(port.target_port, PORT_MAX) or 0
    return port.target_port or port.port


def entry_ports(entry: ServiceEntry, overrides: Mapping[str, int] | None = None) -> tuple[Port, ...]:
    """The ports of a ServiceEntry; `overrides` are those that an endpoint names."""
    return tuple(
        Port(
            port.number,
            (overrides or {}).get(port.name) or port.target_port or port.number,
            app_protocol(port.name, port.protocol),
        )
        for port in entry.spec.ports
        if port.protocol.upper() != "UDP"
    )


def _virtual_addresses(entry: ServiceEntry, host: str, mesh: MeshConfig) -> tuple[NetworkAddress, ...]:
    """Those in the spec, else those that were allocated for the host."""
    texts = entry.spec.addresses or tuple(one.value for one in entry.status.addresses if one.host == host)
    found = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        length = network.prefixlen if network.prefixlen != network.max_prefixlen else None
        found.append(NetworkAddress(mesh.network, network.network_address.packed, length))
    return tuple(found)


def _age(entry: ServiceEntry) -> tuple[str, str, str]:
    meta = entry.metadata
    return (meta.creation_timestamp, meta.namespace, meta.name)


def _load_balancing(service: objects.Service, namespace: Mapping[str, str]) -> LoadBalancing | None:
    spec = service.spec
    health = HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((LbScope.NODE,), LbMode.STRICT, health)
    wanted = (
        spec.traffic_distribution
        or service.metadata.annotations.get(TRAFFIC_DISTRIBUTION)
        or namespace.get(TRAFFIC_DISTRIBUTION, "")
    )
    if (preference := _PREFERENCES.get(wanted.lower())) is not None:
        return LoadBalancing(preference, LbMode.FAILOVER, health)
    return LoadBalancing(health_policy=health) if health is HealthPolicy.ALLOW_ALL else None


def _entry_load_balancing(entry: ServiceEntry, namespace: Mapping[str, str]) -> LoadBalancing | None:
    if entry.spec.resolution == "NONE":
        return LoadBalancing(mode=LbMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)
    wanted = entry.metadata.annotations.get(TRAFFIC_DISTRIBUTION) or namespace.get(TRAFFIC_DISTRIBUTION, "")
    preference = _PREFERENCES.get(wanted.lower())
    return LoadBalancing(preference, LbMode.FAILOVER) if preference is not None else None


def _families(families: tuple[str, ...]) -> IPFamilies:
    if len(families) > 1:
        return IPFamilies.DUAL
    if not families:
        return IPFamilies.AUTOMATIC
    return IPFamilies.IPV6_ONLY if families[0] == "IPv6" else IPFamilies.IPV4_ONLY


def _ingress_use_waypoint(labels: Mapping[str, str], namespace: Mapping[str, str]) -> bool:
    value = labels.get(INGRESS_USE_WAYPOINT)
    return (namespace.get(INGRESS_USE_WAYPOINT) if value is None else value) == "true"
