"""Gateways of Istio's own API with the VirtualServices bound to them."""

from __future__ import annotations

import pytest

from istiod.translate.graph import View
from istiod.translate.l7 import istio_gateway
from istiod.translate.l7.destination import no_backend_tls
from meshcore import l7
from meshcore.l7 import Backend, ClientAuth, Forward, KeyPair, Listener, ListenerTls, Protocol, StreamRule, Trust
from tests.unit.istiod.l7 import support
from tests.unit.istiod.l7.support import RATINGS, REVIEWS, Mesh, mesh_config, obj, virtual_service

ROUTE = "http: [{route: [{destination: {host: reviews.default.svc.cluster.local, port: {number: 80}}}]}]"
HTTP = "port: {number: 80, name: web, protocol: HTTP}"


def gateway(*servers: str) -> str:
    return obj(
        "Gateway", "gw", "selector: {istio: ingress}\nservers:\n" + "\n".join(f"  - {{{one}}}" for one in servers)
    )


def listeners(*documents: str) -> tuple[Listener, ...]:
    return Mesh(*documents).gateway().listeners


def hosts(*documents: str) -> list[str]:
    return [host for one in listeners(*documents) for virtual in one.http for host in virtual.hosts]


def bound(spec: str, name: str = "vs", *, namespace: str = "default", created: int = 0) -> str:
    return virtual_service(f"gateways: [default/gw]\n{spec}", name, namespace=namespace, created=created)


def test_a_gateway_with_one_route() -> None:
    found = Mesh(gateway(f"{HTTP}, hosts: [a.example]"), bound(f"hosts: [a.example]\n{ROUTE}")).gateway()
    assert (found.namespace, found.name, found.selector) == ("default", "gw", {"istio": "ingress"})
    (listener,) = found.listeners
    assert (listener.name, listener.port, listener.protocol, listener.tls) == ("web", 80, Protocol.HTTP, None)
    (virtual,) = listener.http
    assert virtual.hosts == ("a.example",)
    assert [rule.action for rule in virtual.rules] == [Forward((Backend(REVIEWS, 80),))]
    assert [one.service for one in found.destinations] == [REVIEWS]


@pytest.mark.parametrize(
    ("server", "namespace", "wanted", "expected"),
    [
        ("'*'", "default", "[a.example, '*.b']", ["*.b", "a.example"]),
        ("a.example", "default", "['*.example']", ["a.example"]),
        ("a.example", "default", "['*']", ["a.example"]),
        ("A.example", "default", "[a.Example]", ["a.example"]),
        ("'*.example'", "default", "[a.example, b.other]", ["a.example"]),
        ("./a.example", "default", "[a.example]", ["a.example"]),
        ("./a.example", "other", "[a.example]", []),
        ("'*/a.example'", "other", "[a.example]", ["a.example"]),
        ("other/a.example", "other", "[a.example]", ["a.example"]),
        ("other/a.example", "default", "[a.example]", []),
    ],
)
def test_the_hosts_that_both_name(server: str, namespace: str, wanted: str, expected: list[str]) -> None:
    rule = bound(f"hosts: {wanted}\n{ROUTE}", namespace=namespace)
    assert hosts(gateway(f"{HTTP}, hosts: [{server}]"), rule) == expected


@pytest.mark.parametrize("name", ["gw", "./gw", "default/gw", "gw.default", "gw.default.svc.cluster.local"])
def test_ways_to_name_a_gateway(name: str) -> None:
    rule = virtual_service(f"gateways: [{name}]\nhosts: [a.example]\n{ROUTE}")
    assert hosts(gateway(f"{HTTP}, hosts: ['*']"), rule) == ["a.example"]


@pytest.mark.parametrize(
    "spec",
    ["gateways: [mesh]", "gateways: [other/gw]", "gateways: [gw.other]", "gateways: [default/gw]\nexportTo: [nobody]"],
)
def test_other_virtual_services_do_not_count(spec: str) -> None:
    rule = virtual_service(f"{spec}\nhosts: [a.example]\n{ROUTE}")
    assert hosts(gateway(f"{HTTP}, hosts: ['*']"), rule) == []


