"""A small mesh with a waypoint, from YAML, and what its waypoint and gateways are told."""

from __future__ import annotations

from typing import Any

from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Family, Graph
from istiod.translate.indexes import INDEXES
from istiod.translate.l7 import indexes, istio_gateway, waypoint
from istiod.translate.l7.service import Seams
from meshcore import l7
from meshcore.manifests import Key
from tests.unit.istiod.translate_support import parsed

REVIEWS = "default/reviews.default.svc.cluster.local"
RATINGS = "default/ratings.default.svc.cluster.local"
DETAILS = "other/details.other.svc.cluster.local"

BASE = """
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status: {addresses: [{type: Hostname, value: wp.default.svc.cluster.local}]}
---
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.0.0.1
  ports:
    - {name: http, port: 80}
    - {name: grpc, port: 70}
    - {name: tcp, port: 90}
    - {name: tls, port: 443}
    - {port: 60}
---
kind: Service
metadata: {name: ratings}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 8080}]}
---
kind: Service
metadata: {name: details, namespace: other}
spec: {clusterIP: 10.0.0.3, ports: [{name: http, port: 9080}]}
"""

API = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "Gateway": "networking.istio.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "Telemetry": "telemetry.istio.io/v1",
}


def obj(kind: str, name: str, spec: str, *, namespace: str = "default", created: int = 0, meta: str = "") -> str:
    """One document; `spec` is a YAML flow or block, `created` a second that orders objects by age."""
    body = "\n".join(f"  {line}" for line in spec.strip().splitlines())
    return (
        f"apiVersion: {API[kind]}\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}, "
        f"creationTimestamp: '2026-01-01T00:00:{created:02}Z'{', ' + meta if meta else ''}}}\n"
        f"spec:\n{body}\n"
    )


def virtual_service(spec: str, name: str = "vs", *, namespace: str = "default", created: int = 0) -> str:
    return obj("VirtualService", name, spec, namespace=namespace, created=created)


def mesh_config(text: str) -> str:
    """MeshConfig's ConfigMap."""
    body = "\n".join(f"    {line}" for line in text.strip().splitlines())
    return f"kind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{body}\n"


def families(seams: Seams) -> tuple[Family, ...]:
    return (*waypoint.families(seams), *istio_gateway.families(None, seams.backend_tls))


class Mesh:
    """A graph over BASE and more documents, without the Gateway API's routes unless `seams` brings them."""

    def __init__(
        self, *documents: str, base: str = BASE, settings: MeshConfig | None = None, seams: Seams | None = None
    ) -> None:
        self.store = Store((*INDEXES, *indexes.INDEXES))
        for key, value in parsed("\n---\n".join((base, *documents))):
            self.store.put(key, value)
        self.graph = Graph(self.store, families(seams or Seams()), settings or MeshConfig())
        assert self.graph.failures == 0

    def put(self, *documents: str) -> set[str]:
        """Apply documents; returns the names of the resources that changed."""
        return self._apply(self.store.put(key, value) for key, value in parsed("\n---\n".join(documents)))

    def remove(self, *keys: Key) -> set[str]:
        return self._apply(self.store.put(key, None) for key in keys)

    def _apply(self, changes: Any) -> set[str]:
        diffs = self.graph.apply([change for change in changes if change is not None])
        assert self.graph.failures == 0
        return {name for diff in diffs for name in diff.changed}

    def service(self, key: str = REVIEWS) -> l7.Service:
        found: l7.Service = self.graph.outputs[l7.SERVICE_TYPE][key]
        return found

    def waypoint(self, key: str = "default/wp") -> l7.Waypoint:
        found: l7.Waypoint = self.graph.outputs[l7.WAYPOINT_TYPE][key]
        return found

    def gateway(self, key: str = "networking.istio.io/default/gw") -> l7.Gateway:
        found: l7.Gateway = self.graph.outputs[l7.GATEWAY_TYPE][key]
        return found

    def port(self, number: int = 80, key: str = REVIEWS) -> l7.ServicePort:
        return next(port for port in self.service(key).ports if port.number == number)

    def rules(self, number: int = 80) -> tuple[l7.HttpRule, ...]:
        return self.port(number).http

    def destination(self, key: str = REVIEWS) -> l7.Destination:
        return next(one for one in self.service().destinations if one.service == key)
