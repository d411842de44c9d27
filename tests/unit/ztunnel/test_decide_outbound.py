"""Outbound decisions: each rule of where a connection captured on 15001 goes, as a scenario."""

from __future__ import annotations

import pytest

from meshcore.model import (
    ApplicationTunnel,
    GatewayAddress,
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    NetworkMode,
    TunnelTarget,
    Visibility,
    Workload,
    WorkloadStatus,
)
from meshcore.records import RECORD_MAX, Action, AuthorityKind, Flag, Mask, Protocol, VerdictFlag, encode_verdict
from tests.support.world import World, by_host, by_ip, destinations, ip, ports, refusal, shares, weighted
from ztunnel import keys
from ztunnel.balance import ENDPOINTS_MAX, WEIGHT_MAX, _rank
from ztunnel.decide import decide, timed_out
from ztunnel.decision import Pending, Settings

VIP = "10.1.0.1"
WEB = {"web.example": {80: 8080}}


@pytest.fixture
def world() -> World:
    """A client, a service of two pods in the mesh and one outside it."""
    world = World()
    world.pod("client", ip="10.0.0.1")
    world.pod("web-1", ip="10.0.0.2", services=WEB, service_account="web")
    world.pod("web-2", ip="10.0.0.3", services=WEB, service_account="web")
    world.pod("legacy", ip="10.0.0.4", hbone=False)
    world.service("web.example", vips=[VIP])
    return world


def with_waypoint(world: World) -> None:
    """Waypoint service `wp.example` of two pods."""
    for i in (1, 2):
        world.pod(f"wp-{i}", ip=f"10.0.9.{i}", services={"wp.example": {15008: 15008}}, service_account="wp")
    world.service("wp.example", vips=["10.1.0.9"], ports={15008: 15008}, subject_alt_names=("spiffe://td/ns/a/sa/b",))


# Loop guard and the pod's own record


@pytest.mark.parametrize("port", [15001, 15006, 15008])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "10.0.0.1"])
def test_a_call_to_our_own_listeners_is_refused(world: World, address: str, port: int) -> None:
    assert refusal(world.outbound("client", address, port)) == "attempted recursive call to ourselves"


def test_the_socks_port_is_ours_when_it_is_enabled(world: World) -> None:
    assert world.outbound("client", "127.0.0.1", 15080).action is Action.PASSTHROUGH
    world.settings = Settings(socks5=True)
    assert "recursive" in refusal(world.outbound("client", "127.0.0.1", 15080))


def test_other_ports_of_loopback_pass(world: World) -> None:
    assert world.outbound("client", "127.0.0.1", 8080).action is Action.PASSTHROUGH


def test_a_pod_whose_record_has_not_come_waits_for_it() -> None:
    world = World()
    world.local(Workload(uid="u", name="late", namespace="default", service_account="late"))
    upcall = world.outbound_upcall("late", VIP, 80)
    answer = world.ask(upcall)
    assert isinstance(answer, Pending)
    world.pod("late", ip="10.0.0.1")
    assert answer.deps & world.change.keys
    assert world.decide(upcall).verdict.action is Action.PASSTHROUGH


def test_the_pods_record_is_never_found_by_address() -> None:
    world = World()
    world.pod("somebody", ip="10.0.0.1")
    world.local(Workload(uid="u", name="late", namespace="default", service_account="late"))
    assert isinstance(world.ask(world.outbound_upcall("late", VIP, 80, source="10.0.0.1")), Pending)


def test_a_record_that_never_comes_is_an_answer_for_one_flow_only(world: World) -> None:
    verdict = timed_out(world.outbound_upcall("client", VIP, 80))
    assert refusal(verdict) == "failed to fetch information about local workload"
    assert verdict.ttl_ms == 1
    assert timed_out(world.inbound_upcall("client", "10.0.0.1", 80)).status == 503


# Passthrough


def test_an_unknown_address_passes_through_without_labels(world: World) -> None:
    verdict = world.outbound("client", "8.8.8.8", 53)
    assert verdict.action is Action.PASSTHROUGH
    labels = world.labels(verdict)
    assert labels.source.workload == "client"
    assert labels.source.principal == ""
    assert not any(labels.destination)
    assert not any(labels.service)
    assert not labels.mutual_tls


