"""The engine of derived values: what runs again after a change, and what does not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from istiod.objects import Meta, Namespace, Node
from istiod.store import Change, Index, Store
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Diff, Family, Graph, View

BY_ZONE = Index("nodes by zone", Node, lambda node: [(zone,)] if (zone := node.metadata.labels.get("zone")) else ())


def parity(view: View, name: str) -> str:
    """`odd` or `even` by the number that a namespace's label holds."""
    namespace = view.get(Namespace, "", name)
    number = int(namespace.metadata.labels.get("number", "0")) if namespace is not None else 0
    return "odd" if number % 2 else "even"


def node_line(view: View, _: str, name: str) -> Mapping[str, str]:
    node = view.get(Node, "", name)
    assert node is not None
    return {f"node/{name}": f"{name} {view.ask(parity, node.metadata.labels.get('ns', ''))}"}


def zone_line(view: View, zone: str) -> Mapping[str, int]:
    return {f"zone/{zone}": len(view.find(BY_ZONE, (zone,)))}


class World:
    def __init__(self, *families: Family) -> None:
        self.store = Store((BY_ZONE,))
        self.graph = Graph(self.store, families, MeshConfig())

    def put(self, value: Namespace | Node | None, *, gone: tuple[str, str, str] | None = None) -> list[Diff]:
        key = gone or (type(value).__name__, "", value.metadata.name if value is not None else "")
        change = self.store.put(key, value)
        return self.graph.apply([change] if change is not None else [])


def node(name: str, **labels: str) -> Node:
    return Node(Meta(name, labels=labels))


def namespace(name: str, number: int) -> Namespace:
    return Namespace(Meta(name, labels={"number": str(number)}))


@pytest.fixture
def world() -> World:
    return World(Family("lines", (Node,), node_line), Family("lines", (BY_ZONE,), zone_line))


def test_a_change_of_an_object_runs_only_what_read_it(world: World) -> None:
    world.put(node("a", ns="x"))
    world.put(node("b", ns="y"))
    world.graph.computed.clear()
    assert world.put(node("a", ns="x", other="1")) == []
    assert world.graph.computed == {"node_line": 1}


def test_an_equal_intermediate_value_stops_the_change(world: World) -> None:
    world.put(node("a", ns="x"))
    world.put(namespace("x", 1))
    world.graph.computed.clear()
    assert world.put(namespace("x", 3)) == []
    assert world.graph.computed == {"parity": 1}
    assert world.graph.kept["node_line"] == 1
    assert world.put(namespace("x", 4)) == [Diff("lines", {"node/a": "a even"})]


def test_an_index_bucket_is_followed_as_it_fills_and_empties(world: World) -> None:
    assert world.put(node("a", zone="z")) == [Diff("lines", {"node/a": "a even", "zone/z": 1})]
    assert world.put(node("b", zone="z"))[0].changed["zone/z"] == 2
    assert world.put(node("a", zone="other"))[0].changed == {"zone/z": 1, "zone/other": 1}
    assert world.put(None, gone=("Node", "", "b"))[0].changed == {"node/b": None, "zone/z": None}
    assert world.graph.outputs["lines"] == {"node/a": "a even", "zone/other": 1}


def test_what_nobody_reads_any_more_is_let_go(world: World) -> None:
    before = world.graph.size
    world.put(node("a", ns="x", zone="z"))
    assert world.graph.size == before + 3
    world.put(None, gone=("Node", "", "a"))
    assert world.graph.size == before
    assert world.graph._inputs == {}


def test_dependencies_follow_the_last_run(world: World) -> None:
    world.put(node("a", ns="x"))
    world.put(node("a", ns="y"))
    world.graph.computed.clear()
    world.put(namespace("x", 1))
    assert world.graph.computed == {}
    assert world.put(namespace("y", 1)) == [Diff("lines", {"node/a": "a odd"})]


def test_several_changes_in_one_batch_run_a_unit_once(world: World) -> None:
    changes = [
        world.store.put(("Node", "", "a"), node("a", ns="x")),
        world.store.put(("Namespace", "", "x"), namespace("x", 1)),
        world.store.put(("Node", "", "a"), node("a", ns="x", more="1")),
    ]
    diffs = world.graph.apply(change for change in changes if change is not None)
    assert diffs == [Diff("lines", {"node/a": "a odd"})]
    assert world.graph.computed["node_line"] == 1


def test_a_name_may_go_from_one_unit_to_another() -> None:
    def named(view: View, _: str, name: str) -> Mapping[str, str]:
        found = view.get(Node, "", name)
        return {found.metadata.labels["as"]: name} if found is not None and "as" in found.metadata.labels else {}

    world = World(Family("names", (Node,), named))
    world.put(node("a", **{"as": "n"}))
    world.put(node("b"))
    changes: list[Change | None] = [
        world.store.put(("Node", "", "b"), node("b", **{"as": "n"})),
        world.store.put(("Node", "", "a"), node("a")),
    ]
    assert world.graph.apply(c for c in changes if c is not None) == [Diff("names", {"n": "b"})]
    assert world.graph.outputs["names"] == {"n": "b"}


def test_a_circle_is_told_with_its_names(caplog: pytest.LogCaptureFixture) -> None:
    def one(view: View) -> str:
        return view.ask(two)

    def two(view: View) -> str:
        return view.ask(one)

    def start(view: View, _: str, name: str) -> Mapping[str, str]:
        return {name: view.ask(one)}

    world = World(Family("out", (Node,), start))
    assert world.put(node("a")) == []
    assert world.graph.failures == 1
    assert "start -> one -> two -> one" in caplog.text


def test_a_fault_in_one_unit_leaves_its_last_result_and_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    def parsed(view: View, _: str, name: str) -> Mapping[str, int]:
        found = view.get(Node, "", name)
        assert found is not None
        return {name: int(found.metadata.labels["n"])}

    world = World(Family("out", (Node,), parsed))
    world.put(node("a", n="1"))
    world.put(node("b", n="2"))
    assert world.put(node("a", n="x")) == []
    assert "BUG: parsed of ('', 'a') failed" in caplog.text
    assert world.graph.outputs["out"] == {"a": 1, "b": 2}
    assert world.put(node("b", n="3")) == [Diff("out", {"b": 3})]
    assert world.put(node("a", n="4")) == [Diff("out", {"a": 4})]
