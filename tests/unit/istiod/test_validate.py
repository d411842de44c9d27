"""Validation: each refusal names the field and the way out; what is right passes without a word."""

from __future__ import annotations

import pytest

from istiod.validate import check
from meshcore import yamldoc
from meshcore.manifests import dotted

API = {
    "AuthorizationPolicy": "security.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
}


def problems(kind: str, text: str) -> list[tuple[str, str, bool]]:
    value = next(dict(d.data) for d in yamldoc.parse(text))
    value["metadata"] = {"name": "x", "labels": {"kubernetes.io/service-name": "s"}} | value.get("metadata", {})
    checked = check(kind, API.get(kind, "v1"), value)
    assert checked is not None
    assert (checked.value is None) == any(not p.warning for p in checked.problems)
    return [(dotted(p.path), p.message, p.warning) for p in checked.problems]


def rule(text: str) -> str:
    return f"spec: {{rules: [{text}]}}"


def source(text: str) -> str:
    return rule(f"{{from: [{{source: {{{text}}}}}]}}")


def operation(text: str) -> str:
    return rule(f"{{to: [{{operation: {{{text}}}}}]}}")


S = "spec.rules[0].from[0].source"
O = "spec.rules[0].to[0].operation"  # noqa: E741 - beside S
W = "spec.rules[0].when[0]"
REF = "{kind: Service, name: s}"
MANY = ", ".join(f"s{i}" for i in range(17))

AUTHORIZATION = [
    (f"spec: {{selector: {{matchLabels: {{a: b}}}}, targetRefs: [{REF}]}}", "spec.targetRefs", "beside selector"),
    (f"spec: {{targetRef: {REF}, targetRefs: [{REF}]}}", "spec.targetRefs", "beside targetRef"),
    ("spec: {targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name", "missing"),
    ("spec: {targetRefs: [{kind: Service, name: s, namespace: n}]}", "spec.targetRefs[0].namespace", "must not be set"),
    ("spec: {targetRefs: [{kind: Pod, name: s}]}", "spec.targetRefs[0].kind", "not one of"),
    ("spec: {selector: {matchLabels: {app: 'w*'}}}", "spec.selector.matchLabels.app", "wildcards"),
    ("spec: {selector: {matchLabels: {'': w}}}", "spec.selector.matchLabels.", "empty name"),
    ("spec: {action: deny, rules: [{}]}", "spec.action", "did you mean DENY"),
    ("spec: {action: DENY}", "spec.rules", "without rules"),
    ("spec: {action: CUSTOM, rules: [{}]}", "spec.provider.name", "missing"),
    ("spec: {action: CUSTOM, provider: {name: p}}", "spec.rules", "without rules"),
    ("spec: {action: ALLOW, provider: {name: p}}", "spec.provider", "only action CUSTOM"),
    (
        "spec: {action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {principals: [a]}}]}]}",
        f"{S}.principals",
        "CUSTOM",
    ),
    (
        "spec: {action: CUSTOM, provider: {name: p}, rules: [{when: [{key: source.namespace, values: [a]}]}]}",
        f"{W}.key",
        "CUSTOM",
    ),
    (rule("null"), "spec.rules[0]", "expected a mapping"),
    (rule("{from: []}"), "spec.rules[0].from", "is empty"),
    (rule("{from: null}"), "spec.rules[0].from", "is empty"),
    (rule("{from: [{}]}"), S, "at least one field"),
    (source(""), S, "at least one field"),
    (operation(""), O, "at least one field"),
    (source("principals: []"), f"{S}.principals", "is empty"),
    (source("principals: ['']"), f"{S}.principals[0]", "empty value"),
    (source("principals: ['spiffe://a/ns/b/sa/c']"), f"{S}.principals[0]", "without spiffe://: a/ns/b/sa/c"),
    (source("principal: [a]"), f"{S}.principal", "did you mean 'principals'"),
    (source("principals: a"), f"{S}.principals", "expected a list"),
    (source("namespaces: [1]"), f"{S}.namespaces[0]", "expected text"),
    (source("serviceAccounts: [a], namespaces: [b]"), f"{S}.namespaces", "beside serviceAccounts"),
    (source("serviceAccounts: [a], principals: [b]"), f"{S}.principals", "beside serviceAccounts"),
    (source(f"serviceAccounts: [{MANY}]"), f"{S}.serviceAccounts", "more than 16"),
    (source(f"serviceAccounts: [{'x' * 321}]"), f"{S}.serviceAccounts[0]", "longer than 320"),
    (source("serviceAccounts: ['a*']"), f"{S}.serviceAccounts[0]", "wildcards"),
    (source("serviceAccounts: [a/b/c]"), f"{S}.serviceAccounts[0]", "neither NAME"),
    (source("trustDomains: [a/b]"), f"{S}.trustDomains[0]", "no slash"),
    (source("ipBlocks: [10.0.0.0/33]"), f"{S}.ipBlocks[0]", "neither an IP address nor a CIDR"),
    (source("notRemoteIpBlocks: [x]"), f"{S}.notRemoteIpBlocks[0]", "neither an IP address nor a CIDR"),
    (operation("ports: ['0']"), f"{O}.ports[0]", "1 to 65535"),
    (operation("ports: ['http']"), f"{O}.ports[0]", "1 to 65535"),
    (operation("ports: [80]"), f"{O}.ports[0]", "use quotes"),
    (operation("paths: ['/a/{x}']"), f"{O}.paths[0]", "template"),
    (operation("paths: ['/a b/{*}']"), f"{O}.paths[0]", "characters"),
    (operation("paths: ['/a?b/{**}']"), f"{O}.paths[0]", "characters"),
    (operation("paths: ['/{*}/a*']"), f"{O}.paths[0]", "bare *"),
    (operation("paths: ['/{**}/{*}']"), f"{O}.paths[0]", "after every"),
    (rule("{when: [{values: [a]}]}"), f"{W}.key", "missing"),
    (rule("{when: [{key: source.ips, values: [a]}]}"), f"{W}.key", "did you mean 'source.ip'"),
    (rule("{when: [{key: source.ip}]}"), W, "needs values"),
    (rule("{when: [{key: source.ip, values: [x]}]}"), f"{W}.values[0]", "neither an IP address nor a CIDR"),
    (rule("{when: [{key: destination.port, notValues: [x]}]}"), f"{W}.notValues[0]", "1 to 65535"),
    ("spec: {rule: []}", "spec.rule", "did you mean 'rules'"),
]


