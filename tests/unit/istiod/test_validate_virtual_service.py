"""VirtualService: each refusal of the webhook, by field; what is right passes without a word."""

from __future__ import annotations

import pytest

from tests.unit.istiod.validating import Case, error, expect, said, short, warning

TO = "route: [{destination: {host: a}}]"
R = "spec.http[0]"
LONG = "x" * 110_000


def http(text: str) -> str:
    return f"{{hosts: [a.example.com], http: [{{{text}}}]}}"


def match(text: str) -> str:
    return http(f"match: [{{{text}}}], {TO}")


def tls(text: str) -> str:
    return f"{{hosts: ['*.example.com'], tls: [{{{text}}}]}}"


TOP = [
    error("{hosts: [a]}", "spec", "needs one of http"),
    error(f"{{hosts: ['*'], http: [{{{TO}}}]}}", "spec.hosts[0]", "every host of the mesh"),
    error(f"{{hosts: ['*'], gateways: [mesh, g], http: [{{{TO}}}]}}", "spec.hosts[0]", "every host of the mesh"),
    error(f"{{hosts: [a, a], http: [{{{TO}}}]}}", "spec.hosts[1]", "overlaps with 'a'"),
    error(f"{{hosts: ['*.a.com', b.a.com], http: [{{{TO}}}]}}", "spec.hosts[1]", "overlaps with '*.a.com'"),
    error(f"{{hosts: ['*.b.a.com', '*.a.com'], http: [{{{TO}}}]}}", "spec.hosts[1]", "overlaps"),
    error(f"{{hosts: [a_b], http: [{{{TO}}}]}}", "spec.hosts[0]", "not a host name"),
    error(f"{{hosts: [a.*.com], http: [{{{TO}}}]}}", "spec.hosts[0]", "at its start only"),
    error(f"{{hosts: ['*.10.0.0'], http: [{{{TO}}}]}}", "spec.hosts[0]", "last part 0 is a number"),
    error(f"{{hosts: ['{'a' * 64}.com'], http: [{{{TO}}}]}}", "spec.hosts[0]", "cannot stand between dots"),
    error(f"{{http: [{{{TO}}}], gateways: [g]}}", "spec.gateways", "others delegate to"),
    error(f"{{http: [{{{TO}}}], tcp: [{{{TO}}}]}}", "spec.tcp", "others delegate to"),
    error(
        f"{{http: [{{{TO}}}], tls: [{{match: [{{sniHosts: [a]}}], {TO}}}]}}",
        "spec.tls",
        "others delegate to",
    ),
    error("{http: [{delegate: {name: more}}]}", f"{R}.delegate", "cannot delegate on"),
    error(f"{{hosts: [a], gateways: [N/g], http: [{{{TO}}}]}}", "spec.gateways[0]", "NAMESPACE/NAME"),
    warning(f"{{hosts: [a], gateways: [g.ns], http: [{{{TO}}}]}}", "spec.gateways[0]", "short form"),
    error(f"{{hosts: [a], exportTo: [a, a], http: [{{{TO}}}]}}", "spec.exportTo[1]", "stands twice"),
    error(f"{{hosts: [a], exportTo: [., here], http: [{{{TO}}}]}}", "spec.exportTo[1]", ". is this namespace"),
    error(f"{{hosts: [a], exportTo: ['*', b], http: [{{{TO}}}]}}", "spec.exportTo", "cannot stand beside other"),
    error(f"{{hosts: [a], exportTo: ['~'], http: [{{{TO}}}]}}", "spec.exportTo[0]", "ServiceEntry only"),
    error(f"{{hosts: [a], exportTo: [A], http: [{{{TO}}}]}}", "spec.exportTo[0]", "nor a namespace"),
]

