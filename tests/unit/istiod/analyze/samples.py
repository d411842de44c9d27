"""Objects of which the examples of the codes are made."""

from __future__ import annotations

import base64
import datetime as dt

from tests.support.pki import Authority
from tests.unit.istiod.analyze.support import obj

GATEWAY = "Gateway.networking.istio.io"
WEB = obj("Service", "web", "{selector: {app: web}, ports: [{name: http, port: 80}]}")
TWO_PORTS = obj("Service", "web", "{ports: [{name: http, port: 80}, {name: http-b, port: 81}]}")
POD = obj("Pod", "web-1", "{containers: [{name: a}]}", labels="app: web")
INGRESS_POD = obj("Pod", "ingress-1", "{containers: [{name: a}]}", "gw", labels="istio: ingress")
SYSTEM = "istio-system"


def route(
    destination: str, *, hosts: str = "[web]", extra: str = "", name: str = "vs", namespace: str = "default"
) -> str:
    return obj(
        "VirtualService",
        name,
        f"{{hosts: {hosts}, {extra} http: [{{route: [{{destination: {destination}}}]}}]}}",
        namespace,
    )


def edge(name: str, servers: str, namespace: str = "gw") -> str:
    return obj(GATEWAY, name, f"{{selector: {{istio: ingress}}, servers: [{servers}]}}", namespace)


def server(port: int = 80, host: str = "a.example", tls: str = "") -> str:
    return f"{{port: {{number: {port}, name: p, protocol: {'HTTPS' if tls else 'HTTP'}}}, hosts: ['{host}'], {tls}}}"


def waypoint(name: str = "wp", namespace: str = "default", labels: str = "", routes: str = "") -> str:
    listener = f"{{name: mesh, port: 15008, protocol: HBONE, {routes}}}"
    return obj(
        "Gateway", name, f"{{gatewayClassName: istio-waypoint, listeners: [{listener}]}}", namespace, labels=labels
    )


def secret(name: str, *, expired: bool = False, key: bool = True, namespace: str = "gw") -> str:
    until = dt.timedelta(hours=-1) if expired else dt.timedelta(days=1)
    leaf = Authority().leaf(valid_from=dt.timedelta(days=-2), valid_until=until)
    data = {"tls.crt": leaf.chain, **({"tls.key": leaf.key} if key else {})}
    fields = ", ".join(f"{field}: {base64.b64encode(value).decode()}" for field, value in data.items())
    return obj("Secret", name, "", namespace, more=f"type: kubernetes.io/tls\ndata: {{{fields}}}")


def mesh_config(text: str) -> str:
    return obj("ConfigMap", "istio", "", SYSTEM, more=f"data: {{mesh: '{text}'}}")


def policy(name: str, spec: str, namespace: str = "default", notes: str = "") -> str:
    return obj("AuthorizationPolicy", name, spec, namespace, notes=notes)


def filters(patch: str) -> str:
    return obj("EnvoyFilter", "f", f"{{configPatches: [{patch}]}}")


L4 = "{rules: [{from: [{source: {namespaces: [a]}}]}]}"
JWT = "jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys'}]"
ENTRY = "{hosts: [a.example], resolution: DNS, ports: [{number: 443, name: p, protocol: %s}]}"
LOG = "{accessLogging: [{providers: [{name: %s}]}]}"
PATCH = "{applyTo: %s, match: {context: ANY, proxy: {%s}}, patch: {operation: %s, value: {name: a}}}"
CERTIFICATE = "tls: {mode: SIMPLE, credentialName: %s}"
CLAIM_ROUTE = obj(
    "VirtualService",
    "vs",
    "{hosts: [a.example], gateways: [gw/e], http: [{match: [{headers: {'@request.auth.claims.group': {exact: a}}}],"
    " route: [{destination: {host: web}}]}]}",
)
CRD = "{versions: [{name: %s, served: true}]}"
SUBSETS = "{host: web, subsets: [{name: v1, labels: {version: %s}}]}"
