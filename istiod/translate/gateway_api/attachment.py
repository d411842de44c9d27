"""Which parents a route is attached to, and where it comes out: at listeners of a gateway, or at ports of a service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from istiod.objects import ServiceEntry
from istiod.objects.routes import ParentRef, Route
from istiod.translate.gateway_api.classes import controller
from istiod.translate.gateway_api.hostnames import intersection
from istiod.translate.gateway_api.indexes import PARENT_KINDS, ROUTES
from istiod.translate.gateway_api.listeners import ACCEPTED, ListenerInfo, in_scope, joined_sets, listeners, set_parent
from istiod.translate.gateway_api.ports import PortInfo, service_ports
from istiod.translate.graph import View
from istiod.translate.statuses import Verdict

NO_MATCHING_PARENT: Final = "NoMatchingParent"
NO_MATCHING_HOSTNAME: Final = "NoMatchingListenerHostname"
NOT_ALLOWED: Final = "NotAllowedByListeners"
_RANKS: Final = (NO_MATCHING_PARENT, NO_MATCHING_HOSTNAME, NOT_ALLOWED)
"""When several listeners refuse a route, the one that came closest is told."""


class Attachment(msgspec.Struct, frozen=True):
    """A listener that takes a route, for these hosts."""

    owner: str
    namespace: str
    parent: str
    listener: str
    hosts: tuple[str, ...]


class Parent(msgspec.Struct, frozen=True):
    """What one parentRef comes to. `gateway` is the Gateway behind it; a mesh parent has `hostnames` and `ports`."""

    ref: ParentRef
    accepted: Verdict
    gateway: tuple[str, str] | None = None
    attachments: tuple[Attachment, ...] = ()
    hostnames: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()

    @property
    def mesh(self) -> bool:
        return self.gateway is None


class AttachedRoute(NamedTuple):
    """A route at a listener."""

    kind: str
    namespace: str
    name: str
    attachment: Attachment


def route_parents(view: View, kind: str, namespace: str, name: str) -> tuple[Parent, ...]:
    """Every parent of a route that is ours to judge; those of other products are left out."""
    route: Route | None = view.get(ROUTES[kind].type, namespace, name)
    if route is None:
        return ()
    found = []
    for ref in route.spec.parent_refs:
        if PARENT_KINDS.get(ref.kind) != ref.group:
            continue
        if ref.kind in ("Service", "ServiceEntry"):
            found.append(_service_parent(view, namespace, ref))
        elif (parent := _gateway_parent(view, kind, route, ref)) is not None:
            found.append(parent)
    return tuple(found)


def attached_routes(view: View, namespace: str, name: str) -> tuple[AttachedRoute, ...]:
    """Every route at a listener of a gateway, by kind, namespace and name."""
    owners = [("Gateway", namespace, name)]
    owners += (("ListenerSet", *key) for key in view.ask(joined_sets, namespace, name))
    found: dict[AttachedRoute, None] = {}
    for kind, route_kind in ROUTES.items():
        for bucket in owners:
            for route in view.find(route_kind.by_parent, bucket):
                key = (kind, route.metadata.namespace, route.metadata.name)
                for parent in view.ask(route_parents, *key):
                    if parent.gateway == (namespace, name):
                        found.update((AttachedRoute(*key, one), None) for one in parent.attachments)
    return tuple(found)


def _gateway_parent(view: View, kind: str, route: Route, ref: ParentRef) -> Parent | None:
    home = route.metadata.namespace
    namespace = ref.namespace or home
    if ref.kind == "ListenerSet":
        joined = view.ask(set_parent, namespace, ref.name)
        if not joined.name:
            return None
        gateway = (joined.namespace, joined.name)
        if not joined.verdict.ok:
            return Parent(ref, Verdict(ok=False, reason=NO_MATCHING_PARENT, message=joined.verdict.message), gateway)
    else:
        gateway = (namespace, ref.name)
        if not view.ask(controller, *gateway):
            return None
    attachments = []
    refusal = _refused(NO_MATCHING_PARENT, _no_listener(ref))
    for info in view.ask(listeners, *gateway):
        if (info.owner, info.namespace, info.parent) != (ref.kind, namespace, ref.name):
            continue
        if ref.section_name not in ("", info.spec.name) or ref.port not in (0, info.spec.port):
            continue
        hosts = intersection(info.spec.hostname, _hosts(route))
        if (refused := _refusal(view, kind, home, info, hosts)) is None:
            attachments.append(Attachment(ref.kind, namespace, ref.name, info.spec.name, hosts))
        elif _RANKS.index(refused.reason) > _RANKS.index(refusal.reason):
            refusal = refused
    return Parent(ref, ACCEPTED if attachments else refusal, gateway, tuple(attachments))


def _refusal(view: View, kind: str, home: str, info: ListenerInfo, hosts: Iterable[str]) -> Verdict | None:
    """Why a listener does not take a route; None if it does."""
    if not hosts:
        return _refused(
            NO_MATCHING_HOSTNAME, f"no hostname of the route is within {info.host} of the listener {info.spec.name}"
        )
    if kind not in info.kinds:
        return _refused(NOT_ALLOWED, f"the listener {info.spec.name} takes no {kind}")
    rule = info.spec.allowed_routes.namespaces
    if not in_scope(view, rule.from_, rule.selector, info.namespace, home):
        return _refused(NOT_ALLOWED, f"the listener {info.spec.name} takes no routes of the namespace {home}")
    return None


def _service_parent(view: View, home: str, ref: ParentRef) -> Parent:
    namespace = ref.namespace or home
    hostnames: tuple[str, ...] = ()
    ports: tuple[PortInfo, ...] | None = None
    if ref.kind == "Service":
        hostnames = (view.settings.hostname(namespace, ref.name),)
        ports = view.ask(service_ports, namespace, hostnames[0])
    elif (entry := view.get(ServiceEntry, namespace, ref.name)) is not None and entry.spec.hosts:
        hostnames = entry.spec.hosts
        ports = view.ask(service_ports, namespace, hostnames[0])
    if ports is None:
        return Parent(ref, _refused(NO_MATCHING_PARENT, f"the {ref.kind} {namespace}/{ref.name} does not exist"))
    chosen = tuple(
        port.number for port in ports if ref.port in (0, port.number) and ref.section_name in ("", port.name)
    )
    if not chosen:
        text = f"the {ref.kind} {namespace}/{ref.name} has no port {ref.section_name or ref.port or ''}".rstrip()
        return Parent(ref, _refused(NO_MATCHING_PARENT, text))
    if namespace != home:
        text = f"only routes of {namespace} apply to its services: waypoints know no consumer routes"
        return Parent(ref, _refused(NOT_ALLOWED, text))
    return Parent(ref, ACCEPTED, hostnames=hostnames, ports=chosen)


def _hosts(route: Route) -> tuple[str, ...]:
    """A TCPRoute has no hostnames."""
    return getattr(route.spec, "hostnames", ())


def _no_listener(ref: ParentRef) -> str:
    wanted = [f"sectionName {ref.section_name}"] if ref.section_name else []
    if ref.port:
        wanted.append(f"port {ref.port}")
    return f"the {ref.kind} {ref.name} has no listener" + (f" with {' and '.join(wanted)}" if wanted else "")


def _refused(reason: str, message: str) -> Verdict:
    return Verdict(ok=False, reason=reason, message=message)
