"""Where the objects of the Gateway API are found besides their name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from istiod.objects import (
    BackendTLSPolicy,
    EndpointSlice,
    GRPCRoute,
    HTTPRoute,
    ListenerSet,
    ReferenceGrant,
    TCPRoute,
    TLSRoute,
)
from istiod.objects.routes import BackendObject, Route
from istiod.resources import CORE, GATEWAY_API, NETWORKING
from istiod.store import Index
from istiod.translate.indexes import SERVICE_NAME

PARENT_KINDS: Final = {
    "Gateway": GATEWAY_API,
    "ListenerSet": GATEWAY_API,
    "Service": CORE,
    "ServiceEntry": NETWORKING,
}
"""What a route may be attached to, and the group of each."""


def _parents(route: Route) -> Iterable[tuple[str, str, str]]:
    """(kind, namespace, name) of every parent."""
    return [
        (ref.kind, ref.namespace or route.metadata.namespace, ref.name)
        for ref in route.spec.parent_refs
        if PARENT_KINDS.get(ref.kind) == ref.group
    ]


def references(route: Route) -> Iterable[BackendObject]:
    """Every backend a route names, those of mirrors too."""
    for rule in route.spec.rules:
        for ref in rule.backend_refs:
            yield ref
            yield from (one.request_mirror.backend_ref for one in ref.filters if one.request_mirror is not None)
        for one in getattr(rule, "filters", ()):
            if one.request_mirror is not None:
                yield one.request_mirror.backend_ref


def _backends(route: Route) -> Iterable[tuple[str, str, str]]:
    """(kind, namespace, name) of every backend; a Hostname has no namespace."""
    for ref in references(route):
        yield (ref.kind, "" if ref.kind == "Hostname" else ref.namespace or route.metadata.namespace, ref.name)


class RouteKind(NamedTuple):
    """A kind of route, and where its objects are found."""

    type: type[Any]
    by_parent: Index[Any]
    by_backend: Index[Any]


def _kind(route_type: type[Any]) -> RouteKind:
    name = route_type.__name__
    return RouteKind(
        route_type,
        Index(f"{name} by parent", route_type, _parents),
        Index(f"{name} by backend", route_type, _backends),
    )


ROUTES: Final = {kind.__name__: _kind(kind) for kind in (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute)}

SETS_BY_GATEWAY: Final = Index(
    "listener sets by gateway",
    ListenerSet,
    lambda one: [(one.spec.parent_ref.namespace or one.metadata.namespace, one.spec.parent_ref.name)],
)
GRANTS_BY_NAMESPACE: Final = Index(
    "reference grants by namespace", ReferenceGrant, lambda grant: [(grant.metadata.namespace,)]
)
TLS_POLICIES_BY_TARGET: Final = Index(
    "backend TLS policies by target",
    BackendTLSPolicy,
    lambda policy: [(ref.kind, policy.metadata.namespace, ref.name) for ref in policy.spec.target_refs],
)
SLICES_BY_SERVICE: Final = Index(
    "endpoint slices by service",
    EndpointSlice,
    lambda entry: [(entry.metadata.namespace, name)] if (name := entry.metadata.labels.get(SERVICE_NAME)) else (),
)

INDEXES: Final = (
    *(kind.by_parent for kind in ROUTES.values()),
    *(kind.by_backend for kind in ROUTES.values()),
    SETS_BY_GATEWAY,
    GRANTS_BY_NAMESPACE,
    TLS_POLICIES_BY_TARGET,
    SLICES_BY_SERVICE,
)
