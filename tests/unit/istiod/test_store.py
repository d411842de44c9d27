"""The store: indexes, revisions and the shelf of what is not selected."""

from __future__ import annotations

from typing import Any

import msgspec

from istiod.objects import AuthorizationPolicy, Condition, Meta, Pod, Service
from istiod.objects.core import PodCondition, PodSpec, ServiceSpec
from istiod.store import Store
from istiod.translate.indexes import INDEXES, PODS_BY_ACCOUNT, SERVICES_BY_LABEL


def pod(name: str, namespace: str = "default", node: str = "n1") -> Pod:
    return Pod(Meta(name, namespace), PodSpec(node_name=node, service_account_name="web"))


def key(value: Pod | Service | AuthorizationPolicy) -> tuple[str, str, str]:
    return (type(value).__name__, value.metadata.namespace, value.metadata.name)


def test_an_index_follows_its_objects() -> None:
    store = Store(INDEXES)
    store.put(("Pod", "default", "a"), pod("a"))
    store.put(("Pod", "default", "b"), pod("b"))
    assert set(store.find(PODS_BY_ACCOUNT, ("n1", "default", "web"))) == {("default", "a"), ("default", "b")}
    change = store.put(("Pod", "default", "a"), pod("a", node="n2"))
    assert change is not None
    assert {bucket for index, bucket in (t for t in change.tokens if t[0] is PODS_BY_ACCOUNT)} == {
        ("n1", "default", "web"),
        ("n2", "default", "web"),
    }
    store.put(("Pod", "default", "b"), None)
    assert not store.find(PODS_BY_ACCOUNT, ("n1", "default", "web"))
    assert list(store.buckets(PODS_BY_ACCOUNT)) == [("n2", "default", "web")]


def test_an_equal_object_is_no_change() -> None:
    store = Store(INDEXES)
    assert store.put(("Pod", "default", "a"), pod("a")) is not None
    assert store.put(("Pod", "default", "a"), pod("a")) is None
    assert store.put(("Pod", "default", "b"), None) is None


def test_conditions_are_kept_and_are_no_change_but_those_of_a_pod_count() -> None:
    def put(value: Any, conditions: tuple[Any, ...]) -> bool:
        status = msgspec.structs.replace(value.status, conditions=conditions)
        return store.put(key(value), msgspec.structs.replace(value, status=status)) is not None

    store = Store(INDEXES)
    service = Service(Meta("s", "default"), ServiceSpec(selector={"app": "s"}))
    assert put(service, ())
    assert not put(service, (Condition("istio.io/WaypointBound"),))
    found = store.find(SERVICES_BY_LABEL, ("default", "app", "s"))["default", "s"]
    assert found is store.get(Service, "default", "s")
    assert found.status.conditions
    assert put(pod("p"), ())
    assert put(pod("p"), (PodCondition("Ready", "True"),))


def test_objects_of_namespaces_that_are_not_selected_wait_on_the_shelf() -> None:
    store = Store(INDEXES)
    service = Service(Meta("s", "b"), ServiceSpec(selector={"app": "s"}))
    for value in (pod("p", "a"), pod("p", "b"), service):
        store.put(key(value), value)
    gone = store.select(lambda namespace: namespace == "a")
    assert {change.key for change in gone} == {("Pod", "b", "p"), ("Service", "b", "s")}
    assert not store.find(SERVICES_BY_LABEL, ("b", "app", "s"))
    assert store.put(("Pod", "b", "q"), pod("q", "b")) is None  # straight to the shelf
    assert store.put(("Service", "b", "s"), None) is None  # removed while it waits there
    back = store.select(lambda _: True)
    assert {change.key for change in back} == {("Pod", "b", "p"), ("Pod", "b", "q")}
    assert store.size == 3


def test_another_revision_is_not_in_force() -> None:
    store = Store(INDEXES, revision="canary")

    def policy(**labels: str) -> AuthorizationPolicy:
        return AuthorizationPolicy(Meta("p", "default", labels))

    assert store.put(("AuthorizationPolicy", "default", "p"), policy(**{"istio.io/rev": "stable"})) is None
    assert store.put(("AuthorizationPolicy", "default", "p"), policy(**{"istio.io/rev": "canary"})) is not None
    change = store.put(("AuthorizationPolicy", "default", "p"), policy(**{"istio.io/rev": "stable"}))
    assert change is not None
    assert change.new is None
    assert store.put(("AuthorizationPolicy", "default", "p"), policy()) is not None
    labelled = Pod(Meta("p", "default", {"istio.io/rev": "stable"}))  # pods belong to every revision
    assert store.put(("Pod", "default", "p"), labelled) is not None
