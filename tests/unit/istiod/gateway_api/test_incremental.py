"""A change computes again what depends on it, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.istiod.gateway_api.support import World, authorities, gateway, key_pair, route, secret, service
from tests.unit.istiod.gateway_api.test_gateways import policy

GATEWAYS = 20
MANAGER = "istio.io/gateway-controller"


@pytest.fixture
def world() -> World:
    """Gateways g0.. and services s0.., each gateway with one route of its own name to the service of its number."""
    texts = [secret(), authorities()]
    for number in range(GATEWAYS):
        listener = "[{name: web, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]"
        texts += (gateway(listener, name=f"g{number}"), service(f"s{number}"), one_route(number))
    return World(*texts)


def one_route(number: int, host: str = "x.example") -> str:
    spec = f"hostnames: [{host}], rules: [{{backendRefs: [{{name: s{number}, port: 8080}}]}}]"
    return route(spec, name=f"r{number}", parents=f"[{{name: g{number}}}]")


def computed(world: World, *texts: str) -> tuple[set[str], Counter[str]]:
    before = Counter(world.graph.computed)
    changed = world.put(*texts)
    return changed, world.graph.computed - before


def test_a_route_concerns_its_parents_only(world: World) -> None:
    changed, ran = computed(world, one_route(3, "y.example"))
    assert changed == {"default/g3"}  # the gateway's configuration; no status says anything new
    assert ran["route_rules"] == ran["route_parents"] == ran["attached_routes"] == ran["gateway_config"] == 1
    assert ran["listeners"] == ran["gateway_addresses"] == 0


def test_a_route_that_fails_changes_its_status_and_the_count_of_its_gateway(world: World) -> None:
    text = route("rules: [{backendRefs: [{name: s3, port: 8080}]}]", name="r3", parents="[{name: g3, port: 1}]")
    changed, _ = computed(world, text)
    assert changed == {"default/g3", f"HTTPRoute/default/r3/{MANAGER}", f"Gateway/default/g3/{MANAGER}"}


def test_a_service_whose_ports_stay_changes_nothing(world: World) -> None:
    changed, ran = computed(world, service("s3", meta="annotations: {a.istio.io/b: c}"))
    assert changed == set()
    assert ran["route_rules"] == ran["gateway_config"] == ran["attached_routes"] == 0


def test_a_service_that_goes_concerns_the_routes_that_name_it(world: World) -> None:
    before = Counter(world.graph.computed)
    changed = world.remove(("Service", "default", "s3"))
    assert changed == {"default/g3", "default/s3", f"HTTPRoute/default/r3/{MANAGER}"}
    assert (world.graph.computed - before)["route_rules"] == 1


def test_a_status_that_was_written_changes_nothing(world: World) -> None:
    parents = (
        "status: {parents: [{controllerName: istio.io/gateway-controller, parentRef: {name: g3}, conditions: []}]}"
    )
    changed, ran = computed(world, f"{one_route(3)}\n{parents}")
    assert changed == set()
    assert ran["gateway_config"] == 0


def test_a_renewed_certificate_changes_nothing_here(world: World) -> None:
    pair = key_pair("renewed")
    changed, ran = computed(world, secret(certificate=pair[0], key=pair[1]))
    assert changed == set()
    assert ran["key_pair_fault"] == 1
    assert ran["listeners"] == ran["gateway_config"] == 0


def test_a_broken_certificate_is_judged_once_for_all(world: World) -> None:
    changed, ran = computed(world, secret(key="none"))
    assert ran["key_pair_fault"] == 1
    assert changed == {f"default/g{number}" for number in range(GATEWAYS)} | {
        f"Gateway/default/g{number}/{MANAGER}" for number in range(GATEWAYS)
    }


def test_a_policy_concerns_the_gateways_that_send_to_its_service(world: World) -> None:
    changed, ran = computed(world, policy().replace("name: a}", "name: s3}"))
    assert changed == {"default/g3", f"BackendTLSPolicy/default/p/{MANAGER}"}
    assert ran["gateway_config"] == 1


def test_a_namespace_nobody_selects_by_changes_nothing(world: World) -> None:
    changed, ran = computed(world, "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {a: b}}")
    assert changed == set()
    assert ran["listeners"] == ran["route_parents"] == 0
