"""VirtualService HTTP rules at a waypoint, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from istiod.validate.http_route import GRPC_STATUSES, RETRY_ON
from meshcore import l7
from meshcore.l7 import Backend, Forward, HeaderOps, HttpMatch, NamedMatch, RetryOn, TextKind, TextMatch
from tests.unit.istiod.l7.support import DETAILS, RATINGS, REVIEWS, Mesh, mesh_config, virtual_service

DEFAULT_RETRY = l7.Retry(
    2,
    RetryOn.CONNECT_FAILURE
    | RetryOn.REFUSED_STREAM
    | RetryOn.GRPC_UNAVAILABLE
    | RetryOn.GRPC_CANCELLED
    | RetryOn.RETRIABLE_STATUS_CODES,
)
GRPC_CAUSES = ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
TO_REVIEWS = "route: [{destination: {host: reviews}}]"


def exact(value: str, *, ignore_case: bool = False) -> TextMatch:
    return TextMatch(TextKind.EXACT, value, ignore_case)


def http(rule: str, *more: str) -> l7.HttpRule:
    """The first rule on port 80 that a VirtualService with one HTTP rule gives."""
    return Mesh(virtual_service(f"hosts: [reviews]\nhttp: [{{{rule}}}]"), *more).rules()[0]


def match(conditions: str) -> HttpMatch | None:
    return http(f"match: [{{{conditions}}}], {TO_REVIEWS}").match


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("uri: {exact: /a}", HttpMatch(path=exact("/a"))),
        ("uri: {prefix: /a}", HttpMatch(path=TextMatch(TextKind.PREFIX, "/a"))),
        ("uri: {regex: '/a.*'}", HttpMatch(path=TextMatch(TextKind.REGEX, "/a.*"))),
        ("uri: {exact: /a}, ignoreUriCase: true", HttpMatch(path=exact("/a", ignore_case=True))),
        ("uri: {regex: /a}, ignoreUriCase: true", HttpMatch(path=TextMatch(TextKind.REGEX, "/a"))),
        ("method: {exact: GET}", HttpMatch(method=exact("GET"))),
        ("scheme: {exact: https}", HttpMatch(scheme=exact("https"))),
        ("authority: {prefix: a.}", HttpMatch(authority=TextMatch(TextKind.PREFIX, "a."))),
        ("headers: {X-A: {exact: b}}", HttpMatch(headers=(NamedMatch("x-a", exact("b")),))),
        ("headers: {x-a: {}}", HttpMatch(headers=(NamedMatch("x-a", TextMatch(TextKind.PRESENT)),))),
        ("headers: {x-a: {regex: '*'}}", HttpMatch(headers=(NamedMatch("x-a", TextMatch(TextKind.PRESENT)),))),
        ("withoutHeaders: {x-a: {exact: b}}", HttpMatch(headers=(NamedMatch("x-a", exact("b"), negated=True),))),
        ("queryParams: {Q: {exact: '1'}}", HttpMatch(query=(NamedMatch("Q", exact("1")),))),
        (
            "headers: {'@request.auth.claims.a.b': {exact: c}}",
            HttpMatch(claims=(l7.ClaimMatch(("a", "b"), exact("c")),)),
        ),
        (
            "withoutHeaders: {'@request.auth.claims[a.x][b]': {exact: c}}",
            HttpMatch(claims=(l7.ClaimMatch(("a.x", "b"), exact("c"), negated=True),)),
        ),
        ("port: 80", None),
        ("sourceNamespace: default", None),
        ("gateways: [mesh]", None),
    ],
)
def test_conditions(conditions: str, expected: HttpMatch | None) -> None:
    assert match(conditions) == expected


@pytest.mark.parametrize(
    "conditions",
    [
        "port: 81",
        "sourceNamespace: other",
        "sourceLabels: {app: a}",
        "sourceLabels: {gateway.networking.k8s.io/gateway-name: wp}",  # the waypoint's own label, not its clients'
        "gateways: [default/gw]",
    ],
)
def test_a_match_that_can_never_hold_at_the_waypoint_is_left_out(conditions: str) -> None:
    rules = Mesh(virtual_service(f"hosts: [reviews]\nhttp: [{{match: [{{{conditions}}}], {TO_REVIEWS}}}]")).rules()
    assert [rule.name for rule in rules] == ["default"]


def test_each_match_of_a_rule_becomes_a_rule_and_names_are_joined() -> None:
    spec = """
