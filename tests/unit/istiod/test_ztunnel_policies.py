"""PeerAuthentication and AuthorizationPolicy as ztunnel gets them, row by row."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from istiod.translate.common import MeshConfig
from meshcore.model import (
    Authorization,
    Clause,
    IpMatch,
    Match,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from tests.unit.istiod.test_translate import obj, pod, translate, workload

NO_IDENTITY = Clause((Match(not_principals=(StringMatch(presence=True),)),))
STRICT = "istio-system/istio_converted_static_strict"

# PeerAuthentication


def mtls(
    name: str, mode: str, namespace: str = "default", selector: str = "", ports: str = "", **meta: Any
) -> dict[str, Any]:
    chosen = f", selector: {{matchLabels: {selector}}}" if selector else ""
    by_port = f", portLevelMtls: {ports}" if ports else ""
    return obj("PeerAuthentication", name, namespace, f"spec: {{mtls: {{mode: {mode}}}{chosen}{by_port}}}", **meta)


def attached(*settings: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Authorization]]:
    found = translate(pod(labels={"app": "web"}), *settings)
    address = found.addresses["Kubernetes//Pod/default/p"].workload
    assert address is not None
    return address.authorization_policies, found.authorizations


WEB = "{app: web}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], ()),
        ([mtls("m", "STRICT", "istio-system")], (STRICT,)),
        ([mtls("m", "STRICT", "istio-system"), mtls("n", "PERMISSIVE")], ()),
        ([mtls("m", "STRICT", "istio-system"), mtls("n", "DISABLE")], ()),
        ([mtls("m", "STRICT", "istio-system"), mtls("n", "UNSET")], (STRICT,)),
        ([mtls("n", "STRICT")], (STRICT,)),
        ([mtls("n", "STRICT", "other")], ()),
        ([mtls("n", "STRICT"), mtls("w", "PERMISSIVE", selector=WEB)], ()),
        ([mtls("n", "STRICT"), mtls("w", "UNSET", selector=WEB)], (STRICT,)),
        ([mtls("w", "STRICT", selector=WEB)], (STRICT,)),
        ([mtls("w", "STRICT", selector="{app: other}")], ()),
        ([mtls("w", "STRICT", "istio-system", selector=WEB)], ()),
        ([mtls("b", "STRICT", creationTimestamp="1"), mtls("a", "PERMISSIVE", creationTimestamp="2")], (STRICT,)),
        ([mtls("b", "STRICT"), mtls("a", "PERMISSIVE")], ()),
        ([mtls("w", "STRICT", selector=WEB, ports="{80: {mode: STRICT}}")], (STRICT,)),
        ([mtls("w", "STRICT", selector="{app: web, tier: x}")], ()),
        (
            [
                mtls("b", "STRICT", selector=WEB, creationTimestamp="1"),
                mtls("a", "DISABLE", selector=WEB, creationTimestamp="2"),
            ],
            (STRICT,),
        ),
        ([mtls("w", "PERMISSIVE", selector=WEB, ports="{80: {mode: DISABLE}}")], ()),
    ],
)  # fmt: skip
def test_effective_mode(settings: list[dict[str, Any]], expected: tuple[str, ...]) -> None:
    assert attached(*settings)[0] == expected


def test_a_selector_in_the_root_namespace_means_nothing() -> None:
    setting = mtls("w", "STRICT", "istio-system", selector=WEB, ports="{80: {mode: PERMISSIVE}}")
    assert attached(setting)[1].keys() == {STRICT}
    own = pod(labels={"app": "web"})
    own["metadata"]["namespace"] = "istio-system"
    for meaningless in (setting, mtls("w", "STRICT", "istio-system", selector=WEB)):
        found = translate(own, meaningless).addresses["Kubernetes//Pod/istio-system/p"].workload
        assert found is not None
        assert found.authorization_policies == ()


def test_the_static_policy_is_sent_as_soon_as_there_is_a_setting() -> None:
    assert attached()[1] == {}
    assert attached(mtls("n", "PERMISSIVE"))[1] == {
        STRICT: Authorization(
            "istio_converted_static_strict",
            "istio-system",
            PolicyScope.WORKLOAD_SELECTOR,
            PolicyAction.DENY,
            (Rule((NO_IDENTITY,)),),
        )
    }


@pytest.mark.parametrize(
    ("mode", "ports", "rules"),
    [
        (
            "PERMISSIVE",
            "{81: {mode: STRICT}, 80: {mode: STRICT}, 82: {mode: UNSET}}",
            tuple(Rule((NO_IDENTITY, Clause((Match(destination_ports=(port,)),)))) for port in (80, 81)),
        ),
        (
            "STRICT",
            "{81: {mode: PERMISSIVE}, 80: {mode: DISABLE}, 82: {mode: STRICT}}",
            (Rule((NO_IDENTITY, *(Clause((Match(not_destination_ports=(port,)),)) for port in (80, 81)))),),
        ),
        ("UNSET", "{80: {mode: STRICT}}", (Rule((NO_IDENTITY, Clause((Match(destination_ports=(80,)),)))),)),
    ],
)
def test_ports(mode: str, ports: str, rules: tuple[Rule, ...]) -> None:
    keys, policies = attached(mtls("w", mode, selector=WEB, ports=ports))
    assert keys == ("default/converted_peer_authentication_w",)
    assert policies[keys[0]] == Authorization(
        "converted_peer_authentication_w", "default", PolicyScope.WORKLOAD_SELECTOR, PolicyAction.DENY, rules
    )


def test_ports_that_differ_from_the_mode_of_the_namespace() -> None:
    keys, policies = attached(mtls("n", "STRICT"), mtls("w", "UNSET", selector=WEB, ports="{80: {mode: PERMISSIVE}}"))
    assert keys == ("default/converted_peer_authentication_w",)
    assert policies[keys[0]].rules == (Rule((NO_IDENTITY, Clause((Match(not_destination_ports=(80,)),)))),)


# AuthorizationPolicy


def policy(text: str, namespace: str = "default", **meta: Any) -> Authorization | None:
    found = translate(obj("AuthorizationPolicy", "x", namespace, f"spec: {text}", **meta)).authorizations
    return found.get(f"{namespace}/x")


@pytest.mark.parametrize(
    ("text", "namespace", "meta", "expected"),
    [
        ("{}", "default", {}, (PolicyScope.NAMESPACE, PolicyAction.ALLOW)),
        ("{}", "istio-system", {}, (PolicyScope.GLOBAL, PolicyAction.ALLOW)),
        ("{action: DENY, rules: [{}]}", "default", {}, (PolicyScope.NAMESPACE, PolicyAction.DENY)),
        ("{selector: {matchLabels: {app: web}}}", "default", {}, (PolicyScope.WORKLOAD_SELECTOR, PolicyAction.ALLOW)),
        ("{selector: {matchLabels: {a: b}}}", "istio-system", {}, (PolicyScope.WORKLOAD_SELECTOR, PolicyAction.ALLOW)),
        ("{targetRefs: [{kind: Service, name: s}]}", "default", {}, None),
        ("{targetRef: {kind: Service, name: s}}", "default", {}, None),
        ("{action: CUSTOM, provider: {name: p}, rules: [{}]}", "default", {}, None),
        ("{action: AUDIT, rules: [{}]}", "default", {}, None),
        ("{}", "default", {"annotations": {"istio.io/dry-run": "true"}}, None),
        ("{}", "default", {"annotations": {"istio.io/dry-run": "false"}}, (PolicyScope.NAMESPACE, PolicyAction.ALLOW)),
    ],
)
def test_which_policies_are_sent(text: str, namespace: str, meta: dict[str, Any], expected: Any) -> None:
    found = policy(text, namespace, **meta)
    assert (None if found is None else (found.scope, found.action)) == expected


def test_selectors_attach_from_the_own_and_the_root_namespace_only() -> None:
    spec = "spec: {selector: {matchLabels: {app: web}}}"
    objects = [obj("AuthorizationPolicy", "x", ns, spec) for ns in ("default", "istio-system", "other")]
    objects.append(obj("AuthorizationPolicy", "all"))
    objects.append(obj("AuthorizationPolicy", "miss", text="spec: {selector: {matchLabels: {app: nope}}}"))
    objects.append(obj("AuthorizationPolicy", "every", text="spec: {selector: {}}"))
    objects.append(mtls("n", "STRICT"))
    keys, _ = attached(*objects)
    assert keys == ("istio-system/x", "default/every", "default/x", STRICT)


EXACT = StringMatch(exact="a")
A_RULE = (
    "{rules: [{from: [{source: {principals: [a, '*', '*b', 'c*'], notNamespaces: [a], ipBlocks: [10.0.0.0/8, '::1'],"
    " notIpBlocks: [10.1.2.3]}}, {source: {serviceAccounts: [sa, o/sb]}}],"
    " to: [{operation: {ports: ['80'], notPorts: ['81']}}],"
    " when: [{key: source.ip, values: [1.1.1.1]}, {key: destination.port, notValues: ['9']},"
    " {key: source.namespace, values: [a]}, {key: source.principal, notValues: ['*']},"
    " {key: destination.ip, values: [2.2.0.0/16]}]}]}"
)


def block(text: str) -> IpMatch:
    network = ipaddress.ip_network(text)
    return IpMatch(network.network_address.packed, network.prefixlen)


def test_every_l4_field() -> None:
    found = policy(A_RULE)
    assert found is not None
    assert found.rules == (
        Rule(
            (
                Clause(
                    (
                        Match(
                            principals=(
                                EXACT,
                                StringMatch(presence=True),
                                StringMatch(suffix="b"),
                                StringMatch(prefix="c"),
                            ),
                            not_namespaces=(EXACT,),
                            source_ips=(block("10.0.0.0/8"), block("::1")),
                            not_source_ips=(block("10.1.2.3/32"),),
                        ),
                        Match(service_accounts=(ServiceAccountMatch("default", "sa"), ServiceAccountMatch("o", "sb"))),
                    )
                ),
                Clause((Match(destination_ports=(80,), not_destination_ports=(81,)),)),
                Clause((Match(source_ips=(block("1.1.1.1/32"),)),)),
                Clause((Match(not_destination_ports=(9,)),)),
                Clause((Match(namespaces=(EXACT,)),)),
                Clause((Match(not_principals=(StringMatch(presence=True),)),)),
                Clause((Match(destination_ips=(block("2.2.0.0/16"),)),)),
            )
        ),
    )


def test_the_mesh_is_meant_by_all_names_of_its_trust_domain() -> None:
    names = "a.example/ns/n/sa/s, other/ns/n/sa/s, '*.example/ns/n/sa/s', a.example/ns/n/*, '*'"
    spec = f"spec: {{rules: [{{from: [{{source: {{principals: [{names}]}}}}]}}]}}"
    mesh = MeshConfig(trust_domain="a.example", trust_domain_aliases=("old", "a.example"))
    found = translate(obj("AuthorizationPolicy", "x", text=spec), mesh=mesh).authorizations["default/x"]
    assert found.rules[0].clauses[0].matches[0].principals == (
        StringMatch(exact="a.example/ns/n/sa/s"),
        StringMatch(exact="old/ns/n/sa/s"),
        StringMatch(exact="other/ns/n/sa/s"),
        StringMatch(suffix=".example/ns/n/sa/s"),
        StringMatch(exact="old/ns/n/sa/s"),
        StringMatch(prefix="a.example/ns/n/"),
        StringMatch(presence=True),
    )
    when = "spec: {action: DENY, rules: [{when: [{key: source.principal, notValues: [a.example/ns/n/sa/s]}]}]}"
    found = translate(obj("AuthorizationPolicy", "x", text=when), mesh=mesh).authorizations["default/x"]
    assert len(found.rules[0].clauses[0].matches[0].not_principals) == 2
    config = obj("ConfigMap", "istio", "istio-system", "data: {mesh: 'trustDomainAliases: [one, two]'}")
    found = translate(obj("AuthorizationPolicy", "x", text=when), config, mesh=mesh).authorizations["default/x"]
    assert len(found.rules[0].clauses[0].matches[0].not_principals) == 3


def test_cluster_local_means_the_mesh_whatever_it_calls_itself() -> None:
    text = "spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/n/sa/s]}}]}]}"
    mesh = MeshConfig(trust_domain="a.example", trust_domain_aliases=("old",))
    found = translate(obj("AuthorizationPolicy", "x", text=text), mesh=mesh).authorizations["default/x"]
    assert found.rules[0].clauses[0].matches[0].principals == (
        StringMatch(exact="a.example/ns/n/sa/s"),
        StringMatch(exact="old/ns/n/sa/s"),
    )


def test_every_negation() -> None:
    found = policy(
        "{rules: [{from: [{source: {namespaces: [a], notPrincipals: [a]}}, {source: {notServiceAccounts: [sa]}}],"
        " when: [{key: source.ip, notValues: [1.1.1.1]}, {key: destination.port, values: ['9']},"
        " {key: source.namespace, notValues: [a]}, {key: source.principal, values: [a]},"
        " {key: destination.ip, notValues: [2.2.0.0/16]}]}]}"
    )
    assert found is not None
    assert [clause.matches for clause in found.rules[0].clauses] == [
        (
            Match(namespaces=(EXACT,), not_principals=(EXACT,)),
            Match(not_service_accounts=(ServiceAccountMatch("default", "sa"),)),
        ),
        (Match(not_source_ips=(block("1.1.1.1/32"),)),),
        (Match(destination_ports=(9,)),),
        (Match(not_namespaces=(EXACT,)),),
        (Match(principals=(EXACT,)),),
        (Match(not_destination_ips=(block("2.2.0.0/16"),)),),
    ]


def test_a_dry_run_is_sent_on_demand_and_marked() -> None:
    dry = obj("AuthorizationPolicy", "x", text="spec: {}", annotations={"istio.io/dry-run": "true"})
    selecting = obj("AuthorizationPolicy", "y", text=f"spec: {{selector: {{matchLabels: {WEB}}}}}")
    selecting["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    web = pod(labels={"app": "web"})
    found = translate(dry, selecting, web, mesh=MeshConfig(dry_run_policies=True))
    assert [one.dry_run for one in found.authorizations.values()] == [True, True]
    assert workload(dry, selecting, web, mesh=MeshConfig(dry_run_policies=True)).authorization_policies == (
        "default/y",
    )
    assert workload(dry, selecting, web).authorization_policies == ()


@pytest.mark.parametrize(
    "rule",
    [
        *(f"to: [{{operation: {{{field}: [a]}}}}]" for field in ("hosts", "notHosts", "methods", "notMethods")),
        *(f"to: [{{operation: {{{field}: [/a]}}}}]" for field in ("paths", "notPaths")),
        *(f"from: [{{source: {{{field}: [a]}}}}]" for field in ("requestPrincipals", "notRequestPrincipals")),
        *(f"from: [{{source: {{{field}: [1.1.1.1]}}}}]" for field in ("remoteIpBlocks", "notRemoteIpBlocks")),
    ],
)
def test_a_rule_with_what_only_a_waypoint_knows_allows_nothing(rule: str) -> None:
    found = policy(f"{{rules: [{{{rule}}}, {{}}]}}")
    assert found is not None
    assert found.rules == (Rule(),)


def test_a_policy_of_the_root_namespace_counts_once_there() -> None:
    own = pod(labels={"app": "web"})
    own["metadata"]["namespace"] = "istio-system"
    selecting = obj("AuthorizationPolicy", "x", "istio-system", f"spec: {{selector: {{matchLabels: {WEB}}}}}")
    found = translate(own, selecting).addresses["Kubernetes//Pod/istio-system/p"].workload
    assert found is not None
    assert found.authorization_policies == ("istio-system/x",)


EMPTY = Clause((Match(),))
PORT = Clause((Match(destination_ports=(80,)),))
BY_A = Clause((Match(principals=(EXACT,)),))


@pytest.mark.parametrize(
    ("rule", "allow", "deny"),
    [
        ("{}", (Rule(),), (Rule(),)),
        ("{to: [{operation: {paths: [/x]}}]}", (), (Rule((EMPTY,)),)),
        ("{to: [{operation: {paths: [/x], ports: ['80']}}]}", (), (Rule((PORT,)),)),
        ("{from: [{source: {principals: [a]}}], to: [{operation: {methods: [GET]}}]}", (), (Rule((BY_A, EMPTY)),)),
        ("{from: [{source: {principals: [a], requestPrincipals: [b]}}]}", (), (Rule((BY_A,)),)),
        ("{from: [{source: {remoteIpBlocks: [1.1.1.1]}}]}", (), (Rule((EMPTY,)),)),
        ("{from: [{source: {notRemoteIpBlocks: [1.1.1.1]}}]}", (), (Rule((EMPTY,)),)),
        ("{when: [{key: 'request.headers[x]', values: [a]}]}", (), (Rule((EMPTY,)),)),
        ("{when: [{key: source.serviceAccount, values: [a]}]}", (), (Rule((EMPTY,)),)),
        ("{from: [{source: {trustDomains: [a]}}]}", (Rule((EMPTY,)),), (Rule((EMPTY,)),)),
    ],
)
def test_l7_pieces(rule: str, allow: tuple[Rule, ...], deny: tuple[Rule, ...]) -> None:
    for action, expected in (("ALLOW", allow), ("DENY", deny)):
        found = policy(f"{{action: {action}, rules: [{rule}]}}")
        assert found is not None
        assert found.rules == expected
