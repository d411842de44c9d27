"""The Gateway API: what its definitions refuse by rules over several fields, and by the syntax of one."""

from __future__ import annotations

import pytest

from tests.unit.istiod.validating import Case, error, expect, said, short, warning

L = "spec.listeners[0]"


def listener(text: str) -> str:
    return f"{{gatewayClassName: istio, listeners: [{{name: a, port: 443, {text}}}]}}"


def addressed(text: str) -> str:
    return f"{{gatewayClassName: istio, listeners: [{{name: a, port: 80, protocol: HTTP}}], addresses: [{text}]}}"


CERTIFICATE = "certificateRefs: [{name: c}]"
GATEWAY = [
    error("{listeners: [{name: a, port: 80, protocol: HTTP}]}", "spec.gatewayClassName", "missing"),
    error("{gatewayClassName: istio, listeners: []}", "spec.listeners", "is empty"),
    error("{gatewayClassName: istio, listeners: [{port: 80, protocol: HTTP}]}", f"{L}.name", "missing"),
    error("{gatewayClassName: istio, listeners: [{name: a, port: 70000, protocol: HTTP}]}", f"{L}.port", "65535"),
    error(
        "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: TCP}]}",
        "spec.listeners[1].name",
        "stands twice",
    ),
    error(
        "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: TCP}, {name: b, port: 80, protocol: TCP}]}",
        "spec.listeners[1].port",
        "listener 'a' has the same",
    ),
    error(listener("protocol: HTTP, hostname: 'a_b'"), f"{L}.hostname", "host name"),
    error(listener("protocol: HTTP, hostname: '*.*.a'"), f"{L}.hostname", "host name"),
    error(listener("protocol: TCP, hostname: a"), f"{L}.hostname", "no host names"),
    error(listener(f"protocol: HTTP, tls: {{{CERTIFICATE}}}"), f"{L}.tls", "has no TLS"),
    error(listener("protocol: HTTPS, tls: {mode: Passthrough}"), f"{L}.tls.mode", "needs mode Terminate"),
    error(listener("protocol: HTTPS, tls: {}"), f"{L}.tls.certificateRefs", "missing"),
    error(listener("protocol: TLS, tls: {mode: Terminate}"), f"{L}.tls.certificateRefs", "missing"),
    error(
        listener("protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}"),
        f"{L}.allowedRoutes.namespaces.selector",
        "missing",
    ),
    warning(listener("protocol: HTTPS"), f"{L}.tls", "cannot be programmed"),
    error(addressed("{value: a}"), "spec.addresses[0].value", "not an IP address"),
    error(addressed("{type: Hostname, value: a_b}"), "spec.addresses[0].value", "not a host name"),
    error(addressed("{value: 1.1.1.1}, {type: IPAddress, value: 1.1.1.1}"), "spec.addresses[1].value", "stands twice"),
]
LISTENER_SET = [
    error(
        "{parentRef: {name: g}, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]}",
        "spec.listeners[1].port",
        "has the same",
    ),
    error("{parentRef: {}, listeners: [{name: a, port: 80, protocol: HTTP}]}", "spec.parentRef.name", "missing"),
]
REFERENCE_GRANT = [
    error(
        "{from: [{kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}", "spec.from[0].group", "missing"
    ),
    error("{from: [{group: '', kind: Service, namespace: a}], to: [{group: ''}]}", "spec.to[0].kind", "missing"),
    error("{from: [], to: [{group: '', kind: Service}]}", "spec.from", "is empty"),
]

