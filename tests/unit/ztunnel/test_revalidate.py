"""What workers hold stays true: masks, dependencies, updates and flushes, against decisions made afresh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcore.model import (
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    Match,
    NetworkMode,
    PolicyAction,
    PolicyScope,
    StringMatch,
    Visibility,
    WorkloadStatus,
)
from meshcore.records import Action as Act
from meshcore.records import Direction, Mask, Upcall, UpcallFlag, Verdict
from tests.support.world import NO_IP, World, by_host, by_ip, cidr, exactly, ip, weighted
from ztunnel.decide import decide
from ztunnel.decision import Decision, LocalPod, Pending
from ztunnel.ids import needed
from ztunnel.revalidate import Action, EndpointGone, Entry, Flush, Update, VerdictCache, flow_key

POD = "10.0.0.2"
WEB = {"web.example": {80: 8080}}


class Node:
    """A control process and what its workers hold, without sockets."""

    def __init__(self) -> None:
        self.world = World()
        self.decided = 0
        self.cache = VerdictCache(self._decide, self.world.ids)
        self.world.state.watched = self.cache.watched
        self.held: dict[int, dict[int, Verdict]] = {1: {}, 2: {}}

    def _decide(self, upcall: Upcall, pod: LocalPod) -> Decision | Pending:
        self.decided += 1
        return decide(upcall, pod, self.world.state, self.world.ids)

    def ask(self, upcall: Upcall, worker: int = 1) -> Entry | Pending:
        pod = next(pod for pod in self.world.pods.values() if pod.pod_id == upcall.pod_id)
        entry = self.cache.answer(upcall, pod, worker)
        if isinstance(entry, Entry):
            self.held[worker][entry.verdict_id] = entry.verdict
        return entry

    def entry(self, upcall: Upcall, worker: int = 1) -> Entry:
        entry = self.ask(upcall, worker)
        assert isinstance(entry, Entry)
        return entry

    def obey(self, actions: Sequence[Action]) -> None:
        """Do what workers do with the records these actions become."""
        for action in actions:
            if isinstance(action, EndpointGone):
                continue
            for worker in action.workers:
                if isinstance(action, Flush):
                    del self.held[worker][action.verdict_id]
                elif action.verdict_id in self.held[worker]:
                    self.held[worker][action.verdict_id] = action.verdict

    def change(self, limit: int | None = None) -> list[Action]:
        """Revalidate after what the world's last builder moved."""
        actions = self.cache.on_change(self.world.change, limit)
        self.obey(actions)
        return actions


@pytest.fixture
def node() -> Node:
    node = Node()
    node.world.pod("client", ip="10.0.0.1")
    node.world.pod("web", ip=POD, services=WEB)
    node.world.service("web.example", vips=["10.1.0.1"])
    return node


