"""What rules of HTTPRoute and GRPCRoute come to, field by field."""

from __future__ import annotations

import msgspec
import pytest

from meshcore import l7
from meshcore.l7 import RewriteKind, TextKind
from tests.unit.istiod.gateway_api.support import World, gateway, namespace, route, service

A = "backendRefs: [{name: a, port: 8080}]"
BACKEND = l7.Backend("default/a.default.svc.cluster.local", 8080)
TO_B = "urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}"
DEFAULT_ON = (
    l7.RetryOn.CONNECT_FAILURE
    | l7.RetryOn.REFUSED_STREAM
    | l7.RetryOn.GRPC_UNAVAILABLE
    | l7.RetryOn.GRPC_CANCELLED
    | l7.RetryOn.RETRIABLE_STATUS_CODES
)


def only(rule: str, kind: str = "HTTPRoute") -> l7.HttpRule:
    """The rule of a route with one rule."""
    return World(gateway(), service(), service("b"), route(f"rules: [{{{rule}}}]", kind=kind)).rule()


def reason(rule: str, kind: str = "HTTPRoute") -> tuple[str, str]:
    world = World(gateway(), service(), route(f"rules: [{{{rule}}}]", kind=kind))
    return world.parents(kind, "r")[0]["Accepted"]


def test_a_plain_rule_takes_everything_and_has_the_defaults() -> None:
    assert only(A) == l7.HttpRule(
        name="default.r.0",
        action=l7.Forward((BACKEND,)),
        origin="HTTPRoute/default/r",
        retry=l7.Retry(2, DEFAULT_ON),
    )


def test_a_rule_has_a_name_if_it_says_one() -> None:
    assert only(f"name: orders, {A}").name == "orders"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("path: {type: Exact, value: /a}", l7.HttpMatch(path=l7.TextMatch(TextKind.EXACT, "/a"))),
        ("path: {value: /a}", l7.HttpMatch(path=l7.TextMatch(TextKind.SEGMENT_PREFIX, "/a"))),
        ("path: {type: PathPrefix, value: /a/}", l7.HttpMatch(path=l7.TextMatch(TextKind.SEGMENT_PREFIX, "/a"))),
        ("path: {type: RegularExpression, value: '/a.*'}", l7.HttpMatch(path=l7.TextMatch(TextKind.REGEX, "/a.*"))),
        ("path: {value: /}", None),
        ("method: PUT", l7.HttpMatch(method=l7.TextMatch(TextKind.EXACT, "PUT"))),
        (
            "headers: [{name: X-Color, value: red}, {name: x-color, value: blue}]",
            l7.HttpMatch(headers=(l7.NamedMatch("x-color", l7.TextMatch(TextKind.EXACT, "red")),)),
        ),
        (
            "headers: [{name: c, value: 'r.d', type: RegularExpression}]",
            l7.HttpMatch(headers=(l7.NamedMatch("c", l7.TextMatch(TextKind.REGEX, "r.d")),)),
        ),
        (
            "queryParams: [{name: Q, value: a}, {name: q, value: 'b+', type: RegularExpression}]",
            l7.HttpMatch(
                query=(
                    l7.NamedMatch("Q", l7.TextMatch(TextKind.EXACT, "a")),
                    l7.NamedMatch("q", l7.TextMatch(TextKind.REGEX, "b+")),
                )
            ),
        ),
    ],
)
def test_http_matches(match: str, expected: l7.HttpMatch | None) -> None:
    assert only(f"matches: [{{{match}}}], {A}").match == expected


@pytest.mark.parametrize(
    ("method", "kind", "value"),
    [
        ("service: foo.Bar, method: Login", TextKind.EXACT, "/foo.Bar/Login"),
        ("service: foo.Bar", TextKind.PREFIX, "/foo.Bar/"),
        ("method: Login", TextKind.REGEX, "/[^/]+/Login"),
        ("type: RegularExpression, service: 'foo.*', method: 'Lo.*'", TextKind.REGEX, "/(?:foo.*)/(?:Lo.*)"),
        ("type: RegularExpression, service: 'a|b', method: 'c|d'", TextKind.REGEX, "/(?:a|b)/(?:c|d)"),
        ("type: RegularExpression, service: 'foo.*'", TextKind.REGEX, "/(?:foo.*)/[^/]+"),
    ],
)
def test_grpc_methods_are_paths(method: str, kind: TextKind, value: str) -> None:
    rule = only(f"matches: [{{method: {{{method}}}, headers: [{{name: V, value: '1'}}]}}], {A}", "GRPCRoute")
    header = l7.NamedMatch("v", l7.TextMatch(TextKind.EXACT, "1"))
    assert rule.match == l7.HttpMatch(path=l7.TextMatch(kind, value), headers=(header,))