TARGET = "targetRefs: [{group: '', kind: Service, name: s}]"
V = "spec.validation"
BACKEND_TLS_POLICY = [
    error(f"{{{TARGET}, validation: {{wellKnownCACertificates: System}}}}", f"{V}.hostname", "missing"),
    error(f"{{{TARGET}, validation: {{hostname: a}}}}", V, "needs one of caCertificateRefs"),
    error(f"{{{TARGET}, validation: {{hostname: a, caCertificateRefs: []}}}}", V, "needs one of caCertificateRefs"),
    error(
        f"{{{TARGET}, validation: {{hostname: a, wellKnownCACertificates: System, "
        "caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]}}",
        f"{V}.wellKnownCACertificates",
        "beside caCertificateRefs",
    ),
    error(
        f"{{{TARGET}, validation: {{hostname: a, wellKnownCACertificates: System, subjectAltNames: [{{type: URI}}]}}}}",
        f"{V}.subjectAltNames[0].uri",
        "missing",
    ),
    error(
        f"{{{TARGET}, validation: {{hostname: a, wellKnownCACertificates: System, "
        "subjectAltNames: [{type: Hostname, hostname: a, uri: b}]}}",
        f"{V}.subjectAltNames[0].uri",
        "does not take it",
    ),
    error(
        "{targetRefs: [{group: '', kind: Service, name: s}, {group: '', kind: Service, name: s}], "
        "validation: {hostname: a, wellKnownCACertificates: System}}",
        "spec.targetRefs[1]",
        "same target",
    ),
    error(
        "{targetRefs: [{group: '', kind: Service, name: s}, {group: '', kind: Service, name: s, sectionName: p}], "
        "validation: {hostname: a, wellKnownCACertificates: System}}",
        "spec.targetRefs[1].sectionName",
        "whole target",
    ),
]

TO = "backendRefs: [{name: s, port: 80}]"
R = "spec.rules[0]"
M = f"{R}.matches[0]"
F = f"{R}.filters"


def rule(text: str) -> str:
    return f"{{parentRefs: [{{name: g}}], rules: [{{{text}}}]}}"


def path(text: str) -> str:
    return rule(f"matches: [{{path: {{{text}}}}}], {TO}")


def filters(*texts: str, rest: str = TO) -> str:
    return rule(f"filters: [{', '.join(f'{{{text}}}' for text in texts)}], {rest}")