hosts: [reviews]
http:
  - name: r
    match: [{name: m, uri: {exact: /a}}, {uri: {exact: /b}}]
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews}}]
"""
    rules = Mesh(virtual_service(spec)).rules()
    assert [(rule.name, rule.match) for rule in rules] == [
        ("r.m", HttpMatch(path=exact("/a"))),
        ("r", HttpMatch(path=exact("/b"))),
        ("vs", None),
    ]
    assert {rule.origin for rule in rules} == {"VirtualService/default/vs"}


@pytest.mark.parametrize("first", ["", "match: [{uri: {prefix: /}}],", "match: [{port: 80}],"])
def test_nothing_follows_a_rule_that_always_holds(first: str) -> None:
    older = virtual_service(f"hosts: [reviews]\nhttp: [{{{first} {TO_REVIEWS}}}, {{name: never, {TO_REVIEWS}}}]")
    newer = virtual_service(f"hosts: [reviews]\nhttp: [{{name: never, {TO_REVIEWS}}}]", "newer", created=1)
    assert len(Mesh(older, newer).rules()) == 1


def forward(rule: str) -> Forward:
    action = http(rule).action
    assert isinstance(action, Forward)
    return action


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ("{destination: {host: reviews}}", (Backend(REVIEWS, 80),)),
        ("{destination: {host: reviews}, weight: 30}", (Backend(REVIEWS, 80),)),
        ("{destination: {host: reviews.default.svc.cluster.local, subset: v1}}", (Backend(REVIEWS, 80, "v1"),)),
        ("{destination: {host: reviews, port: {number: 70}}}", (Backend(REVIEWS, 70),)),
        ("{destination: {host: ratings}}", (Backend(RATINGS, 8080),)),  # its only port
        ("{destination: {host: details.other.svc.cluster.local}}", (Backend(DETAILS, 9080),)),
        ("{destination: {host: details.other.svc.cluster.local.}}", (Backend(DETAILS, 9080),)),
        ("{destination: {host: details}}", (Backend(status=503),)),  # a short name is of the own namespace
        ("{destination: {host: ratings, port: {number: 1}}}", (Backend(status=503),)),
        (
            "{destination: {host: reviews}, weight: 1}, {destination: {host: gone}, weight: 3}",
            (Backend(REVIEWS, 80), Backend(weight=3, status=503)),
        ),
        (
            "{destination: {host: reviews}, weight: 0}, {destination: {host: ratings}, weight: 7}",
            (Backend(RATINGS, 8080, weight=7),),
        ),
        ("{destination: {host: reviews}}, {destination: {host: ratings}}", ()),
        (
            "{destination: {host: reviews}, headers: {request: {set: {X-A: b, Host: c}}, response: {remove: [X-D]}}}",
            (Backend(REVIEWS, 80, "", 1, HeaderOps((("x-a", "b"),)), HeaderOps(remove=("x-d",)), "c"),),
        ),
    ],
)
def test_backends(routes: str, expected: tuple[Backend, ...]) -> None:
    assert forward(f"route: [{routes}]").backends == expected


@pytest.mark.parametrize(
    ("rule", "path", "authority"),
    [
        ("match: [{uri: {prefix: /a}}], rewrite: {uri: /b}", l7.PathRewrite(l7.RewriteKind.PREFIX, "/b"), ""),
        ("match: [{uri: {exact: /a}}], rewrite: {uri: /b}", l7.PathRewrite(l7.RewriteKind.FULL, "/b"), ""),
        ("rewrite: {uri: /b}", l7.PathRewrite(l7.RewriteKind.PREFIX, "/b"), ""),
        (
            "rewrite: {uriRegexRewrite: {match: '^/a/(.*)', rewrite: '/b/\\1'}}",
            l7.PathRewrite(l7.RewriteKind.REGEX, "/b/\\1", "^/a/(.*)"),
            "",
        ),
        ("rewrite: {authority: c}", None, "c"),
        ("headers: {request: {set: {':authority': d}}}", None, "d"),
        ("rewrite: {authority: c}, headers: {request: {set: {Host: d}}}", None, "c"),
    ],
)
def test_rewrites(rule: str, path: l7.PathRewrite | None, authority: str) -> None:
    action = forward(f"{rule}, {TO_REVIEWS}")
    assert (action.path, action.authority) == (path, authority)


def test_headers_of_a_rule() -> None:
    changes = "request: {set: {A: b}, add: {C: d}, remove: [E]}, response: {add: {F: g}}"
    rule = http(f"headers: {{{changes}}}, {TO_REVIEWS}")
    assert rule.request_headers == HeaderOps((("a", "b"),), (("c", "d"),), ("e",))
    assert rule.response_headers == HeaderOps(add=(("f", "g"),))


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        ("uri: /b", l7.Redirect(path=l7.PathRewrite(l7.RewriteKind.FULL, "/b"))),
        ("prefixRewrite: /b", l7.Redirect(path=l7.PathRewrite(l7.RewriteKind.PREFIX, "/b"))),
        ("authority: h, redirectCode: 308", l7.Redirect(308, authority="h")),
        ("scheme: https, port: 443", l7.Redirect(scheme="https")),
        ("scheme: https, port: 8443", l7.Redirect(scheme="https", port=8443)),
        ("port: 80", l7.Redirect()),
        ("port: 8080", l7.Redirect(port=8080)),
        ("scheme: https, derivePort: FROM_REQUEST_PORT", l7.Redirect(scheme="https", port=80)),
        ("scheme: https, derivePort: FROM_PROTOCOL_DEFAULT", l7.Redirect(scheme="https")),
    ],
)
def test_redirects(redirect: str, expected: l7.Redirect) -> None:
    rule = http(f"match: [{{uri: {{prefix: /a}}}}], redirect: {{{redirect}}}")
    assert rule.action == expected
    assert rule.retry is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("status: 503", l7.DirectResponse(503)),
        ("status: 200, body: {string: hello}", l7.DirectResponse(200, b"hello")),
        ("status: 200, body: {bytes: aGk=}", l7.DirectResponse(200, b"hi")),
    ],
)
def test_direct_responses(response: str, expected: l7.DirectResponse) -> None:
    assert http(f"directResponse: {{{response}}}").action == expected


@pytest.mark.parametrize(
    ("timeout", "expected"), [("", 0), ("timeout: 0s,", 0), ("timeout: 1.5s,", 1500), ("timeout: 1m1ms,", 60001)]
)
def test_timeouts(timeout: str, expected: int) -> None:
    assert http(f"{timeout} {TO_REVIEWS}").timeout_ms == expected


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ("", DEFAULT_RETRY),
        ("retries: {attempts: 0},", None),
        ("retries: {attempts: -1},", None),
        ("retries: {attempts: 3},", l7.Retry(3, DEFAULT_RETRY.on)),
        (
            "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx, reset,nonsense', backoff: 10ms},",
            l7.Retry(3, RetryOn.HTTP_5XX | RetryOn.RESET, (), 2000, 10, 100),
        ),
        (
            "retries: {attempts: 1, retryOn: 'connect-failure,503,503'},",
            l7.Retry(1, RetryOn.CONNECT_FAILURE | RetryOn.RETRIABLE_STATUS_CODES, (503,)),
        ),
        (
            "retries: {attempts: 1, retryIgnorePreviousHosts: false, retryRemoteLocalities: true},",
            l7.Retry(1, DEFAULT_RETRY.on, other_hosts=False, other_localities=True),
        ),
    ],
)
def test_retries(retries: str, expected: l7.Retry | None) -> None:
    assert http(f"{retries} {TO_REVIEWS}").retry == expected


def test_the_mesh_sets_retries_of_rules_that_say_nothing() -> None:
    mesh = mesh_config("defaultHttpRetryPolicy: {attempts: 5, retryOn: reset}")
    assert http(TO_REVIEWS, mesh).retry == l7.Retry(5, RetryOn.RESET)
    assert http(f"retries: {{attempts: 1}}, {TO_REVIEWS}", mesh).retry == l7.Retry(1, DEFAULT_RETRY.on)
    assert http(TO_REVIEWS, mesh_config("defaultHttpRetryPolicy: {attempts: 0}")).retry is None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("delay: {fixedDelay: 5s}", None),
        ("delay: {fixedDelay: 5s, percentage: {value: 0.1}}", l7.Fault(5000, 1000)),
        ("delay: {fixedDelay: 5s, percent: 50}", l7.Fault(5000, 500_000)),
        ("abort: {httpStatus: 503}", None),
        ("abort: {httpStatus: 503, percentage: {value: 100}}", l7.Fault(abort_share=l7.PPM, status=503)),
        ("abort: {grpcStatus: UNAVAILABLE, percentage: {value: 25}}", l7.Fault(abort_share=250_000, grpc_status=14)),
        (
            "delay: {fixedDelay: 1s, percentage: {value: 10}}, abort: {httpStatus: 500, percentage: {value: 20}}",
            l7.Fault(1000, 100_000, 200_000, 500),
        ),
    ],
)
def test_faults_without_a_percentage_never_happen(fault: str, expected: l7.Fault | None) -> None:
    assert http(f"fault: {{{fault}}}, {TO_REVIEWS}").fault == expected


@pytest.mark.parametrize(
    ("mirrors", "expected"),
    [
        ("mirror: {host: ratings}", (l7.Mirror(Backend(RATINGS, 8080)),)),
        ("mirror: {host: ratings}, mirrorPercentage: {value: 1.5}", (l7.Mirror(Backend(RATINGS, 8080), 15_000),)),
        ("mirror: {host: ratings}, mirrorPercent: 10", (l7.Mirror(Backend(RATINGS, 8080), 100_000),)),
        ("mirror: {host: ratings}, mirrorPercentage: {value: 0}", ()),
        ("mirror: {host: gone}", ()),
        (
            "mirrors: [{destination: {host: ratings}}, {destination: {host: reviews}, percentage: {value: 5}}]",
            (l7.Mirror(Backend(RATINGS, 8080)), l7.Mirror(Backend(REVIEWS, 80), 50_000)),
        ),
    ],
)
def test_mirrors(mirrors: str, expected: tuple[l7.Mirror, ...]) -> None:
    assert http(f"{mirrors}, {TO_REVIEWS}").mirrors == expected


@pytest.mark.parametrize(
    ("cors", "expected"),
    [
        (
            "allowOrigins: [{exact: 'https://a'}, {prefix: 'https://b'}]",
            l7.Cors((exact("https://a"), TextMatch(TextKind.PREFIX, "https://b"))),
        ),
        ("allowOrigins: [{exact: '*'}]", l7.Cors((TextMatch(TextKind.PRESENT),))),
        ("allowOrigin: ['*', 'https://a']", l7.Cors((TextMatch(TextKind.PRESENT), exact("https://a")))),
        (
            "allowMethods: [GET], allowHeaders: [A], exposeHeaders: [B], maxAge: 1h, allowCredentials: true",
            l7.Cors((), ("GET",), ("A",), ("B",), 3600, credentials=True),
        ),
        ("unmatchedPreflights: IGNORE", l7.Cors(forward_unmatched=False)),
        ("unmatchedPreflights: FORWARD", l7.Cors()),
    ],
)
def test_cors(cors: str, expected: l7.Cors) -> None:
    assert http(f"corsPolicy: {{{cors}}}, {TO_REVIEWS}").cors == expected


ROOT = """
hosts: [reviews]
http:
  - name: root
    match: [{uri: {prefix: /a}, headers: {x: {exact: y}}}]
    timeout: 5s
    headers: {request: {set: {one: root, two: root}}}
    delegate: {name: d, namespace: other}
  - route: [{destination: {host: reviews}}]
