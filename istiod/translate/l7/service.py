"""The services behind waypoints: the resource `l7.Service`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from istiod.objects import VirtualService
from istiod.translate.graph import View
from istiod.translate.l7.catalog import ServiceInfo, service_info, spellings
from istiod.translate.l7.destination import BackendTls, destinations, no_backend_tls
from istiod.translate.l7.destination_rule import age
from istiod.translate.l7.http_match import is_catch_all
from istiod.translate.l7.indexes import RULES_BY_HOST
from istiod.translate.l7.mesh import exported, mesh_l7
from istiod.translate.l7.policies import policies, referred, waypoint_client
from istiod.translate.l7.retry import inbound_retry
from istiod.translate.l7.routes import Client, PortRoutes, RouteTables, named_services
from istiod.translate.l7.targets import of_service
from istiod.translate.l7.telemetry import telemetry
from istiod.translate.l7.virtual_service import http_rules, stream_rules
from istiod.translate.waypoints import service_waypoint
from meshcore.l7 import Backend, Forward, HttpRule, Protocol, Service, ServicePort, StreamRule

DEFAULT: Final = "default"
"""The name of a rule that nobody wrote."""


def no_routes(_view: View, _namespace: str, _hostname: str) -> RouteTables:
    """For a mesh without the Gateway API."""
    return {}


class Seams(NamedTuple):
    """Derivations of the Gateway API that take part: routes attached to a service (by namespace and hostname), and TLS
    to its ports.
    """

    routes: Callable[[View, str, str], RouteTables] = no_routes
    backend_tls: BackendTls = no_backend_tls


def service_config(view: View, namespace: str, hostname: str, seams: Seams) -> Service | None:
    """What its waypoint does with traffic to a service; None if it has no waypoint."""
    place = view.ask(service_waypoint, namespace, hostname)
    info = view.ask(service_info, namespace, hostname)
    if place is None or info is None:
        return None
    client = waypoint_client(*place)
    attached = view.ask(seams.routes, namespace, hostname)
    rules = virtual_services(view, client, info)
    ports = tuple(
        _port(view, client, info, number, protocol, attached.get(number, PortRoutes()), rules)
        for number, protocol in info.ports
    )
    checked = policies(view, of_service(view, info), client)
    observed = telemetry(view, client, place[1], info)
    named = {info.key}.union(referred(checked, observed), *(named_services(port.http, port.streams) for port in ports))
    return Service(
        namespace=namespace,
        hostname=hostname,
        waypoint="/".join(place),
        ports=ports,
        destinations=destinations(view, client, named, seams.backend_tls),
        policies=checked,
        telemetry=observed,
    )


def virtual_services(view: View, client: Client, info: ServiceInfo) -> list[VirtualService]:
    """Those whose hosts cover the service, of its namespace and of the waypoint's; the oldest first."""
    default = view.ask(mesh_l7).default_virtual_service_export_to
    found = {
        (rule.metadata.namespace, rule.metadata.name): rule
        for place in (client.namespace, info.namespace)
        for hosts in spellings(view, info.hostname, place)
        for host in hosts
        for rule in view.find(RULES_BY_HOST, (place, host))
        if exported(rule.spec.export_to, default, place, client.namespace)
    }
    return sorted(found.values(), key=lambda rule: age(rule.metadata))


def _port(
    view: View,
    client: Client,
    info: ServiceInfo,
    number: int,
    protocol: Protocol,
    attached: PortRoutes,
    rules: list[VirtualService],
) -> ServicePort:
    to = (Backend(info.key, number),)
    http: tuple[HttpRule, ...] = ()
    streams: tuple[StreamRule, ...] = ()
    if protocol.http:
        http = tuple(_until_catch_all(attached.http, rules, view, client, number))
        if not http:
            retry = inbound_retry(protocol, view.ask(mesh_l7).default_inbound_http_retry_policy)
            http = (HttpRule(DEFAULT, Forward(to), retry=retry),)
    if protocol is Protocol.AUTO or not protocol.http:
        hosts = (info.hostname,) if protocol is Protocol.TLS else ()
        written = (one for rule in rules for one in stream_rules(view, rule, client, number, hosts=hosts))
        streams = tuple(_until_unconditional((*attached.streams, *written), StreamRule(DEFAULT, to)))
    return ServicePort(number, protocol, http, streams)


def _until_catch_all(
    attached: tuple[HttpRule, ...], rules: list[VirtualService], view: View, client: Client, port: int
) -> Iterator[HttpRule]:
    """Attached routes, then the VirtualServices one after the other, as far as anything can be reached."""
    written = (one for rule in rules for one in http_rules(view, rule, client, port))
    for source in (attached, written):
        for rule in source:
            yield rule
            if is_catch_all(rule.match):
                return


def _until_unconditional(rules: tuple[StreamRule, ...], default: StreamRule) -> Iterator[StreamRule]:
    for rule in (*rules, default):
        yield rule
        if not rule.sni and not rule.subnets:
            return
