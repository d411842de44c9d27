"""AuthorizationPolicy and RequestAuthentication: which are followed where, and what each field comes to."""

from __future__ import annotations

import pytest

from istiod.translate.common import MeshConfig
from meshcore import l7
from meshcore.l7 import Attribute, Clause, Condition, PolicyAction, Rule, TextKind, TextMatch
from meshcore.model import IpMatch
from tests.unit.istiod.l7.support import RATINGS, REVIEWS, Mesh, mesh_config, obj

TO_SERVICE = "targetRefs: [{kind: Service, group: '', name: reviews}]"


def policy(spec: str, name: str = "p", *, target: str = TO_SERVICE, created: int = 0, meta: str = "") -> str:
    return obj("AuthorizationPolicy", name, f"{target}\n{spec}", created=created, meta=meta)


def translated(spec: str, *more: str, settings: MeshConfig | None = None) -> l7.Authorization:
    (found,) = Mesh(policy(spec), *more, settings=settings).service().policies.authorization
    return found


def conditions(rule: str) -> tuple[Condition, ...]:
    """Those of a rule with one clause of one alternative."""
    (found,) = translated(f"rules: [{{{rule}}}]").rules
    (clause,) = found.clauses
    (alternative,) = clause.alternatives
    return alternative


def exact(value: str, *, ignore_case: bool = False) -> TextMatch:
    return TextMatch(TextKind.EXACT, value, ignore_case)


def texts(attribute: Attribute, *values: TextMatch, negated: bool = False, path: tuple[str, ...] = ()) -> Condition:
    return Condition(attribute, path, negated, texts=values)


NET = IpMatch(b"\x0a\0\0\0", 8)
ONE = IpMatch(b"\x01\x02\x03\x04", 32)
PRINCIPAL = "cluster.local/ns/a/sa/b"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"principals: [{PRINCIPAL}]", (texts(Attribute.SOURCE_PRINCIPAL, exact(PRINCIPAL)),)),
        ("principals: ['*']", (texts(Attribute.SOURCE_PRINCIPAL, TextMatch(TextKind.PRESENT)),)),
        (
            "principals: ['*/sa/b', 'x/*']",
            (texts(Attribute.SOURCE_PRINCIPAL, TextMatch(TextKind.SUFFIX, "/sa/b"), TextMatch(TextKind.PREFIX, "x/")),),
        ),
        (
            "namespaces: [a], notNamespaces: ['b*']",
            (
                texts(Attribute.SOURCE_NAMESPACE, exact("a")),
                texts(Attribute.SOURCE_NAMESPACE, TextMatch(TextKind.PREFIX, "b"), negated=True),
            ),
        ),
        ("serviceAccounts: [b, c/d]", (texts(Attribute.SOURCE_SERVICE_ACCOUNT, exact("default/b"), exact("c/d")),)),
        ("trustDomains: [td]", (texts(Attribute.SOURCE_TRUST_DOMAIN, exact("td")),)),
        ("ipBlocks: [10.0.0.0/8]", (Condition(Attribute.SOURCE_IP, ips=(NET,)),)),
        ("notRemoteIpBlocks: [1.2.3.4]", (Condition(Attribute.REMOTE_IP, negated=True, ips=(ONE,)),)),
        ("requestPrincipals: ['iss/*']", (texts(Attribute.REQUEST_PRINCIPAL, TextMatch(TextKind.PREFIX, "iss/")),)),
    ],
)
def test_sources(source: str, expected: tuple[Condition, ...]) -> None:
    assert conditions(f"from: [{{source: {{{source}}}}}]") == expected


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("hosts: [A.b]", (texts(Attribute.HOST, exact("A.b", ignore_case=True)),)),
        ("hosts: ['*.b']", (texts(Attribute.HOST, TextMatch(TextKind.SUFFIX, ".b", True)),)),
        ("notMethods: [GET]", (texts(Attribute.METHOD, exact("GET"), negated=True),)),
        ("paths: [/a, '/b/*']", (texts(Attribute.PATH, exact("/a"), TextMatch(TextKind.PREFIX, "/b/")),)),
        ("paths: ['/a/{*}/b/{**}']", (texts(Attribute.PATH, TextMatch(TextKind.TEMPLATE, "/a/{*}/b/{**}")),)),
        ("ports: ['80', x]", (Condition(Attribute.DESTINATION_PORT, ports=(80,)),)),
        (
            "methods: [GET], notPorts: ['80']",
            (
                texts(Attribute.METHOD, exact("GET")),
                Condition(Attribute.DESTINATION_PORT, negated=True, ports=(80,)),
            ),
        ),
    ],
)
def test_operations(operation: str, expected: tuple[Condition, ...]) -> None:
    assert conditions(f"to: [{{operation: {{{operation}}}}}]") == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("source.principal", PRINCIPAL, texts(Attribute.SOURCE_PRINCIPAL, exact(PRINCIPAL))),
        ("source.namespace", "a", texts(Attribute.SOURCE_NAMESPACE, exact("a"))),
        ("source.serviceAccount", "b", texts(Attribute.SOURCE_SERVICE_ACCOUNT, exact("default/b"))),
        ("source.trustDomain", "td", texts(Attribute.SOURCE_TRUST_DOMAIN, exact("td"))),
        ("source.ip", "10.0.0.0/8", Condition(Attribute.SOURCE_IP, ips=(NET,))),
        ("remote.ip", "1.2.3.4", Condition(Attribute.REMOTE_IP, ips=(ONE,))),
        ("destination.ip", "10.1.1.1/8", Condition(Attribute.DESTINATION_IP, ips=(NET,))),
        ("destination.port", "'80'", Condition(Attribute.DESTINATION_PORT, ports=(80,))),
        ("connection.sni", "'*.x'", texts(Attribute.SNI, TextMatch(TextKind.SUFFIX, ".x"))),
        ("'request.headers[X-A]'", "b", texts(Attribute.HEADER, exact("b"), path=("x-a",))),
        ("request.auth.principal", "i/s", texts(Attribute.REQUEST_PRINCIPAL, exact("i/s"))),
        ("request.auth.audiences", "a", texts(Attribute.AUDIENCE, exact("a"))),
        ("request.auth.presenter", "a", texts(Attribute.PRESENTER, exact("a"))),
        ("'request.auth.claims[a][b.c]'", "d", texts(Attribute.CLAIM, exact("d"), path=("a", "b.c"))),
        (
            "'experimental.envoy.filters.a.b[k]'",
            "d",
            texts(Attribute.METADATA, exact("d"), path=("a.b", "k")),
        ),
        ("nonsense", "d", Condition(Attribute.SOURCE_PRINCIPAL)),  # never holds
    ],
)
def test_conditions(key: str, value: str, expected: Condition) -> None:
    assert conditions(f"when: [{{key: {key}, values: [{value}]}}]") == (expected,)