def test_flows_that_differ_in_unconsulted_fields_share_a_verdict(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    first = node.entry(upcall)
    again = node.entry(upcall._replace(src_ip=ip("10.0.0.9"), src_port=5, cookie=99))
    assert first is again
    assert node.decided == 1
    assert node.entry(upcall._replace(dst_port=81)) is not first


def test_pod_direction_and_flags_always_count(node: Node) -> None:
    upcall = node.world.inbound_upcall("web", POD, 8080)
    others = [
        upcall._replace(pod_id=9),
        upcall._replace(direction=Direction.INBOUND_PLAIN),
        upcall._replace(flags=UpcallFlag.GATEWAY),
    ]
    for other in others:
        assert flow_key(upcall, Mask(0)) != flow_key(other, Mask(0))


def test_workers_share_verdicts(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    assert node.entry(upcall, 1) is node.entry(upcall, 2)
    node.world.pod("web", ip=POD, services=WEB, status=WorkloadStatus.UNHEALTHY)
    [update] = node.change()
    assert isinstance(update, Update)
    assert update.workers == {1, 2}
    assert update.verdict.action is Act.DENY


def test_a_change_elsewhere_decides_nothing(node: Node) -> None:
    node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    node.world.pod("other", ip="10.0.0.50")
    assert node.world.change.keys == set()
    assert node.change() == []
    assert node.decided == 1


def test_a_change_without_effect_sends_nothing(node: Node) -> None:
    node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    node.world.service("web.example", vips=["10.1.0.1"], ports={80: 8080, 81: 8081})
    assert node.change() == []
    assert node.decided == 2


def test_a_policy_that_reads_no_new_field_updates(node: Node) -> None:
    entry = node.entry(node.world.inbound_upcall("web", POD, 8080))
    node.world.policy("no", Match(destination_ports=(8080,)), action=PolicyAction.DENY)
    assert node.change() == [Update(entry.verdict_id, entry.verdict, frozenset({1}))]
    assert entry.verdict.action is Act.DENY


def test_a_policy_that_reads_a_new_field_flushes_and_asks_again(node: Node) -> None:
    node.world.apply(removed=["Kubernetes//Pod/default/client"])
    upcall = node.world.inbound_upcall("web", POD, 8080, gateway=True)
    entry = node.entry(upcall)
    assert not entry.verdict.mask & Mask.SRC_IP
    node.world.policy("ips", Match(source_ips=(cidr("10.0.0.0/8"),)))
    assert node.change() == [Flush(entry.verdict_id, True, frozenset({1}))]
    assert len(node.cache) == 0
    assert node.entry(upcall).verdict.mask & Mask.SRC_IP


def test_a_list_of_policies_that_changes_closes_too(node: Node) -> None:
    deny = Match(destination_ports=(8080,))
    node.world.policy("sel", deny, action=PolicyAction.DENY, scope=PolicyScope.WORKLOAD_SELECTOR)
    node.entry(node.world.inbound_upcall("web", POD, 8080))
    node.world.pod("web", ip=POD, services=WEB, authorization_policies=("default/sel",))
    [update] = node.change()
    assert isinstance(update, Update)
    assert update.verdict.action is Act.DENY


def test_a_pod_whose_record_goes_away_asks_again_and_waits(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    entry = node.entry(upcall)
    node.world.apply(removed=["Kubernetes//Pod/default/client"])
    assert node.change() == [
        Flush(entry.verdict_id, True, frozenset({1})),
        EndpointGone(ip("10.0.0.1")),
    ]
    assert isinstance(node.ask(upcall), Pending)


def test_a_removed_endpoint_is_told_whoever_holds_what(node: Node) -> None:
    node.world.apply(removed=["Kubernetes//Pod/default/web"])
    assert node.change() == [EndpointGone(ip(POD))]


def test_verdicts_leave_an_address_before_it_is_gone(node: Node) -> None:
    node.world.pod("web-2", ip="10.0.0.3", services=WEB)
    node.change()
    entry = node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    node.world.apply(removed=["Kubernetes//Pod/default/web"])
    update, gone = node.change()
    assert isinstance(update, Update)
    assert [e.ip for e in entry.verdict.endpoints] == [ip("10.0.0.3")]
    assert gone == EndpointGone(ip(POD))


def test_an_evicted_verdict_is_forgotten_with_its_last_holder(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    entry = node.entry(upcall, 1)
    node.entry(upcall, 2)
    assert node.cache.on_evict(1, [entry.verdict_id]) == []
    assert len(node.cache) == 1
    assert node.cache.on_evict(2, [entry.verdict_id, 12345]) == []
    assert len(node.cache) == 0
    assert node.world.state.watched is node.cache.watched
    node.world.service("web.example", vips=["10.1.0.1"], ports={80: 1})
    assert node.world.change.keys == set()


def test_an_eviction_that_crossed_an_answer_is_settled_by_a_flush(node: Node) -> None:
    """The worker evicts; before that is read, it is given the same verdict for another flow."""
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    entry = node.entry(upcall)
    node.entry(upcall._replace(src_ip=ip("10.0.0.9")))
    assert node.cache.on_evict(1, [entry.verdict_id]) == [Flush(entry.verdict_id, True, frozenset({1}))]
    assert len(node.cache) == 0


def test_a_worker_that_dies_holds_nothing(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    node.entry(upcall, 1)
    shared = node.entry(node.world.outbound_upcall("client", POD, 8080), 1)
    node.entry(node.world.outbound_upcall("client", POD, 8080), 2)
    node.cache.on_worker_gone(1)
    assert len(node.cache) == 1
    assert set(shared.grants) == {2}


def test_a_pod_that_leaves_takes_its_verdicts(node: Node) -> None:
    node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    kept = node.entry(node.world.inbound_upcall("web", POD, 8080))
    node.cache.on_pod_gone(node.world.pods["client"].pod_id)
    assert len(node.cache) == 1
    assert node.entry(node.world.inbound_upcall("web", POD, 8080)) is kept


def test_a_pods_new_certificate_updates_its_verdicts(node: Node) -> None:
    node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    [update] = node.cache.replace_pod(node.world.pods["client"]._replace(cert_id=77))
    assert isinstance(update, Update)
    assert update.verdict.cert_id == 77


def test_inserting_twice_is_a_bug_that_shows(node: Node) -> None:
    upcall = node.world.outbound_upcall("client", "10.1.0.1", 80)
    entry = node.entry(upcall)
    with pytest.raises(ValueError, match="look it up"):
        node.cache.insert(upcall, entry.pod, Decision(entry.verdict, entry.deps), 1)


def test_ids_are_never_shared(node: Node) -> None:
    entry = node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    assert node.cache.new_id() > entry.verdict_id


def test_a_verdict_retains_its_labels_until_it_is_dropped(node: Node) -> None:
    entry = node.entry(node.world.outbound_upcall("client", "10.1.0.1", 80))
    labels, sans = needed(entry.verdict)

    def sweep() -> set[int]:
        read = [0] * 16
        node.world.ids.sans.sweep()
        node.world.ids.sans.sweep()
        return {*node.world.ids.labels.sweep(lambda _: read), *node.world.ids.labels.sweep(lambda _: read)}

    assert sweep() == set()
    assert [node.world.ids.sans[number] for number in sans] == [("spiffe://cluster.local/ns/default/sa/web",)]
    node.world.pod("web", ip=POD, services=WEB, service_account="other")
    [update] = node.change()
    assert isinstance(update, Update)
    assert sweep() == labels
    node.cache.on_worker_gone(1)
    assert sweep() == needed(update.verdict)[0]
    assert len(node.world.ids.sans) == 0


def test_a_large_change_may_be_taken_in_steps_and_answers_are_true_meanwhile(node: Node) -> None:
    calls = [node.world.inbound_upcall("web", POD, port) for port in (80, 81, 82, 83)]
    entries = [node.entry(call) for call in calls]
    node.world.policy("no", Match(destination_ports=(82, 83)), action=PolicyAction.DENY)
    assert node.change(limit=1) == []
    assert node.cache.backlog == 3
    fresh = node.entry(calls[3], worker=2)
    assert fresh is entries[3]
    assert fresh.verdict.action is Act.DENY
    actions = node.cache.revalidate(limit=1)
    assert [a.verdict_id for a in actions if isinstance(a, Update)] == [entries[3].verdict_id]
    rest = node.cache.revalidate()
    assert [a.verdict_id for a in rest if isinstance(a, Update)] == [entries[2].verdict_id]
    assert node.cache.backlog == 0


# Against decisions made afresh

IPS = ["10.0.0.1", POD, "10.0.0.3", "10.1.0.1", "10.1.0.2", "8.8.8.8", "127.0.0.1"]
PORTS = [80, 8080, 15008]
NAMES = ["client", "web", "wp"]
PEERS = ["spiffe://cluster.local/ns/default/sa/client", "spiffe://td/ns/other/sa/x", "bad"]
HOSTS = ["", "web.example", "wp.example", "no.example"]
BAGGAGES = ["", "k8s.pod.name=far"]


@st.composite
def upcalls(draw: st.DrawFn) -> Upcall:
    direction = draw(st.sampled_from(Direction))
    hbone = direction is Direction.INBOUND_HBONE
    host = draw(st.sampled_from(HOSTS)) if hbone else ""
    return Upcall(
        0,
        draw(st.sampled_from([1, 2, 3])),
        direction,
        draw(st.sampled_from([UpcallFlag(0), UpcallFlag.GATEWAY])) if hbone else UpcallFlag(0),
        ip(draw(st.sampled_from(IPS))),
        draw(st.integers(1024, 1030)),
        NO_IP if host else ip(draw(st.sampled_from(IPS))),
        draw(st.sampled_from(PORTS)),
        ip(draw(st.sampled_from(IPS))) if hbone else NO_IP,
        draw(st.sampled_from(PEERS)) if hbone else "",
        host,
        draw(st.sampled_from(HOSTS)) if hbone else "",
        draw(st.sampled_from(BAGGAGES)) if hbone else "",
    )


MATCHES = st.lists(
    st.builds(
        Match,
        principals=st.sampled_from([(), (StringMatch(presence=True),), exactly("td/ns/other/sa/x")]),
        not_namespaces=st.sampled_from([(), exactly("default")]),
        source_ips=st.sampled_from([(), (cidr("10.0.0.1/32"),)]),
        not_destination_ips=st.sampled_from([(), (cidr("10.0.0.2/32"),)]),
        destination_ports=st.sampled_from([(), (80,), (8080,)]),
    ),
    max_size=2,
)
WAYPOINTS = st.sampled_from([None, by_host("wp.example"), by_ip("10.1.0.2"), by_ip("10.0.0.3"), by_host("no.example")])

PUSHES = st.one_of(
    st.tuples(
        st.just("pod"),
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(NAMES),
                "ip": st.lists(st.sampled_from(IPS[:5]), max_size=2, unique=True),
                "hbone": st.booleans(),
                "services": st.sampled_from([{}, WEB, {**WEB, "wp.example": {15008: 15008}}, {"wp.example": {80: 80}}]),
                "waypoint": WAYPOINTS,
                "status": st.sampled_from(WorkloadStatus),
                "network": st.sampled_from(["", "", "", "east"]),
                "network_mode": st.sampled_from(NetworkMode),
                "locality": st.sampled_from([None, Locality("eu"), Locality("us")]),
                "authorization_policies": st.sampled_from([(), ("default/p",), ("default/q",)]),
                "service_account": st.sampled_from(["client", "wp"]),
                "hostname": st.sampled_from(["", "no.example"]),
            }
        ),
    ),
    st.tuples(
        st.just("service"),
        st.fixed_dictionaries(
            {
                "hostname": st.sampled_from(["web.example", "wp.example"]),
                "vips": st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2", "10.0.0.3", "10.1.0.0/24"]), max_size=2),
                "ports": st.sampled_from([{80: 8080}, {80: 0}, {15008: 15008, 80: 80}]),
                "namespace": st.sampled_from(["default", "other"]),
                "waypoint": WAYPOINTS,
                "weighted_waypoints": st.sampled_from([(), weighted(wp=1, no=2)]),
                "visibility": st.sampled_from(Visibility),
                "lb": st.one_of(
                    st.none(),
                    st.builds(LoadBalancing, st.just((LbScope.REGION,)), st.sampled_from(LbMode)),
                ),
            }
        ),
    ),
    st.tuples(
        st.just("policy"),
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["p", "q"]),
                "matches": MATCHES,
                "action": st.sampled_from(PolicyAction),
                "scope": st.sampled_from(PolicyScope),
                "dry_run": st.booleans(),
            }
        ),
    ),
    st.tuples(st.just("drop"), st.sampled_from([f"Kubernetes//Pod/default/{name}" for name in NAMES])),
    st.tuples(st.just("drop"), st.sampled_from(["default/web.example", "default/wp.example"])),
    st.tuples(st.just("drop policy"), st.sampled_from(["default/p", "default/q"])),
)


