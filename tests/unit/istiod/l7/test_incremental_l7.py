"""A change computes again what it touches, and nothing else."""

from __future__ import annotations

from istiod.translate.graph import Graph
from istiod.translate.l7.service import Seams
from meshcore import l7
from tests.unit.istiod.l7 import support
from tests.unit.istiod.l7.support import RATINGS, REVIEWS, Mesh, mesh_config, obj, virtual_service

RULE = "hosts: [%s]\nhttp: [{timeout: %ds, route: [{destination: {host: ratings}}]}]"


def ran(mesh: Mesh, *documents: str) -> tuple[set[str], dict[str, int]]:
    """What changed, and how often each derivation ran for it."""
    mesh.graph.computed.clear()
    return mesh.put(*documents), dict(mesh.graph.computed)


def test_a_virtual_service_touches_the_services_it_names() -> None:
    mesh = Mesh(virtual_service(RULE % ("reviews", 1)))
    changed, computed = ran(mesh, virtual_service(RULE % ("reviews", 2)))
    assert changed == {REVIEWS}
    assert computed == {"l7_service": 1, "http_routes": 1}
    changed, computed = ran(mesh, virtual_service(RULE % ("ratings", 2)))
    assert changed == {REVIEWS, RATINGS}  # the one it leaves, and the one it comes to
    assert computed["l7_service"] == 2


def test_a_virtual_service_for_nobody_touches_nothing() -> None:
    changed, computed = ran(Mesh(), virtual_service(RULE % ("nobody.example", 1)))
    assert changed == set()
    assert "l7_service" not in computed


def test_a_delegate_touches_the_services_of_its_root() -> None:
    root = "hosts: [reviews]\nhttp: [{delegate: {name: d}}]"
    inner = "http: [{timeout: %ds, route: [{destination: {host: ratings}}]}]"
    mesh = Mesh(virtual_service(root), virtual_service(inner % 1, "d"))
    changed, computed = ran(mesh, virtual_service(inner % 2, "d"))
    assert changed == {REVIEWS}
    assert computed == {"l7_service": 1, "http_routes": 1}


def test_a_destination_rule_touches_those_that_send_there() -> None:
    mesh = Mesh(virtual_service(RULE % ("reviews", 1)))
    rule = "host: %s\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}"
    changed, computed = ran(mesh, obj("DestinationRule", "a", rule % "ratings"))
    assert changed == {REVIEWS, RATINGS}
    assert computed["rules_for"] == 1
    changed, computed = ran(mesh, obj("DestinationRule", "b", rule % "nobody.example"))
    assert (changed, computed) == (set(), {})


def test_a_policy_touches_its_target() -> None:
    mesh = Mesh()
    spec = "targetRefs: [{kind: %s, group: '%s', name: %s}]\nrules: [{}]"
    changed, computed = ran(mesh, obj("AuthorizationPolicy", "a", spec % ("Service", "", "reviews")))
    assert (changed, computed) == ({REVIEWS}, {"l7_service": 1})
    wide = spec % ("Gateway", "gateway.networking.k8s.io", "wp")
    changed, computed = ran(mesh, obj("AuthorizationPolicy", "b", wide))
    assert (changed, computed) == ({"default/wp"}, {"l7_waypoint": 1})


def test_a_setting_of_the_mesh_that_concerns_nobody_stops_early() -> None:
    mesh = Mesh()
    changed, computed = ran(mesh, mesh_config("ingressClass: istio"))
    assert changed == set()
    assert set(computed) == {"mesh_config", "mesh_l7"}


def test_a_changed_graph_equals_a_new_one() -> None:
    documents = [
        virtual_service(RULE % ("reviews", 1)),
        obj("DestinationRule", "a", "host: ratings\nsubsets: [{name: a}]"),
        obj("AuthorizationPolicy", "a", "targetRefs: [{kind: Service, name: reviews}]\naction: DENY\nrules: [{}]"),
        obj("Telemetry", "t", "accessLogging: [{providers: [{name: envoy}]}]"),
        obj("ServiceEntry", "e", "hosts: [api.example.com]\nresolution: DNS\nports: [{number: 80, name: http}]"),
        obj("Gateway", "gw", "servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}]"),
        mesh_config("connectTimeout: 1s"),
    ]
    mesh = Mesh()
    for document in documents:
        assert mesh.put(document)
        fresh = Graph(mesh.store, support.families(Seams()), mesh.graph.settings)
        assert fresh.outputs == mesh.graph.outputs
    before = {output: dict(held) for output, held in Mesh().graph.outputs.items()}
    for kind, name in (
        ("VirtualService", "vs"),
        ("DestinationRule", "a"),
        ("AuthorizationPolicy", "a"),
        ("Telemetry", "t"),
        ("ServiceEntry", "e"),
        ("Gateway.networking.istio.io", "gw"),
    ):
        assert mesh.remove((kind, "default", name))
    mesh.remove(("ConfigMap", "istio-system", "istio"))
    assert mesh.graph.outputs == before
    assert set(before) == {l7.SERVICE_TYPE, l7.WAYPOINT_TYPE, l7.GATEWAY_TYPE}
