"""Who gets which address: names, virtual IPs, services and the own node, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istiod.push import Published
from istiod.xds.generators import Generators, Subscription
from istiod.xds.store import WARM_STEP, WORKLOAD_TYPE, Encoded
from meshcore import model
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.grpc import Unimplemented
from meshcore.stream.messages import DeltaRequest, DeltaResponse, Node
from tests.support.protobuf import referee

ZTUNNEL = Node("ztunnel~1.1.1.1~z.istio-system~x", node="n1")
EVERYTHING = ("*",)


def ip(last: int) -> bytes:
    return bytes([10, 0, 0, last])


def workload(name: str, last: int, *services: str, node: str = "n9", network: str = "") -> model.Address:
    ports = (model.Port(80, 8080),)
    return model.Address(
        workload=model.Workload(
            f"K//Pod/ns/{name}", name, "ns", (ip(last),), network, node=node, services=dict.fromkeys(services, ports)
        )
    )


def service(name: str, last: int) -> model.Address:
    vips = (model.NetworkAddress("", ip(last)),)
    return model.Address(service=model.Service(name, "ns", f"{name}.ns", vips))


def key(address: model.Address) -> str:
    if address.workload is not None:
        return address.workload.uid
    assert address.service is not None
    return f"{address.service.namespace}/{address.service.hostname}"


class Client:
    """One subscriber of a type, and what it holds after each of its turns."""

    def __init__(self, world: World, node: Node = ZTUNNEL, type_url: str = ADDRESS_TYPE) -> None:
        self.type_url = type_url
        self.subscription: Subscription = world.generators.open(type_url, node)
        self.held: dict[str, str] = {}
        self.removed: list[str] = []
        self.sent: list[str] = []
        self._nonce = ""
        world.generators.listen(self._changed)

    def _changed(self, source: str, names: frozenset[str], aliases: frozenset[str]) -> None:
        self.subscription.changed(source, names, aliases)

    def say(
        self,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        versions: dict[str, str] | None = None,
        error: str = "",
        *,
        answer: bool = True,
    ) -> None:
        nonce = self._nonce if answer else ""
        request = DeltaRequest(self.type_url, None, tuple(subscribe), tuple(unsubscribe), versions or {}, nonce, error)
        self.subscription.state.request(request, self.subscription.store)

    def turn(self, error: str = "") -> tuple[list[str], list[str]] | None:
        """Take the next response and answer it; returns the names that came and those removed."""
        response = self.subscription.state.next(self.subscription.store)
        if response is None:
            return None
        self._nonce = response.nonce
        self._take(response)
        self.say(error=error)
        return self.sent, self.removed

    def _take(self, response: DeltaResponse) -> None:
        self.sent = sorted(resource.name for resource in response.resources)
        self.removed = sorted(response.removed)
        self.held |= {resource.name: resource.version for resource in response.resources}
        for name in response.removed:
            self.held.pop(name, None)


class World:
    def __init__(self, *addresses: model.Address) -> None:
        self.published = Published()
        self.generators = Generators(self.published)
        self.put(*addresses)

    def put(self, *addresses: model.Address) -> None:
        self.published.update(ADDRESS_TYPE, {key(address): address for address in addresses})

    def remove(self, *names: str) -> None:
        self.published.update(ADDRESS_TYPE, dict.fromkeys(names))


A, B, C = workload("a", 1, "ns/s.ns"), workload("b", 2, "ns/s.ns"), workload("c", 3)
OWN = workload("own", 4, node="n1")
S = service("s", 100)
UID_A, UID_B, UID_C, UID_OWN = (key(one) for one in (A, B, C, OWN))


def test_a_wildcard_subscriber_gets_everything_under_real_names_with_aliases() -> None:
    client = Client(World(A, S))
    client.say()
    response = client.subscription.state.next(client.subscription.store)
    assert response is not None
    assert not response.more
    parsed = [
        referee("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(one.body).resources[0]
        for one in response.resources
    ]
    assert {one.name: list(one.aliases) for one in parsed} == {UID_A: ["/10.0.0.1"], "ns/s.ns": ["/10.0.0.100"]}
    for one in parsed:
        address = referee("istio.workload.Address").FromString(one.resource.value)
        assert one.resource.type_url == ADDRESS_TYPE
        assert address.WhichOneof("type") == ("workload" if one.name == UID_A else "service")
        assert len(one.version) == 16
        assert int(one.version, 16) >= 0


def test_on_demand_begins_with_the_own_node_only_and_follows_it() -> None:
    world = World(A, OWN)
    client = Client(world)
    client.say(EVERYTHING, EVERYTHING)
    assert client.turn() == ([UID_OWN], [])
    later = workload("later", 5, node="n1")
    world.put(later, C)
    assert client.turn() == ([key(later)], [])
    world.remove(key(later))
    assert client.turn() == ([], [key(later)])
    assert client.subscription.state.names == {UID_OWN}


def test_subscribing_to_nothing_is_answered_with_nothing() -> None:
    client = Client(World(A), Node("waypoint~1.1.1.1~w.ns~x", node="n9"))
    client.say(EVERYTHING, EVERYTHING)
    assert client.turn() == ([], [])
    assert client.turn() is None


def test_a_virtual_ip_brings_the_name_asked_for_the_service_and_its_workloads() -> None:
    world = World(A, B, C, S)
    client = Client(world)
    client.say(EVERYTHING, EVERYTHING)
    client.turn()
    client.say(["/10.0.0.100"])
    assert client.turn() == (["/10.0.0.100", UID_A, UID_B, "ns/s.ns"], [])
    world.put(workload("d", 6, "ns/s.ns"))
    assert client.turn() == (["K//Pod/ns/d"], [])
    world.remove(UID_A)
    assert client.turn() == ([], [UID_A])
    world.remove("ns/s.ns")
    assert client.turn() == ([], ["/10.0.0.100", "ns/s.ns"])
    world.put(S)
    assert client.turn() == (["/10.0.0.100", "ns/s.ns"], [])


def test_a_service_name_brings_its_workloads_and_an_ip_its_workload() -> None:
    client = Client(World(A, B, C, S))
    client.say(["ns/s.ns"])
    assert client.turn() == ([UID_A, UID_B, "ns/s.ns"], [])
    client.say(["/10.0.0.3"])
    assert client.turn() == (["/10.0.0.3", UID_C], [])


def test_what_is_not_found_is_echoed_and_comes_when_it_appears() -> None:
    world = World()
    client = Client(world)
    client.say([UID_A, "/10.0.0.100"])
    assert client.turn() == ([], ["/10.0.0.100", UID_A])
    world.put(A)
    assert client.turn() == ([UID_A], [])
    world.put(S)
    assert client.turn() == (["/10.0.0.100", "ns/s.ns"], [])


def test_an_ip_that_moves_to_another_workload_is_told_under_the_ip_again() -> None:
    world = World(A)
    client = Client(world)
    client.say(["/10.0.0.1"])
    assert client.turn() == (["/10.0.0.1", UID_A], [])
    world.published.update(ADDRESS_TYPE, {UID_A: None, UID_C: workload("c", 1)})
    assert client.turn() == (["/10.0.0.1", UID_C], [UID_A])


def test_two_services_may_share_a_virtual_ip() -> None:
    other = service("t", 100)
    client = Client(World(S, other))
    client.say(["/10.0.0.100"])
    assert client.turn() == (["/10.0.0.100", "ns/s.ns", "ns/t.ns"], [])


@pytest.mark.parametrize("on_demand", [False, True])
def test_a_resumed_subscriber_gets_the_difference_only(on_demand: bool) -> None:
    world = World(A, B, C, S)
    client = Client(world)
    if on_demand:
        client.say([UID_A, UID_B, UID_C])
    else:
        client.say()
    client.turn()
    held = client.held
    world.put(workload("a", 9))
    world.remove(UID_B)
    again = Client(world)
    if on_demand:
        again.say(EVERYTHING, EVERYTHING, held)
    else:
        again.say(versions=held)
    assert again.turn() == ([UID_A], [UID_B])
    world.put(workload("c", 33))
    assert again.turn() == ([UID_C], [])


def test_a_key_held_without_a_version_is_answered_on_resume() -> None:
    client = Client(World(A))
    client.say(EVERYTHING, EVERYTHING, {"/10.0.0.1": ""})
    assert client.turn() == (["/10.0.0.1", UID_A], [])


def test_a_name_subscribed_again_is_sent_again() -> None:
    client = Client(World(A))
    client.say([UID_A])
    client.turn()
    client.say([UID_A])
    assert client.turn() == ([UID_A], [])
    client.say(["gone"])
    assert client.turn() == ([], ["gone"])


def test_a_refused_resource_waits_for_its_change() -> None:
    world = World(A)
    client = Client(world)
    client.say()
    client.turn(error="no")
    state = client.subscription.state
    assert (state.rejected, state.sent, state.acked) == ("no", 1, 0)
    assert client.turn() is None
    world.put(workload("a", 9))
    assert client.turn() == ([UID_A], [])
    assert (state.rejected, state.sent, state.acked) == ("", 2, 2)


def test_an_answer_to_another_response_is_counted_and_changes_nothing() -> None:
    client = Client(World(A))
    client.say()
    state = client.subscription.state
    assert state.next(client.subscription.store) is not None
    state.request(DeltaRequest(ADDRESS_TYPE, nonce="other"), client.subscription.store)
    assert state.stale == 1
    assert state.waiting


def test_unsubscribing_from_everything_leaves_the_own_node() -> None:
    world = World(A, OWN)
    client = Client(world)
    client.say()
    client.turn()
    client.say(unsubscribe=["*"])
    world.put(workload("a", 8), workload("own", 7, node="n1"))
    assert client.turn() == ([UID_OWN], [])


def test_an_unsubscribed_name_is_not_sent_again() -> None:
    world = World(A, C)
    client = Client(world)
    client.say([UID_A, UID_C])
    client.turn()
    client.say(unsubscribe=[UID_A])
    world.put(workload("a", 8), workload("c", 9))
    assert client.turn() == ([UID_C], [])


def test_the_workload_type_has_no_services() -> None:
    world = World(A, S)
    client = Client(world, type_url=WORKLOAD_TYPE)
    client.say()
    assert client.turn() == ([UID_A], [])
    world.put(service("s", 101))
    assert client.turn() is None
    by_service = Client(world, type_url=WORKLOAD_TYPE)
    by_service.say(["ns/s.ns"])
    assert by_service.turn() == ([UID_A], ["ns/s.ns"])


def test_policies_are_served_by_name_and_wholesale() -> None:
    world = World()
    policy = model.Authorization("p", "ns", model.PolicyScope.NAMESPACE, model.PolicyAction.DENY)
    world.published.update(AUTHORIZATION_TYPE, {"ns/p": policy})
    everything, one = Client(world, type_url=AUTHORIZATION_TYPE), Client(world, type_url=AUTHORIZATION_TYPE)
    everything.say()
    assert everything.turn() == (["ns/p"], [])
    one.say(["ns/q"])
    assert one.turn() == ([], ["ns/q"])


def test_a_type_that_is_not_served_is_named() -> None:
    with pytest.raises(Unimplemented, match=r"listener\.v3\.Listener"):
        World().generators.open("type.googleapis.com/envoy.config.listener.v3.Listener", ZTUNNEL)


def test_an_object_that_cannot_be_encoded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bad = model.Address(workload=model.Workload("bad", "b", "ns", capacity=-1))
    client = Client(World(A, bad))
    client.say()
    assert client.turn() == ([UID_A], [])
    assert "'bad' is left out" in caplog.text


def test_a_resource_is_encoded_once_for_all_and_again_after_a_change() -> None:
    world = World(A, C)
    clients = [Client(world) for _ in range(3)]
    bodies = []
    for client in clients:
        client.say()
        response = client.subscription.state.next(client.subscription.store)
        assert response is not None
        bodies.append({resource.name: id(resource.body) for resource in response.resources})
    assert bodies[0] == bodies[1] == bodies[2]
    world.put(workload("a", 9))
    fresh = Client(world)
    fresh.say()
    response = fresh.subscription.state.next(fresh.subscription.store)
    assert response is not None
    after = {resource.name: id(resource.body) for resource in response.resources}
    assert after[UID_C] == bodies[0][UID_C]
    assert after[UID_A] != bodies[0][UID_A]


def test_what_is_gone_leaves_nothing_behind() -> None:
    published = Published()
    store = Encoded(published, ADDRESS_TYPE, ADDRESS_TYPE)
    generators = Generators(published)
    published.update(ADDRESS_TYPE, {UID_A: A, UID_C: C})
    mine = generators.open(ADDRESS_TYPE, ZTUNNEL).store
    assert isinstance(mine, Encoded)
    first = mine[UID_A].version
    published.update(ADDRESS_TYPE, {UID_A: workload("a", 9)})
    assert mine.made == 0
    assert mine[UID_A].version != first
    assert (mine.made, store.made) == (1, 0)
    published.update(ADDRESS_TYPE, {UID_A: None})
    assert mine.made == 0
    assert UID_A not in mine


def test_a_store_that_nobody_told_notices_a_change_itself() -> None:
    published = Published()
    store = Encoded(published, ADDRESS_TYPE, ADDRESS_TYPE)
    published.update(ADDRESS_TYPE, {UID_A: A})
    first = store[UID_A]
    assert store[UID_A] is first
    published.update(ADDRESS_TYPE, {UID_A: workload("a", 9)})
    assert store[UID_A].version != first.version


def test_everything_is_encoded_in_steps_that_let_others_run() -> None:
    world = World(*(workload(f"w{i}", i % 200) for i in range(3 * WARM_STEP)))
    store = world.generators.open(ADDRESS_TYPE, ZTUNNEL).store
    assert isinstance(store, Encoded)
    turns: list[int] = []

    async def scenario() -> None:
        warming = asyncio.create_task(store.warm())
        while not warming.done():
            await asyncio.sleep(0)
            turns.append(store.made)
        await warming

    asyncio.run(scenario())
    assert store.made == 3 * WARM_STEP
    assert WARM_STEP in turns
    assert 2 * WARM_STEP in turns


NAMES = st.sampled_from([UID_A, UID_B, UID_C, UID_OWN, "ns/s.ns", "/10.0.0.1", "/10.0.0.2", "/10.0.0.100", "absent"])
CHANGES = st.dictionaries(
    st.sampled_from("abc"),
    st.none() | st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from(["n1", "n2"])),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(NAMES, max_size=2), CHANGES), max_size=8))
def test_an_on_demand_subscriber_ends_with_what_it_asked_for(
    steps: list[tuple[list[str], dict[str, tuple[int, bool, str] | None]]],
) -> None:
    """After any history: what is asked for and exists is held in its last version, what does not is not."""
    world = World(S)
    client = Client(world)
    client.say(EVERYTHING, EVERYTHING)
    asked: set[str] = set()
    for subscribe, changes in steps:
        asked.update(subscribe)
        client.say(subscribe, answer=False)
        changed: dict[str, model.Address | None] = {}
        for name, spec in changes.items():
            if spec is None:
                changed[f"K//Pod/ns/{name}"] = None
            else:
                last, in_service, node = spec
                changed[f"K//Pod/ns/{name}"] = workload(name, last, *(("ns/s.ns",) if in_service else ()), node=node)
        world.published.update(ADDRESS_TYPE, changed)
        while client.turn():
            pass
    store = client.subscription.store
    wanted = {name for name in asked if name in store}
    for name, address in world.published.objects(ADDRESS_TYPE).items():
        if (pod := address.workload) is not None:
            by_service = "ns/s.ns" in pod.services and not asked.isdisjoint({"ns/s.ns", "/10.0.0.100"})
            by_ip = any(f"/{'.'.join(map(str, one))}" in asked for one in pod.addresses)
            if by_service or by_ip or pod.node == "n1":
                wanted.add(name)
    assert wanted <= set(client.held)
    for name, version in client.held.items():
        assert store[name].version == version