def settled_node() -> Node:
    """A node on which random changes start from something that works."""
    node = Node()
    for number, (name, address) in enumerate(zip(NAMES, IPS, strict=False), 1):
        node.world.pod(name, ip=address, services=WEB if name == "web" else {}, service_account="client")
        assert node.world.pods[name].pod_id == number
    node.world.pods = {name: pod._replace(service_account="client") for name, pod in node.world.pods.items()}
    node.world.service("web.example", vips=["10.1.0.1"])
    return node


def push(world: World, what: str, fields: Any) -> None:
    local = dict(world.pods)
    if what == "pod":
        world.pod(**fields)
    elif what == "service":
        world.service(**fields)
    elif what == "policy":
        fields = dict(fields)
        world.policy(fields.pop("name"), *fields.pop("matches"), **fields)
    elif what == "drop":
        world.apply(removed=[fields])
    else:
        world.remove_policy(fields)
    world.pods = local  # what is local does not change with what the control plane says of it


@settings(max_examples=200)
@given(st.lists(PUSHES, max_size=5), st.lists(upcalls(), min_size=1, max_size=8))
def test_flows_equal_in_what_was_consulted_get_the_same_verdict(
    pushes: list[tuple[str, Any]], flows: list[Upcall]
) -> None:
    node = settled_node()
    for what, fields in pushes:
        push(node.world, what, fields)
    first = flows[0]
    decision = node.world.ask(first)
    if isinstance(decision, Pending):
        return
    mask = decision.verdict.mask
    for other in flows[1:]:
        twin = other._replace(
            pod_id=first.pod_id,
            direction=first.direction,
            flags=first.flags,
            **{
                name: getattr(first, name)
                for bit, name in (
                    (Mask.SRC_IP, "src_ip"),
                    (Mask.DST_IP, "dst_ip"),
                    (Mask.DST_PORT, "dst_port"),
                    (Mask.PEER, "peer"),
                    (Mask.HOST, "host"),
                    (Mask.FORWARDED, "forwarded"),
                    (Mask.LOCAL_IP, "local_ip"),
                    (Mask.BAGGAGE, "baggage"),
                )
                if mask & bit
            },
        )
        assert node.world.ask(twin) == decision


