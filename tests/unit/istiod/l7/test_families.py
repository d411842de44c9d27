"""Istio's own resources and the Gateway API's, told to the same waypoint and the same kind of gateway."""

from __future__ import annotations

import pytest

from istiod.store import Store
from istiod.translate import gateway_api
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Graph
from istiod.translate.indexes import INDEXES
from istiod.translate.l7 import indexes
from istiod.translate.l7.families import FAMILIES
from meshcore import l7
from tests.unit.istiod.l7.support import BASE, REVIEWS, obj, virtual_service
from tests.unit.istiod.translate_support import parsed

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
    - matches: [{path: {type: Exact, value: /api}}]
      backendRefs: [{name: ratings, port: 8080}]
"""
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ingress}
spec:
  gatewayClassName: istio
  listeners: [{name: web, port: 80, protocol: HTTP}]
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    documents = (
        BASE,
        ROUTE,
        GATEWAY,
        virtual_service("hosts: [reviews]\nhttp: [{route: [{destination: {host: reviews}}]}]"),
        obj("Gateway", "ingress", "servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}]"),
    )
    store = Store((*INDEXES, *indexes.INDEXES, *gateway_api.INDEXES))
    for key, value in parsed("\n---\n".join(documents)):
        store.put(key, value)
    graph = Graph(store, FAMILIES, MeshConfig())
    assert graph.failures == 0
    return graph


def test_a_route_goes_before_a_virtual_service(graph: Graph) -> None:
    service: l7.Service = graph.outputs[l7.SERVICE_TYPE][REVIEWS]
    port = next(one for one in service.ports if one.number == 80)
    assert [rule.origin for rule in port.http] == ["HTTPRoute/default/route", "VirtualService/default/vs"]


def test_gateways_of_both_apis_may_have_one_name(graph: Graph) -> None:
    assert set(graph.outputs[l7.GATEWAY_TYPE]) == {"default/ingress", "networking.istio.io/default/ingress"}