def test_the_shape_of_a_rule() -> None:
    found = translated(
        """
rules:
  - from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]
    to: [{operation: {methods: [GET]}}]
    when: [{key: source.ip, values: [1.2.3.4]}, {key: source.namespace, notValues: [c]}]
  - {}
"""
    )
    assert found.name == "default/p"
    assert found.rules == (
        Rule(
            (
                Clause(
                    (
                        (texts(Attribute.SOURCE_NAMESPACE, exact("a")),),
                        (texts(Attribute.SOURCE_NAMESPACE, exact("b")),),
                    )
                ),
                Clause(((texts(Attribute.METHOD, exact("GET")),),)),
                Clause(((Condition(Attribute.SOURCE_IP, ips=(ONE,)),),)),
                Clause(((texts(Attribute.SOURCE_NAMESPACE, exact("c"), negated=True),),)),
            )
        ),
        Rule(),
    )


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        ("td/ns/a/sa/b", ["td/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("old/ns/a/sa/b", ["td/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("else/ns/a/sa/b", ["else/ns/a/sa/b"]),
        ("cluster.local/ns/a/sa/b", ["td/ns/a/sa/b", "old/ns/a/sa/b"]),  # the own one, whatever it is called
        ("*/ns/a/sa/b", ["/ns/a/sa/b"]),
        ("o*/ns/a/sa/b", ["td/ns/a/sa/b", "o*/ns/a/sa/b"]),
        ("td/ns/a", ["td/ns/a"]),  # no identity that could be renamed
        ("*d/ns/a/sa/b", ["d/ns/a/sa/b"]),  # a suffix of every alias: it stays
    ],
)
def test_a_principal_is_meant_under_every_name_of_the_trust_domain(principal: str, expected: list[str]) -> None:
    settings = MeshConfig(trust_domain="td", trust_domain_aliases=("old",))
    spec = f"rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]"
    (rule,) = translated(spec, settings=settings).rules
    assert [match.value for match in rule.clauses[0].alternatives[0][0].texts] == expected