def test_one_passthrough_verdict_serves_all_ports_of_an_unknown_address(world: World) -> None:
    assert world.outbound("client", "8.8.8.8", 53).mask == Mask.DST_IP


def test_a_passthrough_service_goes_where_the_client_said(world: World) -> None:
    world.service("web.example", vips=[VIP], lb=LoadBalancing(mode=LbMode.PASSTHROUGH))
    assert world.outbound("client", VIP, 80).action is Action.PASSTHROUGH


# Direct


def test_a_pod_in_the_mesh_is_reached_by_hbone(world: World) -> None:
    verdict = world.outbound("client", "10.0.0.2", 8080)
    assert verdict.action is Action.BALANCE
    [hop] = verdict.endpoints
    assert (hop.ip, hop.port, hop.target_port) == (ip("10.0.0.2"), 15008, 8080)
    assert (hop.protocol, hop.authority) == (Protocol.HBONE, AuthorityKind.ENDPOINT)
    assert world.expected(hop) == ("spiffe://cluster.local/ns/default/sa/web",)
    assert verdict.cert_id == world.pods["client"].cert_id
    assert verdict.flags == VerdictFlag(0)
    assert verdict.host == b""
    assert verdict.baggage == (
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=client,service.name=client"
    )
    assert verdict.mask == Mask.DST_IP | Mask.DST_PORT
    labels = world.labels(verdict)
    assert labels.mutual_tls
    assert labels.source.principal == "spiffe://cluster.local/ns/default/sa/client"
    assert labels.destination.principal == "spiffe://cluster.local/ns/default/sa/web"
    assert labels.destination.pod == "web-1"


def test_a_pod_on_the_same_node_takes_the_same_way(world: World) -> None:
    world.pod("neighbour", ip="10.0.0.7", node="n")
    world.pod("client", ip="10.0.0.1", node="n")
    assert destinations(world.outbound("client", "10.0.0.7", 80)) == ["10.0.0.7:15008"]


def test_a_pod_outside_the_mesh_is_reached_by_plain_tcp(world: World) -> None:
    verdict = world.outbound("client", "10.0.0.4", 80)
    [hop] = verdict.endpoints
    assert (hop.ip, hop.port, hop.protocol, hop.sans_id) == (ip("10.0.0.4"), 80, Protocol.TCP, 0)
    labels = world.labels(verdict)
    assert not labels.mutual_tls
    assert labels.source.principal == ""
    assert labels.destination.principal == "spiffe://cluster.local/ns/default/sa/legacy"


def test_an_unhealthy_pod_is_reached_by_its_own_address(world: World) -> None:
    world.pod("web-1", ip="10.0.0.2", services=WEB, status=WorkloadStatus.UNHEALTHY)
    assert destinations(world.outbound("client", "10.0.0.2", 8080)) == ["10.0.0.2:15008"]


# Services


def test_a_service_is_balanced_over_its_endpoints(world: World) -> None:
    verdict = world.outbound("client", VIP, 80)
    assert destinations(verdict) == ["10.0.0.2:15008", "10.0.0.3:15008"]
    assert {hop.target_port for hop in verdict.endpoints} == {8080}
    assert set(shares(verdict).values()) == {0.5}
    assert verdict.flags == VerdictFlag.SERVICE
    assert verdict.host == b"web.example"
    assert world.labels(verdict).service == ("web.example", "default", "web")
    assert [world.labels(verdict, i).destination.pod for i in (0, 1)] == ["web-1", "web-2"]


def test_a_services_alternative_names_are_accepted_beside_the_endpoints_own(world: World) -> None:
    world.service("web.example", vips=[VIP], subject_alt_names=("spiffe://td/ns/x/sa/y", "not-spiffe"))
    hop = world.outbound("client", VIP, 80).endpoints[0]
    assert world.expected(hop) == ("spiffe://td/ns/x/sa/y", "spiffe://cluster.local/ns/default/sa/web")


def test_capacity_is_weight_and_zero_is_never_picked(world: World) -> None:
    world.pod("web-1", ip="10.0.0.2", services=WEB, capacity=3)
    world.pod("web-3", ip="10.0.0.5", services=WEB, capacity=0)
    assert shares(world.outbound("client", VIP, 80)) == {"10.0.0.2": 0.75, "10.0.0.3": 0.25}


