"""Backends of routes: whether they may be used, and what stands for them in a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from istiod.objects.routes import BackendObject, BackendRef
from istiod.resources import CORE, NETWORKING
from istiod.translate.gateway_api.ports import service_ports
from istiod.translate.gateway_api.references import Referrer, forbidden, permitted
from istiod.translate.graph import View
from istiod.translate.l7.catalog import locate
from istiod.translate.statuses import Verdict
from meshcore import l7

INVALID_STATUS: Final = 500
"""What the share of a backend that cannot be used is answered with."""


class Resolved(NamedTuple):
    """A backend for the rule, and what is wrong with the reference (None: nothing)."""

    backend: l7.Backend
    fault: Verdict | None


def resolve(view: View, referrer: Referrer, ref: BackendObject) -> Resolved:
    """One reference of a route."""
    if (ref.group, ref.kind) == (NETWORKING, "Hostname"):
        return _hostname(view, referrer, ref)
    if (ref.group, ref.kind) != (CORE, "Service"):
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return _unusable("InvalidKind", f"{kind} {ref.name} is neither a Service nor a {NETWORKING}/Hostname")
    namespace = ref.namespace or referrer.namespace
    if not permitted(view, referrer, CORE, "Service", namespace, ref.name):
        return Resolved(l7.Backend(status=INVALID_STATUS), forbidden(referrer, "Service", namespace, ref.name))
    hostname = view.settings.hostname(namespace, ref.name)
    ports = view.ask(service_ports, namespace, hostname)
    if ports is None:
        return _unusable("BackendNotFound", f"the Service {namespace}/{ref.name} does not exist")
    return _at_port(f"{namespace}/{hostname}", ref, [port.number for port in ports])


def weighted(view: View, referrer: Referrer, refs: Sequence[BackendRef]) -> list[tuple[BackendRef, Resolved]]:
    """Every reference of a rule, each with its weight; those that get no share too, as they are judged as well."""
    found = []
    for ref in refs:
        backend, fault = resolve(view, referrer, ref)
        found.append((ref, Resolved(msgspec.structs.replace(backend, weight=ref.weight), fault)))
    return found


def _hostname(view: View, referrer: Referrer, ref: BackendObject) -> Resolved:
    """A host of the mesh by its full name, as clients of the route's namespace find it."""
    if ref.namespace:
        return _unusable("InvalidDestination", f"a Hostname has no namespace: {ref.name} is found by its name alone")
    info = view.ask(locate, ref.name, referrer.namespace)
    if info is None:
        return _unusable("BackendNotFound", f"no Service or ServiceEntry has the hostname {ref.name}")
    return _at_port(info.key, ref, [number for number, _ in info.ports])


def _at_port(key: str, ref: BackendObject, ports: list[int]) -> Resolved:
    if not ref.port:
        return _unusable("InvalidDestination", f"the reference to {ref.kind} {ref.name} needs a port")
    if ref.port not in ports:
        return _unusable("BackendNotFound", f"{ref.kind} {ref.name} has no port {ref.port}")
    return Resolved(l7.Backend(key, ref.port), None)


def _unusable(reason: str, message: str) -> Resolved:
    return Resolved(l7.Backend(status=INVALID_STATUS), Verdict(ok=False, reason=reason, message=message))