RULES = [
    error(http("timeout: 1s"), R, "needs one of route"),
    error(http(f"{TO}, redirect: {{uri: /}}"), f"{R}.redirect", "beside route"),
    error(http("redirect: {uri: /}, fault: {abort: {httpStatus: 500}}"), f"{R}.redirect", "beside fault"),
    error(http("redirect: {uri: /}, rewrite: {uri: /}"), f"{R}.redirect", "beside rewrite"),
    error(http("redirect: {uri: /}, directResponse: {status: 200}"), f"{R}.redirect", "beside directResponse"),
    error(http(f"{TO}, directResponse: {{status: 200}}"), f"{R}.directResponse", "beside route"),
    error(
        http("directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}"), f"{R}.directResponse", "beside fault"
    ),
    error(http("directResponse: {status: 200}, rewrite: {uri: /}"), f"{R}.directResponse", "beside rewrite"),
    error(http(f"{TO}, mirror: {{host: a}}, mirrors: [{{destination: {{host: b}}}}]"), f"{R}.mirrors", "beside mirror"),
    error(http(f"{TO}, delegate: {{name: d}}"), f"{R}.delegate", "beside route"),
    error(http("redirect: {uri: /}, delegate: {name: d}"), f"{R}.delegate", "beside redirect"),
    error(http("delegate: {namespace: d}"), f"{R}.delegate.name", "missing"),
    error(http("delegate: {name: D}"), f"{R}.delegate.name", "not a name"),
    error(http("delegate: {name: d, namespace: a.b}"), f"{R}.delegate.namespace", "name of a namespace"),
    error(http(f"{TO}, timeout: 1ns"), f"{R}.timeout", "shorter than 1ms"),
    error(http(f"{TO}, timeout: 1.0001s"), f"{R}.timeout", "finer than milliseconds"),
    error(http(f"{TO}, timeout: 5"), f"{R}.timeout", "use quotes"),
    error(http(f"{TO}, timeout: '5'"), f"{R}.timeout", "not a duration"),
    error(http(f"{TO}, timeout: -1s"), f"{R}.timeout", "shorter than 1ms"),
]

MATCHES = [
    error(http(f"match: [null], {TO}"), f"{R}.match[0]", "found nothing"),
    error(match("uri: {prefix: ''}"), f"{R}.match[0].uri.prefix", "matches everything"),
    error(match("uri: {regex: ''}"), f"{R}.match[0].uri.regex", "matches everything"),
    error(match("uri: {regex: 'a('}"), f"{R}.match[0].uri.regex", "RE2 syntax: missing )"),
    error(match("uri: {regex: '(?=a)'}"), f"{R}.match[0].uri.regex", "RE2 syntax"),
    error(match(f"uri: {{regex: '{'a' * 1025}'}}"), f"{R}.match[0].uri.regex", "longer than 1024"),
    error(match("uri: {prefix: /a, exact: /b}"), f"{R}.match[0].uri.exact", "beside prefix"),
    error(match("headers: {a: null}"), f"{R}.match[0].headers.a", "is null"),
    error(match("withoutHeaders: {a: null}"), f"{R}.match[0].withoutHeaders.a", "is null"),
    error(match("headers: {'a b': {}}"), f"{R}.match[0].headers.a b", "not a header name"),
    error(match("headers: {'': {}}"), f"{R}.match[0].headers.", "needs a name"),
    error(match("queryParams: {'': {}}"), f"{R}.match[0].queryParams.", "needs a name"),
    error(match("port: 70000"), f"{R}.match[0].port", "1 to 65535"),
    error(match("sourceLabels: {'a b': c}"), f"{R}.match[0].sourceLabels.a b", "label name"),
    error(match("sourceLabels: {a: 'c*'}"), f"{R}.match[0].sourceLabels.a", "label value"),
    error(match("sourceNamespace: a.b"), f"{R}.match[0].sourceNamespace", "name of a namespace"),
    error(match("gateways: [a/b/c]"), f"{R}.match[0].gateways[0]", "NAMESPACE/NAME"),
]

