"""Inbound decisions: CONNECT streams of 15008 and connections captured on 15006, rule by rule."""

from __future__ import annotations

import pytest

from meshcore.model import (
    ApplicationTunnel,
    GatewayAddress,
    Match,
    PolicyAction,
    PolicyScope,
    StringMatch,
    TunnelTarget,
    Visibility,
    Workload,
)
from meshcore.records import Action, Flag, Mask, VerdictFlag
from tests.support.world import World, by_host, by_ip, cidr, exactly, ip, refusal
from ztunnel import keys
from ztunnel.decision import Pending, Settings

WEB = {"web.example": {80: 8080}}
POD = "10.0.0.2"
HBONE_MASK = Mask.HOST | Mask.DST_IP | Mask.LOCAL_IP | Mask.DST_PORT | Mask.PEER | Mask.SRC_IP | Mask.FORWARDED


@pytest.fixture
def world() -> World:
    world = World()
    world.pod("client", ip="10.0.0.1")
    world.pod("web", ip=POD, services=WEB, spoof=True)
    world.service("web.example", vips=["10.1.0.1"])
    return world


def target(world: World, port: int = 8080, **fields: object) -> tuple[bytes, int]:
    """Where an allowed stream is delivered."""
    verdict = world.inbound("web", POD, port, **fields)
    assert verdict.action is Action.DELIVER
    return verdict.endpoints[0].ip, verdict.endpoints[0].port


# Destination validation


def test_a_stream_to_the_pods_own_address_is_delivered(world: World) -> None:
    verdict = world.inbound("web", POD, 8080)
    assert verdict.action is Action.DELIVER
    [where] = verdict.endpoints
    assert (where.ip, where.port) == (ip(POD), 8080)
    assert verdict.flags == VerdictFlag.SPOOF
    assert verdict.mask == HBONE_MASK
    assert verdict.baggage == (
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=web,service.name=web"
    )


def test_source_spoofing_is_up_to_the_pods_listeners(world: World) -> None:
    world.pod("web", ip=POD, spoof=False)
    assert world.inbound("web", POD, 8080).flags == VerdictFlag(0)


def test_response_baggage_can_be_turned_off(world: World) -> None:
    world.settings = Settings(response_baggage=False)
    assert world.inbound("web", POD, 8080).baggage == b""


def test_another_address_in_the_authority_is_a_400(world: World) -> None:
    verdict = world.inbound("web", "10.0.0.1", 8080, local=POD)
    assert refusal(verdict) == "ip mismatch: 10.0.0.1 != 10.0.0.2"
    assert (verdict.status, verdict.flag, verdict.label_id) == (400, Flag.NONE, 0)


def test_with_an_application_tunnel_any_authority_is_accepted_and_the_pod_is_dialled(world: World) -> None:
    world.pod("web", ip=POD, application_tunnel=ApplicationTunnel())
    assert target(world) == (ip(POD), 8080)
    verdict = world.inbound("web", "10.0.0.99", 8080, local=POD)
    assert verdict.endpoints[0].ip == ip(POD)


def waypoint_world(reference: GatewayAddress) -> World:
    """`web` is the waypoint, behind a service and by itself, of service 10.1.0.5 and of workload 10.0.0.5."""
    world = World()
    world.pod("client", ip="10.0.0.1")
    world.pod("web", ip=POD, services={"wp.example": {15008: 15008}}, hostname="wp.vm")
    world.service("wp.example", vips=["10.1.0.9"], ports={15008: 15008})
    world.service("app.example", vips=["10.1.0.5"], waypoint=reference)
    world.pod("app", ip="10.0.0.5", waypoint=reference)
    return world


@pytest.mark.parametrize("reference", [by_host("wp.example"), by_host("wp.vm"), by_ip("10.1.0.9"), by_ip(POD)], ids=str)
@pytest.mark.parametrize("address", ["10.1.0.5", "10.0.0.5"])
def test_a_waypoint_accepts_what_it_is_the_waypoint_of(reference: GatewayAddress, address: str) -> None:
    verdict = waypoint_world(reference).inbound("web", address, 80, local=POD)
    assert verdict.action is Action.DELIVER
    assert (verdict.endpoints[0].ip, verdict.endpoints[0].port) == (ip(POD), 80)