def test_rules_that_always_hold_come_last_and_end_a_host() -> None:
    def one(name: str, created: int, match: str = "") -> str:
        spec = f"hosts: [a.example]\nhttp: [{{{match} route: [{{destination: {{host: ratings}}}}]}}]"
        return bound(spec, name, created=created)

    found = listeners(
        gateway(f"{HTTP}, hosts: ['*']"),
        one("all", 0),
        one("later", 1, "match: [{uri: {prefix: /a}}],"),
        one("never", 2),
    )
    assert [rule.name for rule in found[0].http[0].rules] == ["later", "all"]


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ("gateways: [gw]", True),
        ("gateways: [mesh]", False),
        ("sourceLabels: {istio: ingress}", True),
        ("sourceLabels: {app: x}", False),
        ("sourceNamespace: default", True),
        ("sourceNamespace: other", False),
        ("port: 80", True),
        ("port: 81", False),
    ],
)
def test_conditions_about_the_gateway(match: str, *, holds: bool) -> None:
    spec = f"hosts: [a]\nhttp: [{{match: [{{{match}}}], route: [{{destination: {{host: ratings}}}}]}}]"
    assert bool(hosts(gateway(f"{HTTP}, hosts: ['*']"), bound(spec))) is holds


def test_servers_of_a_port_are_one_listener_and_redirects_to_https() -> None:
    found = listeners(
        gateway(f"{HTTP}, hosts: [a.example], tls: {{httpsRedirect: true}}", f"{HTTP}, hosts: [b.example]"),
        bound(f"hosts: [a.example, b.example]\n{ROUTE}"),
    )
    (listener,) = found
    assert [(one.hosts, one.https_redirect) for one in listener.http] == [
        (("a.example",), True),
        (("b.example",), False),
    ]
    alone = listeners(gateway(f"{HTTP}, hosts: [a.example], tls: {{httpsRedirect: true}}"))
    assert alone[0].http == (l7.VirtualHost(("a.example",), (), True),)


@pytest.mark.parametrize("first", [True, False])
def test_a_redirect_is_for_the_hosts_of_its_own_server(*, first: bool) -> None:
    servers = [f"{HTTP}, hosts: [default/*], tls: {{httpsRedirect: true}}", f"{HTTP}, hosts: ['*/b.example']"]
    rules = (bound(f"hosts: [a.example]\n{ROUTE}"), bound(f"hosts: [b.example]\n{ROUTE}", namespace="other"))
    (listener,) = listeners(gateway(*(servers if first else reversed(servers))), *rules)
    found = {host: one.https_redirect for one in listener.http for host in one.hosts}
    assert found == {"*": True, "a.example": True, "b.example": False}


def test_a_server_that_says_nothing_of_the_tls_it_needs_is_left_out() -> None:
    server = "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.example]"
    assert listeners(gateway(server), bound(f"hosts: [a.example]\n{ROUTE}")) == ()


LAX = (ClientAuth.NONE, None, (), (), ())
SECURE = "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.example]"


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("mode: SIMPLE, credentialName: c", ListenerTls((KeyPair("default/c"),))),
        ("mode: SIMPLE, credentialName: default/c", ListenerTls((KeyPair("default/c"),))),
        ("mode: SIMPLE, credentialName: 'kubernetes://c'", ListenerTls((KeyPair("default/c"),))),
        ("mode: SIMPLE, credentialName: ns/c", ListenerTls()),  # of another namespace: no handshake succeeds
        ("mode: SIMPLE, credentialName: 'kubernetes-gateway://ns/c'", ListenerTls()),
        (
            "mode: MUTUAL, credentialName: c, caCertCredentialName: ns/ca",
            ListenerTls((KeyPair("default/c"),), ClientAuth.REQUIRED, Trust()),
        ),
        ("mode: SIMPLE, credentialNames: [a, b, c]", ListenerTls((KeyPair("default/a"), KeyPair("default/b")))),
        ("mode: SIMPLE, serverCertificate: /c, privateKey: /k", ListenerTls((KeyPair("", "/c", "/k"),))),
        (
            "mode: MUTUAL, credentialName: c, subjectAltNames: [n], verifyCertificateSpki: [h]",
            ListenerTls((KeyPair("default/c"),), ClientAuth.REQUIRED, Trust(("default/c",)), ("n",), ("h",)),
        ),
        (
            "mode: OPTIONAL_MUTUAL, credentialName: c, caCertCredentialName: ca",
            ListenerTls((KeyPair("default/c"),), ClientAuth.OPTIONAL, Trust(("default/ca",))),
        ),
        (
            "mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl",
            ListenerTls((KeyPair("", "/c", "/k"),), ClientAuth.REQUIRED, Trust(file="/ca", crl_file="/crl")),
        ),
        ("mode: ISTIO_MUTUAL", ListenerTls(client=ClientAuth.REQUIRED, mesh=True)),
        (
            "mode: SIMPLE, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_3, cipherSuites: [X]",
            ListenerTls(min_version=13, max_version=13, ciphers=("X",)),
        ),
        *(
            (
                f"mode: SIMPLE, minProtocolVersion: TLSV1_{n}, maxProtocolVersion: TLSV1_{n}",
                ListenerTls((), *LAX, 10 + n, 10 + n),
            )
            for n in range(4)
        ),
    ],
)
def test_tls_of_a_server(tls: str, expected: ListenerTls) -> None:
    (listener,) = listeners(gateway(f"{SECURE}, tls: {{{tls}}}"), bound(f"hosts: [a.example]\n{ROUTE}"))
    assert (listener.protocol, listener.hosts, listener.tls) == (Protocol.HTTPS, ("a.example",), expected)
    assert [one.hosts for one in listener.http] == [("a.example",)]