def test_a_grpc_route_without_matches_takes_every_call() -> None:
    rule = only(A, "GRPCRoute")
    assert (rule.match, rule.action, rule.origin) == (None, l7.Forward((BACKEND,)), "GRPCRoute/default/r")


@pytest.mark.parametrize(
    ("refs", "backends"),
    [
        ("{name: a, port: 8080}, {name: b, port: 8080, weight: 3}", [("a", 1, 0), ("b", 3, 0)]),
        ("{name: a, port: 8080, weight: 0}, {name: b, port: 8080}", [("b", 1, 0)]),
        ("{name: a, port: 8080, weight: 0}, {name: b, port: 8080, weight: 0}", []),
        ("{name: a, port: 8080, weight: 9}, {name: none, port: 8080}", [("a", 9, 0), ("", 1, 500)]),
        ("", []),
    ],
)
def test_weights(refs: str, backends: list[tuple[str, int, int]]) -> None:
    action = only(f"backendRefs: [{refs}]").action
    assert isinstance(action, l7.Forward)
    found = [(one.service.partition("/")[2].partition(".")[0], one.weight, one.status) for one in action.backends]
    assert found == backends


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("scheme: https", l7.Redirect(302, "https", port=443)),
        ("scheme: http", l7.Redirect(302, "http", port=80)),
        ("scheme: https, port: 8443", l7.Redirect(302, "https", port=8443)),
        ("hostname: example.org", l7.Redirect(302, authority="example.org", port=80)),
        ("hostname: example.org, port: 8080, statusCode: 301", l7.Redirect(301, authority="example.org", port=8080)),
        ("statusCode: 308", l7.Redirect(308, port=80)),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /new}",
            l7.Redirect(302, port=80, path=l7.PathRewrite(RewriteKind.FULL, "/new")),
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: ''}",
            l7.Redirect(302, port=80, path=l7.PathRewrite(RewriteKind.FULL, "/")),
        ),
        (
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}",
            l7.Redirect(302, port=80, path=l7.PathRewrite(RewriteKind.PREFIX, "/new")),
        ),
    ],
)
def test_redirects(spec: str, expected: l7.Redirect) -> None:
    filters = f"filters: [{{type: RequestRedirect, requestRedirect: {{{spec}}}}}]"
    rule = only(f"matches: [{{path: {{value: /old}}}}], {filters}")
    assert rule.action == expected
    assert rule.retry is None


@pytest.mark.parametrize(
    ("prefix", "replacement", "expected"),
    [
        ("/old", "/new", l7.PathRewrite(RewriteKind.PREFIX, "/new")),
        ("/old/", "/new/", l7.PathRewrite(RewriteKind.PREFIX, "/new")),
        ("/old", "/", l7.PathRewrite(RewriteKind.REGEX, "/", "^/old/*")),
        ("/old", "", l7.PathRewrite(RewriteKind.REGEX, "/", "^/old/*")),
        ("/", "/new", l7.PathRewrite(RewriteKind.REGEX, "/new/", "^/*")),
        ("/o.d", "/", l7.PathRewrite(RewriteKind.REGEX, "/", r"^/o\.d/*")),
        ("/", r"/n\w", l7.PathRewrite(RewriteKind.REGEX, r"/n\\w/", "^/*")),
    ],
)
def test_a_prefix_is_replaced_so_that_slashes_meet(prefix: str, replacement: str, expected: l7.PathRewrite) -> None:
    rewrite = f"urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{replacement}'}}}}"
    rule = only(f"matches: [{{path: {{value: {prefix}}}}}], filters: [{{type: URLRewrite, {rewrite}}}], {A}")
    assert rule.action == l7.Forward((BACKEND,), expected)


def test_a_rewrite_of_host_and_whole_path() -> None:
    rewrite = "urlRewrite: {hostname: one.example.org, path: {type: ReplaceFullPath, replaceFullPath: /one}}"
    rule = only(f"filters: [{{type: URLRewrite, {rewrite}}}], {A}")
    assert rule.action == l7.Forward((BACKEND,), l7.PathRewrite(RewriteKind.FULL, "/one"), "one.example.org")


def test_each_match_of_a_rule_replaces_its_own_prefix() -> None:
    rewrite = "urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}"
    matches = "matches: [{path: {value: /one}}, {path: {value: /three}}]"
    rule = f"rules: [{{{matches}, filters: [{{type: URLRewrite, {rewrite}}}], {A}}}]"
    found = World(gateway(), service(), route(rule)).rules()
    patterns = [one.action.path.pattern for one in found if isinstance(one.action, l7.Forward) and one.action.path]
    assert patterns == ["^/three/*", "^/one/*"]


