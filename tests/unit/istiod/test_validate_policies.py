"""RequestAuthentication, Telemetry, and the kinds that extend a proxy: each refusal of the webhook, by field."""

from __future__ import annotations

import json

import pytest

from tests.unit.istiod.validating import Case, error, expect, said, short, warning

J = "spec.jwtRules[0]"
SECRET_PART = "c2VjcmV0LXBhcnQ"


def jwt(text: str) -> str:
    return f"{{jwtRules: [{{issuer: a{', ' * bool(text)}{text}}}]}}"


def keys(*listed: object) -> str:
    return jwt(f"jwks: '{json.dumps({'keys': listed})}'")


PUBLIC_KEY = {"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}

REQUEST_AUTHENTICATION = [
    error(
        "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}",
        "spec.targetRefs",
        "beside selector",
    ),
    error("{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name", "missing"),
    error("{targetRefs: [{kind: Service, name: a, namespace: b}]}", "spec.targetRefs[0].namespace", "own namespace"),
    error("{targetRef: {kind: Pod, name: a}}", "spec.targetRef.kind", "not one of"),
    error("{jwtRules: [null]}", J, "found nothing"),
    error("{jwtRules: [{audiences: [a]}]}", f"{J}.issuer", "needs issuer or jwksUri"),
    error(jwt("audiences: ['']"), f"{J}.audiences[0]", "empty"),
    error(jwt("jwksUri: 'ftp://a/b'"), f"{J}.jwksUri", "not a URL"),
    error(jwt("jwksUri: 'https://'"), f"{J}.jwksUri", "not a URL"),
    error(jwt("jwksUri: 'https://a:x/'"), f"{J}.jwksUri", "not a URL"),
    error(jwt("jwks: x"), f"{J}.jwks", "not JSON"),
    error(jwt("jwks: '{}'"), f"{J}.jwks", "no key set"),
    error(jwt(f"jwks: {'a' * 1_048_577}"), f"{J}.jwks", "longer than"),
    error("{selector: {matchLabels: {a b: c}}}", "spec.selector.matchLabels.a b", "label name"),
    error(keys({"use": "sig"}), f"{J}.jwks", "has no kty"),
    error(jwt("fromHeaders: [{prefix: a}]"), f"{J}.fromHeaders[0].name", "missing"),
    error(jwt("fromHeaders: [{name: 'a b'}]"), f"{J}.fromHeaders[0].name", "header name"),
    error(jwt("fromParams: ['']"), f"{J}.fromParams[0]", "empty"),
    error(jwt("fromCookies: ['']"), f"{J}.fromCookies[0]", "empty"),
    error(jwt("outputPayloadToHeader: 'a b'"), f"{J}.outputPayloadToHeader", "header name"),
    error(jwt("outputClaimToHeaders: [{header: a}]"), f"{J}.outputClaimToHeaders[0].claim", "missing"),
    error(jwt("outputClaimToHeaders: [{claim: a}]"), f"{J}.outputClaimToHeaders[0].header", "missing"),
    error(jwt("outputClaimToHeaders: [{claim: a, header: 'b:'}]"), f"{J}.outputClaimToHeaders[0].header", "name"),
    error(jwt("timeout: 0s"), f"{J}.timeout", "shorter"),
    warning(keys({**PUBLIC_KEY, "d": SECRET_PART}), f"{J}.jwks", "private key material"),
    warning("{selector: {matchLabels: {}}}", "spec.selector", "has no labels"),
]

TELEMETRY = [
    error("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}", "spec.targetRefs", "beside"),
    error("{tracing: [{randomSamplingPercentage: 101}]}", "spec.tracing[0].randomSamplingPercentage", "10"),
    error("{tracing: [{randomSamplingPercentage: -1}]}", "spec.tracing[0].randomSamplingPercentage", "0"),
    error("{tracing: [{providers: [{name: ''}]}]}", "spec.tracing[0].providers[0].name", "empty"),
    error("{metrics: [{providers: [{}]}]}", "spec.metrics[0].providers[0].name", "missing"),
    error("{accessLogging: [{providers: [{}]}]}", "spec.accessLogging[0].providers[0].name", "missing"),
    error("{tracing: [{customTags: {'': {literal: {value: a}}}}]}", "spec.tracing[0].customTags.", "needs a name"),
    error("{tracing: [{customTags: {a: null}}]}", "spec.tracing[0].customTags.a", "null"),
    error("{tracing: [{customTags: {a: {}}}]}", "spec.tracing[0].customTags.a", "needs one of"),
    error("{tracing: [{customTags: {a: {literal: {}}}}]}", "spec.tracing[0].customTags.a.literal.value", "missing"),
    error(
        "{tracing: [{customTags: {a: {environment: {name: ''}}}}]}", "spec.tracing[0].customTags.a.environment.name", ""
    ),
    error("{tracing: [{customTags: {a: {header: {}}}}]}", "spec.tracing[0].customTags.a.header.name", "missing"),
    error(
        "{metrics: [{overrides: [{tagOverrides: {a: null}}]}]}", "spec.metrics[0].overrides[0].tagOverrides.a", "null"
    ),
    error(
        "{metrics: [{overrides: [{tagOverrides: {'': {value: a}}}]}]}",
        "spec.metrics[0].overrides[0].tagOverrides.",
        "name",
    ),
    error(
        "{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}",
        "spec.metrics[0].overrides[0].tagOverrides.a.value",
        "UPSERT",
    ),
    error(
        "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]}",
        "spec.metrics[0].overrides[0].tagOverrides.a.value",
        "REMOVE",
    ),
    error(
        "{metrics: [{overrides: [{match: {customMetric: ''}}]}]}",
        "spec.metrics[0].overrides[0].match.customMetric",
        "empty",
    ),
    error("{metrics: [{reportingInterval: 1us}]}", "spec.metrics[0].reportingInterval", "shorter"),
    warning("{tracing: [{}, {}]}", "spec.tracing", "only the first entry"),
    warning("{tracing: [{providers: [{name: a}, {name: b}]}]}", "spec.tracing[0].providers", "only the first provider"),
]

WASM_PLUGIN = [
    error("{targetRefs: [{kind: Service}], url: a}", "spec.targetRefs[0].name", "missing"),
    error("{pluginName: a}", "spec.url", "missing"),
    error("{url: 'ftp://a'}", "spec.url", "oci, http, https, file"),
    error("{url: a, sha256: abc}", "spec.sha256", "64"),
    error(f"{{url: a, sha256: {'x' * 64}}}", "spec.sha256", "64"),
    error(f"{{url: a, imagePullSecret: {'a' * 254}}}", "spec.imagePullSecret", "longer than 253"),
    error(f"{{url: a, pluginName: {'a' * 256}}}", "spec.pluginName", "longer than 25"),
    error("{url: a, vmConfig: {env: [{value: a}]}}", "spec.vmConfig.env[0].name", "missing"),
    error("{url: a, vmConfig: {env: [{name: a}, {name: a}]}}", "spec.vmConfig.env[1].name", "twice"),
    error("{url: a, vmConfig: {env: [{name: a, valueFrom: HOST, value: b}]}}", "spec.vmConfig.env[0].value", "HOST"),
    error("{url: a, match: [{ports: [{number: 70000}]}]}", "spec.match[0].ports[0].number", "65535"),
    error("{url: a, match: [{ports: [{}]}]}", "spec.match[0].ports[0].number", "missing"),
]

TRAFFIC_EXTENSION = [
    error("{}", "spec", "needs one of wasm, lua"),
    error("{wasm: {url: a}, lua: {inlineCode: b}}", "spec.lua", "beside wasm"),
    error("{lua: {inlineCode: ''}}", "spec.lua.inlineCode", "missing"),
    error(f"{{lua: {{inlineCode: {'a' * 65537}}}}}", "spec.lua.inlineCode", "more than 65536"),
    error("{wasm: {}}", "spec.wasm.url", "missing"),
    error("{wasm: {url: a}, match: [{ports: [{number: 0}]}]}", "spec.match[0].ports[0].number", "less than 1"),
]

P = "spec.configPatches[0]"
HCM = "match: {listener: {filterChain: {filter: {name: hcm}}}}"


def patch(text: str, rest: str = "") -> str:
    return f"{{configPatches: [{{{text}}}]{', ' * bool(rest)}{rest}}}"


ENVOY_FILTER = [
    error("{configPatches: [null]}", P, "found nothing"),
    error(
        patch(
            "applyTo: HTTP_FILTER, match: {listener: {filterChain: {filter: {name: a, subFilter: {}}}}}, "
            "patch: {operation: REMOVE}"
        ),
        f"{P}.match.listener.filterChain.filter.subFilter.name",
        "which filter",
    ),
    error(patch("patch: {operation: MERGE, value: {}}"), f"{P}.applyTo", "missing"),
    error(patch("applyTo: CLUSTER"), f"{P}.patch", "missing"),
    error(patch("applyTo: CLUSTER, patch: {value: {}}"), f"{P}.patch.operation", "missing"),
    error(patch("applyTo: CLUSTER, patch: {operation: MERGE}"), f"{P}.patch.value", "missing"),
    error(patch("applyTo: CLUSTER, patch: {operation: INSERT_FIRST, value: {}}"), f"{P}.patch.operation", "not one of"),
    error(patch("applyTo: BOOTSTRAP, patch: {operation: ADD, value: {}}"), f"{P}.patch.operation", "not one of MERGE"),
    error(
        patch("applyTo: CLUSTER, match: {listener: {portNumber: 80}}, patch: {operation: ADD, value: {}}"),
        f"{P}.match.listener",
        "matched by cluster",
    ),
    error(
        patch("applyTo: HTTP_FILTER, patch: {operation: REPLACE, value: {}}"),
        f"{P}.match.listener.filterChain.filter",
        "at which filter",
    ),
    error(
        patch("applyTo: NETWORK_FILTER, patch: {operation: REMOVE}"),
        f"{P}.match.listener.filterChain.filter",
        "at which filter",
    ),
    error(
        patch("applyTo: HTTP_FILTER, match: {listener: {filterChain: {filter: {}}}}, patch: {operation: REMOVE}"),
        f"{P}.match.listener.filterChain.filter.name",
        "which filter",
    ),
    error(
        patch("applyTo: CLUSTER, match: {proxy: {proxyVersion: '('}}, patch: {operation: REMOVE}"),
        f"{P}.match.proxy.proxyVersion",
        "RE2",
    ),
    error(
        "{workloadSelector: {labels: {a: b}}, targetRefs: [{kind: Service, name: s}]}",
        "spec.targetRefs",
        "workloadSelector",
    ),
    error("{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name", "missing"),
    warning(
        patch(f"applyTo: HTTP_FILTER, {HCM}, patch: {{operation: INSERT_BEFORE, value: {{}}}}"),
        f"{P}.patch.operation",
        "set priority",
        "IST0151",
    ),
]

PROXY_CONFIG = [
    error("{concurrency: -1}", "spec.concurrency", "0"),
    error("{selector: {matchLabels: {app: 'a*'}}}", "spec.selector.matchLabels.app", "wildcards"),
]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (kind, case)
        for kind, cases in (
            ("RequestAuthentication", REQUEST_AUTHENTICATION),
            ("Telemetry", TELEMETRY),
            ("WasmPlugin", WASM_PLUGIN),
            ("TrafficExtension", TRAFFIC_EXTENSION),
            ("EnvoyFilter", ENVOY_FILTER),
            ("ProxyConfig", PROXY_CONFIG),
        )
        for case in cases
    ],
    ids=lambda value: short(value) if isinstance(value, Case) else value,
)
def test_a_policy_is_told_what_is_wrong(kind: str, case: Case) -> None:
    expect(kind, case)


