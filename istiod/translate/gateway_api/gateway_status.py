"""The status of gateways, their classes and their listener sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from istiod.objects import Gateway, GatewayClass, ListenerSet
from istiod.resources import GATEWAY_API
from istiod.translate.gateway_api.addresses import gateway_addresses
from istiod.translate.gateway_api.attachment import attached_routes
from istiod.translate.gateway_api.classes import CONTROLLERS, controller
from istiod.translate.gateway_api.features import SUPPORTED
from istiod.translate.gateway_api.gateways import client_certificate
from istiod.translate.gateway_api.listeners import ACCEPTED, ListenerInfo, joined_sets, listeners, set_parent
from istiod.translate.graph import View
from istiod.translate.statuses import StatusPatch, Verdict, condition, published
from istiod.translate.waypoints import GATEWAY_CONTROLLER

FIELD_MANAGER: Final = GATEWAY_CONTROLLER
"""One name for all of these statuses, whatever the class."""
_INSECURE: Final = "InsecureFrontendValidationMode"
_Place: TypeAlias = tuple[str, str, str, str]


def class_status(view: View, _namespace: str, name: str) -> Mapping[str, StatusPatch]:
    """A GatewayClass of ours is accepted; the one of `istio` also says what it can."""
    found = view.get(GatewayClass, "", name)
    if found is None or found.spec.controller_name not in CONTROLLERS:
        return {}
    verdict = Verdict(ok=True, reason="Accepted", message=f"handled by {found.spec.controller_name}")
    status: dict[str, Any] = {"conditions": [condition("Accepted", verdict, found.metadata.generation)]}
    if found.spec.controller_name == GATEWAY_CONTROLLER:
        status["supportedFeatures"] = [{"name": feature} for feature in SUPPORTED]
    return published([StatusPatch("GatewayClass", "", name, FIELD_MANAGER, status)])


def gateway_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    """Conditions of a Gateway and its own listeners, and its addresses."""
    gateway = view.get(Gateway, namespace, name)
    if gateway is None or not view.ask(controller, namespace, name):
        return {}
    own = [info for info in view.ask(listeners, namespace, name) if info.owner == "Gateway"]
    addresses = view.ask(gateway_addresses, namespace, name)
    generation = gateway.metadata.generation
    accepted = _accepted(own) if addresses.supported.ok else addresses.supported
    programmed = addresses.assigned
    if not accepted.ok:
        programmed = Verdict(ok=False, reason="Invalid", message=accepted.message)
    conditions = [
        condition("Accepted", accepted, generation),
        condition("Programmed", programmed, generation),
    ]
    client = view.ask(client_certificate, namespace, name)[1]
    if client is not None:
        conditions.append(condition("ResolvedRefs", client, generation))
    if insecure := [info.spec.name for info in own if info.insecure]:
        text = f"listeners admit clients whose certificate is not valid: {', '.join(insecure)}"
        conditions.append(
            condition(_INSECURE, Verdict(ok=True, reason="ConfigurationChanged", message=text), generation)
        )
    status: dict[str, Any] = {
        "conditions": conditions,
        "listeners": _listener_statuses(own, view.ask(route_counts, namespace, name), generation),
    }
    if addresses.addresses:
        status["addresses"] = [{"type": one.type, "value": one.value} for one in addresses.addresses]
    if sets := view.ask(joined_sets, namespace, name):
        status["attachedListenerSets"] = len(sets)
    return published([StatusPatch("Gateway", namespace, name, FIELD_MANAGER, status)])


def listener_set_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    """Conditions of a ListenerSet and its listeners; none if its parent is not a gateway of ours."""
    found = view.get(ListenerSet, namespace, name)
    parent = view.ask(set_parent, namespace, name)
    if found is None or not parent.name:
        return {}
    generation = found.metadata.generation
    infos: list[ListenerInfo] = []
    counts: Mapping[_Place, int] = {}
    accepted = parent.verdict
    if accepted.ok:
        everything = view.ask(listeners, parent.namespace, parent.name)
        infos = [
            info for info in everything if (info.owner, info.namespace, info.parent) == ("ListenerSet", namespace, name)
        ]
        counts = view.ask(route_counts, parent.namespace, parent.name)
        accepted = _accepted(infos)
    programmed = Verdict(ok=True, reason="Programmed", message="the gateway has its configuration")
    if not accepted.ok:
        programmed = accepted
    status: dict[str, Any] = {
        "conditions": [condition("Accepted", accepted, generation), condition("Programmed", programmed, generation)]
    }
    if infos:
        status["listeners"] = _listener_statuses(infos, counts, generation)
    return published([StatusPatch("ListenerSet", namespace, name, FIELD_MANAGER, status)])


def route_counts(view: View, namespace: str, name: str) -> dict[_Place, int]:
    """How many routes each listener of a gateway has, by owner, namespace, parent and listener."""
    found = {
        (one.owner, one.namespace, one.parent, one.listener, *route)
        for *route, one in view.ask(attached_routes, namespace, name)
    }
    return dict(Counter((owner, place, parent, listener) for owner, place, parent, listener, *_ in found))


def _accepted(infos: Sequence[ListenerInfo]) -> Verdict:
    """Accepted while one listener can be used, but what is wrong is said."""
    wrong = [info.spec.name for info in infos if not info.programmed.ok]
    if not wrong and infos:
        return ACCEPTED
    text = f"listeners that cannot be used: {', '.join(wrong)}" if infos else "there are no listeners"
    return Verdict(ok=len(wrong) < len(infos), reason="ListenersNotValid", message=text)


def _listener_statuses(
    infos: Sequence[ListenerInfo], counts: Mapping[_Place, int], generation: int
) -> list[dict[str, Any]]:
    return [
        {
            "name": info.spec.name,
            "supportedKinds": [{"group": GATEWAY_API, "kind": kind} for kind in info.kinds],
            "attachedRoutes": counts.get((info.owner, info.namespace, info.parent, info.spec.name), 0),
            "conditions": [
                condition("Accepted", info.accepted, generation),
                condition("Conflicted", info.conflict, generation, inverted=True),
                condition("Programmed", info.programmed, generation),
                condition("ResolvedRefs", info.resolved, generation),
            ],
        }
        for info in infos
    ]