STREAMS = """
hosts: [a.example]
tls:
  - match: [{sniHosts: [a.example]}, {sniHosts: [b.example]}]
    route: [{destination: {host: ratings}}]
"""


def test_passthrough_by_sni() -> None:
    server = "port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.example], tls: {mode: PASSTHROUGH}"
    (listener,) = listeners(gateway(server), bound(STREAMS))
    assert (listener.protocol, listener.tls, listener.http) == (Protocol.TLS, None, ())
    origin = "VirtualService/default/vs"
    assert listener.streams == (StreamRule("vs", (Backend(RATINGS, 8080),), ("a.example",), (), origin),)


def test_auto_passthrough_has_no_rules() -> None:
    server = "port: {number: 15443, name: t, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}"
    (listener,) = listeners(gateway(server), bound(STREAMS))
    assert (listener.auto_passthrough, listener.streams, listener.tls) == (True, (), None)


def test_tcp() -> None:
    spec = "hosts: ['*']\ntcp: [{match: [{port: 31400}], route: [{destination: {host: ratings}}]}]"
    (listener,) = listeners(gateway("port: {number: 31400, name: t, protocol: TCP}, hosts: ['*']"), bound(spec))
    assert listener.protocol is Protocol.TCP
    assert [one.backends for one in listener.streams] == [(Backend(RATINGS, 8080),)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("DISABLE", l7.UpstreamTls(kind=l7.TlsKind.PLAINTEXT)), ("ISTIO_MUTUAL", l7.UpstreamTls(kind=l7.TlsKind.MESH))],
)
def test_the_meshs_own_tls_modes_count_at_a_gateway(mode: str, expected: l7.UpstreamTls) -> None:
    rule = obj("DestinationRule", "dr", f"host: reviews\ntrafficPolicy: {{tls: {{mode: {mode}}}}}")
    mesh = Mesh(gateway(f"{HTTP}, hosts: ['*']"), bound(f"hosts: [a]\n{ROUTE}"), rule)
    assert [one.policy.tls for one in mesh.gateway().destinations] == [expected]


@pytest.mark.parametrize(
    ("namespace", "target", "counts"),
    [
        ("default", "", True),
        ("istio-system", "", True),
        ("other", "", False),
        ("default", "selector: {matchLabels: {istio: ingress}}", True),
        ("default", "selector: {matchLabels: {istio: else}}", False),
        ("default", "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: gw}]", False),
    ],
)
def test_policies_by_namespace_and_labels(namespace: str, target: str, *, counts: bool) -> None:
    mesh = Mesh(
        gateway(f"{HTTP}, hosts: ['*']"),
        obj("AuthorizationPolicy", "p", f"action: DENY\nrules: [{{}}]\n{target}", namespace=namespace),
        obj("RequestAuthentication", "r", f"jwtRules: [{{issuer: i}}]\n{target}", namespace=namespace),
        obj("Telemetry", "t", f"metrics: [{{providers: [{{name: none}}]}}]\n{target}", namespace=namespace),
    )
    found = mesh.gateway()
    assert bool(found.policies.authorization) is counts
    assert bool(found.policies.jwt) is counts
    assert (not found.telemetry.prometheus) is counts


