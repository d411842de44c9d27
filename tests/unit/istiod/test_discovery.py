"""Which namespaces are read."""

from __future__ import annotations

from istiod.discovery import Discovery
from istiod.store import Change, Store
from istiod.translate.indexes import INDEXES
from tests.unit.istiod.translate_support import parsed


class World:
    def __init__(self, *excluded: str) -> None:
        self.store = Store(INDEXES)
        self.discovery = Discovery(self.store, "istio-system", excluded)

    def put(self, text: str) -> set[tuple[str, str, str]]:
        """What changed, by what was put and by what that selects."""
        changes = [self.store.put(key, value) for key, value in parsed(text)]
        direct = [change for change in changes if change is not None]
        return {change.key for change in (*direct, *self.discovery.follow(direct))}

    def pods(self) -> set[str]:
        return {key[1] for key, _ in self.store if key[0] == "Pod"}


def pod(namespace: str) -> str:
    return f"---\nkind: Pod\nmetadata: {{name: p, namespace: {namespace}}}\n"


def space(name: str, labels: str = "") -> str:
    return f"---\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"


def mesh(text: str) -> str:
    return f"---\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {text}\n"


SELECTORS = "discoverySelectors: [{matchLabels: {mesh: 'on'}}, {matchExpressions: [{key: team, operator: Exists}]}]"


def test_selectors_choose_and_the_root_namespace_is_always_read() -> None:
    world = World()
    world.put(space("a", "mesh: 'on'") + space("b") + space("c", "team: red"))
    world.put("".join(map(pod, ("a", "b", "c", "d", "istio-system"))))
    assert world.pods() == {"a", "b", "c", "d", "istio-system"}
    assert world.put(mesh(SELECTORS)) == {
        ("ConfigMap", "istio-system", "istio"),
        ("Pod", "b", "p"),
        ("Pod", "d", "p"),
    }
    assert world.pods() == {"a", "c", "istio-system"}
    assert world.put(mesh("{}")) == {("ConfigMap", "istio-system", "istio"), ("Pod", "b", "p"), ("Pod", "d", "p")}


def test_roots_are_for_namespaces_that_are_read_the_root_namespace_among_them() -> None:
    world = World("out")
    world.put("".join(map(space, ("b", "out", "istio-system"))) + space("a", "mesh: 'on'"))
    world.put("---\nkind: Namespace\nmetadata: {name: going, deletionTimestamp: '2026-01-01T00:00:00Z'}\n")
    assert sorted(world.discovery.namespaces()) == ["a", "b", "istio-system"]
    world.put(mesh(SELECTORS))
    assert sorted(world.discovery.namespaces()) == ["a", "istio-system"]


def test_the_labels_of_a_namespace_are_followed() -> None:
    world = World()
    world.put(mesh(SELECTORS) + space("a") + pod("a"))
    assert world.pods() == set()
    assert world.put(space("a", "team: blue")) == {("Namespace", "", "a"), ("Pod", "a", "p")}
    assert world.put(space("a")) == {("Namespace", "", "a"), ("Pod", "a", "p")}
    assert world.pods() == set()


def test_selectors_that_cannot_be_read_leave_those_of_before() -> None:
    world = World()
    world.put(mesh(SELECTORS) + space("a") + pod("a"))
    world.put(mesh("discoverySelectors: 5"))
    assert world.pods() == set()


def test_an_excluded_namespace_is_not_read_whatever_it_is_labelled() -> None:
    world = World("a")
    world.put(space("a", "mesh: 'on'") + pod("a") + pod("b"))
    assert world.pods() == {"b"}
    world.put(mesh(SELECTORS))
    assert world.pods() == set()


def test_changes_that_select_nothing_are_cheap() -> None:
    world = World()
    change = world.store.put(*parsed(space("a"))[0])
    assert isinstance(change, Change)
    assert world.discovery.follow([change]) == []