ROUTES = [
    error(http("route: [{weight: 100}]"), f"{R}.route[0].destination", "missing"),
    error(http("route: [{destination: {port: {number: 80}}}]"), f"{R}.route[0].destination.host", "missing"),
    error(http("route: [{destination: {host: '*'}}]"), f"{R}.route[0].destination.host", "no destination"),
    error(http("route: [{destination: {host: a_b}}]"), f"{R}.route[0].destination.host", "not a host name"),
    error(http("route: [{destination: {host: a, subset: a_b}}]"), f"{R}.route[0].destination.subset", "subset"),
    error(http("route: [{destination: {host: a, port: {}}}]"), f"{R}.route[0].destination.port.number", "missing"),
    error(
        http("route: [{destination: {host: a, port: {number: 65536}}}]"),
        f"{R}.route[0].destination.port.number",
        "1 to 65535",
    ),
    error(
        http("route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 0}]"),
        f"{R}.route",
        "add up to 0",
    ),
    error(http("route: [{destination: {host: a}}, {destination: {host: b}}]"), f"{R}.route", "add up to 0"),
    error(http("route: [{destination: {host: a}, weight: -1}]"), f"{R}.route[0].weight", "at least 0"),
    error(
        http(f"{TO}, headers: {{request: {{set: {{Host: a, ':authority': b}}}}}}"),
        f"{R}.headers.request.set.:authority",
        "set twice",
    ),
    error(
        http(f"{TO}, rewrite: {{authority: a}}, headers: {{request: {{set: {{host: b}}}}}}"),
        f"{R}.headers.request.set.host",
        "set twice",
    ),
    error(
        http(f"{TO}, headers: {{request: {{remove: [host]}}}}"), f"{R}.headers.request.remove[0]", "cannot be changed"
    ),
    error(
        http(f"{TO}, headers: {{response: {{set: {{host: a}}}}}}"),
        f"{R}.headers.response.set.host",
        "cannot be changed",
    ),
    error(
        http(f"{TO}, headers: {{request: {{set: {{':path': a}}}}}}"), f"{R}.headers.request.set.:path", "request line"
    ),
    error(
        http('route: [{destination: {host: a}, headers: {response: {add: {a: "b\\nc"}}}}]'),
        f"{R}.route[0].headers.response.add.a",
        "control characters",
    ),
]