def pod(name: str, labels: str, *, namespace: str = "ingress", phase: str = "Running") -> str:
    return (
        f"kind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n"
        f"status: {{phase: {phase}}}"
    )


EDGE = "istio: ingress, app: edge, pod-template-hash: h%s"


@pytest.mark.parametrize(
    ("namespace", "target", "counts"),
    [
        ("ingress", "", True),
        ("istio-system", "", True),
        ("default", "", False),  # where the Gateway is, and its pods are not
        ("ingress", "selector: {matchLabels: {app: edge}}", True),
        ("istio-system", "selector: {matchLabels: {app: edge}}", True),
        ("ingress", "selector: {matchLabels: {app: else}}", False),
        ("ingress", "selector: {matchLabels: {app: done}}", False),
    ],
)
def test_policies_go_by_the_pods_of_a_gateway(namespace: str, target: str, *, counts: bool) -> None:
    mesh = Mesh(
        gateway(f"{HTTP}, hosts: ['*']"),
        pod("one", EDGE % "1"),
        pod("two", EDGE % "2"),
        pod("done", "istio: ingress, app: done", phase="Succeeded"),
        pod("stranger", "istio: else, app: else"),
        obj("AuthorizationPolicy", "p", f"action: DENY\nrules: [{{}}]\n{target}", namespace=namespace),
        obj("Telemetry", "t", f"metrics: [{{providers: [{{name: none}}]}}]\n{target}", namespace=namespace),
    )
    assert bool(mesh.gateway().policies.authorization) is counts
    if namespace != "istio-system":
        assert (not mesh.gateway().telemetry.prometheus) is counts


def test_pods_of_several_kinds_follow_what_any_of_them_does() -> None:
    denial = "action: DENY\nrules: [{}]\nselector: {matchLabels: {app: %s}}"
    mesh = Mesh(
        gateway(f"{HTTP}, hosts: ['*']"),
        pod("one", EDGE % "1"),
        pod("two", "istio: ingress, app: other", namespace="b"),
        *(obj("AuthorizationPolicy", name, denial % name, namespace="istio-system") for name in ("edge", "other")),
    )
    assert {one.name for one in mesh.gateway().policies.authorization} == {"istio-system/edge", "istio-system/other"}
    mesh.remove(("Pod", "b", "two"))
    assert {one.name for one in mesh.gateway().policies.authorization} == {"istio-system/edge"}


def test_secrets_and_short_names_are_those_of_the_pods_and_of_the_objects() -> None:
    mesh = Mesh(
        gateway(f"{SECURE}, tls: {{mode: SIMPLE, credentialName: c}}".replace("a.example", "./a.example")),
        pod("one", EDGE % "1"),
        bound(f"hosts: [a.example]\n{ROUTE}"),
    )
    (listener,) = mesh.gateway().listeners
    assert listener.tls == ListenerTls((KeyPair("ingress/c"),))
    assert [one.hosts for one in listener.http] == [("a.example",)]  # `.` is the namespace of the Gateway


def test_client_side_telemetry_counts_at_a_gateway() -> None:
    override = "{match: {mode: %s, metric: REQUEST_COUNT}, disabled: true}"
    for mode, counts in (("CLIENT", True), ("SERVER", False)):
        spec = f"metrics: [{{overrides: [{override % mode}]}}]"
        mesh = Mesh(gateway(f"{HTTP}, hosts: ['*']"), obj("Telemetry", "t", spec))
        assert bool(mesh.gateway().telemetry.metrics) is counts


CLASS = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio}]"  # for waypoints only