@pytest.mark.parametrize(("text", "field", "words"), AUTHORIZATION, ids=lambda value: value[:60])
def test_authorization_policy_errors(text: str, field: str, words: str) -> None:
    found = [(f, m) for f, m, warning in problems("AuthorizationPolicy", text) if not warning]
    assert any(f == field and words in m for f, m in found), found


@pytest.mark.parametrize(
    "text",
    [
        "spec: {}",
        "spec: {rules: [{}]}",
        "spec: {action: DENY, rules: [{}]}",
        source("principals: ['*', cluster.local/ns/a/sa/b], ipBlocks: [10.0.0.1, 'fd00::/8']"),
        operation("ports: ['80'], notPorts: ['65535']"),
        rule("{when: [{key: source.principal, notValues: [a]}]}"),
        "spec: {targetRefs: [{kind: Service, name: s}], rules: [{to: [{operation: {paths: ['/a/{*}/{**}']}}]}]}",
        *(
            "spec: {targetRefs: [{kind: Service, name: s}], "
            f"rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}"
            for key, value in (
                ("source.ip", "10.0.0.1"),
                ("source.namespace", "a"),
                ("source.principal", "a"),
                ("source.serviceAccount", "a"),
                ("source.trustDomain", "a"),
                ("destination.ip", "10.0.0.0/8"),
                ("destination.port", "80"),
                ("remote.ip", "10.0.0.1"),
                ("connection.sni", "a"),
                ("request.headers[x]", "a"),
                ("request.auth.principal", "a"),
                ("request.auth.audiences", "a"),
                ("request.auth.presenter", "a"),
                ("request.auth.claims[a][b]", "a"),
                ("experimental.envoy.filters.a[b]", "a"),
            )
        ),
    ],
)
def test_good_policies_pass_without_a_word(text: str) -> None:
    assert problems("AuthorizationPolicy", text) == []


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (operation("methods: [GET]"), f"{O}.methods", "whole rule is left out"),
        ("spec: {action: DENY, rules: [{to: [{operation: {hosts: [a]}}]}]}", f"{O}.hosts", "no effect"),
        (rule("{when: [{key: source.trustDomain, values: [a]}]}"), f"{W}.key", "without a waypoint"),
        ("spec: {selector: {}}", "spec.selector", "every pod"),
        ("spec: {action: AUDIT}", "spec.rules", "does nothing"),
    ],
)
def test_warnings_leave_the_policy_in_use(text: str, field: str, words: str) -> None:
    ((found, message, warning),) = problems("AuthorizationPolicy", text)
    assert (found, warning) == (field, True)
    assert words in message