@pytest.mark.parametrize("reference", [by_host("other.example"), by_host("nobody.vm"), by_ip("10.0.0.1")], ids=str)
@pytest.mark.parametrize("address", ["10.1.0.5", "10.0.0.5", "10.0.0.77", "10.0.0.1"])
def test_a_pod_that_is_not_the_waypoint_answers_400(reference: GatewayAddress, address: str) -> None:
    world = waypoint_world(reference)
    world.service("other.example")
    assert world.inbound("web", address, 80, local=POD).status == 400


# Hostname authority


def test_a_hostname_is_resolved_to_this_pods_port(world: World) -> None:
    assert target(world, 80, host="web.example") == (ip(POD), 8080)
    world.pod("web", ip=POD, services={"web.example": {80: 9090}})
    assert target(world, 80, host="web.example") == (ip(POD), 9090)


@pytest.mark.parametrize("host, port", [("nobody.example", 80), ("web.example", 81), ("named.example", 80)])
def test_a_hostname_without_service_or_port_is_a_503(world: World, host: str, port: int) -> None:
    world.service("named.example", ports={80: 0})
    verdict = world.inbound("web", POD, port, host=host)
    assert refusal(verdict).startswith(f"no service or workload for hostname: {host}")
    assert (verdict.status, verdict.flag) == (503, Flag.NONE)


def test_a_hostname_prefers_the_pods_namespace_and_hides_private_services(world: World) -> None:
    world.service("web.example", namespace="a", ports={80: 1111})
    assert target(world, 80, host="web.example")[1] == 8080
    world.service("private.example", namespace="a", visibility=Visibility.NAMESPACE)
    assert world.inbound("web", POD, 80, host="private.example").status == 503


# Loop guard


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_a_stream_to_our_own_ports_is_a_503(world: World, port: int) -> None:
    verdict = world.inbound("web", POD, port)
    assert refusal(verdict) == "attempted recursive call to ourselves"
    assert verdict.status == 503
    world.service("loop.example", ports={80: port})
    assert world.inbound("web", POD, 80, host="loop.example").status == 503


# Application tunnels


def test_a_tunnel_replaces_the_port(world: World) -> None:
    world.pod("web", ip=POD, application_tunnel=ApplicationTunnel(TunnelTarget.NONE, 15088))
    verdict = world.inbound("web", POD, 8080)
    assert [(e.ip, e.port) for e in verdict.endpoints] == [(ip(POD), 15088)]
    assert not verdict.flags & VerdictFlag.PROXY_PROTOCOL


def test_a_proxy_tunnel_is_dialled_on_loopback_with_the_authority_in_its_header(world: World) -> None:
    world.pod("web", ip=POD, spoof=True, application_tunnel=ApplicationTunnel(TunnelTarget.PROXY, 15088))
    verdict = world.inbound("web", "10.1.0.77", 8080, local=POD)
    assert verdict.flags == VerdictFlag.PROXY_PROTOCOL
    dial, header = verdict.endpoints
    assert (dial.ip, dial.port) == (ip("127.0.0.1"), 15088)
    assert (header.ip, header.port, header.weight) == (ip("10.1.0.77"), 8080, 0)
    world.settings = Settings(localhost_app_tunnel=False)
    verdict = world.inbound("web", "10.1.0.77", 8080, local=POD)
    assert verdict.endpoints[0].ip == ip(POD)
    assert verdict.flags == VerdictFlag.PROXY_PROTOCOL | VerdictFlag.SPOOF


def test_a_proxy_tunnel_of_an_ipv6_pod_is_dialled_on_ipv6_loopback(world: World) -> None:
    world.pod("web", ip="fd00::2", application_tunnel=ApplicationTunnel(TunnelTarget.PROXY))
    verdict = world.inbound("web", "fd00::2", 8080)
    assert (verdict.endpoints[0].ip, verdict.endpoints[0].port) == (ip("::1"), 8080)


def test_a_proxy_tunnel_to_a_hostname_names_the_services_vip_and_service_port(world: World) -> None:
    world.pod("web", ip=POD, services=WEB, application_tunnel=ApplicationTunnel(TunnelTarget.PROXY, 15088))
    world.service("web.example", vips=["east|10.7.0.1", "fd00:1::1", "10.1.0.1", "10.2.0.0/16"])
    header = world.inbound("web", POD, 80, host="web.example").endpoints[1]
    assert (header.ip, header.port) == (ip("10.1.0.1"), 80)
    world.service("web.example", vips=["10.2.0.0/16"])
    verdict = world.inbound("web", POD, 80, host="web.example")
    assert "has no address" in refusal(verdict)
    assert verdict.status == 503