def test_capacities_beyond_the_records_range_keep_their_proportion(world: World) -> None:
    world.pod("web-1", ip="10.0.0.2", services=WEB, capacity=4_000_000)
    world.pod("web-2", ip="10.0.0.3", services=WEB, capacity=1_000_000)
    verdict = world.outbound("client", VIP, 80)
    assert max(hop.weight for hop in verdict.endpoints) <= WEIGHT_MAX
    assert shares(verdict)["10.0.0.2"] == pytest.approx(0.8, abs=0.001)


def test_all_capacities_zero_is_no_upstream(world: World) -> None:
    for i in (1, 2):
        world.pod(f"web-{i}", ip=f"10.0.0.{i + 1}", services=WEB, capacity=0)
    assert refusal(world.outbound("client", VIP, 80)) == "no healthy upstream: 10.1.0.1:80"


def test_a_service_without_endpoints_is_refused_never_passed_through(world: World) -> None:
    world.service("empty.example", vips=["10.1.0.2", "fd00:1::2"])
    verdict = world.outbound("client", "10.1.0.2", 80)
    assert refusal(verdict) == "no healthy upstream: 10.1.0.2:80"
    assert (verdict.flag, verdict.label_id) == (Flag.NONE, 0)
    assert refusal(world.outbound("client", "fd00:1::2", 80)) == "no healthy upstream: [fd00:1::2]:80"


def test_a_port_that_the_service_does_not_have_is_refused(world: World) -> None:
    assert refusal(world.outbound("client", VIP, 81)) == "no healthy upstream: 10.1.0.1:81"


