"""Status conditions of ambient: which waypoint an object is bound to, and what became of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from istiod import objects
from istiod.objects import Gateway, GatewayClass, RequestAuthentication, Service, ServiceEntry, Telemetry, WorkloadEntry
from istiod.objects.base import targets_of
from istiod.resources import GATEWAY_API, NETWORKING
from istiod.translate.authorization import l7_fields, sent_to_ztunnel
from istiod.translate.common import labels_of
from istiod.translate.graph import Family, View
from istiod.translate.meshconfig import entry_visibility
from istiod.translate.services import BY_NAME, CONNECT_STRATEGY, DYNAMIC, INGRESS_USE_WAYPOINT, RACE, races
from istiod.translate.statuses import OUTPUT, StatusPatch, Verdict, condition, published
from istiod.translate.waypoints import (
    WAYPOINT_CLASS,
    WAYPOINT_CONTROLLER,
    WORKLOAD_TRAFFIC,
    Binding,
    bind,
    controller_of,
    namespace_defaults,
    service_binding,
    service_waypoint,
    waypoint,
)

SERVICE_MANAGER: Final = "istio-ambient-service"
ENTRY_MANAGER: Final = "istio-ambient-workloadentry"
ZTUNNEL_POLICY_MANAGER: Final = "istio-ambient-ztunnel-policy"
WAYPOINT_POLICY_MANAGER: Final = "istio-ambient-waypoint-policy"
BOUND: Final = "istio.io/WaypointBound"
MISSING: Final = "istio.io/WaypointMissing"
VISIBLE: Final = "istio.io/VisibilityApplied"
ZTUNNEL_ACCEPTED: Final = "ZtunnelAccepted"
WAYPOINT_ACCEPTED: Final = "WaypointAccepted"

Conditions = list[dict[str, Any]]


def service_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    service = view.get(Service, namespace, name)
    if service is None or service.external_name:
        return {}
    binding = view.ask(service_binding, "Service", namespace, name)
    conditions = list(_bound(view, binding, service.metadata, services=True))
    return _patch("Service", service.metadata, SERVICE_MANAGER, conditions)


def service_entry_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    entry = view.get(ServiceEntry, namespace, name)
    if entry is None:
        return {}
    meta = entry.metadata
    binding = view.ask(service_binding, "ServiceEntry", namespace, name)
    conditions = list(_bound(view, binding, meta, services=True))
    if binding.waypoint is None and (lack := _lack(entry)) is not None:
        conditions.append(condition(MISSING, lack, meta.generation))
    visibility = view.ask(entry_visibility, namespace)
    if visibility in ("PUBLIC", "NAMESPACE"):
        text = "visible in the whole mesh" if visibility == "PUBLIC" else f"visible in the namespace {namespace} only"
        conditions.append(condition(VISIBLE, Verdict(True, visibility.title(), text), meta.generation))
    return _patch("ServiceEntry", meta, SERVICE_MANAGER, conditions)


def _lack(entry: ServiceEntry) -> Verdict | None:
    """What an entry without a waypoint asks for that only a waypoint does."""
    spec = entry.spec
    if spec.resolution == DYNAMIC and any("*" in host for host in spec.hosts):
        text = "a wildcard host is resolved by a waypoint, and this entry is bound to none"
        return Verdict(True, "NoWaypointForWildcardService", text)
    if spec.resolution in BY_NAME and races(entry):
        text = f"{CONNECT_STRATEGY} {RACE} is what a waypoint does, and this entry is bound to none"
        return Verdict(True, "NoWaypointForRacingConnectStrategy", text)
    return None


def workload_entry_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    entry = view.get(WorkloadEntry, namespace, name)
    if entry is None:
        return {}
    meta = entry.metadata
    binding = bind(view, namespace, labels_of(entry), meta.annotations, WORKLOAD_TRAFFIC)
    return _patch("WorkloadEntry", meta, ENTRY_MANAGER, list(_bound(view, binding, meta, services=False)))


def policy_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    """What ztunnel does with an AuthorizationPolicy, or which waypoint takes it."""
    policy = view.get(objects.AuthorizationPolicy, namespace, name)
    if policy is None:
        return {}
    meta, spec = policy.metadata, policy.spec
    if targets := targets_of(spec):
        return _attached(view, "AuthorizationPolicy", meta, targets)
    verdict = _ztunnel_verdict(policy, sent=sent_to_ztunnel(policy, view.settings))
    conditions = [condition(ZTUNNEL_ACCEPTED, verdict, meta.generation)]
    return _patch("AuthorizationPolicy", meta, ZTUNNEL_POLICY_MANAGER, conditions)


def authentication_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    found = view.get(RequestAuthentication, namespace, name)
    return _attached(view, "RequestAuthentication", found.metadata, targets_of(found.spec)) if found is not None else {}


def telemetry_status(view: View, namespace: str, name: str) -> Mapping[str, StatusPatch]:
    found = view.get(Telemetry, namespace, name)
    return _attached(view, "Telemetry", found.metadata, targets_of(found.spec)) if found is not None else {}


FAMILIES: Final = (
    Family(OUTPUT, (Service,), service_status),
    Family(OUTPUT, (ServiceEntry,), service_entry_status),
    Family(OUTPUT, (WorkloadEntry,), workload_entry_status),
    Family(OUTPUT, (objects.AuthorizationPolicy,), policy_status),
    Family(OUTPUT, (RequestAuthentication,), authentication_status),
    Family(OUTPUT, (Telemetry,), telemetry_status),
)


def manager_of(kind: str, condition_type: str) -> str:
    """Which of our field managers writes a condition to objects of a kind; empty if none does."""
    if condition_type == ZTUNNEL_ACCEPTED:
        return ZTUNNEL_POLICY_MANAGER
    if condition_type == WAYPOINT_ACCEPTED:
        return WAYPOINT_POLICY_MANAGER
    if condition_type not in (BOUND, MISSING, VISIBLE):
        return ""
    return ENTRY_MANAGER if kind == "WorkloadEntry" else SERVICE_MANAGER


def _patch(kind: str, meta: objects.Meta, manager: str, conditions: Conditions) -> Mapping[str, StatusPatch]:
    """Without conditions there is no patch, and the writer takes an earlier one back."""
    if not conditions:
        return {}
    return published([StatusPatch(kind, meta.namespace, meta.name, manager, {"conditions": conditions})])


def _bound(view: View, binding: Binding, meta: objects.Meta, *, services: bool) -> Iterable[dict[str, Any]]:
    if not binding.reason:
        return
    message = binding.message
    if binding.waypoint is not None and services:
        defaults = dict(view.ask(namespace_defaults, meta.namespace).labels)
        through = meta.labels.get(INGRESS_USE_WAYPOINT, defaults.get(INGRESS_USE_WAYPOINT)) == "true"
        message += "; ingress traffic goes through it" if through else "; ingress traffic does not go through it"
    if binding.canary_problem:
        message += f"; {binding.canary_problem}"
    yield condition(BOUND, Verdict(binding.waypoint is not None, binding.reason, message), meta.generation)


def _ztunnel_verdict(policy: objects.AuthorizationPolicy, *, sent: bool) -> Verdict:
    if not sent:
        what = "a dry run" if policy.spec.action in ("ALLOW", "DENY") else f"action {policy.spec.action}"
        return Verdict(False, "UnsupportedValue", f"ztunnel does not know {what}: the policy is not sent to it")
    omitted = sorted({name for rule in policy.spec.rules for name in l7_fields(rule)})
    if not omitted:
        return Verdict(True, "Accepted", "attached to ztunnel")
    fields = ", ".join(omitted)
    if policy.spec.action == "ALLOW":
        text = "rules that use them are omitted, which makes the policy more restrictive"
    else:
        text = "they are left out, and a rule that nothing else limits has no effect"
    return Verdict(True, "UnsupportedValue", f"ztunnel does not evaluate {fields}: {text}")


def _attached(
    view: View, kind: str, meta: objects.Meta, targets: Iterable[objects.TargetRef]
) -> Mapping[str, StatusPatch]:
    """One condition for all targets of a policy: the first that fails gives the reason."""
    verdicts = [_target(view, meta.namespace, target) for target in targets]
    if not verdicts:
        return {}
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if not bad:
        verdict = Verdict(True, "Accepted", "; ".join(verdict.message for verdict in verdicts))
    elif len(bad) < len(verdicts):
        verdict = Verdict(True, "PartiallyInvalid", "; ".join(verdict.message for verdict in bad))
    else:
        verdict = Verdict(False, bad[0].reason, "; ".join(verdict.message for verdict in bad))
    conditions = [condition(WAYPOINT_ACCEPTED, verdict, meta.generation)]
    return _patch(kind, meta, WAYPOINT_POLICY_MANAGER, conditions)


def _target(view: View, namespace: str, target: objects.TargetRef) -> Verdict:
    title = f"{target.kind} {namespace}/{target.name}"
    match target.kind, target.group:
        case "Gateway", group if group == GATEWAY_API:
            if view.get(Gateway, namespace, target.name) is None:
                return Verdict(False, "TargetNotFound", f"{title} does not exist")
            if view.ask(waypoint, namespace, target.name) is None:
                return Verdict(True, "Accepted", f"bound to gateway {namespace}/{target.name}")
            return Verdict(True, "Accepted", f"bound to waypoint {namespace}/{target.name}")
        case "GatewayClass", group if group == GATEWAY_API:
            return _class_target(view, namespace, target.name)
        case ("Service", "" | "core") | ("ServiceEntry", "networking.istio.io"):
            return _service_target(view, namespace, target, title)
        case _:
            wanted = f"Service, ServiceEntry ({NETWORKING}), Gateway or GatewayClass ({GATEWAY_API})"
            return Verdict(False, "Invalid", f"{target.group}/{target.kind} cannot be a target: use {wanted}")


def _class_target(view: View, namespace: str, name: str) -> Verdict:
    if namespace != view.settings.root_namespace:
        text = f"only policies of the namespace {view.settings.root_namespace} may target a GatewayClass"
        return Verdict(False, "Invalid", text)
    if view.get(GatewayClass, "", name) is None and name != WAYPOINT_CLASS:
        return Verdict(False, "TargetNotFound", f"GatewayClass {name} does not exist")
    if controller_of(view, name) != WAYPOINT_CONTROLLER:
        return Verdict(False, "Invalid", f"GatewayClass {name} is not one of waypoints")
    return Verdict(True, "Accepted", f"bound to every waypoint of class {name}")


def _service_target(view: View, namespace: str, target: objects.TargetRef, title: str) -> Verdict:
    if target.kind == "Service":
        exists = view.get(Service, namespace, target.name) is not None
        hostname = view.settings.hostname(namespace, target.name)
    else:
        entry = view.get(ServiceEntry, namespace, target.name)
        exists = entry is not None
        hostname = entry.spec.hosts[0] if entry is not None and entry.spec.hosts else ""
    if not exists:
        return Verdict(False, "TargetNotFound", f"{title} does not exist")
    bound = view.ask(service_waypoint, namespace, hostname)
    if bound is None:
        return Verdict(False, "AncestorNotBound", f"{title} is not bound to a waypoint")
    return Verdict(True, "Accepted", f"bound to waypoint {bound[0]}/{bound[1]}")
