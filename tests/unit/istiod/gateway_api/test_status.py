"""The status of classes, gateways and policies, and the times that the writer adds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from istiod.objects.service_status import Ingress, LoadBalancerStatus, ServiceStatus
from istiod.translate.statuses import StatusPatch, with_times
from tests.unit.istiod.gateway_api.support import API, World, authorities, gateway, route, service
from tests.unit.istiod.gateway_api.test_gateways import policy
from tests.unit.istiod.translate_support import parsed

NOT_ASSIGNED = ("False", "AddressNotAssigned")
PROGRAMMED = ("True", "Programmed")
FEATURES_MAX = 64
"""The bound of the API server."""
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("controller", "accepted", "features"),
    [
        ("istio.io/gateway-controller", True, True),
        ("istio.io/mesh-controller", True, False),
        ("istio.io/eastwest-controller", True, False),
        ("istio.io/unmanaged-gateway", True, False),
        ("example.com/other", False, False),
    ],
)
def test_classes(controller: str, accepted: bool, features: bool) -> None:
    world = World(f"{API}\nkind: GatewayClass\nmetadata: {{name: c}}\nspec: {{controllerName: {controller}}}")
    assert world.conditions("GatewayClass", "c", "") == ({"Accepted": ("True", "Accepted")} if accepted else {})
    names = [one["name"] for one in world.status("GatewayClass", "c", "").get("supportedFeatures", ())]
    assert ("HTTPRoute" in names) == features
    assert names == sorted(names)
    assert len(names) <= FEATURES_MAX


def pod(ready: str = "True", name: str = "gw") -> str:
    labels = f"{{gateway.networking.k8s.io/gateway-name: {name}}}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {labels}}}\n"
        f"status: {{podIP: 10.0.0.1, conditions: [{{type: Ready, status: '{ready}'}}]}}"
    )


def balanced(world: World, *ingress: Ingress, name: str = "gw-istio") -> None:
    """The Service of the gateway as a load balancer's controller leaves it."""
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer}}"
    ((key, value),) = parsed(text)
    status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress))
    world.put_object(key, msgspec.structs.replace(value, status=status))


def test_a_gateway_has_the_addresses_of_its_load_balancer() -> None:
    world = World(gateway())
    assert world.conditions("Gateway", "gw") == {"Accepted": ("True", "Accepted"), "Programmed": NOT_ASSIGNED}
    balanced(world)
    assert world.conditions("Gateway", "gw")["Programmed"] == NOT_ASSIGNED
    world.put(pod())
    assert world.conditions("Gateway", "gw")["Programmed"] == NOT_ASSIGNED
    assert "addresses" not in world.status("Gateway", "gw")
    balanced(world, Ingress(ip="192.0.2.1"), Ingress(hostname="lb.example"))
    assert world.conditions("Gateway", "gw")["Programmed"] == PROGRAMMED
    assert world.status("Gateway", "gw")["addresses"] == [
        {"type": "IPAddress", "value": "192.0.2.1"},
        {"type": "Hostname", "value": "lb.example"},
    ]


def waypoint(addresses: str = "") -> str:
    status = f"\nstatus: {{addresses: [{{type: Hostname, value: {addresses}}}]}}" if addresses else ""
    spec = "{gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}"
    return f"{API}\nkind: Gateway\nmetadata: {{name: w}}\nspec: {spec}{status}"


def test_a_waypoint_gets_its_address_with_the_first_ready_pod_and_keeps_it() -> None:
    host = "w.default.svc.cluster.local"
    world = World(waypoint(), service("w", "[{name: hbone, port: 15008}]"), pod("False", "w"))
    assert "addresses" not in world.status("Gateway", "w")
    assert world.conditions("Gateway", "w")["Programmed"] == NOT_ASSIGNED
    world.put(pod("True", "w"))
    assert world.status("Gateway", "w")["addresses"] == [{"type": "Hostname", "value": host}]
    assert world.conditions("Gateway", "w")["Programmed"] == PROGRAMMED
    world.put(waypoint(host))
    assert world.put(pod("False", "w")) == {"Gateway/default/w/istio.io/gateway-controller"}
    assert world.conditions("Gateway", "w")["Programmed"] == NOT_ASSIGNED
    assert world.status("Gateway", "w")["addresses"] == [{"type": "Hostname", "value": host}]


def test_a_waypoint_is_named_by_its_service_whatever_its_type() -> None:
    world = World(waypoint(), pod("True", "w"))
    balanced(world, Ingress(ip="192.0.2.1"), name="w")
    assert world.status("Gateway", "w")["addresses"] == [{"type": "Hostname", "value": "w.default.svc.cluster.local"}]


