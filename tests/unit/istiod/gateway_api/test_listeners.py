"""Listeners one by one: protocols, kinds of routes, certificates, conflicts, listener sets."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcore import l7
from tests.unit.istiod.gateway_api.support import (
    API,
    World,
    authorities,
    gateway,
    grant,
    key_pair,
    namespace,
    route,
    secret,
    service,
)

HTTPS = "name: web, port: 443, protocol: HTTPS"
CERT = "certificateRefs: [{name: cert}]"


def listeners(*items: str) -> str:
    return "[" + ", ".join(f"{{{item}}}" for item in items) + "]"


def test_a_good_listener_has_four_good_conditions() -> None:
    world = World(gateway())
    assert world.listener_reasons("web") == {
        "Accepted": ("True", "Accepted"),
        "Conflicted": ("False", "NoConflicts"),
        "Programmed": ("True", "Programmed"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
    }
    assert {one["observedGeneration"] for one in world.listener("web")["conditions"]} == {3}


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ("protocol: HTTP", ["HTTPRoute", "GRPCRoute"]),
        (f"protocol: HTTPS, tls: {{{CERT}}}", ["HTTPRoute", "GRPCRoute"]),
        ("protocol: TCP", ["TCPRoute"]),
        ("protocol: TLS, tls: {mode: Passthrough}", ["TLSRoute"]),
        (f"protocol: TLS, tls: {{mode: Terminate, {CERT}}}", ["TLSRoute", "TCPRoute"]),
        ("protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}", ["HTTPRoute"]),
        ("protocol: UDP", []),
        ("protocol: HBONE", []),
    ],
)
def test_supported_kinds_follow_the_protocol(spec: str, kinds: list[str]) -> None:
    world = World(gateway(listeners(f"name: web, port: 80, {spec}")), secret())
    found = world.listener("web")["supportedKinds"]
    assert found == [{"group": "gateway.networking.k8s.io", "kind": kind} for kind in kinds]


@pytest.mark.parametrize("protocol", ["UDP", "HBONE", "istio.io/PROXY", "QUIC"])
def test_a_protocol_that_is_not_the_class_s_is_refused(protocol: str) -> None:
    world = World(gateway(listeners(f"name: web, port: 80, protocol: {protocol}")))
    found = world.listener_reasons("web")
    assert found["Accepted"] == ("False", "UnsupportedProtocol")
    assert found["Programmed"] == ("False", "Invalid")
    assert world.config().listeners == ()


def test_a_kind_that_a_listener_cannot_take_is_told_and_the_others_work() -> None:
    kinds = "allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}"
    world = World(gateway(listeners(f"name: web, port: 80, protocol: HTTP, {kinds}")), service(), route())
    found = world.listener_reasons("web")
    assert found["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert found["Programmed"] == ("True", "Programmed")
    assert world.listener("web")["attachedRoutes"] == 1


@pytest.mark.parametrize(
    ("tls", "more", "reason"),
    [
        (CERT, "", "InvalidCertificateRef"),  # there is no such secret
        ("certificateRefs: [{kind: ConfigMap, name: cert}]", "", "InvalidCertificateRef"),
        ("certificateRefs: [{group: example.com, name: cert}]", "", "InvalidCertificateRef"),
        (CERT, secret(certificate="no PEM"), "InvalidCertificateRef"),
        (CERT, secret(key=key_pair("other")[1]), "InvalidCertificateRef"),
        (CERT, secret(key="no PEM"), "InvalidCertificateRef"),
        ("certificateRefs: [{name: cert}, {name: cert}, {name: cert}]", secret(), "InvalidCertificateRef"),
        ("mode: Terminate", "", "InvalidCertificateRef"),
        (
            "certificateRefs: [{name: cert, namespace: other}]",
            secret(namespace="other"),
            "RefNotPermitted",
        ),
        (
            "certificateRefs: [{name: cert, namespace: other}]",
            secret(namespace="other") + "---\n" + grant("{kind: ConfigMap}", "Gateway", home="other"),
            "RefNotPermitted",
        ),
        (
            "certificateRefs: [{name: cert, namespace: other}]",
            secret(namespace="other") + "---\n" + grant("{kind: Secret, name: another}", "Gateway", home="other"),
            "RefNotPermitted",
        ),
        (
            "certificateRefs: [{name: cert, namespace: other}]",
            secret(namespace="other") + "---\n" + grant("{kind: Secret}", "HTTPRoute", home="other"),
            "RefNotPermitted",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_keeps_the_listener_out(tls: str, more: str, reason: str) -> None:
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{tls}}}")), *([more] if more else []))
    found = world.listener_reasons("web")
    assert found["ResolvedRefs"] == ("False", reason)
    assert found["Programmed"] == ("False", "Invalid")
    assert found["Accepted"] == ("True", "Accepted")
    assert world.config().listeners == ()


@given(st.binary(max_size=64), st.binary(max_size=64), st.sampled_from(("CERTIFICATE", "PRIVATE KEY", "PUBLIC KEY")))
@settings(max_examples=50, deadline=None)
def test_whatever_stands_in_a_secret_is_judged(chain: bytes, key: bytes, label: str) -> None:
    pair = key_pair()
    certificate, private = armoured(chain, label), armoured(key, "PRIVATE KEY")
    for first, second in ((certificate, pair[1]), (pair[0], private), (certificate, private)):
        world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}")), secret(certificate=first, key=second))
        assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "InvalidCertificateRef")


def armoured(der: bytes, label: str) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


@pytest.mark.parametrize("to", ["{kind: Secret}", "{kind: Secret, name: cert}"])
def test_a_grant_opens_another_namespace(to: str) -> None:
    spec = listeners(f"{HTTPS}, tls: {{certificateRefs: [{{name: cert, namespace: other}}]}}")
    world = World(gateway(spec), secret(namespace="other"), grant(to, "Gateway", home="other"))
    assert world.listener_reasons("web")["ResolvedRefs"] == ("True", "ResolvedRefs")
    (listener,) = world.config().listeners
    assert listener.tls == l7.ListenerTls(keys=(l7.KeyPair("other/cert"),))
    world.remove(("ReferenceGrant", "other", "g"))
    assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "RefNotPermitted")


@pytest.mark.parametrize(
    ("options", "tls"),
    [
        ("gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL", l7.ListenerTls(client=l7.ClientAuth.REQUIRED, mesh=True)),
        ("gateway.istio.io/tls-terminate-mode: ISTIO_SIMPLE", l7.ListenerTls(mesh=True)),
        (
            "gateway.istio.io/tls-terminate-mode: MUTUAL",
            l7.ListenerTls((l7.KeyPair("default/cert"),), l7.ClientAuth.REQUIRED, l7.Trust(("default/cert",))),
        ),
        (
            "gateway.istio.io/tls-terminate-mode: OPTIONAL_MUTUAL",
            l7.ListenerTls((l7.KeyPair("default/cert"),), l7.ClientAuth.OPTIONAL, l7.Trust(("default/cert",))),
        ),
        (
            "gateway.istio.io/tls-cipher-suites: 'A, B'",
            l7.ListenerTls((l7.KeyPair("default/cert"),), ciphers=("A", "B")),
        ),
    ],
)
def test_options_choose_how_tls_ends(options: str, tls: l7.ListenerTls) -> None:
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}, options: {{{options}}}}}")), secret())
    (listener,) = world.config().listeners
    assert listener.tls == tls


def test_a_mode_that_does_not_exist_is_refused_and_not_taken_for_a_weaker_one() -> None:
    option = "options: {gateway.istio.io/tls-terminate-mode: mutual}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}, {option}}}")), secret())
    assert world.listener_reasons("web")["Accepted"] == ("False", "UnsupportedValue")
    assert world.config().listeners == ()


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (("name: a, port: 80, protocol: HTTP", "name: b, port: 80, protocol: HTTP"), "HostnameConflict"),
        (("name: a, port: 80, protocol: TCP", "name: b, port: 80, protocol: TCP"), "HostnameConflict"),
        (("name: a, port: 80, protocol: HTTP", "name: b, port: 80, protocol: TCP"), "ProtocolConflict"),
        (
            ("name: a, port: 80, protocol: HTTP, hostname: x.y", "name: b, port: 80, protocol: HTTP, hostname: x.z"),
            "NoConflicts",
        ),
        (
            (
                "name: a, port: 80, protocol: TLS, hostname: x.y, tls: {mode: Passthrough}",
                "name: b, port: 80, protocol: TLS, hostname: x.z, tls: {mode: Terminate, certificateRefs: [{name: c}]}",
            ),
            "NoConflicts",
        ),
        (("name: a, port: 80, protocol: HTTP", "name: b, port: 81, protocol: TCP"), "NoConflicts"),
        (("name: a, port: 80, protocol: HTTP", "name: b, port: 80, protocol: UDP"), "NoConflicts"),
    ],
)
def test_listeners_of_a_gateway_that_exclude_each_other_are_both_refused(items: tuple[str, str], reason: str) -> None:
    world = World(gateway(listeners(*items)))
    status = "False" if reason == "NoConflicts" else "True"
    assert world.listener_reasons("a")["Conflicted"] == (status, reason)
    if reason != "NoConflicts":
        assert world.listener_reasons("b")["Conflicted"] == ("True", reason)
        (condition,) = (one for one in world.listener("a")["conditions"] if one["type"] == "Conflicted")
        assert ("hostname" in condition["message"]) == (reason == "HostnameConflict")
        assert world.listener_reasons("b")["Accepted"] == ("False", reason)
        assert world.config().listeners == ()
        assert world.conditions("Gateway", "gw")["Accepted"] == ("False", "ListenersNotValid")


def test_one_bad_listener_leaves_the_gateway_accepted() -> None:
    world = World(gateway(listeners("name: web, port: 80, protocol: HTTP", "name: bad, port: 81, protocol: UDP")))
    assert world.conditions("Gateway", "gw")["Accepted"] == ("True", "ListenersNotValid")


def listener_set(spec: str, *, name: str = "set", home: str = "default", created: str = "2026-01-01T00:00:00Z") -> str:
    return (
        f"{API}\nkind: ListenerSet\nmetadata: {{name: {name}, namespace: {home}, creationTimestamp: '{created}'}}\n"
        f"spec: {{parentRef: {{name: gw, namespace: default}}, listeners: {spec}}}"
    )


@pytest.mark.parametrize(
    ("scope", "home", "allowed"),
    [
        ("", "default", False),
        ("{from: None}", "default", False),
        ("{from: Same}", "default", True),
        ("{from: Same}", "other", False),
        ("{from: All}", "other", True),
        ("{from: Selector, selector: {matchLabels: {team: red}}}", "other", True),
        (
            "{from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}}",
            "other",
            False,
        ),
        ("{from: Selector, selector: {matchExpressions: [{key: team, operator: Exists}]}}", "other", True),
    ],
)
def test_a_gateway_says_which_listener_sets_join(scope: str, home: str, allowed: bool) -> None:
    more = f"allowedListeners: {{namespaces: {scope}}}" if scope else ""
    spec = listeners("name: web, port: 8080, protocol: HTTP")
    world = World(gateway(more=more), listener_set(spec, home=home), namespace("other", "team: red"))
    found = world.conditions("ListenerSet", "set", home)
    ports = {one.port for one in world.config().listeners}
    if allowed:
        assert found == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
        assert ports == {80, 8080}
        assert world.status("Gateway", "gw")["attachedListenerSets"] == 1
    else:
        assert found == {"Accepted": ("False", "NotAllowed"), "Programmed": ("False", "NotAllowed")}
        assert ports == {80}
        assert "attachedListenerSets" not in world.status("Gateway", "gw")


def test_listener_sets_give_way_to_the_gateway_and_to_older_sets() -> None:
    more = "allowedListeners: {namespaces: {from: Same}}"
    same = "name: x, port: 80, protocol: HTTP"
    other = "name: y, port: 81, protocol: HTTP"
    world = World(
        gateway(more=more),
        listener_set(listeners(same, other), name="young", created="2026-02-01T00:00:00Z"),
        listener_set(listeners(other), name="old"),
    )
    assert world.listener_reasons("web")["Conflicted"] == ("False", "NoConflicts")
    assert world.listener_reasons("x", kind="ListenerSet", parent="young")["Conflicted"] == ("True", "HostnameConflict")
    assert world.listener_reasons("y", kind="ListenerSet", parent="young")["Accepted"] == ("False", "HostnameConflict")
    assert world.listener_reasons("y", kind="ListenerSet", parent="old")["Conflicted"] == ("False", "NoConflicts")
    assert world.conditions("ListenerSet", "young")["Accepted"] == ("False", "ListenersNotValid")


def test_a_listener_set_of_another_product_s_gateway_has_no_status_of_ours() -> None:
    foreign = f"{API}\nkind: Gateway\nmetadata: {{name: gw}}\nspec: {{gatewayClassName: nginx, listeners: []}}"
    world = World(foreign, listener_set(listeners("name: x, port: 80, protocol: HTTP")))
    assert world.status("ListenerSet", "set") == {}
    assert world.status("Gateway", "gw") == {}


@pytest.mark.parametrize(
    ("validation", "more", "reason", "client"),
    [
        ("caCertificateRefs: [{kind: ConfigMap, name: ca}]", authorities(), "", l7.ClientAuth.REQUIRED),
        (
            "caCertificateRefs: [{kind: ConfigMap, name: ca}], mode: AllowInsecureFallback",
            authorities(),
            "",
            l7.ClientAuth.INSECURE_FALLBACK,
        ),
        ("caCertificateRefs: [{kind: ConfigMap, name: ca}]", "", "InvalidCACertificateRef", None),
        ("caCertificateRefs: [{kind: ConfigMap, name: ca}]", authorities(text="none"), "InvalidCACertificateRef", None),
        ("caCertificateRefs: [{kind: Service, name: ca}]", "", "InvalidCACertificateKind", None),
        (
            "caCertificateRefs: [{kind: ConfigMap, name: ca, namespace: other}]",
            authorities(namespace="other"),
            "RefNotPermitted",
            None,
        ),
    ],
)
def test_client_certificates_of_a_frontend(
    validation: str, more: str, reason: str, client: l7.ClientAuth | None
) -> None:
    frontend = f"tls: {{frontend: {{default: {{validation: {{{validation}}}}}}}}}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}"), frontend), secret(), *([more] if more else []))
    found = world.listener_reasons("web")
    insecure = world.conditions("Gateway", "gw").get("InsecureFrontendValidationMode")
    if client is None:
        assert found["Accepted"] == ("False", "NoValidCACertificate")
        assert found["ResolvedRefs"] == ("False", reason)
        assert world.config().listeners == ()
    else:
        assert found["ResolvedRefs"] == ("True", "ResolvedRefs")
        (listener,) = world.config().listeners
        assert listener.tls is not None
        assert (listener.tls.client, listener.tls.trust) == (client, l7.Trust(config_maps=("default/ca",)))
        assert insecure == (("True", "ConfigurationChanged") if "Insecure" in validation else None)


@pytest.mark.parametrize("field", ["tls.crt", "tls.key"])
def test_a_secret_with_half_a_pair_lacks_the_other_half(field: str) -> None:
    text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ndata: {{{field}: aGVsbG8=}}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}")), text)
    (condition,) = (one for one in world.listener("web")["conditions"] if one["type"] == "ResolvedRefs")
    assert condition["reason"] == "InvalidCertificateRef"
    assert "lacks tls.crt or tls.key" in condition["message"]


def test_every_authority_of_a_frontend_counts() -> None:
    refs = "[{kind: ConfigMap, name: ca}, {kind: ConfigMap, name: more}]"
    frontend = f"tls: {{frontend: {{default: {{validation: {{caCertificateRefs: {refs}}}}}}}}}"
    documents = (secret(), authorities(), authorities("more"))
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}"), frontend), *documents)
    (listener,) = world.config().listeners
    assert listener.tls is not None
    assert listener.tls.trust == l7.Trust(config_maps=("default/ca", "default/more"))


def test_the_first_of_several_faults_is_told() -> None:
    both = "tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: none}]}}}}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}"), both))
    assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "InvalidCertificateRef")
    world.put(secret())
    assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "InvalidCACertificateRef")
    refs = "tls: {certificateRefs: [{name: none}, {name: cert, namespace: other}]}"
    world = World(gateway(listeners(f"{HTTPS}, {refs}")))
    assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "InvalidCertificateRef")
    ca_refs = "[{kind: ConfigMap, name: none}, {kind: Service, name: ca}]"
    frontend = f"tls: {{frontend: {{default: {{validation: {{caCertificateRefs: {ca_refs}}}}}}}}}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}"), frontend), secret())
    assert world.listener_reasons("web")["ResolvedRefs"] == ("False", "InvalidCACertificateRef")


def test_a_port_has_its_own_frontend_validation() -> None:
    port = "perPort: [{port: 443, tls: {validation: {caCertificateRefs: [{kind: ConfigMap, name: ca}]}}}]"
    both = listeners(f"{HTTPS}, tls: {{{CERT}}}", f"name: b, port: 444, protocol: HTTPS, tls: {{{CERT}}}")
    world = World(gateway(both, f"tls: {{frontend: {{default: {{}}, {port}}}}}"), secret(), authorities())
    clients = {one.port: one.tls.client for one in world.config().listeners if one.tls is not None}
    assert clients == {443: l7.ClientAuth.REQUIRED, 444: l7.ClientAuth.NONE}


def test_a_secret_shows_its_keys_and_nothing_else() -> None:
    world = World(secret())
    found = repr(world.store.by_kind("Secret")["default", "cert"])
    assert found == "Secret(default/cert: tls.crt, tls.key)"


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_a_generic_secret_serves_as_well(field: str) -> None:
    chain, key = key_pair()
    if field == "data":
        chain, key = (base64.b64encode(text.encode()).decode() for text in (chain, key))
    lines = "".join(f"  {name}: {json.dumps(text)}\n" for name, text in (("cert", chain), ("key", key)))
    text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\n{field}:\n{lines}"
    world = World(gateway(listeners(f"{HTTPS}, tls: {{{CERT}}}")), text)
    assert world.listener_reasons("web")["ResolvedRefs"] == ("True", "ResolvedRefs")