ACTIONS = [
    error(http(f"{TO}, rewrite: {{}}"), f"{R}.rewrite", "is empty"),
    error(
        http(f"{TO}, rewrite: {{uri: /a, uriRegexRewrite: {{match: a, rewrite: b}}}}"),
        f"{R}.rewrite.uriRegexRewrite",
        "beside uri",
    ),
    error(
        http(f"{TO}, rewrite: {{uriRegexRewrite: {{match: a}}}}"), f"{R}.rewrite.uriRegexRewrite.rewrite", "needs both"
    ),
    error(
        http(f"{TO}, rewrite: {{uriRegexRewrite: {{rewrite: a}}}}"), f"{R}.rewrite.uriRegexRewrite.match", "needs both"
    ),
    error(
        http(f"{TO}, rewrite: {{uriRegexRewrite: {{match: '(', rewrite: b}}}}"),
        f"{R}.rewrite.uriRegexRewrite.match",
        "RE2",
    ),
    error(http("redirect: {}"), f"{R}.redirect", "is empty"),
    error(http("redirect: {uri: /, redirectCode: 200}"), f"{R}.redirect.redirectCode", "not a redirection"),
    warning(http("redirect: {uri: /, redirectCode: 304}"), f"{R}.redirect.redirectCode", "no redirection proxies"),
    error(http("redirect: {scheme: ftp}"), f"{R}.redirect.scheme", "http, https"),
    error(http("redirect: {port: 70000}"), f"{R}.redirect.port", "65535"),
    error(
        http("match: [{uri: {prefix: /a}}], redirect: {uri: /, prefixRewrite: /b}"),
        f"{R}.redirect.prefixRewrite",
        "beside uri",
    ),
    error(
        http("match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}"),
        f"{R}.redirect.prefixRewrite",
        "needs uri.prefix",
    ),
    error(http("redirect: {prefixRewrite: /b}"), f"{R}.redirect.prefixRewrite", "needs uri.prefix"),
    error(http("directResponse: {status: 199}"), f"{R}.directResponse.status", "200 to 599"),
    error(http("directResponse: {status: 600}"), f"{R}.directResponse.status", "200 to 599"),
    error(http("directResponse: {body: {string: a}}"), f"{R}.directResponse.status", "missing"),
    error(
        http(f"directResponse: {{status: 200, body: {{string: {LONG * 10}}}}}"), f"{R}.directResponse.body", "more than"
    ),
    error(
        http(f"directResponse: {{status: 200, body: {{bytes: {LONG * 13}}}}}"), f"{R}.directResponse.body", "more than"
    ),
    warning(http(f"directResponse: {{status: 200, body: {{string: {LONG}}}}}"), f"{R}.directResponse.body", "a copy"),
    error(http(f"{TO}, fault: {{}}"), f"{R}.fault", "delay or abort"),
    error(http(f"{TO}, fault: {{abort: {{}}}}"), f"{R}.fault.abort", "needs one of"),
    error(http(f"{TO}, fault: {{abort: {{httpStatus: 100}}}}"), f"{R}.fault.abort.httpStatus", "200 to 599"),
    error(http(f"{TO}, fault: {{abort: {{grpcStatus: OKAY}}}}"), f"{R}.fault.abort.grpcStatus", "did you mean OK?"),
    error(http(f"{TO}, fault: {{abort: {{http2Error: X}}}}"), f"{R}.fault.abort.http2Error", "not supported"),
    error(
        http(f"{TO}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 101}}}}}}"),
        f"{R}.fault.abort.percentage.value",
        "10",
    ),
    error(http(f"{TO}, fault: {{delay: {{}}}}"), f"{R}.fault.delay.fixedDelay", "missing"),
    error(http(f"{TO}, fault: {{delay: {{fixedDelay: 0s}}}}"), f"{R}.fault.delay.fixedDelay", "shorter"),
    error(http(f"{TO}, fault: {{delay: {{fixedDelay: 1s, percent: 101}}}}"), f"{R}.fault.delay.percent", "10"),
    error(
        http(f"{TO}, fault: {{delay: {{exponentialDelay: 1s}}}}"), f"{R}.fault.delay.exponentialDelay", "not supported"
    ),
    error(http(f"{TO}, corsPolicy: {{allowOrigins: [{{}}]}}"), f"{R}.corsPolicy.allowOrigins[0]", "is empty"),
    error(http(f"{TO}, corsPolicy: {{allowMethods: [GOT]}}"), f"{R}.corsPolicy.allowMethods[0]", "did you mean GET"),
    error(http(f"{TO}, corsPolicy: {{allowHeaders: ['a:']}}"), f"{R}.corsPolicy.allowHeaders[0]", "header name"),
    error(http(f"{TO}, corsPolicy: {{exposeHeaders: ['']}}"), f"{R}.corsPolicy.exposeHeaders[0]", "needs a name"),
    error(http(f"{TO}, corsPolicy: {{maxAge: 1500ms}}"), f"{R}.corsPolicy.maxAge", "whole seconds"),
    error(http(f"{TO}, retries: {{attempts: -1}}"), f"{R}.retries.attempts", "at least 0"),
    error(http(f"{TO}, retries: {{attempts: 0, perTryTimeout: 1s}}"), f"{R}.retries.perTryTimeout", "disables"),
    error(http(f"{TO}, retries: {{retryOn: 5xx}}"), f"{R}.retries.retryOn", "disables"),
    error(
        http(f"{TO}, retries: {{attempts: 2, retryOn: '5xx,resett'}}"), f"{R}.retries.retryOn", "did you mean reset?"
    ),
    *(
        error(http(f"{TO}, retries: {{attempts: 2, retryOn: '{n}'}}"), f"{R}.retries.retryOn", f"'{n}' is not one of")
        for n in (99, 600)
    ),
    error(http(f"{TO}, retries: {{attempts: 2, perTryTimeout: 0s}}"), f"{R}.retries.perTryTimeout", "shorter"),
    error(http(f"{TO}, mirror: {{host: a}}, mirrorPercentage: {{value: 101}}"), f"{R}.mirrorPercentage.value", "10"),
    warning(http(f"{TO}, mirror: {{host: a}}, mirrorPercent: 5"), f"{R}.mirrorPercent", "deprecated", "IST0002"),
    error(http(f"{TO}, mirrors: [{{percentage: {{value: 1}}}}]"), f"{R}.mirrors[0].destination", "missing"),
    error(
        http(f"{TO}, mirrors: [{{destination: {{host: a}}, percentage: {{value: -1}}}}]"),
        f"{R}.mirrors[0].percentage.value",
        "than 0",
    ),
]

CONNECTIONS = [
    error(tls(TO), "spec.tls[0].match", "missing"),
    error(tls(f"match: [{{port: 443}}], {TO}"), "spec.tls[0].match[0].sniHosts", "missing"),
    error(tls(f"match: [{{sniHosts: [b.com]}}], {TO}"), "spec.tls[0].match[0].sniHosts[0]", "not one of the hosts"),
    error(tls(f"match: [{{sniHosts: [a_b]}}], {TO}"), "spec.tls[0].match[0].sniHosts[0]", "not a host name"),
    warning(tls(f"match: [{{sniHosts: [10.0.0.1]}}], {TO}"), "spec.tls[0].match[0].sniHosts[0]", "IP address"),
    error(tls("match: [{sniHosts: [a.example.com]}]"), "spec.tls[0].route", "missing"),
    error("{hosts: [a], tcp: [{}]}", "spec.tcp[0].route", "missing"),
    error("{hosts: [a], tcp: [{route: [{weight: 1}]}]}", "spec.tcp[0].route[0].destination", "missing"),
    error(
        f"{{hosts: [a], tcp: [{{match: [{{destinationSubnets: [x]}}], {TO}}}]}}",
        "spec.tcp[0].match[0].destinationSubnets[0]",
        "neither an IP",
    ),
    error(
        f"{{hosts: [a], tcp: [{{match: [{{sourceNamespace: A}}], {TO}}}]}}",
        "spec.tcp[0].match[0].sourceNamespace",
        "namespace",
    ),
]