def test_a_key_that_should_be_secret_is_not_repeated() -> None:
    for text in (json.dumps({"keys": [{**PUBLIC_KEY, "d": SECRET_PART}]}), f'{{"d": "{SECRET_PART}"'):
        assert not any(SECRET_PART in p.message for p in said("RequestAuthentication", jwt(f"jwks: '{text}'")))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("RequestAuthentication", "{}"),
        ("RequestAuthentication", keys(PUBLIC_KEY)),
        ("RequestAuthentication", "{jwtRules: [{jwksUri: 'https://a.com:8443/keys', timeout: 5s}]}"),
        ("RequestAuthentication", jwt("fromHeaders: [{name: x-jwt, prefix: 'Bearer '}], fromCookies: [c]")),
        ("Telemetry", "{}"),
        ("Telemetry", "{tracing: [{providers: [{name: z}], customTags: {a: {literal: {value: b}}}}]}"),
        ("Telemetry", "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE}, b: {value: c}}}]}]}"),
        ("WasmPlugin", f"{{url: 'registry:5000/a', sha256: {'a' * 64}, vmConfig: {{env: [{{name: a, value: b}}]}}}}"),
        (
            "TrafficExtension",
            "{lua: {inlineCode: 'function envoy_on_request(h) end'}, match: [{ports: [{number: 1}]}]}",
        ),
        (
            "EnvoyFilter",
            patch(f"applyTo: HTTP_FILTER, {HCM}, patch: {{operation: INSERT_AFTER, value: {{}}}}", "priority: 10"),
        ),
        (
            "EnvoyFilter",
            patch("applyTo: CLUSTER, match: {cluster: {service: a}}, patch: {operation: MERGE, value: {a: 1}}"),
        ),
        ("EnvoyFilter", patch("applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, value: {}}")),
        ("ProxyConfig", "{concurrency: 0}"),
    ],
    ids=lambda value: value[:70],
)
def test_a_right_policy_passes_without_a_word(kind: str, spec: str) -> None:
    assert said(kind, spec) == []