"""


def delegated(rule: str, **root: Any) -> tuple[l7.HttpRule, ...]:
    inner = virtual_service(f"http: [{{{rule}}}]", "d", namespace="other")
    return Mesh(virtual_service(ROOT), inner, **root).rules()


def test_a_delegate_takes_what_it_does_not_say_from_the_root() -> None:
    rule, _ = delegated("name: inner, route: [{destination: {host: details}}], headers: {request: {set: {two: d}}}")
    assert rule.name == "root-inner"
    assert rule.match == HttpMatch(path=TextMatch(TextKind.PREFIX, "/a"), headers=(NamedMatch("x", exact("y")),))
    assert rule.timeout_ms == 5000
    assert rule.action == Forward((Backend(DETAILS, 9080),))  # its short names are of its own namespace
    assert rule.request_headers == HeaderOps((("one", "root"), ("two", "d")))
    assert rule.origin == "VirtualService/other/d"


@pytest.mark.parametrize(
    ("conditions", "path"),
    [
        ("uri: {prefix: /a/b}", TextMatch(TextKind.PREFIX, "/a/b")),
        ("uri: {exact: /a/b}", exact("/a/b")),
        ("uri: {prefix: /b}", None),
        ("uri: {exact: /b}", None),
        ("uri: {regex: '/a/.*'}", None),
        ("port: 80", TextMatch(TextKind.PREFIX, "/a")),
        ("sourceNamespace: default", TextMatch(TextKind.PREFIX, "/a")),
        ("headers: {x: {exact: z}}", None),
        ("uri: {prefix: /a}, ignoreUriCase: true", None),
    ],
)
def test_a_delegate_may_only_narrow_the_conditions(conditions: str, path: TextMatch | None) -> None:
    rules = delegated(f"match: [{{{conditions}}}], route: [{{destination: {{host: details}}}}]")
    assert len(rules) == (1 if path is None else 2)
    if path is not None:
        assert rules[0].match is not None
        assert rules[0].match.path == path


@pytest.mark.parametrize(
    "delegate",
    [
        "hosts: [reviews]\nhttp: [{route: [{destination: {host: details}}]}]",
        "exportTo: [.]\nhttp: [{route: [{destination: {host: details}}]}]",
        "http: [{delegate: {name: e}}]",
    ],
)
def test_what_is_no_delegate_is_left_out(delegate: str) -> None:
    mesh = Mesh(virtual_service(ROOT), virtual_service(delegate, "d", namespace="other"))
    assert [rule.name for rule in mesh.rules()] == ["vs"]


def test_names_that_move_to_a_delegate_keep_their_namespace() -> None:
    root = """