# Authorization


def test_a_denied_stream_is_a_401_with_its_policy(world: World) -> None:
    world.policy("no", Match(principals=(StringMatch(presence=True),)), action=PolicyAction.DENY)
    verdict = world.inbound("web", POD, 8080)
    assert refusal(verdict) == "connection closed due to policy rejection: explicitly denied by: default/no"
    assert (verdict.status, verdict.flag) == (401, Flag.DENY)
    assert world.labels(verdict).destination.workload == "web"


def test_allow_policies_that_do_not_match_deny(world: World) -> None:
    world.policy("some", Match(namespaces=exactly("elsewhere")))
    assert refusal(world.inbound("web", POD, 8080)).endswith("allow policies exist, but none allowed")
    assert world.inbound("web", POD, 8080, peer="spiffe://td/ns/elsewhere/sa/x").action is Action.DELIVER


def test_policies_see_the_resolved_port(world: World) -> None:
    world.policy("port", Match(destination_ports=(8080,)))
    assert world.inbound("web", POD, 80, host="web.example").action is Action.DELIVER
    assert world.inbound("web", POD, 80).status == 401


def test_policies_see_the_tcp_peer_and_the_pods_address(world: World) -> None:
    world.policy("ips", Match(source_ips=(cidr("10.0.0.1/32"),), destination_ips=(cidr("10.0.0.2/32"),)))
    assert world.inbound("web", POD, 8080).action is Action.DELIVER
    assert world.inbound("web", POD, 8080, source="10.0.0.3").status == 401
    world.pod("web", ip=POD, application_tunnel=ApplicationTunnel())
    assert world.inbound("web", "10.0.0.50", 8080, local=POD).action is Action.DELIVER


def test_only_policies_of_the_pod_apply(world: World) -> None:
    deny = Match(not_namespaces=exactly("nobody"))
    world.policy("other-namespace", deny, action=PolicyAction.DENY, namespace="other")
    world.policy("unattached", deny, action=PolicyAction.DENY, scope=PolicyScope.WORKLOAD_SELECTOR)
    decision = world.decide(world.inbound_upcall("web", POD, 8080))
    assert decision.verdict.action is Action.DELIVER
    world.pod("web", ip=POD, services=WEB, authorization_policies=("default/unattached",))
    assert decision.deps & world.change.keys
    assert world.inbound("web", POD, 8080).status == 401


def test_a_dry_run_policy_is_told_and_changes_nothing(world: World) -> None:
    world.policy("trial", Match(not_namespaces=exactly("nobody")), action=PolicyAction.DENY, dry_run=True)
    decision = world.decide(world.inbound_upcall("web", POD, 8080))
    assert decision.verdict.action is Action.DELIVER
    assert decision.notes == ("dry run: would be denied by: default/trial",)


@pytest.mark.parametrize("peer", ["", "spiffe://td/ns/a", "https://td/ns/a/sa/b"])
def test_a_peer_without_a_mesh_identity_is_refused(world: World, peer: str) -> None:
    verdict = world.inbound("web", POD, 8080, peer=peer)
    assert (verdict.status, verdict.flag) == (401, Flag.IDENTITY_ERROR)
    assert refusal(verdict).startswith("identity error: ")


def test_an_inbound_decision_depends_on_every_policy_that_could_apply(world: World) -> None:
    world.pod("web", ip=POD, authorization_policies=("default/one", "default/unknown"))
    deps = world.decide(world.inbound_upcall("web", POD, 8080)).deps
    assert {
        keys.policy_namespace_key(""),
        keys.policy_namespace_key("default"),
        keys.policy_key("default/one"),
        keys.policy_key("default/unknown"),
        keys.local_key("default", "web"),
        keys.ip_key("", ip("10.0.0.1")),
    } <= deps


# Labels


def test_the_client_is_known_by_its_address_before_its_baggage(world: World) -> None:
    labels = world.labels(world.inbound("web", POD, 8080, baggage="k8s.pod.name=liar"))
    assert labels.reporter == "destination"
    assert labels.source.workload == "client"
    assert labels.source.principal == "spiffe://cluster.local/ns/default/sa/client"
    assert labels.destination.principal == "spiffe://cluster.local/ns/default/sa/web"
    assert labels.mutual_tls