def test_unhealthy_endpoints_are_left_out_unless_the_policy_allows_all(world: World) -> None:
    world.pod("web-1", ip="10.0.0.2", services=WEB, status=WorkloadStatus.UNHEALTHY)
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.3:15008"]
    world.service("web.example", vips=[VIP], lb=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008", "10.0.0.3:15008"]


def test_an_endpoints_own_port_wins_over_the_services(world: World) -> None:
    world.pod("web-1", ip="10.0.0.2", services={"web.example": {80: 9090}})
    world.pod("web-2", ip="10.0.0.3", services={"web.example": {}})
    verdict = world.outbound("client", VIP, 80)
    assert {hop.ip: hop.target_port for hop in verdict.endpoints} == {ip("10.0.0.2"): 9090, ip("10.0.0.3"): 8080}


def test_a_named_port_is_known_to_the_endpoint_only(world: World) -> None:
    world.service("web.example", vips=[VIP], ports={80: 0})
    world.pod("web-1", ip="10.0.0.2", services={"web.example": {80: 9090}})
    world.pod("web-2", ip="10.0.0.3", services={"web.example": {}})
    verdict = world.outbound("client", VIP, 80)
    assert [(hop.ip, hop.target_port) for hop in verdict.endpoints] == [(ip("10.0.0.2"), 9090)]


def test_endpoints_without_an_address_are_left_out(world: World) -> None:
    world.pod("web-1", ip=(), services=WEB)
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.3:15008"]
    world.pod("web-2", ip=(), services=WEB, hostname="db.outside")
    assert refusal(world.outbound("client", VIP, 80)) == "no ip addresses were resolved for workload: web-2"


def test_the_clients_address_family_is_preferred(world: World) -> None:
    world.service("web.example", vips=[VIP, "fd00:1::1"])
    world.pod("web-1", ip=["10.0.0.2", "fd00::2"], services=WEB)
    world.apply(removed=["Kubernetes//Pod/default/web-2"])
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008"]
    assert destinations(world.outbound("client", "fd00:1::1", 80)) == ["fd00::2:15008"]


def test_a_services_address_families_limit_the_choice(world: World) -> None:
    world.pod("web-1", ip=["10.0.0.2", "fd00::2"], services=WEB)
    world.apply(removed=["Kubernetes//Pod/default/web-2"])
    world.service("web.example", vips=[VIP], ip_families=IPFamilies.IPV6_ONLY)
    assert destinations(world.outbound("client", VIP, 80)) == ["fd00::2:15008"]
    world.service("web.example", vips=["fd00:1::1"], ip_families=IPFamilies.IPV4_ONLY)
    assert destinations(world.outbound("client", "fd00:1::1", 80)) == ["10.0.0.2:15008"]


def test_a_private_service_of_another_namespace_is_unknown(world: World) -> None:
    world.service("web.example", vips=[VIP], visibility=Visibility.NAMESPACE)
    world.pod("stranger", ip="10.0.0.8", namespace="other")
    assert world.outbound("client", VIP, 80).action is Action.BALANCE
    assert world.outbound("stranger", VIP, 80).action is Action.PASSTHROUGH


def test_an_address_in_a_vip_range_is_served(world: World) -> None:
    world.service("web.example", vips=["10.3.0.0/16"])
    decision = world.decide(world.outbound_upcall("client", "10.3.4.5", 80))
    assert destinations(decision.verdict) == ["10.0.0.2:15008", "10.0.0.3:15008"]
    assert keys.cidr_key("") in decision.deps


def test_host_network_endpoints_are_reached_through_their_service(world: World) -> None:
    world.pod("web-1", ip="10.9.0.1", services=WEB, hbone=False, network_mode=NetworkMode.HOST_NETWORK)
    assert "10.9.0.1:8080" in destinations(world.outbound("client", VIP, 80))
    assert world.outbound("client", "10.9.0.1", 8080).action is Action.PASSTHROUGH


# The two lookups have opposite precedence


def test_a_workload_at_a_vip_makes_it_no_service_but_the_service_is_picked(world: World) -> None:
    with_waypoint(world)
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    world.pod("squatter", ip=VIP)
    # Not a service for the first lookup, so its waypoint is not used; the second finds the service's endpoints.
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008", "10.0.0.3:15008"]


def test_a_workload_at_a_vip_without_endpoints_is_passed_through(world: World) -> None:
    world.service("empty.example", vips=["10.1.0.2"])
    world.pod("squatter", ip="10.1.0.2")
    assert world.outbound("client", "10.1.0.2", 80).action is Action.PASSTHROUGH


# Load balancing by locality

REGION, ZONE, NETWORK = LbScope.REGION, LbScope.ZONE, LbScope.NETWORK


def spread_out(mode: LbMode, *scopes: LbScope) -> World:
    world = World()
    world.pod("client", ip="10.0.0.1", locality=Locality("eu", "a"), node="n1", cluster_id="c1")
    for name, last, place, node in (
        ("same-zone", 2, Locality("eu", "a"), "n2"),
        ("same-region", 3, Locality("eu", "b"), "n3"),
        ("far", 4, Locality("us", "a"), "n4"),
    ):
        world.pod(name, ip=f"10.0.0.{last}", services=WEB, locality=place, node=node, cluster_id="c1")
    world.service("web.example", vips=[VIP], lb=LoadBalancing(scopes, mode))
    return world


@pytest.mark.parametrize(
    "mode, scopes, expected",
    [
        (LbMode.UNSPECIFIED, (REGION, ZONE), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]),
        (LbMode.FAILOVER, (REGION, ZONE), ["10.0.0.2"]),
        (LbMode.FAILOVER, (REGION,), ["10.0.0.2", "10.0.0.3"]),
        # A zone does not imply its region unless the region is listed.
        (LbMode.FAILOVER, (ZONE,), ["10.0.0.2", "10.0.0.4"]),
        # Only leading scopes count: nobody shares the node, so the zone is not looked at.
        (LbMode.FAILOVER, (LbScope.NODE, ZONE), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]),
        (LbMode.FAILOVER, (NETWORK, REGION, ZONE), ["10.0.0.2"]),
        (LbMode.FAILOVER, (LbScope.CLUSTER, LbScope.SUBZONE, REGION), ["10.0.0.2", "10.0.0.3"]),
        (LbMode.STRICT, (REGION, ZONE), ["10.0.0.2"]),
        (LbMode.STRICT, (), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]),
    ],
)
def test_locality_picks(mode: LbMode, scopes: tuple[LbScope, ...], expected: list[str]) -> None:
    verdict = spread_out(mode, *scopes).outbound("client", VIP, 80)
    assert destinations(verdict) == [f"{address}:15008" for address in expected]