hosts: [reviews]
http:
  - match: [{gateways: [mesh, gw, old.other]}]
    mirror: {host: ratings}
    delegate: {name: d, namespace: other}
"""
    inner = "http: [{match: [{gateways: [mesh, default/gw, old.other]}], route: [{destination: {host: details}}]}]"
    (rule,) = Mesh(virtual_service(root), virtual_service(inner, "d", namespace="other")).rules()
    assert rule.mirrors == (l7.Mirror(Backend(RATINGS, 8080)),)
    assert rule.action == Forward((Backend(DETAILS, 9080),))


@pytest.mark.parametrize(
    ("root", "inner", "merged"),
    [
        ("uri: {regex: /a}", "uri: {exact: /a}", None),
        ("uri: {regex: /a}", "method: {exact: GET}", HttpMatch(TextMatch(TextKind.REGEX, "/a"), exact("GET"))),
        ("uri: {exact: /a}", "uri: {exact: /a}", HttpMatch(exact("/a"))),
        ("uri: {exact: /a}", "uri: {prefix: /a}", None),
        ("method: {exact: GET}", "method: {exact: PUT}", None),
        ("scheme: {exact: http}", "scheme: {exact: https}", None),
        ("authority: {exact: a}", "authority: {exact: b}", None),
        ("withoutHeaders: {a: {exact: b}}", "withoutHeaders: {a: {exact: c}}", None),
        ("queryParams: {a: {exact: b}}", "queryParams: {a: {exact: c}}", None),
        (
            "queryParams: {a: {exact: b}}",
            "queryParams: {c: {exact: d}}",
            HttpMatch(query=(NamedMatch("a", exact("b")), NamedMatch("c", exact("d")))),
        ),
        ("scheme: {exact: b}", "uri: {exact: /a}", HttpMatch(path=exact("/a"), scheme=exact("b"))),
        ("method: {exact: b}", "uri: {exact: /a}", HttpMatch(path=exact("/a"), method=exact("b"))),
        ("authority: {exact: b}", "uri: {exact: /a}", HttpMatch(path=exact("/a"), authority=exact("b"))),
        (
            "headers: {a: {exact: b}}, withoutHeaders: {c: {exact: d}}",
            "headers: {e: {exact: f}}, withoutHeaders: {g: {exact: h}}",
            HttpMatch(
                headers=(
                    NamedMatch("a", exact("b")),
                    NamedMatch("e", exact("f")),
                    NamedMatch("c", exact("d"), negated=True),
                    NamedMatch("g", exact("h"), negated=True),
                )
            ),
        ),
        ("sourceLabels: {a: b}", "uri: {exact: /a}", None),  # which a waypoint never sees
        ("port: 80", "port: 70", None),
        ("sourceNamespace: default", "sourceNamespace: other", None),
        ("gateways: [mesh]", "gateways: [mesh, default/gw]", None),
    ],
)
def test_the_conditions_of_root_and_delegate(root: str, inner: str, merged: HttpMatch | None) -> None:
    first = f"match: [{{{root}}}], delegate: {{name: d}}"
    spec = f"hosts: [reviews]\nhttp: [{{{first}}}]"
    rule = virtual_service(f"http: [{{name: d, match: [{{{inner}}}], {TO_REVIEWS}}}]", "d")
    found = Mesh(virtual_service(spec), rule).rules()
    assert [one.match for one in found if one.name == "d"] == ([] if merged is None else [merged])


@pytest.mark.parametrize("word", RETRY_ON)
def test_every_cause_of_a_retry_that_the_checks_know(word: str) -> None:
    causes = {"5xx": "HTTP_5XX"} | {word: f"GRPC_{word.upper().replace('-', '_')}" for word in GRPC_CAUSES}
    found = http(f"retries: {{attempts: 1, retryOn: {word}}}, {TO_REVIEWS}").retry
    assert found is not None
    assert found.on == RetryOn[causes.get(word, word.upper().replace("-", "_"))]


@pytest.mark.parametrize(("number", "name"), list(enumerate(GRPC_STATUSES)))
def test_every_grpc_status_of_an_abort(number: int, name: str) -> None:
    found = http(f"fault: {{abort: {{grpcStatus: {name}, percentage: {{value: 100}}}}}}, {TO_REVIEWS}").fault
    assert found == l7.Fault(abort_share=1_000_000, grpc_status=number)


INHERITED = """
hosts: [reviews]
http:
  - match: [{uri: {prefix: /a}}]
    delegate: {name: d}
    rewrite: {uri: /root}
    retries: {attempts: 7}
    fault: {abort: {httpStatus: 500, percentage: {value: 100}}}
    mirror: {host: ratings}
    mirrorPercentage: {value: 50}
    corsPolicy: {allowMethods: [GET]}
    headers: {request: {remove: [a]}, response: {add: {b: c}}}