REDIRECT = "type: RequestRedirect, requestRedirect: {hostname: a}"
REWRITE = "type: URLRewrite, urlRewrite: {hostname: a}"
HTTP_ROUTE = [
    error(f"{{hostnames: [a_b], rules: [{{{TO}}}]}}", "spec.hostnames[0]", "host name"),
    error(f"{{hostnames: [10.0.0.1], rules: [{{{TO}}}]}}", "spec.hostnames[0]", "IP address"),
    error(f"{{parentRefs: [{{name: g}}, {{name: g}}], rules: [{{{TO}}}]}}", "spec.parentRefs[1]", "same parent"),
    error(
        f"{{parentRefs: [{{name: g, port: 80}}, {{name: g, kind: Gateway, port: 80}}], rules: [{{{TO}}}]}}",
        "spec.parentRefs[1]",
        "same part",
    ),
    error(f"{{rules: [{{name: a, {TO}}}, {{name: a, {TO}}}]}}", "spec.rules[1].name", "stands twice"),
    error(path("value: a"), f"{M}.path.value", "starts with /"),
    error(path("value: /a//b"), f"{M}.path.value", "'//'"),
    error(path("type: Exact, value: /a/./b"), f"{M}.path.value", "'/./'"),
    error(path("value: /a/../b"), f"{M}.path.value", "'/../'"),
    error(path("value: /a/.."), f"{M}.path.value", "ends with '/..'"),
    error(path("value: /a/."), f"{M}.path.value", "ends with '/.'"),
    error(path("value: /a%2fb"), f"{M}.path.value", "'%2f'"),
    error(path("value: '/a#b'"), f"{M}.path.value", "'#'"),
    error(path("value: '/a[0-9]'"), f"{M}.path.value", "RegularExpression"),
    error(path("value: '/a b'"), f"{M}.path.value", "characters"),
    error(path("type: RegularExpression, value: '('"), f"{M}.path.value", "RE2"),
    error(
        rule(f"matches: [{{headers: [{{name: a, type: RegularExpression, value: '('}}]}}], {TO}"),
        f"{M}.headers[0].value",
        "RE2",
    ),
    error(
        rule(f"matches: [{{queryParams: [{{name: a, type: RegularExpression, value: '('}}]}}], {TO}"),
        f"{M}.queryParams[0].value",
        "RE2",
    ),
    error(
        rule(f"matches: [{{headers: [{{name: a, value: b}}, {{name: a, value: c}}]}}], {TO}"),
        f"{M}.headers[1].name",
        "stands twice",
    ),
    warning(
        rule(f"matches: [{{headers: [{{name: a, value: b}}, {{name: A, value: c}}]}}], {TO}"),
        f"{M}.headers[1].name",
        "only that is used",
    ),
    error(filters(REWRITE, REWRITE), f"{F}[1].type", "a second URLRewrite"),
    error(filters(REDIRECT, REWRITE, rest="name: a"), f"{F}[1].type", "RequestRedirect and URLRewrite"),
    error(filters("type: CORS"), f"{F}[0].cors", "type CORS needs it"),
    error(
        filters("type: URLRewrite, urlRewrite: {}, requestRedirect: {}"), f"{F}[0].requestRedirect", "RequestRedirect"
    ),
    error(filters(REDIRECT), f"{R}.backendRefs", "beside a RequestRedirect"),
    error(
        filters("type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}"),
        f"{F}[0].urlRewrite.path.replaceFullPath",
        "needs it",
    ),
    error(
        filters(
            "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}"
        ),
        f"{F}[0].urlRewrite.path.replacePrefixMatch",
        "does not take it",
    ),
    error(
        filters(
            "type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}",
            rest=f"matches: [{{path: {{type: Exact, value: /a}}}}], {TO}",
        ),
        f"{F}[0].urlRewrite.path.replacePrefixMatch",
        "exactly one match",
    ),
    error(
        filters("type: RequestMirror, requestMirror: {backendRef: {name: s}}"),
        f"{F}[0].requestMirror.backendRef.port",
        "at one of its ports",
    ),
    error(
        filters(
            "type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}, percent: 1, fraction: {numerator: 1}}"
        ),
        f"{F}[0].requestMirror.fraction",
        "beside percent",
    ),
    error(
        filters("type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}, fraction: {numerator: 101}}"),
        f"{F}[0].requestMirror.fraction.numerator",
        "more than the denominator",
    ),
    error(
        filters("type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: c}]}"),
        f"{F}[0].requestHeaderModifier.set[0].name",
        "name of a header",
    ),
    error(rule("backendRefs: [{name: s}]"), f"{R}.backendRefs[0].port", "at one of its ports"),
    error(rule("backendRefs: [{name: s, port: 80, weight: -1}]"), f"{R}.backendRefs[0].weight", "less than 0"),
    error(
        rule(f"backendRefs: [{{name: s, port: 80, filters: [{{{REWRITE}}}, {{{REWRITE}}}]}}]"),
        f"{R}.backendRefs[0].filters[1].type",
        "a second URLRewrite",
    ),
    error(rule(f"timeouts: {{request: 1.5s}}, {TO}"), f"{R}.timeouts.request", "duration"),
    error(rule(f"timeouts: {{request: 1s, backendRequest: 2s}}, {TO}"), f"{R}.timeouts.backendRequest", "longer than"),
    error(
        rule(f"sessionPersistence: {{cookieConfig: {{lifetimeType: Permanent}}}}, {TO}"),
        f"{R}.sessionPersistence.absoluteTimeout",
        "permanent cookie",
    ),
]
GRPC_ROUTE = [
    error(rule(f"matches: [{{method: {{}}}}], {TO}"), f"{M}.method", "service or method"),
    error(rule(f"matches: [{{method: {{service: a/b}}}}], {TO}"), f"{M}.method.service", "gRPC service"),
    error(rule(f"matches: [{{method: {{method: a.b}}}}], {TO}"), f"{M}.method.method", "gRPC method"),
    error(rule(f"matches: [{{method: {{type: RegularExpression, method: '('}}}}], {TO}"), f"{M}.method.method", "RE2"),
    error(filters("type: RequestHeaderModifier"), f"{F}[0].requestHeaderModifier", "needs it"),
    error(rule("backendRefs: [{name: s}]"), f"{R}.backendRefs[0].port", "at one of its ports"),
]
TCP_ROUTE = [
    error(rule("backendRefs: [{name: s}]"), f"{R}.backendRefs[0].port", "at one of its ports"),
    error(
        "{parentRefs: [{name: g}, {name: g}], rules: [{backendRefs: [{name: s, port: 1}]}]}", "spec.parentRefs[1]", ""
    ),
]
TLS_ROUTE = [
    error(f"{{rules: [{{{TO}}}]}}", "spec.hostnames", "missing"),
    error(f"{{hostnames: [10.0.0.1], rules: [{{{TO}}}]}}", "spec.hostnames[0]", "IP address"),
]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (kind, case)
        for kind, cases in (
            ("Gateway", GATEWAY),
            ("ListenerSet", LISTENER_SET),
            ("ReferenceGrant", REFERENCE_GRANT),
            ("BackendTLSPolicy", BACKEND_TLS_POLICY),
            ("HTTPRoute", HTTP_ROUTE),
            ("GRPCRoute", GRPC_ROUTE),
            ("TCPRoute", TCP_ROUTE),
            ("TLSRoute", TLS_ROUTE),
        )
        for case in cases
    ],
    ids=lambda value: short(value) if isinstance(value, Case) else value,
)
def test_an_object_of_the_gateway_api_is_told_what_is_wrong(kind: str, case: Case) -> None:
    expect(kind, case)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Gateway", listener(f"protocol: HTTPS, hostname: '*.a.com', tls: {{{CERTIFICATE}}}")),
        ("Gateway", listener("protocol: TLS, tls: {mode: Passthrough}")),
        (
            "Gateway",
            "{gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}",
        ),
        (
            "Gateway",
            (
                "{gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP, hostname: a}, "
                "{name: b, port: 80, protocol: HTTP, hostname: b}]}"
            ),
        ),
        ("ListenerSet", "{parentRef: {name: g}, listeners: [{name: a, port: 80, protocol: HTTP}]}"),
        ("GatewayClass", "{controllerName: istio.io/gateway-controller}"),
        ("ReferenceGrant", "{from: [{group: '', kind: Service, namespace: a}], to: [{group: '', kind: Secret}]}"),
        ("BackendTLSPolicy", f"{{{TARGET}, validation: {{hostname: a.com, wellKnownCACertificates: System}}}}"),
        ("HTTPRoute", rule(TO)),
        ("HTTPRoute", path("type: Exact, value: '/a/b.c;d=%20'")),
        ("HTTPRoute", path("type: RegularExpression, value: '/a/[0-9]+'")),
        ("HTTPRoute", filters(REDIRECT, rest="name: a")),
        ("HTTPRoute", f"{{parentRefs: [{{name: g, port: 80}}, {{name: g, port: 81}}], rules: [{{{TO}}}]}}"),
        ("HTTPRoute", filters(*["type: RequestMirror, requestMirror: {backendRef: {name: s, port: 1}}"] * 2)),
        ("HTTPRoute", rule(f"timeouts: {{request: 10s, backendRequest: 500ms}}, {TO}")),
        (
            "HTTPRoute",
            filters(
                "type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}",
                rest="name: a",
            ),
        ),
        ("HTTPRoute", rule("backendRefs: [{group: networking.istio.io, kind: Hostname, name: a.com}]")),
        ("GRPCRoute", rule(f"matches: [{{method: {{service: a.b.C, method: Get}}}}], {TO}")),
        ("TCPRoute", rule(TO)),
        ("TLSRoute", f"{{hostnames: [a.com], rules: [{{{TO}}}]}}"),
    ],
    ids=lambda value: value[:70],
)
def test_a_right_object_of_the_gateway_api_passes_without_a_word(kind: str, spec: str) -> None:
    assert said(kind, spec) == []