@pytest.mark.parametrize(
    "network, place, rank",
    [
        ("", Locality("eu", "a"), 5),
        ("", Locality("eu", "b"), 4),
        ("", Locality("us", "a"), 3),
        ("far", Locality("eu", "a"), 2),
        ("far", Locality("eu", "b"), 1),
        ("far", Locality("us", "a"), 0),
        ("far", None, 0),
    ],
)
def test_a_first_scope_of_network_outranks_the_others(network: str, place: Locality | None, rank: int) -> None:
    source = Workload(uid="a", name="a", namespace="n", locality=Locality("eu", "a"))
    other = Workload(uid="b", name="b", namespace="n", network=network, locality=place)
    assert _rank((NETWORK, REGION, ZONE), source, other) == rank


def test_strict_locality_without_a_match_is_no_upstream() -> None:
    assert "no healthy upstream" in refusal(spread_out(LbMode.STRICT, LbScope.NODE).outbound("client", VIP, 80))


def test_failover_with_nobody_left_in_the_best_rank_does_not_fall_back() -> None:
    world = spread_out(LbMode.FAILOVER, REGION, ZONE)
    world.pod("same-zone", ip="10.0.0.2", services=WEB, locality=Locality("eu", "a"), capacity=0)
    assert "no healthy upstream" in refusal(world.outbound("client", VIP, 80))


# Many endpoints


def crowd(capacity: int = 1) -> World:
    world = World()
    for name in ("client", "other"):
        world.pod(name, ip="10.0.0.1" if name == "client" else "10.0.0.2")
    for i in range(600):
        world.pod(f"web-{i}", ip=f"10.2.{i // 200}.{i % 200}", services=WEB, capacity=capacity if i == 7 else 1)
    world.service("web.example", vips=[VIP])
    return world


def test_a_large_service_gives_each_source_its_own_fixed_subset() -> None:
    world = crowd()
    one, two = world.outbound("client", VIP, 80), world.outbound("other", VIP, 80)
    assert len(one.endpoints) == len(two.endpoints) == ENDPOINTS_MAX
    assert destinations(one) != destinations(two)
    assert world.outbound("client", VIP, 80) == one
    assert len(encode_verdict(one, 1)) < RECORD_MAX
    assert len(set(shares(one).values())) == 1


def test_a_subset_keeps_the_share_of_a_heavy_endpoint() -> None:
    found = shares(crowd(capacity=600).outbound("client", VIP, 80))["10.2.0.7"]
    assert found == pytest.approx(0.5, abs=0.05)


# Service waypoints


@pytest.mark.parametrize("reference", [by_host("wp.example"), by_ip("10.1.0.9")])
def test_a_service_with_a_waypoint_is_reached_through_it(world: World, reference: GatewayAddress) -> None:
    with_waypoint(world)
    world.service("web.example", vips=[VIP], waypoint=reference)
    verdict = world.outbound("client", VIP, 80)
    assert destinations(verdict) == ["10.0.9.1:15008", "10.0.9.2:15008"]
    for hop in verdict.endpoints:
        assert (hop.protocol, hop.authority) == (Protocol.HBONE, AuthorityKind.ORIGINAL)
        assert world.expected(hop) == ("spiffe://td/ns/a/sa/b", "spiffe://cluster.local/ns/default/sa/wp")
    labels = world.labels(verdict)
    assert labels.destination.workload == "wp-1"
    assert labels.service.hostname == "web.example"
    assert verdict.host == b"web.example"


def test_a_waypoint_may_be_a_workload_by_address_or_by_hostname(world: World) -> None:
    world.pod("wp", ip="10.0.9.5", hostname="wp.vm")
    for reference in (by_ip("10.0.9.5"), by_host("wp.vm", port=15009)):
        world.service("web.example", vips=[VIP], waypoint=reference)
        [hop] = world.outbound("client", VIP, 80).endpoints
        assert (hop.ip, hop.port) == (ip("10.0.9.5"), reference.hbone_mtls_port)
        assert world.expected(hop) == ("spiffe://cluster.local/ns/default/sa/wp",)


def test_a_waypoints_port_is_resolved_like_any_service_port(world: World) -> None:
    world.pod("wp", ip="10.0.9.1", services={"wp.example": {15008: 16008}})
    world.service("wp.example", ports={15008: 15008})
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.1:16008"]


def test_a_waypoint_behind_a_tunnel_takes_a_port_its_service_does_not_have(world: World) -> None:
    world.pod(
        "wp",
        ip="10.0.9.1",
        services={"wp.example": {}},
        application_tunnel=ApplicationTunnel(TunnelTarget.PROXY, 15088),
    )
    world.service("wp.example", ports={80: 80})
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.1:15008"]


