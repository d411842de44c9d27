"""Kubernetes Service to `meshcore.model.Service`."""

from __future__ import annotations

from typing import Final

from istiod import objects
from istiod.translate.common import MeshConfig, app_protocol, packed
from meshcore.model import (
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    NetworkAddress,
    Port,
    Service,
)

TRAFFIC_DISTRIBUTION: Final = "networking.istio.io/traffic-distribution"
INGRESS_USE_WAYPOINT: Final = "istio.io/ingress-use-waypoint"
_CLOSE: Final = (LbScope.NETWORK, LbScope.REGION, LbScope.ZONE)
_PREFERENCES: Final = {
    "PreferClose": _CLOSE,
    "PreferSameZone": _CLOSE,
    "PreferSameNode": (*_CLOSE, LbScope.SUBZONE, LbScope.NODE),
}


def published(service: objects.Service) -> bool:
    """ExternalName services are only names."""
    return service.spec.type != "ExternalName"


def cluster_ips(service: objects.Service) -> tuple[str, ...]:
    """The virtual addresses; none for a headless service. Load balancer addresses are no virtual addresses."""
    spec = service.spec
    return tuple(ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip not in ("", "None"))


def translate(service: objects.Service, namespace: objects.Namespace | None, mesh: MeshConfig) -> Service:
    meta, spec = service.metadata, service.spec
    addresses = (packed(ip) for ip in cluster_ips(service))
    return Service(
        name=meta.name,
        namespace=meta.namespace,
        hostname=mesh.hostname(meta.namespace, meta.name),
        addresses=tuple(NetworkAddress(mesh.network, raw) for raw in addresses if raw is not None),
        ports=tuple(
            Port(port.port, target_number(port), app_protocol(port.name, port.app_protocol))
            for port in tcp_ports(service)
        ),
        load_balancing=_load_balancing(service, namespace),
        ip_families=_families(spec.ip_families),
        canonical=True,
        ingress_use_waypoint=_ingress_use_waypoint(service, namespace),
    )


def tcp_ports(service: objects.Service) -> list[objects.ServicePort]:
    """Proxies carry TCP; a UDP port of the same number must not hide a TCP one."""
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def target_number(port: objects.ServicePort) -> int:
    """0 for a named target: it differs from pod to pod."""
    if isinstance(port.target_port, str):
        return int(port.target_port) if port.target_port.isdigit() else 0
    return port.target_port or port.port


def _load_balancing(service: objects.Service, namespace: objects.Namespace | None) -> LoadBalancing | None:
    spec = service.spec
    health = HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((LbScope.NODE,), LbMode.STRICT, health)
    wanted = (
        spec.traffic_distribution
        or service.metadata.annotations.get(TRAFFIC_DISTRIBUTION)
        or (namespace.metadata.annotations.get(TRAFFIC_DISTRIBUTION, "") if namespace is not None else "")
    )
    if (preference := _PREFERENCES.get(wanted)) is not None:
        return LoadBalancing(preference, LbMode.FAILOVER, health)
    return LoadBalancing(health_policy=health) if health is HealthPolicy.ALLOW_ALL else None


def _families(families: tuple[str, ...]) -> IPFamilies:
    if len(families) > 1:
        return IPFamilies.DUAL
    if not families:
        return IPFamilies.AUTOMATIC
    return IPFamilies.IPV6_ONLY if families[0] == "IPv6" else IPFamilies.IPV4_ONLY


def _ingress_use_waypoint(service: objects.Service, namespace: objects.Namespace | None) -> bool:
    value = service.metadata.labels.get(INGRESS_USE_WAYPOINT)
    if value is None and namespace is not None:
        value = namespace.metadata.labels.get(INGRESS_USE_WAYPOINT)
    return value == "true"
