"""Which policies a waypoint or gateway follows.

A waypoint follows only those attached by targetRefs: to a service behind it (in the service's namespace), to its
Gateway (in its own) or to its GatewayClass (in the root namespace). A gateway of Istio's own API follows those without
targetRefs, by namespace or by the labels of its pods.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from istiod.objects import AuthorizationPolicy, Gateway, RequestAuthentication, Telemetry
from istiod.store import Index
from istiod.translate.common import selects
from istiod.translate.graph import View
from istiod.translate.l7.catalog import ServiceInfo
from istiod.translate.l7.destination_rule import age
from istiod.translate.l7.indexes import (
    POLICIES_BY_TARGET,
    POLICIES_UNTARGETED,
    TELEMETRY_BY_TARGET,
    TELEMETRY_UNTARGETED,
    TOKENS_BY_TARGET,
    TOKENS_UNTARGETED,
    Attachable,
    target_refs,
)
from istiod.translate.l7.pods import Pods
from istiod.translate.l7.routes import Client
from istiod.translate.waypoints import waypoint

A = TypeVar("A", AuthorizationPolicy, RequestAuthentication, Telemetry)

_GROUPS: Final = {
    "Service": ("", "core"),
    "ServiceEntry": ("networking.istio.io",),
    "Gateway": ("gateway.networking.k8s.io",),
    "GatewayClass": ("gateway.networking.k8s.io",),
}


class Attached(NamedTuple):
    """Policies in the order of their creation."""

    authorization: tuple[AuthorizationPolicy, ...] = ()
    tokens: tuple[RequestAuthentication, ...] = ()

    def joined(self, other: Attached) -> Attached:
        return Attached(
            _ordered([*self.authorization, *other.authorization]),
            _ordered([*self.tokens, *other.tokens]),
        )


def of_service(view: View, info: ServiceInfo) -> Attached:
    """What is attached to a service itself."""
    target = (info.namespace, info.kind, info.name)
    return Attached(
        _attached(view, POLICIES_BY_TARGET, target),
        _attached(view, TOKENS_BY_TARGET, target),
    )


def of_gateway(view: View, namespace: str, name: str) -> Attached:
    """What is attached to a Gateway of the Gateway API, a waypoint's or not, or to its class."""
    places = _gateway_targets(view, namespace, name)
    return Attached(
        _ordered([one for place in places for one in _attached(view, POLICIES_BY_TARGET, place)]),
        _ordered([one for place in places for one in _attached(view, TOKENS_BY_TARGET, place)]),
    )


def of_pods(view: View, pods: tuple[Pods, ...]) -> Attached:
    """What a gateway follows by namespace and by the labels of its pods. If these differ, what concerns some of them
    holds for all.
    """
    return Attached(
        _selected(view, POLICIES_UNTARGETED, pods),
        _selected(view, TOKENS_UNTARGETED, pods),
    )


def telemetry_levels(
    view: View, client: Client, gateway: str, service: ServiceInfo | None = None
) -> tuple[Telemetry, ...]:
    """From the outermost to the innermost: root namespace, the proxy's, the service's, what selects the pods of a
    gateway, then what is attached.

    `gateway` is the name of a Gateway of the Gateway API in the client's namespace, empty for others.
    """
    places = [view.settings.root_namespace, client.namespace]
    if service is not None:
        places.append(service.namespace)
    levels: list[Telemetry] = []
    for place in dict.fromkeys(places):
        found = _ordered([one for one in view.find(TELEMETRY_UNTARGETED, (place,)) if not _labels(one)])
        levels += found[:1]
    if not client.waypoint:
        mine = view.find(TELEMETRY_UNTARGETED, (client.namespace,))
        levels += _ordered([one for one in mine if _labels(one) and selects(_labels(one), dict(client.labels))])[:1]
    if gateway:
        for target in reversed(_gateway_targets(view, client.namespace, gateway)):
            levels += _attached(view, TELEMETRY_BY_TARGET, target)[:1]
        if service is not None:
            levels += _attached(view, TELEMETRY_BY_TARGET, (service.namespace, service.kind, service.name))[:1]
    return tuple(levels)


def _gateway_targets(view: View, namespace: str, name: str) -> list[tuple[str, str, str]]:
    """A class is a target for its waypoints only."""
    gateway = view.get(Gateway, namespace, name)
    places = [(namespace, "Gateway", name)]
    if gateway is not None and view.ask(waypoint, namespace, name) is not None:
        places.append((view.settings.root_namespace, "GatewayClass", gateway.spec.gateway_class_name))
    return places


def _attached(view: View, index: Index[A], target: tuple[str, str, str]) -> tuple[A, ...]:
    """The policies that name a target; one of the same kind in another group is not it."""
    _, kind, name = target
    return _ordered(
        [
            policy
            for policy in view.find(index, target)
            if any((ref.kind, ref.name) == (kind, name) and ref.group in _GROUPS[kind] for ref in target_refs(policy))
        ]
    )


def _selected(view: View, index: Index[A], pods: tuple[Pods, ...]) -> tuple[A, ...]:
    found: dict[tuple[str, str], A] = {}
    for namespace, labels in pods:
        for place in dict.fromkeys((view.settings.root_namespace, namespace)):
            for policy in view.find(index, (place,)):
                if selects(_labels(policy), dict(labels)):
                    found[policy.metadata.namespace, policy.metadata.name] = policy
    return _ordered(list(found.values()))


def _labels(policy: Attachable) -> dict[str, str]:
    selector = policy.spec.selector
    return selector.match_labels if selector is not None else {}


def _ordered(policies: list[A]) -> tuple[A, ...]:
    return tuple(sorted(policies, key=lambda policy: age(policy.metadata)))