def test_a_passthrough_service_still_goes_through_its_waypoint(world: World) -> None:
    with_waypoint(world)
    lb = LoadBalancing(mode=LbMode.PASSTHROUGH)
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"), lb=lb)
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.1:15008", "10.0.9.2:15008"]


@pytest.mark.parametrize(
    "reference, text",
    [
        (by_host("nobody.example"), "default/nobody.example"),
        (by_ip("10.0.9.99"), "/10.0.9.99"),
        (by_host("empty.example"), "default/empty.example"),
        (by_host("wp.example", port=1), "default/wp.example"),
    ],
)
def test_an_unresolvable_waypoint_is_never_bypassed(world: World, reference: GatewayAddress, text: str) -> None:
    with_waypoint(world)
    world.service("empty.example", ports={15008: 15008})
    world.service("web.example", vips=[VIP], waypoint=reference)
    assert refusal(world.outbound("client", VIP, 80)) == f"unknown waypoint: {text}"
    world.pod("web-1", ip="10.0.0.2", waypoint=reference)
    assert refusal(world.outbound("client", "10.0.0.2", 8080)) == f"unknown waypoint: {text}"


def test_a_waypoint_that_appears_is_used(world: World) -> None:
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    decision = world.decide(world.outbound_upcall("client", VIP, 80))
    assert decision.verdict.action is Action.DENY
    with_waypoint(world)
    assert decision.deps & world.change.keys
    assert world.outbound("client", VIP, 80).action is Action.BALANCE


def test_a_source_that_is_the_services_waypoint_is_not_exempt(world: World) -> None:
    with_waypoint(world)
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    verdict = world.outbound("wp-1", VIP, 80, source="10.0.9.1")
    assert destinations(verdict) == ["10.0.9.1:15008", "10.0.9.2:15008"]


def colours(world: World) -> None:
    for name, last in (("red", 1), ("blue", 2)):
        world.pod(name, ip=f"10.0.9.{last}", services={f"{name}.example": {15008: 15008}}, capacity=5 * last)
        world.service(f"{name}.example", ports={15008: 15008})


def test_weighted_waypoints_share_by_weight_not_by_capacity(world: World) -> None:
    colours(world)
    world.pod("red-2", ip="10.0.9.3", services={"red.example": {15008: 15008}}, capacity=5)
    world.service("web.example", vips=[VIP], weighted_waypoints=weighted(red=3, blue=1))
    found = shares(world.outbound("client", VIP, 80))
    assert found["10.0.9.2"] == pytest.approx(0.25, abs=0.001)
    assert found["10.0.9.1"] == pytest.approx(0.375, abs=0.001)
    assert found["10.0.9.3"] == pytest.approx(0.375, abs=0.001)


def test_weighted_waypoints_win_over_the_single_one_and_zero_is_never_picked(world: World) -> None:
    colours(world)
    with_waypoint(world)
    world.apply(removed=[f"Kubernetes//Pod/default/wp-{i}" for i in (1, 2)])
    single = by_host("wp.example")
    world.service("web.example", vips=[VIP], waypoint=single, weighted_waypoints=weighted(red=0, blue=1))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.2:15008"]


def test_weighted_waypoints_that_sum_to_zero_leave_the_single_one(world: World) -> None:
    with_waypoint(world)
    single = by_host("wp.example")
    world.service("web.example", vips=[VIP], waypoint=single, weighted_waypoints=weighted(red=0))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.1:15008", "10.0.9.2:15008"]
    world.service("web.example", vips=[VIP], weighted_waypoints=weighted(red=0))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008", "10.0.0.3:15008"]


def test_of_weighted_waypoints_those_that_resolve_are_used_and_none_is_a_refusal(world: World) -> None:
    colours(world)
    world.service("web.example", vips=[VIP], weighted_waypoints=weighted(red=1, gone=9))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.9.1:15008"]
    world.service("web.example", vips=[VIP], weighted_waypoints=weighted(gone=9))
    assert refusal(world.outbound("client", VIP, 80)) == "unknown waypoint: default/gone.example"


# Workload waypoints


