"""The status of BackendTLSPolicies: one entry for each gateway that sends to what the policy is attached to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from istiod.objects import BackendTLSPolicy, ServiceEntry
from istiod.resources import GATEWAY_API
from istiod.translate.gateway_api.attachment import route_parents
from istiod.translate.gateway_api.backend_tls import TARGETS, policy_in_force, policy_verdict
from istiod.translate.gateway_api.gateway_status import FIELD_MANAGER
from istiod.translate.gateway_api.indexes import ROUTES
from istiod.translate.gateway_api.route_status import CONTROLLER_NAME, shared_list
from istiod.translate.graph import View
from istiod.translate.statuses import StatusPatch, Verdict, condition
from istiod.translate.waypoints import GATEWAY_CONTROLLER, service_waypoint

ANCESTORS_MAX: Final = 16
"""The API server refuses a longer list."""


def backend_tls_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    policy = view.get(BackendTLSPolicy, namespace, name)
    if policy is None:
        return {}
    generation = policy.metadata.generation
    judged = view.ask(policy_verdict, namespace, name)
    accepted = judged.accepted
    gateways: dict[tuple[str, str], None] = {}
    for ref in policy.spec.target_refs:
        if TARGETS.get(ref.kind) != ref.group:
            continue
        gateways.update(dict.fromkeys(view.ask(senders, ref.kind, namespace, ref.name)))
        winner = view.ask(policy_in_force, ref.kind, namespace, ref.name, ref.section_name)
        if winner != name and accepted.ok:
            text = f"{ref.kind} {ref.name} has an older policy already: {namespace}/{winner}"
            accepted = Verdict(ok=False, reason="Conflicted", message=text)
    ours: list[dict[str, Any]] = [
        {
            "ancestorRef": {"group": GATEWAY_API, "kind": "Gateway", "namespace": place, "name": gateway},
            CONTROLLER_NAME: GATEWAY_CONTROLLER,
            "conditions": [
                condition("Accepted", accepted, generation),
                condition("ResolvedRefs", judged.resolved, generation),
            ],
        }
        for place, gateway in sorted(gateways)[:ANCESTORS_MAX]
    ]
    patch = StatusPatch("BackendTLSPolicy", namespace, name, FIELD_MANAGER, {})
    return shared_list(patch, "ancestors", ours, policy.status.ancestors)


def senders(view: View, kind: str, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
    """(namespace, name) of the gateways with a route to a Service or ServiceEntry, and of its waypoint."""
    if kind == "Service":
        hosts: tuple[str, ...] = (view.settings.hostname(namespace, name),)
    else:
        entry = view.get(ServiceEntry, namespace, name)
        hosts = entry.spec.hosts if entry is not None else ()
    buckets = [("Hostname", "", host) for host in hosts]
    if kind == "Service":
        buckets.append((kind, namespace, name))
    found: dict[tuple[str, str], None] = {}
    for route_name, route_kind in ROUTES.items():
        for bucket in buckets:
            for route in view.find(route_kind.by_backend, bucket):
                meta = route.metadata
                for parent in view.ask(route_parents, route_name, meta.namespace, meta.name):
                    if parent.accepted.ok and parent.gateway is not None:
                        found[parent.gateway] = None
    for host in hosts:
        waypoint = view.ask(service_waypoint, namespace, host)
        if waypoint is not None:
            found[waypoint] = None
    return tuple(sorted(found))