HTTP = "to: [{operation: {methods: [GET]}}]"
BOTH = "to: [{operation: {methods: [GET], ports: ['90']}}]"
PORT = Rule((Clause(((Condition(Attribute.DESTINATION_PORT, ports=(90,)),),)),))
FROM_A = "from: [{source: {namespaces: [a]}}]"
ONLY_A = Rule((Clause(((texts(Attribute.SOURCE_NAMESPACE, exact("a")),),)),))


@pytest.mark.parametrize(
    ("action", "rules", "expected"),
    [
        ("ALLOW", f"{{{FROM_A}}}", None),  # nothing about requests: the same rules
        ("ALLOW", f"{{{HTTP}}}", ()),
        ("ALLOW", f"{{{HTTP}}}, {{{FROM_A}}}", (ONLY_A,)),
        ("DENY", f"{{{HTTP}}}", (Rule(),)),
        ("DENY", f"{{{BOTH}}}", (PORT,)),
        ("DENY", f"{{{FROM_A}, {HTTP}}}", (ONLY_A,)),
        ("DENY", "{to: [{operation: {methods: [GET]}}, {operation: {ports: ['90']}}]}", (Rule(),)),
        ("AUDIT", f"{{{FROM_A}, {HTTP}}}", (ONLY_A,)),
        ("DENY", f"{{{FROM_A}, when: [{{key: request.auth.principal, values: [a]}}]}}", (ONLY_A,)),
    ],
)
def test_rules_about_requests_on_connections(action: str, rules: str, expected: tuple[Rule, ...] | None) -> None:
    assert translated(f"action: {action}\nrules: [{rules}]").stream_rules == expected


@pytest.mark.parametrize(
    ("target", "service", "waypoint"),
    [
        (TO_SERVICE, True, False),
        ("targetRef: {kind: Service, group: core, name: reviews}", True, False),
        ("targetRefs: [{kind: Service, group: networking.istio.io, name: reviews}]", False, False),
        ("targetRefs: [{kind: Service, name: ratings}]", False, False),
        ("targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]", False, True),
        ("targetRefs: [{kind: Gateway, group: networking.istio.io, name: wp}]", False, False),
        ("targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]", False, False),
        ("", False, False),  # a policy without targets is ztunnel's
        ("selector: {matchLabels: {app: a}}", False, False),
    ],
)
def test_what_a_waypoint_follows(target: str, *, service: bool, waypoint: bool) -> None:
    mesh = Mesh(
        policy("rules: [{}]", target=target),
        obj("RequestAuthentication", "r", f"{target}\njwtRules: [{{issuer: i}}]"),
    )
    assert bool(mesh.service().policies.authorization) is service
    assert bool(mesh.service().policies.jwt) is service
    assert bool(mesh.waypoint().policies.authorization) is waypoint
    assert bool(mesh.waypoint().policies.jwt) is waypoint


def test_a_policy_for_the_class_stands_in_the_root_namespace() -> None:
    spec = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]\nrules: [{}]"
    mesh = Mesh(obj("AuthorizationPolicy", "c", spec, namespace="istio-system"))
    assert [one.name for one in mesh.waypoint().policies.authorization] == ["istio-system/c"]


def test_a_service_entry_is_a_target_of_its_own_kind() -> None:
    entry = obj("ServiceEntry", "e", "hosts: [api.example.com]\nresolution: DNS\nports: [{number: 80, name: http}]")
    target = "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: e}]"
    mesh = Mesh(entry, policy("rules: [{}]", target=target))
    assert [one.name for one in mesh.service("default/api.example.com").policies.authorization] == ["default/p"]


def test_order_actions_and_dry_runs() -> None:
    mesh = Mesh(
        policy("action: DENY\nrules: [{}]", "young", created=2),
        policy("action: AUDIT\nrules: [{}]", "old", created=1, meta="annotations: {istio.io/dry-run: 'true'}"),
        policy("action: ALLOW", "nothing", created=3),
    )
    found = mesh.service().policies.authorization
    assert [(one.name, one.action, one.dry_run, len(one.rules)) for one in found] == [
        ("default/old", PolicyAction.AUDIT, True, 1),
        ("default/young", PolicyAction.DENY, False, 1),
        ("default/nothing", PolicyAction.ALLOW, False, 0),
    ]