def test_a_workload_with_a_waypoint_is_reached_through_it(world: World) -> None:
    with_waypoint(world)
    world.pod("web-1", ip="10.0.0.2", services=WEB, waypoint=by_host("wp.example"))
    verdict = world.outbound("client", "10.0.0.2", 8080)
    assert destinations(verdict) == ["10.0.9.1:15008", "10.0.9.2:15008"]
    assert {hop.authority for hop in verdict.endpoints} == {AuthorityKind.ORIGINAL}
    assert verdict.flags == VerdictFlag(0)
    assert not verdict.mask & Mask.SRC_IP


def test_a_workloads_waypoint_is_not_used_when_a_service_was_addressed(world: World) -> None:
    with_waypoint(world)
    world.pod("web-1", ip="10.0.0.2", services=WEB, waypoint=by_host("wp.example"))
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008", "10.0.0.3:15008"]


@pytest.mark.parametrize("reference", [by_host("wp.example"), by_ip("10.1.0.9"), by_ip("10.0.9.1")])
def test_the_waypoint_itself_goes_direct(world: World, reference: GatewayAddress) -> None:
    with_waypoint(world)
    world.pod("web-1", ip="10.0.0.2", services=WEB, waypoint=reference)
    verdict = world.outbound("wp-1", "10.0.0.2", 8080, source="10.0.9.1")
    assert destinations(verdict) == ["10.0.0.2:15008"]
    assert verdict.mask & Mask.SRC_IP


def test_the_waypoints_identity_at_another_address_does_not_go_direct(world: World) -> None:
    with_waypoint(world)
    world.pod("web-1", ip="10.0.0.2", services=WEB, waypoint=by_host("wp.example"))
    world.pod("thief", ip="10.0.0.66", service_account="wp")
    verdict = world.outbound("thief", "10.0.0.2", 8080, source="10.0.0.66")
    assert destinations(verdict) == ["10.0.9.1:15008", "10.0.9.2:15008"]
    assert verdict.mask & Mask.SRC_IP


# Other networks: no tunnel through gateways yet, so such destinations are refused, never reached in the clear


def test_endpoints_on_another_network_are_used_by_nobody(world: World) -> None:
    world.pod("web-2", ip="10.0.0.3", services=WEB, network="east")
    assert destinations(world.outbound("client", VIP, 80)) == ["10.0.0.2:15008"]
    world.pod("web-1", ip="10.0.0.2", services=WEB, network="east")
    reason = refusal(world.outbound("client", VIP, 80))
    assert reason.startswith("no valid routing destination for workload: web-")
    assert "'east'" in reason


def test_a_waypoint_on_another_network_is_refused(world: World) -> None:
    with_waypoint(world)
    for i in (1, 2):
        world.pod(f"wp-{i}", ip=f"10.0.9.{i}", services={"wp.example": {15008: 15008}}, network="east")
    world.service("web.example", vips=[VIP], waypoint=by_host("wp.example"))
    assert "networks" in refusal(world.outbound("client", VIP, 80))


def test_a_remote_endpoint_that_only_a_gateway_reaches_is_told_apart(world: World) -> None:
    for i in (1, 2):
        world.apply(removed=[f"Kubernetes//Pod/default/web-{i}"])
    world.apply(
        Workload(
            uid="east",
            name="east",
            namespace="default",
            network="east",
            network_gateway=by_ip("10.0.8.1"),
            services={"default/web.example": ports({80: 8080})},
        )
    )
    assert "networks" in refusal(world.outbound("client", VIP, 80))


# What a decision depends on


def test_a_decision_names_what_it_looked_up_found_or_not(world: World) -> None:
    decision = world.decide(world.outbound_upcall("client", VIP, 80))
    assert decision.deps == {
        keys.pod_key(world.pods["client"].pod_id),
        keys.local_key("default", "client"),
        keys.ip_key("", ip(VIP)),
        keys.service_key("default/web.example"),
    }
    unknown = world.decide(world.outbound_upcall("client", "8.8.8.8", 80))
    assert keys.ip_key("", ip("8.8.8.8")) in unknown.deps
    assert keys.cidr_key("") in unknown.deps


def test_settings_have_upstreams_defaults(world: World) -> None:
    upcall = world.outbound_upcall("client", VIP, 80)
    assert decide(upcall, world.pods["client"], world.state, world.ids) == world.decide(upcall)
    assert Settings() == (False, True, True)
