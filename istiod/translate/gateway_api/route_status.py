"""The status of routes. All controllers share one list: entries of others stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from istiod.objects.routes import ParentRef, Route
from istiod.translate.gateway_api.attachment import Parent, route_parents
from istiod.translate.gateway_api.gateway_status import FIELD_MANAGER
from istiod.translate.gateway_api.indexes import ROUTES
from istiod.translate.gateway_api.rules import RouteRules, route_rules
from istiod.translate.graph import View
from istiod.translate.statuses import StatusPatch, Verdict, condition, published
from istiod.translate.waypoints import GATEWAY_CONTROLLER, USE_WAYPOINT, service_waypoint

CONTROLLER_NAME: Final = "controllerName"
_HTTP_KINDS: Final = frozenset({"HTTPRoute", "GRPCRoute"})


def http_route_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    return _route_status(view, "HTTPRoute", namespace, name)


def grpc_route_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    return _route_status(view, "GRPCRoute", namespace, name)


def tls_route_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    return _route_status(view, "TLSRoute", namespace, name)


def tcp_route_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    return _route_status(view, "TCPRoute", namespace, name)


def shared_list(
    patch: StatusPatch, field: str, ours: list[dict[str, Any]], current: Sequence[dict[str, Any]]
) -> Mapping[str, StatusPatch]:
    """A patch of a list that several controllers write: with the entries of the others, and none at all if there is
    nothing of ours in it, before or after.
    """
    others = [entry for entry in current if entry.get(CONTROLLER_NAME) != GATEWAY_CONTROLLER]
    if not ours and len(others) == len(current):
        return {}
    return published([patch._replace(status={field: ours + others})])


def _route_status(view: View, kind: str, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    """One entry for each parent of ours."""
    route: Route | None = view.get(ROUTES[kind].type, namespace, name)
    if route is None:
        return {}
    rules = view.ask(route_rules, kind, namespace, name)
    ours = [
        {
            "parentRef": _parent_ref(parent.ref),
            CONTROLLER_NAME: GATEWAY_CONTROLLER,
            "conditions": _conditions(view, kind, namespace, parent, rules, route.metadata.generation),
        }
        for parent in view.ask(route_parents, kind, namespace, name)
    ]
    return shared_list(StatusPatch(kind, namespace, name, FIELD_MANAGER, {}), "parents", ours, route.status.parents)


def _conditions(
    view: View, kind: str, namespace: str, parent: Parent, rules: RouteRules, generation: int
) -> list[dict[str, Any]]:
    accepted = rules.accepted if parent.accepted.ok else parent.accepted
    found = [condition("Accepted", accepted, generation), condition("ResolvedRefs", rules.resolved, generation)]
    if parent.mesh and kind in _HTTP_KINDS:
        found.append(condition("ResolvedWaypoints", _waypoint(view, namespace, parent), generation))
    return found


def _waypoint(view: View, namespace: str, parent: Parent) -> Verdict:
    """Routes of a service are applied by its waypoint, so they need one."""
    if not parent.accepted.ok:
        return Verdict(ok=False, reason="NoMatchingParent", message=parent.accepted.message)
    for hostname in parent.hostnames:
        found = view.ask(service_waypoint, namespace, hostname)
        if found is not None:
            return Verdict(ok=True, reason="ResolvedWaypoints", message=f"applied by the waypoint {'/'.join(found)}")
    text = f"{parent.ref.kind} {namespace}/{parent.ref.name} has no waypoint that is ready (label {USE_WAYPOINT})"
    return Verdict(ok=False, reason="MissingUseWaypointLabel", message=text)


def _parent_ref(ref: ParentRef) -> dict[str, Any]:
    found: dict[str, Any] = {"group": ref.group, "kind": ref.kind, "name": ref.name}
    if ref.namespace:
        found["namespace"] = ref.namespace
    if ref.section_name:
        found["sectionName"] = ref.section_name
    if ref.port:
        found["port"] = ref.port
    return found
