"""A store, the graph of the Gateway API over it, and short questions about what came out."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from istiod.objects import Gateway, Service
from istiod.store import Change, Store
from istiod.translate import gateway_api
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Family, Graph, View
from istiod.translate.indexes import INDEXES
from istiod.translate.l7.indexes import INDEXES as L7_INDEXES
from istiod.translate.l7.routes import RouteTables
from istiod.translate.statuses import OUTPUT, StatusPatch
from meshcore import l7
from meshcore.manifests import Key
from tests.unit.istiod.translate_support import parsed

CONFIG = "gateways"
MESH = "mesh routes"
API = "apiVersion: gateway.networking.k8s.io/v1"
DOMAIN = "svc.cluster.local"


def _config(view: View, namespace: str, name: str) -> Mapping[str, l7.Gateway]:
    found = view.ask(gateway_api.gateway_config, namespace, name)
    return {f"{namespace}/{name}": found} if found is not None else {}


def _mesh(view: View, namespace: str, name: str) -> Mapping[str, RouteTables]:
    return {
        f"{namespace}/{name}": view.ask(gateway_api.mesh_routes, namespace, view.settings.hostname(namespace, name))
    }


FAMILIES = (
    *gateway_api.FAMILIES,
    Family(CONFIG, (Gateway,), _config),
    Family(MESH, (Service,), _mesh),
)


class World:
    """What is in force, and what istiod makes of it. YAML documents may leave out the namespace `default`."""

    def __init__(self, *texts: str) -> None:
        self.store = Store((*INDEXES, *L7_INDEXES, *gateway_api.INDEXES))
        for key, value in parsed("\n---\n".join(texts)):
            self.store.put(key, value)
        self.graph = Graph(self.store, FAMILIES, MeshConfig())
        assert self.graph.failures == 0

    def put(self, *texts: str) -> set[str]:
        """The names of everything that is different afterwards."""
        return self._apply([self.store.put(key, value) for key, value in parsed("\n---\n".join(texts))])

    def put_object(self, key: Key, value: Any) -> set[str]:
        return self._apply([self.store.put(key, value)])

    def remove(self, *keys: Key) -> set[str]:
        return self._apply([self.store.put(key, None) for key in keys])

    def _apply(self, changes: list[Change | None]) -> set[str]:
        diffs = self.graph.apply(change for change in changes if change is not None)
        assert self.graph.failures == 0
        return {name for diff in diffs for name in diff.changed}

    def status(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        patch: StatusPatch | None = self.graph.outputs[OUTPUT].get(
            StatusPatch(kind, namespace, name, "istio.io/gateway-controller", {}).title
        )
        return patch.status if patch is not None else {}

    def conditions(self, kind: str, name: str, namespace: str = "default") -> dict[str, tuple[str, str]]:
        """Status and reason by type."""
        return reasons(self.status(kind, name, namespace))

    def listener(self, name: str, *, kind: str = "Gateway", parent: str = "gw") -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.status(kind, parent)["listeners"] if one["name"] == name)
        return found

    def listener_reasons(self, name: str, *, kind: str = "Gateway", parent: str = "gw") -> dict[str, tuple[str, str]]:
        return reasons(self.listener(name, kind=kind, parent=parent))

    def parents(self, kind: str, name: str, namespace: str = "default") -> list[dict[str, tuple[str, str]]]:
        """The conditions of every parent of a route."""
        return [reasons(parent) for parent in self.status(kind, name, namespace).get("parents", ())]

    def config(self, name: str = "gw", namespace: str = "default") -> l7.Gateway:
        found: l7.Gateway = self.graph.outputs[CONFIG][f"{namespace}/{name}"]
        return found

    def mesh(self, name: str, namespace: str = "default") -> RouteTables:
        found: RouteTables = self.graph.outputs[MESH][f"{namespace}/{name}"]
        return found

    def rules(self, port: int = 80) -> tuple[l7.HttpRule, ...]:
        """The HTTP rules of the only host of a port of the gateway `gw`."""
        listener = next(one for one in self.config().listeners if one.port == port)
        (host,) = listener.http
        return host.rules

    def rule(self, port: int = 80) -> l7.HttpRule:
        (found,) = self.rules(port)
        return found


def reasons(holder: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in holder.get("conditions", ())}


def gateway(
    listeners: str = "[{name: web, port: 80, protocol: HTTP}]", more: str = "", *, name: str = "gw", meta: str = ""
) -> str:
    """A gateway of the class `istio`; `more` are further lines of its spec, in flow style after a comma."""
    spec = f"gatewayClassName: istio, listeners: {listeners}{', ' + more if more else ''}"
    more_meta = f", {meta}" if meta else ""
    return f"{API}\nkind: Gateway\nmetadata: {{name: {name}, generation: 3{more_meta}}}\nspec: {{{spec}}}"


def service(
    name: str = "a", ports: str = "[{name: http, port: 8080}]", namespace: str = "default", meta: str = ""
) -> str:
    more = f", {meta}" if meta else ""
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}{more}}}\n"
        f"spec: {{clusterIP: 10.1.0.1, ports: {ports}}}"
    )


def route(
    spec: str = "rules: [{backendRefs: [{name: a, port: 8080}]}]",
    *,
    kind: str = "HTTPRoute",
    name: str = "r",
    namespace: str = "default",
    parents: str = "[{name: gw}]",
    created: str = "2026-01-01T00:00:00Z",
) -> str:
    return (
        f"{API}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, generation: 7, "
        f"creationTimestamp: '{created}'}}\nspec: {{parentRefs: {parents}, {spec}}}"
    )


def namespace(name: str, labels: str = "") -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}"


def grant(to: str, origin: str, *, home: str, place: str = "default") -> str:
    """A ReferenceGrant in `home` for a kind `origin` of the namespace `place`."""
    sender = f"{{group: gateway.networking.k8s.io, kind: {origin}, namespace: {place}}}"
    return (
        f"{API}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {home}}}\nspec: {{from: [{sender}], to: [{to}]}}"
    )


@functools.cache
def key_pair(name: str = "example.com") -> tuple[str, str]:
    """PEM of a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()


def secret(name: str = "cert", *, namespace: str = "default", certificate: str = "", key: str = "") -> str:
    pair = key_pair()
    data = {"tls.crt": certificate or pair[0], "tls.key": key or pair[1]}
    lines = "".join(f"  {field}: {base64.b64encode(text.encode()).decode()}\n" for field, text in data.items())
    meta = f"{{name: {name}, namespace: {namespace}}}"
    return f"apiVersion: v1\nkind: Secret\nmetadata: {meta}\ntype: kubernetes.io/tls\ndata:\n{lines}"


def authorities(name: str = "ca", *, namespace: str = "default", text: str = "") -> str:
    bundle = "".join(f"    {line}\n" for line in (text or key_pair("ca")[0]).splitlines())
    meta = f"{{name: {name}, namespace: {namespace}}}"
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {meta}\ndata:\n  ca.crt: |\n{bundle}"