OTHERS = [
    ("PeerAuthentication", "spec: {mtls: {mode: strict}}", "spec.mtls.mode", "did you mean STRICT"),
    ("PeerAuthentication", "spec: {portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls", "needs a selector"),
    (
        "PeerAuthentication",
        "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {}}",
        "spec.portLevelMtls",
        "at least one",
    ),
    (
        "PeerAuthentication",
        "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}}",
        "spec.portLevelMtls.0",
        "65535",
    ),
    (
        "PeerAuthentication",
        "spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: x}}}",
        "spec.portLevelMtls.80.mode",
        "not one of",
    ),
    ("PeerAuthentication", "spec: {mtl: {}}", "spec.mtl", "did you mean 'mtls'"),
    ("Pod", "status: {podIPs: [{ip: 10.0.0}]}", "status.podIPs[0].ip", "not an IP address"),
    ("Pod", "status: {podIP: x}", "status.podIP", "not an IP address"),
    (
        "Pod",
        "spec: {containers: [{ports: [{containerPort: 0}]}]}",
        "spec.containers[0].ports[0].containerPort",
        "65535",
    ),
    ("Pod", "spec: {nodeName: [a]}", "spec.nodeName", "expected text"),
    ("Service", "spec: {clusterIPs: [x]}", "spec.clusterIPs[0]", "not an IP address"),
    ("Service", "spec: {ports: [{port: 80}, {port: 81, name: b}]}", "spec.ports[0].name", "needs a name"),
    ("Service", "spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}", "spec.ports[1].port", "stands twice"),
    ("Service", "spec: {ports: [{port: 80000}]}", "spec.ports[0].port", "65535"),
    ("Service", "spec: {ports: [{port: '80'}]}", "spec.ports[0].port", "expected a number"),
    ("Service", "spec: {ports: [{port: 80, targetPort: 0}, {port: 81}]}", "spec.ports[0].targetPort", "65535"),
    ("EndpointSlice", "addressType: IPv5", "addressType", "not one of"),
    (
        "EndpointSlice",
        "addressType: IPv6\nendpoints: [{addresses: [10.0.0.1]}]",
        "endpoints[0].addresses[0]",
        "not an IPv6",
    ),
    ("EndpointSlice", "ports: [{port: 70000}]", "ports[0].port", "65535"),
]


@pytest.mark.parametrize(("kind", "text", "field", "words"), OTHERS)
def test_errors_of_other_kinds(kind: str, text: str, field: str, words: str) -> None:
    found = problems(kind, text)
    assert any(f == field and words in m and not warning for f, m, warning in found), found


def test_a_security_kind_of_another_group_is_not_silently_ignored() -> None:
    checked = check("AuthorizationPolicy", "v1", {"metadata": {"name": "x"}})
    assert checked is not None
    assert "security.istio.io/v1" in checked.problems[0].message
    assert check("Service", "serving.knative.dev/v1", {"metadata": {"name": "x"}}) is None
    assert check("VirtualService", "appmesh.k8s.aws/v1beta2", {"metadata": {"name": "x"}}) is None
    assert check("VirtualService", "security.istio.io/v1", {"metadata": {"name": "x"}}) is not None
    assert check("Deployment", "apps/v1", {}) is None
