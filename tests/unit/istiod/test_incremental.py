"""An incremental translation equals a full one, whatever the order of changes, and does less."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istiod import objects
from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import FAMILIES, INDEXES, Translator
from istiod.translate.statuses import OUTPUT
from meshcore.manifests import Key
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from tests.unit.istiod.universe import MESH, changes


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.lists(changes(), min_size=1, max_size=6), min_size=1, max_size=12))
def test_any_sequence_of_changes_gives_what_a_fresh_translation_gives(batches: list[list[tuple[Key, Any]]]) -> None:
    store = Store(INDEXES)
    translator = Translator(store, MESH)
    mirror: dict[str, dict[str, Any]] = {family.output: {} for family in FAMILIES}
    for batch in batches:
        put = [store.put(key, value) for key, value in batch]
        for diff in translator.apply(change for change in put if change is not None):
            for name, value in diff.changed.items():
                if value is None:
                    del mirror[diff.output][name]
                else:
                    assert mirror[diff.output].get(name) != value  # only differences are told
                    mirror[diff.output][name] = value
        fresh = Translator(store, MESH)
        for output, held in mirror.items():
            assert translator.resources(output) == fresh.resources(output) == held
    assert translator.graph.failures == 0


def test_the_counters_show_that_one_pod_costs_one_pod() -> None:
    store = Store(INDEXES)
    for number in range(100):
        put(store, pod(number))
    put(store, {"kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {"selector": {"app": "1"}}})
    translator = Translator(store, MeshConfig())
    computed = translator.graph.computed
    assert computed["pod_addresses"] == 100
    computed.clear()
    diffs = translator.apply([put(store, pod(7, ip="10.1.0.7"))])
    assert [(diff.output, len(diff.changed)) for diff in diffs] == [(ADDRESS_TYPE, 1)]
    assert dict(computed) == {"pod_addresses": 1}
    computed.clear()
    selector = {"selector": {"matchLabels": {"number": "3"}}, "action": "DENY", "rules": [{}]}
    policy = {"kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "a"}, "spec": selector}
    diffs = translator.apply([put(store, policy)])
    assert {diff.output: len(diff.changed) for diff in diffs} == {ADDRESS_TYPE: 1, AUTHORIZATION_TYPE: 1, OUTPUT: 1}
    assert dict(computed) == {"pod_addresses": 1, "ztunnel_policy": 1, "policy_status": 1}
    computed.clear()
    namespace = {"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": "red"}}}
    assert translator.apply([put(store, namespace)]) == []  # nothing of it concerns a pod
    assert dict(computed) == {"namespace_defaults": 1}


def pod(number: int, ip: str = "") -> dict[str, Any]:
    meta = {"name": f"p{number}", "namespace": "a", "labels": {"app": "1", "number": str(number)}}
    return {"kind": "Pod", "metadata": meta, "status": {"podIP": ip or f"10.0.0.{number}"}}


def put(store: Store, value: dict[str, Any]) -> Any:
    meta = value["metadata"]
    change = store.put(
        (value["kind"], meta.get("namespace", ""), meta["name"]), objects.convert(value, objects.KINDS[value["kind"]])
    )
    assert change is not None
    return change