def test_endpoints_that_are_ready_count_as_pods() -> None:
    entry = (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        "metadata: {name: e, labels: {kubernetes.io/service-name: w}}\nendpoints: [{addresses: [10.0.0.1]}]"
    )
    world = World(waypoint(), service("w", "[{name: hbone, port: 15008}]"), entry)
    assert world.conditions("Gateway", "w")["Programmed"] == PROGRAMMED


ENDPOINTS = (
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    "metadata: {name: e, labels: {kubernetes.io/service-name: infra}}\nendpoints: [{addresses: [10.0.0.1]}]"
)


@pytest.mark.parametrize(
    ("addresses", "accepted", "programmed"),
    [
        ("{type: Hostname, value: infra.default.svc.cluster.local}", "Accepted", "Programmed"),
        ("{type: Hostname, value: infra}", "Accepted", "Programmed"),
        ("{type: Hostname, value: infra}, {type: Hostname, value: foo}", "Accepted", "AddressNotUsable"),
        ("{type: Hostname, value: infra}, {type: example.com/x, value: x}", "UnsupportedAddress", "Invalid"),
        ("{type: IPAddress, value: 192.0.2.1}, {type: IPAddress, value: 192.0.2.2}", "UnsupportedAddress", "Invalid"),
        ("{type: IPAddress}", "Accepted", "AddressNotAssigned"),
    ],
)
def test_static_addresses_are_services_that_exist(addresses: str, accepted: str, programmed: str) -> None:
    world = World(gateway(more=f"addresses: [{addresses}]"), service("infra"), ENDPOINTS)
    found = world.conditions("Gateway", "gw")
    assert found["Accepted"] == ("True" if accepted == "Accepted" else "False", accepted)
    assert found["Programmed"] == ("True" if programmed == "Programmed" else "False", programmed)
    if "infra" in addresses:
        usable = {"type": "Hostname", "value": "infra.default.svc.cluster.local"}
        assert world.status("Gateway", "gw")["addresses"] == [usable]


def test_an_unmanaged_gateway_has_the_addresses_of_its_spec() -> None:
    spec = "gatewayClassName: istio-remote, listeners: [{name: mesh, port: 15008, protocol: HBONE}]"
    text = f"{API}\nkind: Gateway\nmetadata: {{name: gw}}\nspec: {{{spec}, addresses: [{{value: 192.0.2.1}}]}}"
    world = World(text)
    assert world.conditions("Gateway", "gw")["Programmed"] == PROGRAMMED
    assert world.status("Gateway", "gw")["addresses"] == [{"type": "IPAddress", "value": "192.0.2.1"}]


@pytest.mark.parametrize(
    ("validation", "more", "accepted", "resolved"),
    [
        ("wellKnownCACertificates: System", "", "Accepted", "ResolvedRefs"),
        ("wellKnownCACertificates: Other", "", "Invalid", "ResolvedRefs"),
        ("subjectAltNames: []", "", "NoValidCACertificate", "ResolvedRefs"),
        ("caCertificateRefs: [{kind: ConfigMap, name: ca}]", authorities(), "Accepted", "ResolvedRefs"),
        ("caCertificateRefs: [{kind: ConfigMap, name: ca}]", "", "NoValidCACertificate", "InvalidCACertificateRef"),
        ("caCertificateRefs: [{kind: Service, name: ca}]", "", "NoValidCACertificate", "InvalidKind"),
        (
            "caCertificateRefs: [{kind: ConfigMap, name: none}, {kind: ConfigMap, name: ca}]",
            authorities(),
            "Accepted",
            "InvalidCACertificateRef",
        ),
    ],
)
def test_policies_have_an_entry_for_every_gateway_that_sends(
    validation: str, more: str, accepted: str, resolved: str
) -> None:
    world = World(gateway(), gateway(name="idle"), service(), route(), policy(validation), *([more] if more else []))
    (ancestor,) = world.status("BackendTLSPolicy", "p")["ancestors"]
    assert ancestor["ancestorRef"] == {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "namespace": "default",
        "name": "gw",
    }
    found = {one["type"]: (one["status"], one["reason"]) for one in ancestor["conditions"]}
    assert found["Accepted"] == ("True" if accepted == "Accepted" else "False", accepted)
    assert found["ResolvedRefs"] == ("True" if resolved == "ResolvedRefs" else "False", resolved)


def test_the_older_of_two_policies_wins() -> None:
    world = World(gateway(), service(), route(), policy(name="z"), policy(name="a", when="2026-02-01T00:00:00Z"))

    def accepted(name: str) -> str:
        (ancestor,) = world.status("BackendTLSPolicy", name)["ancestors"]
        return str(ancestor["conditions"][0]["reason"])

    assert (accepted("z"), accepted("a")) == ("Accepted", "Conflicted")
    world.remove(("BackendTLSPolicy", "default", "z"))
    assert accepted("a") == "Accepted"


