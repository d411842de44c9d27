"""Status conditions: WaypointBound, ZtunnelAccepted and WaypointAccepted with upstream's reasons."""

from __future__ import annotations

from typing import Any

import pytest

from istiod.translate.statuses import OUTPUT, StatusPatch
from tests.unit.istiod.test_waypoints import USE, gateway, namespace, pod, service
from tests.unit.istiod.translate_support import Mesh

SECURITY = "apiVersion: security.istio.io/v1\n"


def patches(mesh: Mesh, kind: str) -> list[StatusPatch]:
    return [patch for patch in mesh.translator.resources(OUTPUT).values() if patch.kind == kind]


def conditions(mesh: Mesh, kind: str) -> dict[str, Any]:
    return {
        one["type"]: (one["status"], one["reason"], one["message"])
        for patch in patches(mesh, kind)
        for one in patch.status.get("conditions", ())
    }


def policy(spec: str, kind: str = "AuthorizationPolicy", namespace: str = "default", meta: str = "") -> str:
    return f"---\n{SECURITY}kind: {kind}\nmetadata: {{name: x, namespace: {namespace}, {meta}}}\nspec: {{{spec}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (gateway() + service(USE), ("True", "WaypointAccepted", "bound to default/w; ingress traffic does not go")),
        (
            gateway() + service(f"{USE}, istio.io/ingress-use-waypoint: 'true'"),
            ("True", "WaypointAccepted", "bound to default/w; ingress traffic goes through it"),
        ),
        (service(USE), ("False", "WaypointIsNotReady", "waypoint default/w does not exist")),
        (gateway(address="") + service(USE), ("False", "WaypointIsNotReady", "waypoint default/w has not been ready")),
        (
            gateway(labels="istio.io/waypoint-for: workload") + service(USE),
            ("False", "UnsupportedTrafficType", "waypoint default/w does not accept service traffic"),
        ),
        (
            gateway(namespace="infra") + service(f"{USE}, istio.io/use-waypoint-namespace: infra"),
            ("False", "CrossNamespaceWaypointForbidden", "waypoint infra/w does not admit the namespace default"),
        ),
    ],
)
def test_waypoint_bound(text: str, expected: tuple[str, str, str]) -> None:
    mesh = Mesh(text)
    status, reason, message = conditions(mesh, "Service")["istio.io/WaypointBound"]
    assert (status, reason) == expected[:2]
    assert message.startswith(expected[2])
    assert {patch.field_manager for patch in patches(mesh, "Service")} == {"istio-ambient-service"}


def test_without_a_label_there_is_no_condition_and_an_earlier_one_goes() -> None:
    mesh = Mesh(gateway() + service(USE))
    assert patches(mesh, "Service")
    mesh.put(service())
    assert not patches(mesh, "Service")


def test_a_canary_that_cannot_be_used_is_told_in_the_message() -> None:
    notes = "istio.io/use-waypoint-canary-weight: '999'"
    mesh = Mesh(gateway() + service(f"{USE}, istio.io/use-waypoint-canary: c", notes))
    status, _, message = conditions(mesh, "Service")["istio.io/WaypointBound"]
    assert status == "True"
    assert "CanaryInvalidWeight" in message


def test_a_workload_entry_that_asks_a_service_waypoint_is_told() -> None:
    vm = (
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: v, labels: {%s}}\n"
        "spec: {address: 1.1.1.1}\n"
    )
    mesh = Mesh(gateway() + vm % USE)
    assert conditions(mesh, "WorkloadEntry")["istio.io/WaypointBound"][:2] == ("False", "UnsupportedTrafficType")
    inherited = Mesh(gateway() + namespace(USE) + vm % "")  # a namespace's label is no request of the entry
    assert not patches(inherited, "WorkloadEntry")


def test_a_service_entry_says_who_sees_it_and_what_it_lacks() -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, labels: {%s}}\n"
        "spec: {hosts: ['*.example'], resolution: DYNAMIC_DNS}\n"
    )
    mesh = Mesh(gateway() + entry % "")
    found = conditions(mesh, "ServiceEntry")
    assert found["istio.io/VisibilityApplied"][:2] == ("True", "Public")
    assert found["istio.io/WaypointMissing"][:2] == ("True", "NoWaypointForWildcardService")
    mesh.put(entry % USE)
    assert conditions(mesh, "ServiceEntry").keys() == {"istio.io/VisibilityApplied", "istio.io/WaypointBound"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (policy("action: DENY, rules: [{}]"), ("True", "Accepted", "attached to ztunnel")),
        (policy("action: AUDIT, rules: [{}]"), ("False", "UnsupportedValue", "ztunnel does not know action AUDIT")),
        (
            policy("rules: [{}]", meta="annotations: {istio.io/dry-run: 'true'}"),
            ("False", "UnsupportedValue", "ztunnel does not know a dry run"),
        ),
        (
            policy("rules: [{to: [{operation: {paths: [/a], methods: [GET]}}]}]"),
            ("True", "UnsupportedValue", "ztunnel does not evaluate methods, paths: rules that use them are omitted"),
        ),
        (
            policy("action: DENY, rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]"),
            ("True", "UnsupportedValue", "ztunnel does not evaluate request.headers[x]: they are left out"),
        ),
    ],
)
def test_ztunnel_accepted(text: str, expected: tuple[str, str, str]) -> None:
    mesh = Mesh(text)
    status, reason, message = conditions(mesh, "AuthorizationPolicy")["ZtunnelAccepted"]
    assert (status, reason) == expected[:2]
    assert message.startswith(expected[2])


GATEWAY_GROUP = "group: gateway.networking.k8s.io"
TO_SERVICE = "targetRefs: [{kind: Service, name: s}]"


@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "RequestAuthentication"])
@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        (gateway() + service(USE), TO_SERVICE, ("True", "Accepted")),
        (gateway() + service(), TO_SERVICE, ("False", "AncestorNotBound")),
        ("", TO_SERVICE, ("False", "TargetNotFound")),
        (gateway(), f"targetRefs: [{{kind: Gateway, {GATEWAY_GROUP}, name: w}}]", ("True", "Accepted")),
        ("", f"targetRefs: [{{kind: Gateway, {GATEWAY_GROUP}, name: w}}]", ("False", "TargetNotFound")),
        ("", "targetRefs: [{kind: Pod, name: w}]", ("False", "Invalid")),
        ("", f"targetRefs: [{{kind: GatewayClass, {GATEWAY_GROUP}, name: istio-waypoint}}]", ("False", "Invalid")),
        (
            gateway() + service(USE),
            "targetRefs: [{kind: Service, name: s}, {kind: Service, name: t}]",
            ("True", "PartiallyInvalid"),
        ),
    ],
)
def test_waypoint_accepted(kind: str, text: str, spec: str, expected: tuple[str, str]) -> None:
    mesh = Mesh(text + policy(spec, kind))
    assert conditions(mesh, kind)["WaypointAccepted"][:2] == expected


def test_a_class_is_targeted_from_the_root_namespace() -> None:
    spec = f"targetRefs: [{{kind: GatewayClass, {GATEWAY_GROUP}, name: istio-waypoint}}]"
    mesh = Mesh(policy(spec, namespace="istio-system") + pod())
    assert conditions(mesh, "AuthorizationPolicy")["WaypointAccepted"][:2] == ("True", "Accepted")
