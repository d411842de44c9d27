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
            gateway(labels="istio.io/waypoint-for: workload") + namespace(USE) + service(),
            ("False", "UnsupportedTrafficType", "waypoint default/w does not accept service traffic"),
        ),
        (
            gateway(namespace="infra") + service(f"{USE}, istio.io/use-waypoint-namespace: infra"),
            ("False", "AttachmentDenied", "waypoint infra/w does not admit the namespace default"),
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


def test_who_opts_out_is_told_nothing() -> None:
    mesh = Mesh(namespace(USE) + service("istio.io/use-waypoint: none"))
    assert not patches(mesh, "Service")


def test_a_service_that_is_only_a_name_is_bound_to_nothing() -> None:
    name = f"---\nkind: Service\nmetadata: {{name: s, labels: {{{USE}}}}}\nspec: {{type: ExternalName}}\n"
    mesh = Mesh(gateway() + service(USE) + policy(TO_SERVICE))
    mesh.put(name)
    assert not patches(mesh, "Service")
    assert conditions(mesh, "AuthorizationPolicy")["WaypointAccepted"][:2] == ("False", "AncestorNotBound")


def test_an_entry_hidden_from_other_namespaces_is_told_why_it_gets_none_of_their_waypoints() -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, labels: {%s, "
        "istio.io/use-waypoint-namespace: infra}}\nspec: {hosts: [a.example], resolution: STATIC}\n"
    )
    config = "serviceEntryVisibility: {defaultVisibility: NAMESPACE}"
    hidden = f"---\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
    mesh = Mesh(gateway(namespace="infra", routes=", allowedRoutes: {namespaces: {from: All}}") + hidden + entry % USE)
    found = conditions(mesh, "ServiceEntry")
    assert found["istio.io/WaypointBound"][:2] == ("False", "CrossNamespaceWaypointForbidden")
    assert found["istio.io/VisibilityApplied"][:2] == ("True", "Namespace")
    canary = f"{USE}, istio.io/use-waypoint-canary: w, istio.io/use-waypoint-canary-namespace: infra"
    note = "annotations: {istio.io/use-waypoint-canary-weight: '10'}"
    own = (entry % canary).replace(", istio.io/use-waypoint-namespace: infra}", f"}}, {note}")
    mesh.put(gateway() + own)
    status, _, message = conditions(mesh, "ServiceEntry")["istio.io/WaypointBound"]
    assert status == "True"
    assert "CanaryCrossNamespaceWaypointForbidden" in message
    assert not mesh.service("default/a.example").weighted_waypoints


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
    assert {patch.field_manager for patch in patches(mesh, "WorkloadEntry")} == {"istio-ambient-workloadentry"}
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
    ("resolution", "strategy", "missing"),
    [
        ("DNS", "RACE_FIRST_TCP_CONNECT", True),
        ("DYNAMIC_DNS", "RACE_FIRST_TCP_CONNECT", True),
        ("STATIC", "RACE_FIRST_TCP_CONNECT", False),
        ("DNS", "DEFAULT", False),
    ],
)
def test_an_entry_whose_addresses_are_to_race_lacks_a_waypoint(resolution: str, strategy: str, missing: bool) -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, labels: {%s}, "
        f"annotations: {{istio.io/connect-strategy: {strategy}}}}}\n"
        f"spec: {{hosts: [a.example], resolution: {resolution}}}\n"
    )
    mesh = Mesh(gateway() + entry % "")
    found = conditions(mesh, "ServiceEntry").get("istio.io/WaypointMissing", ("", "", ""))
    assert found[:2] == (("True", "NoWaypointForRacingConnectStrategy") if missing else ("", ""))
    mesh.put(entry % USE)
    assert "istio.io/WaypointMissing" not in conditions(mesh, "ServiceEntry")


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
    assert {patch.field_manager for patch in patches(mesh, kind)} == {"istio-ambient-waypoint-policy"}


def test_of_entries_for_one_host_the_oldest_says_which_waypoint_it_has() -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: %s, creationTimestamp: '%s', "
        "labels: {%s}}\nspec: {hosts: [a.example], resolution: STATIC}\n"
    )
    target = "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: z}]"
    mesh = Mesh(gateway() + entry % ("z", "2026-01-01", USE) + entry % ("a", "2026-01-02", "") + policy(target))
    assert conditions(mesh, "AuthorizationPolicy")["WaypointAccepted"][:2] == ("True", "Accepted")


@pytest.mark.parametrize(
    ("name", "controller", "expected"),
    [
        ("mine", "istio.io/mesh-controller", ("True", "Accepted")),
        ("mine", "istio.io/gateway-controller", ("False", "Invalid")),
        ("istio", "", ("False", "TargetNotFound")),
        ("mine", "", ("False", "TargetNotFound")),
    ],
)
def test_which_class_can_be_a_target(name: str, controller: str, expected: tuple[str, str]) -> None:
    found = (
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n"
        f"metadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}\n"
    )
    spec = f"targetRefs: [{{kind: GatewayClass, {GATEWAY_GROUP}, name: {name}}}]"
    mesh = Mesh(policy(spec, namespace="istio-system") + (found if controller else ""))
    assert conditions(mesh, "AuthorizationPolicy")["WaypointAccepted"][:2] == expected


def test_an_entry_that_nobody_sees_has_no_condition_of_visibility() -> None:
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\n"
        "spec: {hosts: [a.example], resolution: STATIC}\n"
    )
    config = "serviceEntryVisibility: {defaultVisibility: NONE}"
    none = f"---\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
    assert not patches(Mesh(entry + none), "ServiceEntry")


def test_a_class_is_targeted_from_the_root_namespace() -> None:
    spec = f"targetRefs: [{{kind: GatewayClass, {GATEWAY_GROUP}, name: istio-waypoint}}]"
    mesh = Mesh(policy(spec, namespace="istio-system") + pod())
    assert conditions(mesh, "AuthorizationPolicy")["WaypointAccepted"][:2] == ("True", "Accepted")