def test_a_gateway_of_the_gateway_api_gets_its_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    def api(_view: View, namespace: str, name: str) -> l7.Gateway | None:
        return l7.Gateway(name, namespace) if name == "api" else None

    monkeypatch.setattr(support, "families", lambda _: istio_gateway.families(api, no_backend_tls))
    target = "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: api}]"
    mesh = Mesh(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: api}\n"
        "spec: {gatewayClassName: istio}",
        obj("AuthorizationPolicy", "class", f"action: DENY\nrules: [{{}}]\n{CLASS}", namespace="istio-system"),
        obj("AuthorizationPolicy", "attached", f"action: DENY\nrules: [{{}}]\n{target}", created=2),
        obj("AuthorizationPolicy", "general", "action: DENY\nrules: [{}]", created=1),
        obj("Telemetry", "t", f"metrics: [{{providers: [{{name: none}}]}}]\n{target}"),
    )
    found = mesh.gateway("default/api")
    assert [one.name for one in found.policies.authorization] == ["default/general", "default/attached"]  # by age
    assert not found.telemetry.prometheus
    chosen = "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: api, tier: %s}}"
    for kind, spec in (("AuthorizationPolicy", "action: DENY\nrules: [{}]"), ("Telemetry", "tracing: [{}]")):
        mesh.put(*(obj(kind, tier, f"{spec}\n{chosen % tier}") for tier in ("edge", "else")))
    assert len(mesh.gateway("default/api").policies.authorization) == 2  # nothing is known of the label yet
    mesh.put(pod("p", "gateway.networking.k8s.io/gateway-name: api, tier: edge", namespace="default"))
    found = mesh.gateway("default/api")
    assert "default/edge" in {one.name for one in found.policies.authorization}
    assert "default/else" not in {one.name for one in found.policies.authorization}
    assert found.telemetry.tracing is not None
    assert "default/wp" not in mesh.graph.outputs[l7.GATEWAY_TYPE]


@pytest.mark.parametrize(
    ("server", "redirect", "port"),
    [
        (HTTP, "derivePort: FROM_REQUEST_PORT", 0),
        (HTTP.replace("80", "8080"), "derivePort: FROM_REQUEST_PORT", 8080),
        ("port: {number: 443, name: s, protocol: HTTPS}, tls: {mode: SIMPLE}", "derivePort: FROM_REQUEST_PORT", 0),
        ("port: {number: 443, name: s, protocol: HTTPS}, tls: {mode: SIMPLE}", "port: 80", 80),
    ],
)
def test_a_redirect_does_not_write_the_port_that_its_scheme_means(server: str, redirect: str, port: int) -> None:
    rule = bound(f"hosts: [a.example]\nhttp: [{{redirect: {{authority: b, {redirect}}}}}]")
    (listener,) = listeners(gateway(f"{server}, hosts: [a.example]"), rule)
    assert listener.http[0].rules[0].action == l7.Redirect(authority="b", port=port)


@pytest.mark.parametrize(
    ("settings", "expected", "proxy_protocol"),
    [
        ("{}", l7.HttpOptions(), False),
        (
            "defaultConfig: {gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: APPEND_FORWARD}}",
            l7.HttpOptions(l7.PathNormalization.BASE, 2, l7.ClientCertificateHeader.APPEND_FORWARD),
            False,
        ),
        ("defaultConfig: {gatewayTopology: {proxyProtocol: {}}}", l7.HttpOptions(), True),
        ("pathNormalization: {normalization: NONE}", l7.HttpOptions(l7.PathNormalization.NONE), False),
        ("pathNormalization: {normalization: what}", l7.HttpOptions(), False),
        (
            "pathNormalization: {normalization: MERGE_SLASHES}\nextensionProviders: {not: a list}",
            l7.HttpOptions(l7.PathNormalization.MERGE_SLASHES),  # one mistake takes nothing else with it
            False,
        ),
        ("{", l7.HttpOptions(), False),
        ("- a", l7.HttpOptions(), False),
        (
            "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}",
            l7.HttpOptions(l7.PathNormalization.DECODE_AND_MERGE_SLASHES),
            False,
        ),
    ],
)
def test_how_requests_are_read(settings: str, expected: l7.HttpOptions, *, proxy_protocol: bool) -> None:
    mesh = Mesh(gateway(f"{HTTP}, hosts: ['*']"), mesh_config(settings))
    found = mesh.gateway()
    assert found.http == expected
    assert [one.proxy_protocol for one in found.listeners] == [proxy_protocol]
    assert mesh.waypoint().http == l7.HttpOptions(expected.normalization)  # nobody stands before a waypoint


@pytest.mark.parametrize(
    ("server", "title"),
    [("name: n, port: {number: 80, name: web, protocol: HTTP}", "n"), (HTTP, "web"), ("port: {number: 80}", "80")],
)
def test_the_name_of_a_listener(server: str, title: str) -> None:
    assert [one.name for one in listeners(gateway(f"{server}, hosts: ['*']"))] == [title]
