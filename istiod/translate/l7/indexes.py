"""Where the objects of waypoints and gateways are found besides their name. Buckets are tuples, the namespace first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from istiod.objects import (
    AuthorizationPolicy,
    DestinationRule,
    Namespace,
    Pod,
    RequestAuthentication,
    Service,
    ServiceEntry,
    TargetRef,
    Telemetry,
    VirtualService,
)
from istiod.store import Index

MESH: Final = "mesh"
ROLE: Final = "istio"
"""The label that an Istio Gateway finds its pods by (`istio: ingressgateway`)."""
_WAYPOINT_LABELS: Final = (
    ("istio.io/use-waypoint", "istio.io/use-waypoint-namespace"),
    ("istio.io/use-waypoint-canary", "istio.io/use-waypoint-canary-namespace"),
)
Attachable: TypeAlias = AuthorizationPolicy | RequestAuthentication | Telemetry


def target_refs(policy: Attachable) -> tuple[TargetRef, ...]:
    """What a policy is attached to; `targetRef` is the old spelling."""
    spec = policy.spec
    return spec.target_refs or ((spec.target_ref,) if spec.target_ref is not None else ())


def gateway_names(names: Iterable[str], namespace: str) -> Iterator[tuple[str, str]]:
    """(namespace, name) of the gateways named; `mesh` is none. `NAME.NAMESPACE...` without a slash is an old form."""
    for text in names:
        place, slash, name = text.rpartition("/")
        if not slash and "." in name:
            name, place, *_ = name.split(".")
        if text != MESH:
            yield (place if place and place != "." else namespace, name)


def _mesh_hosts(rule: VirtualService) -> Iterable[tuple[str, str]]:
    spec = rule.spec
    if spec.gateways and MESH not in spec.gateways:
        return ()
    return [(rule.metadata.namespace, host.lower()) for host in spec.hosts]


def _targets(policy: Attachable) -> Iterable[tuple[str, str, str]]:
    return [(policy.metadata.namespace, ref.kind, ref.name) for ref in target_refs(policy)]


def _untargeted(policy: Attachable) -> Iterable[tuple[str]]:
    return () if target_refs(policy) else [(policy.metadata.namespace,)]


def _waypoint(of: Service | ServiceEntry | Namespace) -> Iterable[tuple[str, str]]:
    """The waypoint and the canary that an object's labels name, for itself or for what is in it."""
    labels, own = of.metadata.labels, of.metadata.namespace or of.metadata.name
    for by_name, by_namespace in _WAYPOINT_LABELS:
        name = labels.get(by_name)
        if name:
            yield (labels.get(by_namespace) or own, name)


RULES_BY_HOST: Final = Index("virtual services of the mesh by namespace and host", VirtualService, _mesh_hosts)
RULES_BY_GATEWAY: Final = Index(
    "virtual services by gateway",
    VirtualService,
    lambda rule: gateway_names(rule.spec.gateways, rule.metadata.namespace),
)
PODS_BY_ROLE: Final = Index(
    "pods by the label of gateways", Pod, lambda pod: [(role,)] if (role := pod.metadata.labels.get(ROLE)) else ()
)
DESTINATIONS_BY_HOST: Final = Index(
    "destination rules by namespace and host",
    DestinationRule,
    lambda rule: [(rule.metadata.namespace, rule.spec.host.lower())],
)
POLICIES_BY_TARGET: Final = Index("authorization policies by target", AuthorizationPolicy, _targets)
TOKENS_BY_TARGET: Final = Index("request authentications by target", RequestAuthentication, _targets)
TELEMETRY_BY_TARGET: Final = Index("telemetry by target", Telemetry, _targets)
POLICIES_UNTARGETED: Final = Index("authorization policies without target", AuthorizationPolicy, _untargeted)
TOKENS_UNTARGETED: Final = Index("request authentications without target", RequestAuthentication, _untargeted)
TELEMETRY_UNTARGETED: Final = Index("telemetry without target", Telemetry, _untargeted)
SERVICES_BY_WAYPOINT: Final = Index("services by the waypoint they name", Service, _waypoint)
ENTRIES_BY_WAYPOINT: Final = Index("service entries by the waypoint they name", ServiceEntry, _waypoint)
NAMESPACES_BY_WAYPOINT: Final = Index("namespaces by the waypoint they name", Namespace, _waypoint)
SERVICES_OF_NAMESPACE: Final = Index("services by namespace", Service, lambda one: [(one.metadata.namespace,)])
ENTRIES_OF_NAMESPACE: Final = Index(
    "service entries by namespace", ServiceEntry, lambda one: [(one.metadata.namespace,)]
)

INDEXES: Final = (
    RULES_BY_HOST,
    RULES_BY_GATEWAY,
    PODS_BY_ROLE,
    DESTINATIONS_BY_HOST,
    POLICIES_BY_TARGET,
    TOKENS_BY_TARGET,
    TELEMETRY_BY_TARGET,
    POLICIES_UNTARGETED,
    TOKENS_UNTARGETED,
    TELEMETRY_UNTARGETED,
    SERVICES_BY_WAYPOINT,
    ENTRIES_BY_WAYPOINT,
    NAMESPACES_BY_WAYPOINT,
    SERVICES_OF_NAMESPACE,
    ENTRIES_OF_NAMESPACE,
)
