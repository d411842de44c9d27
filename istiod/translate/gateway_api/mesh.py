"""Routes whose parent is a service of the mesh (GAMMA): the waypoint of the service applies them."""

from __future__ import annotations

from istiod.translate.gateway_api.attachment import route_parents
from istiod.translate.gateway_api.gateways import ordered
from istiod.translate.gateway_api.indexes import ROUTES
from istiod.translate.gateway_api.rules import RankedStream, route_rules
from istiod.translate.graph import View
from istiod.translate.l7.catalog import service_info
from istiod.translate.l7.routes import PortRoutes, RouteTables
from meshcore import l7


def mesh_routes(view: View, namespace: str, hostname: str) -> RouteTables:
    """The rules attached to a Service or to a host of a ServiceEntry.

    Routes of other namespaces do not count, nor do hostnames of HTTP routes: the address said which service is meant.
    """
    info = view.ask(service_info, namespace, hostname)
    if info is None:
        return {}
    attached: dict[int, dict[tuple[str, str, str], None]] = {}
    for kind, route_kind in ROUTES.items():
        for route in view.find(route_kind.by_parent, (info.kind, namespace, info.name)):
            key = (kind, route.metadata.namespace, route.metadata.name)
            for parent in view.ask(route_parents, *key):
                if parent.accepted.ok and (parent.ref.kind, parent.ref.name) == (info.kind, info.name):
                    for port in parent.ports:
                        attached.setdefault(port, {})[key] = None
    found = {}
    for port, keys in sorted(attached.items()):
        routes = PortRoutes(ordered(view, keys, port), _streams(view, keys))
        if routes.http or routes.streams:
            found[port] = routes
    return found


def _streams(view: View, keys: dict[tuple[str, str, str], None]) -> tuple[l7.StreamRule, ...]:
    """TLSRoutes before TCPRoutes, the oldest first."""
    found: list[tuple[bool, RankedStream]] = []
    for key in keys:
        found += ((key[0] == "TCPRoute", one) for one in view.ask(route_rules, *key).streams)
    return tuple(one.rule for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].rank)))