"""
OWN = (
    "rewrite: {uri: /own}, retries: {attempts: 8}, fault: {abort: {httpStatus: 501, percentage: {value: 100}}}, "
    "mirror: {host: reviews}, mirrorPercentage: {value: 25}, corsPolicy: {allowMethods: [PUT]}, "
    "headers: {request: {remove: [d]}}, timeout: 1s"
)


def test_each_field_is_the_delegates_own_or_else_the_roots() -> None:
    def summary(own: str) -> tuple[object, ...]:
        inner = f"http: [{{{own}{TO_REVIEWS}}}]"
        (rule,) = Mesh(virtual_service(INHERITED), virtual_service(inner, "d")).rules()
        assert isinstance(rule.action, Forward)
        assert rule.action.path is not None
        assert rule.retry is not None
        assert rule.fault is not None
        assert rule.cors is not None
        assert rule.request_headers is not None
        assert rule.response_headers is not None
        ((mirror, part),) = ((one.backend.service, one.share) for one in rule.mirrors)
        return (
            rule.action.path.value,
            rule.retry.attempts,
            rule.fault.status,
            (mirror, part),
            rule.cors.methods,
            rule.request_headers.remove,
            rule.response_headers.add,
            rule.timeout_ms,
        )

    assert summary("") == ("/root", 7, 500, (RATINGS, 500_000), ("GET",), ("a",), (("b", "c"),), 0)
    assert summary(f"{OWN}, ") == ("/own", 8, 501, (REVIEWS, 250_000), ("PUT",), ("a", "d"), (("b", "c"),), 1000)


@pytest.mark.parametrize(
    ("root", "inner"), [("", "match: [{uri: {exact: /a}}], "), ("match: [{uri: {exact: /a}}], ", "")]
)
def test_a_side_without_conditions_takes_those_of_the_other(root: str, inner: str) -> None:
    first = virtual_service(f"hosts: [reviews]\nhttp: [{{{root}delegate: {{name: d}}}}]")
    (rule,) = Mesh(first, virtual_service(f"http: [{{{inner}{TO_REVIEWS}}}]", "d")).rules()
    assert rule.match == HttpMatch(path=exact("/a"))