def test_headers_of_requests_and_responses() -> None:
    modifier = "{set: [{name: X-Set, value: a}], add: [{name: X-Add, value: b}], remove: [X-Gone]}"
    ops = l7.HeaderOps((("x-set", "a"),), (("x-add", "b"),), ("x-gone",))
    rule = only(
        f"filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}, "
        f"{{type: ResponseHeaderModifier, responseHeaderModifier: {modifier}}}], {A}"
    )
    assert (rule.request_headers, rule.response_headers) == (ops, ops)


def test_a_backend_has_headers_of_its_own() -> None:
    request = "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: V, value: two}]}}"
    response = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [W]}}"
    rule = only(f"backendRefs: [{{name: a, port: 8080, filters: [{request}, {response}]}}]")
    assert isinstance(rule.action, l7.Forward)
    (backend,) = rule.action.backends
    assert backend.request_headers == l7.HeaderOps(add=(("v", "two"),))
    assert backend.response_headers == l7.HeaderOps(remove=("w",))


def test_the_header_host_is_the_authority() -> None:
    def modifier(host: str) -> str:
        change = f"set: [{{name: Host, value: {host}}}, {{name: A, value: b}}], add: [{{name: host, value: c}}]"
        return f"{{type: RequestHeaderModifier, requestHeaderModifier: {{{change}, remove: [hOst]}}}}"

    backend = f"{{name: a, port: 8080, filters: [{modifier('two')}]}}"
    rule = only(f"filters: [{modifier('one')}], backendRefs: [{backend}]")
    ops = l7.HeaderOps((("a", "b"),))
    assert rule.request_headers == ops
    target = msgspec.structs.replace(BACKEND, request_headers=ops, authority="two")
    assert rule.action == l7.Forward((target,), authority="one")
    rewrite = "{type: URLRewrite, urlRewrite: {hostname: three}}"
    for filters in (f"{modifier('one')}, {rewrite}", f"{rewrite}, {modifier('one')}"):
        action = only(f"filters: [{filters}], {A}").action
        assert isinstance(action, l7.Forward)
        assert action.authority == "three"


def test_the_first_of_several_faults_is_told() -> None:
    wrong = ("matches: [{path: {type: RegularExpression, value: '('}}]", "timeouts: {request: 1y}")
    for first, second in (wrong, wrong[::-1]):
        world = World(gateway(), service(), route(f"rules: [{{name: one, {first}}}, {{name: two, {second}}}]"))
        (status,) = world.status("HTTPRoute", "r")["parents"]
        messages = [one["message"] for one in status["conditions"] if one["type"] == "Accepted"]
        assert [text.startswith("one: ") for text in messages] == [True]
    refs = "[{name: none, port: 1}, {kind: Nothing, name: a}]"
    world = World(gateway(), route(f"rules: [{{backendRefs: {refs}}}]"))
    assert world.parents("HTTPRoute", "r")[0]["ResolvedRefs"] == ("False", "BackendNotFound")


@pytest.mark.parametrize(
    ("share", "ppm"),
    [
        ("", 1_000_000),
        (", percent: 25", 250_000),
        (", percent: 0", 0),
        (", fraction: {numerator: 1, denominator: 1000}", 1_000),
        (", fraction: {numerator: 5}", 50_000),
    ],
)
def test_mirrors(share: str, ppm: int) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 8080}}{share}}}}}"
    rule = only(f"filters: [{mirror}, {mirror}], {A}")
    expected = l7.Mirror(l7.Backend("default/b.default.svc.cluster.local", 8080), ppm)
    assert rule.mirrors == (expected, expected)


def test_cors() -> None:
    cors = (
        "cors: {allowOrigins: ['*', 'https://a.example', 'https://*.b.example'], allowMethods: [GET], "
        "allowHeaders: [X-A], exposeHeaders: [X-B], allowCredentials: true, maxAge: 60}"
    )
    assert only(f"filters: [{{type: CORS, {cors}}}], {A}").cors == l7.Cors(
        (
            l7.TextMatch(TextKind.PRESENT),
            l7.TextMatch(TextKind.EXACT, "https://a.example"),
            l7.TextMatch(TextKind.REGEX, r"https://.*\.b\.example"),
        ),
        ("GET",),
        ("X-A",),
        ("X-B",),
        60,
        credentials=True,
        forward_unmatched=False,
    )