def rules(*texts: str) -> str:
    return f"{{hosts: [a], http: [{', '.join(f'{{{text}, {TO}}}' if text else f'{{{TO}}}' for text in texts)}]}}"


UNREACHABLE = [
    warning(rules("", ""), "spec.http[1]", "rule 0 matches everything", "IST0130"),
    warning(rules("match: [{uri: {prefix: /}}]", "match: [{port: 80}]"), "spec.http[1]", "never reached", "IST0130"),
    warning(rules("match: [{}]", "match: [{port: 80}]"), "spec.http[1]", "never reached", "IST0130"),
    warning(
        rules("match: [{port: 80}, {port: 81, name: a}, {port: 81, name: b}]"),
        "spec.http[0].match[2]",
        "match 1 of rule 0",
        "IST0131",
    ),
    warning(
        rules("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /a/b}, port: 80}, {uri: {prefix: /c}}]"),
        "spec.http[1].match[0]",
        "match 0 of rule 0",
        "IST0131",
    ),
    warning(f"{{hosts: [a], tcp: [{{{TO}}}, {{{TO}}}]}}", "spec.tcp[1]", "never reached", "IST0130"),
]


@pytest.mark.parametrize("case", [*TOP, *RULES, *MATCHES, *ROUTES, *ACTIONS, *CONNECTIONS, *UNREACHABLE], ids=short)
def test_a_virtual_service_is_told_what_is_wrong(case: Case) -> None:
    expect("VirtualService", case)


def test_a_rule_all_of_whose_matches_are_taken_is_never_reached() -> None:
    found = said("VirtualService", rules("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]"))
    assert [(p.path[2:], p.code) for p in found] == [((1, "match", 0), "IST0131"), ((1,), "IST0130")]


@pytest.mark.parametrize(
    "spec",
    [
        http(TO),
        http("delegate: {name: more, namespace: other}"),
        "{http: [{route: [{destination: {host: a}}]}]}",
        f"{{hosts: ['*'], gateways: [g], http: [{{{TO}}}]}}",
        f"{{hosts: [10.0.0.1, a, '*.b.com'], exportTo: [., other], http: [{{{TO}}}]}}",
        match("uri: {regex: '/a/.*'}, headers: {':method': {exact: GET}, '@request.auth.claims[a][b]': {exact: c}}"),
        match("headers: {a: {}, b: {regex: '*'}}, queryParams: {q: {regex: '*'}}"),
        http("route: [{destination: {host: a, subset: V1}, weight: 0}, {destination: {host: b}, weight: 3}]"),
        http(f"{TO}, timeout: 0s"),
        http(f"{TO}, timeout: 1h30m, retries: {{attempts: 2, retryOn: '100,599, reset', perTryTimeout: 100ms}}"),
        http(f"{TO}, retries: {{attempts: 0}}"),
        http("match: [{uri: {prefix: /a}}], redirect: {prefixRewrite: /b, redirectCode: 308}"),
        http("directResponse: {status: 503, body: {string: sorry}}"),
        http(f"{TO}, fault: {{delay: {{fixedDelay: 5s, percentage: {{value: 0.1}}}}, abort: {{grpcStatus: ABORTED}}}}"),
        http(
            f"{TO}, headers: {{request: {{set: {{Host: b}}, add: {{a: b}}, remove: [c]}}, response: {{remove: [d]}}}}"
        ),
        tls(f"match: [{{sniHosts: ['*.a.example.com', b.example.com]}}], {TO}"),
        f"{{hosts: [a], tcp: [{{match: [{{port: 80}}], {TO}}}, {{{TO}}}]}}",
        rules("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a}, ignoreUriCase: true}]", ""),
    ],
    ids=lambda spec: spec[:70],
)
def test_a_right_virtual_service_passes_without_a_word(spec: str) -> None:
    assert said("VirtualService", spec) == []
