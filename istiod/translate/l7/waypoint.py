"""The waypoints themselves: the resource `l7.Waypoint`, and all families of resources about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from istiod.objects import Gateway, Service
from istiod.translate.graph import Family, View
from istiod.translate.indexes import ENTRIES_BY_HOST
from istiod.translate.l7.catalog import service_info
from istiod.translate.l7.destination import destinations
from istiod.translate.l7.indexes import (
    ENTRIES_BY_WAYPOINT,
    ENTRIES_OF_NAMESPACE,
    NAMESPACES_BY_WAYPOINT,
    SERVICES_BY_WAYPOINT,
    SERVICES_OF_NAMESPACE,
)
from istiod.translate.l7.mesh import http_options
from istiod.translate.l7.policies import policies, referred, waypoint_client
from istiod.translate.l7.service import Seams, service_config
from istiod.translate.l7.targets import of_gateway
from istiod.translate.l7.telemetry import telemetry
from istiod.translate.waypoints import SERVICE_TRAFFIC, WORKLOAD_TRAFFIC, service_binding, service_waypoint, waypoint
from meshcore import l7

CLIENT_HEADER: Final = "ambient.istio.io/xfcc-include-client-identity"


def waypoint_config(view: View, namespace: str, name: str, seams: Seams) -> l7.Waypoint | None:
    """What a waypoint is told of itself; None if the Gateway is no waypoint."""
    found = view.ask(waypoint, namespace, name)
    gateway = view.get(Gateway, namespace, name)
    if found is None or gateway is None:
        return None
    client = waypoint_client(namespace, name)
    checked = policies(view, of_gateway(view, namespace, name), client)
    observed = telemetry(view, client, name)
    return l7.Waypoint(
        name=name,
        namespace=namespace,
        for_services=SERVICE_TRAFFIC in found.traffic,
        for_workloads=WORKLOAD_TRAFFIC in found.traffic,
        services=view.ask(bound_services, namespace, name),
        policies=checked,
        telemetry=observed,
        client_header=gateway.metadata.annotations.get(CLIENT_HEADER) == "true",
        destinations=destinations(view, client, referred(checked, observed), seams.backend_tls),
        http=http_options(view, gateway=False),
    )


def bound_services(view: View, namespace: str, name: str) -> tuple[str, ...]:
    """The keys of the services behind a waypoint, or of those it takes a share of as canary."""
    place = (namespace, name)
    services = view.find(SERVICES_BY_WAYPOINT, place)
    entries = view.find(ENTRIES_BY_WAYPOINT, place)
    for space in view.find(NAMESPACES_BY_WAYPOINT, place):
        services = services + view.find(SERVICES_OF_NAMESPACE, (space.metadata.name,))
        entries = entries + view.find(ENTRIES_OF_NAMESPACE, (space.metadata.name,))
    hosts = {(one.metadata.namespace, host) for one in entries for host in one.spec.hosts}
    hosts.update(
        (one.metadata.namespace, view.settings.hostname(one.metadata.namespace, one.metadata.name)) for one in services
    )
    return tuple(sorted("/".join(pair) for pair in hosts if _serves(view, place, *pair)))


def _serves(view: View, place: tuple[str, str], namespace: str, hostname: str) -> bool:
    info = view.ask(service_info, namespace, hostname)
    if info is None:
        return False
    if view.ask(service_waypoint, namespace, hostname) == place:
        return True
    canary = view.ask(service_binding, info.kind, namespace, info.name).canary
    found = view.ask(waypoint, *place)
    return canary is not None and found is not None and canary.destination == found.address


def families(seams: Seams) -> tuple[Family, ...]:
    """Every waypoint, and every service that has one."""

    def l7_service(view: View, namespace: str, name: str) -> Mapping[str, Any]:
        return _named(service_config(view, namespace, view.settings.hostname(namespace, name), seams))

    def l7_entry(view: View, namespace: str, host: str) -> Mapping[str, Any]:
        info = view.ask(service_info, namespace, host)
        if info is None or info.kind == "Service":  # the Kubernetes Service of that name is the one that counts
            return {}
        return _named(service_config(view, namespace, host, seams))

    def l7_waypoint(view: View, namespace: str, name: str) -> Mapping[str, Any]:
        found = waypoint_config(view, namespace, name, seams)
        return {f"{namespace}/{name}": found} if found is not None else {}

    return (
        Family(l7.SERVICE_TYPE, (Service,), l7_service),
        Family(l7.SERVICE_TYPE, (ENTRIES_BY_HOST,), l7_entry),
        Family(l7.WAYPOINT_TYPE, (Gateway,), l7_waypoint),
    )


def _named(service: l7.Service | None) -> Mapping[str, Any]:
    return {f"{service.namespace}/{service.hostname}": service} if service is not None else {}