PROVIDERS = """
extensionProviders:
  - name: web
    envoyExtAuthzHttp:
      service: ratings.default.svc.cluster.local
      port: 8080
      timeout: 2s
      failOpen: true
      statusOnError: '500'
      pathPrefix: /check
      includeRequestHeadersInCheck: [X-A, 'b*']
      includeAdditionalHeadersInCheck: {X-C: d}
      includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true}
      headersToUpstreamOnAllow: [E]
      headersToDownstreamOnDeny: ['*f']
      clearRouteCache: true
  - name: rpc
    envoyExtAuthzGrpc: {service: default/gone.example, port: 1, failOpen: true}
  - name: gone
    envoyExtAuthzHttp: {service: ratings.default.svc.cluster.local, port: 1, failOpen: true}
"""


def custom(name: str) -> Mesh:
    return Mesh(policy(f"action: CUSTOM\nprovider: {{name: {name}}}\nrules: [{{}}]"), mesh_config(PROVIDERS))


def test_an_http_authorizer_with_its_destination() -> None:
    service = custom("web").service()
    assert service.policies.authorization[0].authorizer == "web"
    assert service.policies.authorizers == (
        l7.Authorizer(
            "web",
            l7.AuthorizerKind.HTTP,
            l7.Backend(RATINGS, 8080),
            2000,
            True,
            500,
            "/check",
            check_headers=(exact("x-a"), TextMatch(TextKind.PREFIX, "b")),
            add_headers=(("x-c", "d"),),
            max_body=10,
            partial_body=True,
            upstream_headers=(exact("e"),),
            denied_headers=(TextMatch(TextKind.SUFFIX, "f"),),
            clear_route=True,
        ),
    )
    assert [one.service for one in service.destinations] == [RATINGS, REVIEWS]


def test_an_authorizer_that_is_not_there_denies() -> None:
    for name in ("rpc", "gone", "unknown"):
        assert custom(name).service().policies.authorizers == (l7.Authorizer(name),)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("ratings", RATINGS),  # of the namespace of the waypoint
        ("other/details", "other/details.other.svc.cluster.local"),
        ("other/api.example", "other/api.example"),
        ("api.example", "default/api.example"),
        ("nobody/api.example", ""),
    ],
)
def test_ways_to_name_the_service_of_a_provider(service: str, expected: str) -> None:
    entry = "hosts: [api.example]\nresolution: DNS\nports: [{number: 1, name: http}]"
    provider = f"extensionProviders: [{{name: p, envoyExtAuthzGrpc: {{service: {service}, port: %d}}}}]"
    mesh = Mesh(
        policy("action: CUSTOM\nprovider: {name: p}\nrules: [{}]"),
        mesh_config(provider % (8080 if service == "ratings" else 9080 if "details" in service else 1)),
        *(obj("ServiceEntry", "e", entry, namespace=namespace) for namespace in ("default", "other")),
    )
    assert [one.backend.service for one in mesh.service().policies.authorizers] == [expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "issuer: i",
            l7.JwtRule("i", from_headers=(("authorization", "Bearer "),), from_params=("access_token",)),
        ),
        ("issuer: i, fromParams: [t]", l7.JwtRule("i", from_params=("t",))),
        (
            "issuer: i, fromHeaders: [{name: X-T, prefix: 'P '}], fromCookies: [c], audiences: [a], timeout: 1s",
            l7.JwtRule("i", ("a",), from_headers=(("x-t", "P "),), from_cookies=("c",), timeout_ms=1000),
        ),
        (
            "issuer: i, fromParams: [t], jwksUri: 'https://k', forwardOriginalToken: true, outputPayloadToHeader: X-P",
            l7.JwtRule("i", keys_url="https://k", from_params=("t",), payload_header="x-p", forward_token=True),
        ),
        (
            "issuer: i, fromParams: [t], jwks: k, jwksUri: 'https://k', spaceDelimitedClaims: [roles, scope]",
            l7.JwtRule("i", keys="k", from_params=("t",), space_delimited=("scope", "permission", "roles")),
        ),
        (
            "issuer: i, fromParams: [t], outputClaimToHeaders: [{header: X-G, claim: a.b}]",
            l7.JwtRule("i", from_params=("t",), claim_headers=(("x-g", "a.b"),)),
        ),
    ],
)
def test_tokens(rule: str, expected: l7.JwtRule) -> None:
    mesh = Mesh(obj("RequestAuthentication", "r", f"{TO_SERVICE}\njwtRules: [{{{rule}}}, {{{rule}}}]"))
    assert mesh.service().policies.jwt == (expected,)
