"""Whatever the checks let through can be translated: no object that is found right makes a derivation fail."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istiod.resources import resource_of, store_kind
from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import INDEXES, Translator
from istiod.translate.statuses import OUTPUT
from istiod.validate import check
from meshcore import l7, yamldoc
from meshcore.l7 import GATEWAY_TYPE, SERVICE_TYPE, WAYPOINT_TYPE
from tests.unit.istiod import schema_samples
from tests.unit.istiod.test_validate_any import VALUES
from tests.unit.istiod.translate_support import parsed

WORLD = """
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: waypoint, a: b}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: waypoint.default.svc.cluster.local}]}
---
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.0.0.1
  ports: [{name: http, port: 80}, {name: tcp, port: 27017}, {name: tls, port: 443}, {port: 60}]
---
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.0.0.2, ports: [{name: https, port: 443}, {name: http, port: 1}]}
---
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: ext, envoyExtAuthzGrpc: {service: a.default.svc.cluster.local, port: 443}}
    - {name: zipkin, zipkin: {service: a.default.svc.cluster.local, port: 443}}
"""

CHANGES: dict[str, dict[str, Any]] = {
    "VirtualService": {"exportTo": ["*"], "gateways": ["mesh", "default/public"]},
    "DestinationRule": {"workloadSelector": None},
    "AuthorizationPolicy": {"action": "DENY", "provider": None},
    "RequestAuthentication": {
        "selector": None,
        "targetRefs": [{"kind": "Service", "group": "", "name": "reviews"}],
    },
}
"""What is different from the sample, so that it is for the objects above."""


def placed(sample: dict[str, Any]) -> dict[str, Any]:
    obj = copy.deepcopy(sample)
    obj["metadata"]["namespace"] = "default"
    obj.get("spec", {}).update(CHANGES.get(obj["kind"], {}))
    if obj["kind"] == "VirtualService":
        obj["spec"]["http"][0]["match"].append({"uri": {"prefix": "/a"}, "headers": {"x-a": {"exact": "b"}}})
    if obj["kind"] == "HTTPRoute":
        obj["spec"]["rules"][0]["timeouts"]["backendRequest"] = "5s"
    return obj


CUSTOM = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: custom, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: reviews}]
  action: CUSTOM
  provider: {name: ext}
  rules: [{to: [{operation: {notPaths: [/a]}}], when: [{key: remote.ip, notValues: [10.0.0.0/8]}]}]
"""
SAMPLES = [*(placed(sample) for sample in schema_samples.SAMPLES), *(one.data for one in yamldoc.parse(CUSTOM))]
PLACES = [
    (number, path)
    for number, sample in enumerate(SAMPLES)
    for path, _ in schema_samples.paths(sample)
    if path[:1] == ("spec",) and len(path) > 1
]
WORDS: Any = st.sampled_from(
    (
        "reviews",
        "a",
        "*",
        "*.example.com",
        "1s",
        "0s",
        "-1",
        "100h",
        "default/a",
        "configmap://a/b",
        "\\1",
        "%",
        "é",
        "1e9",
    )
)
NUMBERS: Any = st.sampled_from((0, 1, 2**31 - 1, 2**32 - 1, 1e-9, 99.99999999, 1e300))


def translator(objects: list[dict[str, Any]]) -> Translator:
    """Of the objects that the checks find right."""
    store = Store(INDEXES)
    for key, value in parsed(WORLD):
        store.put(key, value)
    for obj in objects:
        resource = resource_of(obj["kind"], obj["apiVersion"])
        checked = check(obj["kind"], obj["apiVersion"], obj)
        assert resource is not None
        if checked is not None and checked.value is not None:
            meta = checked.value.metadata
            store.put((store_kind(resource), meta.namespace, meta.name), checked.value)
    return Translator(store, MeshConfig())


def test_the_samples_reach_what_is_translated() -> None:
    found = translator(SAMPLES)
    assert found.graph.failures == 0
    service: l7.Service = found.resources(SERVICE_TYPE)["default/reviews.default.svc.cluster.local"]
    assert service.policies.authorization
    assert service.policies.authorizers
    assert service.policies.jwt
    assert service.telemetry.tracing is not None
    origins = {rule.origin for port in service.ports for rule in port.http}
    assert origins >= {"VirtualService/default/reviews", "HTTPRoute/default/reviews"}
    assert service.destinations[-1].subsets
    assert set(found.resources(WAYPOINT_TYPE)) == {"default/waypoint"}
    assert set(found.resources(GATEWAY_TYPE)) == {"default/public", "networking.istio.io/default/public"}
    assert found.resources(OUTPUT)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES | WORDS | NUMBERS), min_size=1, max_size=3))
def test_what_passes_the_checks_can_be_translated(changes: list[tuple[tuple[int, yamldoc.Path], Any]]) -> None:
    objects = list(SAMPLES)
    for (number, path), value in changes:
        if any(place == path for place, _ in schema_samples.paths(objects[number])):
            objects[number] = schema_samples.replaced(objects[number], path, value)
    assert translator(objects).graph.failures == 0