@pytest.mark.parametrize(
    ("timeouts", "timeout"),
    [("request: 500ms", 500), ("request: 1m30s", 90_000), ("request: 0s", 0), ("backendRequest: 2s", 2_000)],
)
def test_timeouts(timeouts: str, timeout: int) -> None:
    assert only(f"timeouts: {{{timeouts}}}, {A}").timeout_ms == timeout


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("retry: {codes: [503, 500]}", l7.Retry(2, DEFAULT_ON | l7.RetryOn.RESET, (500, 503))),
        (
            "retry: {attempts: 3, backoff: 100ms}, timeouts: {request: 5s, backendRequest: 1s}",
            l7.Retry(3, DEFAULT_ON | l7.RetryOn.RESET, (), 1_000, 100, 1_000),
        ),
        ("retry: {attempts: 0}", None),
    ],
)
def test_retries(spec: str, expected: l7.Retry | None) -> None:
    rule = only(f"{spec}, {A}")
    assert rule.retry == expected
    assert rule.timeout_ms == (5_000 if "request: 5s" in spec else 0)


def test_the_mesh_says_how_often_rules_without_retries_try_again() -> None:
    mesh = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'defaultHttpRetryPolicy: {attempts: 5}'}"
    )
    world = World(gateway(), service(), route(f"rules: [{{{A}}}]"), mesh)
    assert world.rule().retry == l7.Retry(5, DEFAULT_ON)


@pytest.mark.parametrize(
    ("rule", "kind", "why"),
    [
        ("filters: [{type: ExtensionRef}]", "HTTPRoute", "InvalidFilter"),
        ("filters: [{type: Unknown}]", "HTTPRoute", "InvalidFilter"),
        ("filters: [{type: RequestMirror}]", "HTTPRoute", "InvalidFilter"),
        ("filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]", "GRPCRoute", "InvalidFilter"),
        (
            f"matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{type: URLRewrite, {TO_B}}}]",
            "HTTPRoute",
            "InvalidFilter",
        ),
        ("matches: [{path: {type: RegularExpression, value: '('}}]", "HTTPRoute", "UnsupportedValue"),
        ("matches: [{headers: [{name: a, value: '(', type: RegularExpression}]}]", "HTTPRoute", "UnsupportedValue"),
        ("matches: [{method: {type: RegularExpression, service: '('}}]", "GRPCRoute", "UnsupportedValue"),
        ("timeouts: {request: soon}", "HTTPRoute", "UnsupportedValue"),
        ("retry: {backoff: '1.5s'}", "HTTPRoute", "UnsupportedValue"),
    ],
)
def test_what_cannot_be_served_is_answered_with_500_and_told(rule: str, kind: str, why: str) -> None:
    assert reason(f"{rule}, {A}", kind) == ("False", why)
    assert only(f"{rule}, {A}", kind).action == l7.DirectResponse(500)


def test_a_filter_of_a_backend_that_is_not_known_costs_the_backend_its_share() -> None:
    world = World(
        gateway(), service(), route("rules: [{backendRefs: [{name: a, port: 8080, filters: [{type: ExtensionRef}]}]}]")
    )
    assert world.parents("HTTPRoute", "r")[0]["Accepted"] == ("False", "InvalidFilter")
    assert world.rule().action == l7.Forward((l7.Backend(status=500),))


def matching(*matches: str) -> str:
    return "rules: [" + ", ".join(f"{{name: '{text}', matches: [{{{text}}}], {A}}}" for text in matches) + "]"


def test_precedence_of_matches() -> None:
    ordered = (
        "path: {type: Exact, value: /a}",
        "path: {value: /longer}, method: GET",
        "path: {value: /longer}, headers: [{name: a, value: b}]",
        "path: {value: /longer}, queryParams: [{name: a, value: b}]",
        "path: {value: /longer}",
        "path: {value: /a}",
        "path: {type: RegularExpression, value: /any.+}",
    )
    world = World(gateway(), service(), route(matching(*reversed(ordered))))
    assert [rule.name for rule in world.rules()] == list(ordered)


def test_precedence_of_routes_is_age_then_name() -> None:
    world = World(
        gateway("[{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]"),
        namespace("other"),
        service(),
        service(namespace="a"),
        route(name="young", created="2026-03-01T00:00:00Z"),
        route(name="b"),
        route(name="z", namespace="a", parents="[{name: gw, namespace: default}]"),
        route(name="a"),
        route(name="old", kind="GRPCRoute", created="2025-01-01T00:00:00Z"),
    )
    assert [rule.origin.partition("/")[2] for rule in world.rules()] == [
        "default/old",
        "a/z",
        "default/a",
        "default/b",
        "default/young",
    ]