def test_the_waypoint_of_a_service_is_an_ancestor() -> None:
    bound = service(meta="labels: {istio.io/use-waypoint: w}")
    world = World(waypoint("w.default.svc.cluster.local"), bound, policy())
    (ancestor,) = world.status("BackendTLSPolicy", "p")["ancestors"]
    assert ancestor["ancestorRef"]["name"] == "w"


def test_every_status_can_be_written_as_json() -> None:
    world = World(gateway(), service(), route(), policy())
    for patch in world.graph.outputs["status"].values():
        assert json.loads(json.dumps(patch.status)) == patch.status


def timed(patch: StatusPatch, current: dict[str, Any]) -> dict[str, Any]:
    return with_times(patch, current, NOW).status


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    world = World(gateway(), service(), route())
    patch = world.graph.outputs["status"]["Gateway/default/gw/istio.io/gateway-controller"]
    first = timed(patch, {})
    assert {one["lastTransitionTime"] for one in first["conditions"]} == {"2026-05-01T12:00:00Z"}
    assert {one["lastTransitionTime"] for one in first["listeners"][0]["conditions"]} == {"2026-05-01T12:00:00Z"}
    later = with_times(patch, first, datetime(2026, 6, 1, tzinfo=UTC)).status
    assert later == first
    first["conditions"][0]["status"] = "False"
    first["listeners"][0]["conditions"][2]["status"] = "Unknown"
    changed = with_times(patch, first, datetime(2026, 6, 1, tzinfo=UTC)).status
    times = [one["lastTransitionTime"] for one in (*changed["conditions"], *changed["listeners"][0]["conditions"])]
    assert times == [
        f"2026-0{month}:00Z"
        for month in ("6-01T00:00", "5-01T12:00", "5-01T12:00", "5-01T12:00", "6-01T00:00", "5-01T12:00")
    ]


def test_times_of_a_list_follow_the_entry_and_not_its_place() -> None:
    def entry(name: str, controller: str = "c") -> dict[str, Any]:
        conditions = [{"type": "Accepted", "status": "True", "reason": "Accepted"}]
        return {"parentRef": {"name": name}, "controllerName": controller, "conditions": conditions}

    patch = StatusPatch("HTTPRoute", "default", "r", "m", {"parents": [entry("a")]})
    old = with_times(patch, {}, datetime(2026, 1, 1, tzinfo=UTC)).status
    two = patch._replace(status={"parents": [entry("b"), entry("a"), entry("a", "other")]})
    found = [parent["conditions"][0]["lastTransitionTime"] for parent in timed(two, old)["parents"]]
    assert found == ["2026-05-01T12:00:00Z", "2026-01-01T00:00:00Z", "2026-05-01T12:00:00Z"]


@pytest.mark.parametrize(
    "current", [{"conditions": None}, {"conditions": ["x"]}, {"conditions": "x"}, {"listeners": 3}]
)
def test_a_status_of_another_shape_counts_as_none(current: dict[str, Any]) -> None:
    status = {"conditions": [{"type": "A", "status": "True"}], "listeners": [{"name": "a", "conditions": []}]}
    found = timed(StatusPatch("Gateway", "d", "g", "m", status), current)
    assert found["conditions"][0]["lastTransitionTime"] == "2026-05-01T12:00:00Z"


def test_what_another_controller_wrote_keeps_its_times() -> None:
    theirs = {"type": "Accepted", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    status = {"parents": [{"parentRef": {"name": "a"}, "controllerName": "x", "conditions": [theirs]}]}
    found = timed(StatusPatch("HTTPRoute", "d", "r", "m", status), {})
    assert found["parents"][0]["conditions"] == [theirs]


def test_a_policy_tells_of_as_many_gateways_as_the_api_server_takes() -> None:
    names = [f"g{number:02}" for number in range(17)]
    routes = (route(name=name, parents=f"[{{name: {name}}}]") for name in names)
    world = World(service(), policy(), *(gateway(name=name) for name in names), *routes)
    ancestors = world.status("BackendTLSPolicy", "p")["ancestors"]
    assert [one["ancestorRef"]["name"] for one in ancestors] == names[:16]


def test_a_gateway_without_listeners_is_not_accepted() -> None:
    found = World(gateway("[]")).conditions("Gateway", "gw")
    assert found["Accepted"] == ("False", "ListenersNotValid")
    assert found["Programmed"] == ("False", "Invalid")