@settings(max_examples=200)
@given(
    st.lists(upcalls(), min_size=1, max_size=10),
    st.lists(st.tuples(PUSHES, st.sampled_from([None, 0, 1]), upcalls()), min_size=1, max_size=8),
)
def test_what_workers_hold_is_what_would_be_decided_now(
    flows: list[Upcall], steps: list[tuple[tuple[str, Any], int | None, Upcall]]
) -> None:
    node = settled_node()
    for i, flow in enumerate(flows):
        node.ask(flow, worker=1 + i % 2)
    for (what, fields), limit, flow in steps:
        push(node.world, what, fields)
        node.change(limit)
        # Even while a change is being worked off, an answer is what would be decided now.
        answer = node.ask(flow)
        fresh = node.world.ask(flow)
        assert isinstance(answer, Pending) == isinstance(fresh, Pending)
        if isinstance(answer, Entry) and isinstance(fresh, Decision):
            assert answer.verdict == fresh.verdict
    while node.cache.backlog:
        node.obey(node.cache.revalidate(limit=1))
    check(node)


def check(node: Node) -> None:
    """Workers hold exactly what the cache says, and each verdict equals a fresh decision about its sample."""
    entries = {entry.verdict_id: entry for entry in node.cache._entries.values()}
    for worker, held in node.held.items():
        assert held == {number: e.verdict for number, e in entries.items() if worker in e.grants}
    for entry in entries.values():
        fresh = node.world.ask(entry.upcall)
        assert isinstance(fresh, Decision)
        assert fresh.verdict == entry.verdict
        assert fresh.deps == entry.deps
    depended = {key for entry in entries.values() for key in entry.deps}
    assert all((key in node.cache.watched) for key in depended)
    assert set(node.cache._dependents) == depended