def test_an_unknown_address_is_known_by_its_baggage(world: World) -> None:
    verdict = world.inbound("web", POD, 8080, source="10.9.9.9", baggage="k8s.pod.name=far,service.name=s")
    assert world.labels(verdict).source.workload == "far"
    assert verdict.mask & Mask.BAGGAGE
    world.settings = Settings(response_baggage=False)
    verdict = world.inbound("web", POD, 8080, source="10.9.9.9", baggage="k8s.pod.name=far")
    assert world.labels(verdict).source.workload == ""
    assert world.labels(verdict).source.principal != ""


def test_behind_a_gateway_the_baggage_alone_counts(world: World) -> None:
    verdict = world.inbound("web", POD, 8080, baggage="k8s.pod.name=far", gateway=True)
    assert world.labels(verdict).source.workload == "far"
    assert not verdict.mask & Mask.SRC_IP


def test_the_service_is_the_forwarded_host_if_it_is_one_of_the_pods(world: World) -> None:
    world.pod("web", ip=POD, services={**WEB, "also.example": {80: 8080}, "gone.example": {80: 8080}})
    world.service("also.example")

    def service(forwarded: str, port: int = 8080) -> str:
        return world.labels(world.inbound("web", POD, port, forwarded=forwarded)).service.hostname

    assert service("also.example") == "also.example"
    assert service("stranger.example") == "web.example"
    assert service("gone.example") == "web.example"
    assert service("") == "web.example"
    assert service("", port=9999) == ""
    assert service("also.example", port=9999) == "also.example"


def test_the_service_may_be_guessed_by_the_endpoints_own_port(world: World) -> None:
    world.pod("web", ip=POD, services={"web.example": {80: 7070}})
    assert world.labels(world.inbound("web", POD, 7070)).service.hostname == "web.example"


# Plaintext


def test_plaintext_is_delivered_where_it_was_sent(world: World) -> None:
    verdict = world.plain("web", POD, 8080)
    assert verdict.action is Action.DELIVER
    assert (verdict.endpoints[0].ip, verdict.endpoints[0].port) == (ip(POD), 8080)
    assert verdict.flags == VerdictFlag.SPOOF
    assert verdict.mask == Mask.DST_IP | Mask.DST_PORT | Mask.SRC_IP
    assert verdict.baggage == b""
    labels = world.labels(verdict)
    assert not labels.mutual_tls
    assert labels.source.workload == "client"
    assert labels.source.principal == ""
    assert labels.service.hostname == "web.example"


@pytest.mark.parametrize("address", [POD, "127.0.0.1", "10.0.0.77"])
def test_plaintext_to_our_own_ports_is_refused_at_any_address(world: World, address: str) -> None:
    verdict = world.plain("web", address, 15006)
    assert refusal(verdict) == "attempted recursive call to ourselves"
    assert (verdict.status, verdict.flag) == (0, Flag.NONE)


def test_strict_mtls_refuses_plaintext_and_lets_hbone_pass(world: World) -> None:
    world.policy(
        "istio_converted_static_strict",
        Match(not_principals=(StringMatch(presence=True),), not_destination_ports=(9000,)),
        action=PolicyAction.DENY,
        namespace="istio-system",
        scope=PolicyScope.GLOBAL,
    )
    verdict = world.plain("web", POD, 8080)
    assert "explicitly denied by: istio-system/istio_converted_static_strict" in refusal(verdict)
    assert (verdict.status, verdict.flag) == (0, Flag.DENY)
    assert world.plain("web", POD, 9000).action is Action.DELIVER
    assert world.inbound("web", POD, 8080).action is Action.DELIVER


def test_plaintext_policies_see_the_original_destination(world: World) -> None:
    world.policy("ips", Match(destination_ips=(cidr("10.0.0.2/32"),)))
    assert world.plain("web", POD, 8080).action is Action.DELIVER
    assert world.plain("web", "10.0.0.3", 8080).action is Action.DENY


# Waiting


@pytest.mark.parametrize("plain", [True, False])
def test_a_pod_whose_record_has_not_come_waits_for_it(plain: bool) -> None:
    world = World()
    world.local(Workload(uid="u", name="late", namespace="default", service_account="late"))
    upcall = world.plain_upcall("late", POD, 80) if plain else world.inbound_upcall("late", POD, 80)
    answer = world.ask(upcall)
    assert isinstance(answer, Pending)
    world.pod("late", ip=POD)
    assert answer.deps & world.change.keys
    assert world.decide(upcall).verdict.action is Action.DELIVER
