"""The cluster of the bench of istiod, and how what clients hold is judged against it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from bench.istiod.clients import Subscriber, content_problems
from bench.istiod.fleet import Fleet, Sizes
from bench.istiod.protocol import Truth
from bench.istiod.stages import truth
from istiod.objects import KINDS, convert
from istiod.resources import resource_of, store_kind
from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.indexes import INDEXES
from istiod.translate.mesh import Translator
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE, Address
from meshcore.stream import Resource

SIZES = Sizes(pods=40, namespaces=4, nodes=3, services=8, ztunnels=2, waypoints=4)


def translated(fleet: Fleet) -> Mapping[str, Mapping[str, Address]]:
    """What istiod makes of the cluster, by type and name."""
    store = Store(INDEXES)
    for obj in fleet.objects():
        resource = resource_of(obj["kind"], obj["apiVersion"])
        assert resource is not None
        kind, meta = store_kind(resource), obj["metadata"]
        store.put((kind, meta.get("namespace", ""), meta["name"]), convert(obj, KINDS[kind]))
    return Translator(store, MeshConfig()).graph.outputs


def bodies(fleet: Fleet) -> dict[str, bytes]:
    return {name: msgspec.msgpack.encode(value) for name, value in translated(fleet)[ADDRESS_TYPE].items()}


def test_the_names_are_those_that_istiod_publishes() -> None:
    fleet = Fleet(SIZES)
    outputs = translated(fleet)
    assert outputs[ADDRESS_TYPE].keys() == fleet.names()
    assert len(outputs[AUTHORIZATION_TYPE]) == SIZES.namespaces


def test_every_service_is_behind_the_waypoint_of_its_namespace() -> None:
    services = [one.service for one in translated(Fleet(SIZES))[ADDRESS_TYPE].values() if one.service is not None]
    assert sum(service.waypoint is not None for service in services) == SIZES.services


def test_the_namespaces_divide_what_is_no_waypoint() -> None:
    fleet = Fleet(SIZES)
    namespaces = [fleet.namespace_name(number) for number in range(SIZES.namespaces)]
    parts = [fleet.names_of(namespace) for namespace in namespaces]
    assert sum(map(len, parts)) == len(set().union(*parts)) == SIZES.pods + SIZES.services
    assert fleet.names() - set().union(*parts) == set(map(fleet.waypoint_key, namespaces))


def test_a_smaller_cluster_has_as_many_pods_a_service_and_all_clients() -> None:
    small = Sizes().scaled(100)
    assert (small.pods, small.services, small.namespaces) == (100, 10, 10)
    assert (small.ztunnels, small.waypoints, small.nodes) == (100, 50, 100)
    assert Sizes().scaled(10_000) == Sizes()


def test_a_rollout_leaves_as_many_pods_with_other_names_and_addresses() -> None:
    fleet = Fleet(SIZES)
    before, addresses = fleet.names(), {member.ip for members in fleet.members for member in members}
    plan = [
        (service, old, fleet.successor(service, position))
        for service, members in enumerate(fleet.members)
        for position, old in enumerate(members)
    ]
    for service, old, new in plan:
        fleet.add(service, new)
        fleet.drop(service, old)
        addresses.add(new.ip)
    assert len(fleet.names()) == len(before)
    assert len(fleet.names() & before) == SIZES.services + SIZES.namespaces
    assert len(addresses) == 2 * SIZES.pods


def test_what_istiod_makes_of_the_cluster_is_the_truth_about_it() -> None:
    fleet = Fleet(SIZES)
    fleet.set_ready(3, 1, False)
    assert content_problems(bodies(fleet), fleet.names(), truth(fleet)) == []


def other_address(held: dict[str, bytes], pods: dict[str, Truth], name: str) -> None:
    pods[name] = msgspec.structs.replace(pods[name], ip="10.1.2.3")


def other_health(held: dict[str, bytes], pods: dict[str, Truth], name: str) -> None:
    pods[name] = msgspec.structs.replace(pods[name], ready=False)


def lost(held: dict[str, bytes], pods: dict[str, Truth], name: str) -> None:
    del held[name]


def left_over(held: dict[str, bytes], pods: dict[str, Truth], name: str) -> None:
    held["Kubernetes//Pod/team-00/gone"] = held[name]


@pytest.mark.parametrize("fault", [other_address, other_health, lost, left_over])
def test_a_client_that_holds_something_else_is_found_out(fault: object) -> None:
    fleet = Fleet(SIZES)
    held, pods = bodies(fleet), truth(fleet)
    assert callable(fault)
    fault(held, pods, next(iter(pods)))
    assert content_problems(held, fleet.names(), pods)


def told(fleet: Fleet, name: str) -> Resource:
    return Resource(name, "1", bodies(fleet)[name])


def test_a_subscriber_has_been_told_once_all_is_as_expected() -> None:
    async def scenario() -> None:
        fleet = Fleet(SIZES)
        name, gone = fleet.uid(3, fleet.members[3][1]), fleet.uid(4, fleet.members[4][0])
        one = Subscriber("ztunnel-0", "", {}, witness=True)
        one.expect({name: "down", gone: "gone"})
        one.update(ADDRESS_TYPE, [told(fleet, name)], [])  # still up
        one.update(ADDRESS_TYPE, [], [gone])
        assert one.pending == {name: "down"}
        fleet.set_ready(3, 1, False)
        one.update(ADDRESS_TYPE, [told(fleet, name)], [])
        assert one.told_at == 0.0, "not before the ACK is written"
        await asyncio.sleep(0)
        assert one.told_at > 0.0
        assert one.bodies.keys() == {name}

    asyncio.run(scenario())


def test_a_waypoint_is_not_expected_to_be_told_of_other_namespaces() -> None:
    one = Subscriber("waypoint-0", "team-00", {ADDRESS_TYPE: ["mine"]}, witness=False)
    one.expect({"mine": "gone", "foreign": "gone"})
    assert one.pending == {"mine": "gone"}
    one.expect({"foreign": "gone"})
    assert not one.concerned
