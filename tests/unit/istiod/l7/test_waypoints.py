"""The resource of a waypoint itself."""

from __future__ import annotations

import pytest

from meshcore import l7
from tests.unit.istiod.l7.support import DETAILS, RATINGS, REVIEWS, Mesh, mesh_config, obj

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: wp
  labels: {istio.io/waypoint-for: %s}
  annotations: {ambient.istio.io/xfcc-include-client-identity: '%s'}
spec:
  gatewayClassName: %s
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
status: {addresses: [{type: Hostname, value: wp.default.svc.cluster.local}]}
"""


def test_a_plain_waypoint() -> None:
    assert Mesh().waypoint() == l7.Waypoint("wp", "default", services=(RATINGS, REVIEWS))


@pytest.mark.parametrize(
    ("traffic", "services", "workloads"),
    [("service", True, False), ("workload", False, True), ("all", True, True), ("none", False, False)],
)
def test_the_traffic_it_takes(traffic: str, *, services: bool, workloads: bool) -> None:
    found = Mesh(GATEWAY % (traffic, "true", "istio-waypoint")).waypoint()
    assert (found.for_services, found.for_workloads, found.client_header) == (services, workloads, True)
    assert bool(found.services) is services


def test_a_gateway_of_another_class_is_no_waypoint() -> None:
    assert Mesh(GATEWAY % ("all", "", "istio")).graph.outputs[l7.WAYPOINT_TYPE] == {}


def test_services_come_and_go() -> None:
    mesh = Mesh(GATEWAY % ("all", "", "istio-waypoint"))
    labels = "{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: default}"
    meta = f"metadata: {{name: details, namespace: other, labels: {labels}}}"
    far = f"kind: Service\n{meta}\nspec: {{ports: [{{port: 80}}]}}"
    assert mesh.put(far) == {DETAILS, "default/wp"}
    assert mesh.waypoint().services == (RATINGS, REVIEWS, DETAILS)
    entry = obj("ServiceEntry", "e", "hosts: [api.example.com]\nresolution: DNS\nports: [{number: 80, name: http}]")
    assert mesh.put(entry) == {"default/api.example.com", "default/wp"}
    assert mesh.remove(("ServiceEntry", "default", "e"), ("Service", "other", "details")) == {
        "default/api.example.com",
        DETAILS,
        "default/wp",
    }
    assert mesh.waypoint().services == (RATINGS, REVIEWS)


def test_what_is_attached_to_it_and_what_that_refers_to() -> None:
    target = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]"
    provider = "envoyExtAuthzGrpc: {service: ratings.default.svc.cluster.local, port: 8080}"
    mesh = Mesh(
        obj("AuthorizationPolicy", "p", f"{target}\naction: CUSTOM\nprovider: {{name: x}}\nrules: [{{}}]"),
        mesh_config(f"extensionProviders: [{{name: x, {provider}}}]"),
    )
    found = mesh.waypoint()
    assert [one.authorizer for one in found.policies.authorization] == ["x"]
    assert [one.backend.service for one in found.policies.authorizers] == [RATINGS]
    assert [one.service for one in found.destinations] == [RATINGS]
    assert mesh.service().policies == l7.Policies()


def test_a_canary_serves_what_it_has_a_share_of() -> None:
    canary = (GATEWAY % ("service", "", "istio-waypoint")).replace("wp", "next")
    labels = "{istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next}"
    weight = "annotations: {istio.io/use-waypoint-canary-weight: '%s'}"
    service = f"kind: Service\nmetadata: {{name: reviews, labels: {labels}, {weight}}}\nspec: {{ports: [{{port: 80}}]}}"
    mesh = Mesh(canary, service % "10")
    assert mesh.waypoint("default/next").services == (REVIEWS,)
    assert mesh.waypoint().services == (RATINGS, REVIEWS)
    assert mesh.service().waypoint == "default/wp"
    mesh.put(service % "nonsense")
    assert mesh.waypoint("default/next").services == ()


def test_a_canary_of_another_waypoint_is_not_served() -> None:
    others = [(GATEWAY % ("service", "", "istio-waypoint")).replace("wp", name) for name in ("next", "third")]
    labels = "{istio.io/use-waypoint: next, istio.io/use-waypoint-canary: third}"
    meta = f"metadata: {{name: reviews, labels: {labels}, annotations: {{istio.io/use-waypoint-canary-weight: '9'}}}}"
    mesh = Mesh(*others, f"kind: Service\n{meta}\nspec: {{ports: [{{port: 80}}]}}")
    served = {name: mesh.waypoint(f"default/{name}").services for name in ("wp", "next", "third")}
    assert served == {"wp": (RATINGS,), "next": (REVIEWS,), "third": (REVIEWS,)}
