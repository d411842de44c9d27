"""DestinationRules: where they are looked for, how they merge, and every section with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from istiod.translate.graph import View
from istiod.translate.l7.service import Seams
from meshcore import l7
from meshcore.l7 import ConnectionPool, HashKey, HashSource, LbAlgorithm, LoadBalancer, TrafficPolicy
from tests.unit.istiod.l7.support import REVIEWS, Mesh, mesh_config, obj

RING = LbAlgorithm.RING_HASH
COOKIE = HashSource.COOKIE


def rule(spec: str, name: str = "dr", *, namespace: str = "default", created: int = 0) -> str:
    return obj("DestinationRule", name, spec, namespace=namespace, created=created)


def policy(settings: str, *more: str) -> TrafficPolicy:
    return Mesh(rule(f"host: reviews\ntrafficPolicy: {{{settings}}}"), *more).destination().policy


def test_without_rules_everything_is_a_default() -> None:
    assert Mesh().destination() == l7.Destination(
        REVIEWS,
        (
            (80, l7.Protocol.HTTP),
            (70, l7.Protocol.GRPC),
            (90, l7.Protocol.TCP),
            (443, l7.Protocol.TLS),
            (60, l7.Protocol.AUTO),
        ),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("simple: UNSPECIFIED", LoadBalancer()),
        ("simple: LEAST_CONN", LoadBalancer()),
        ("simple: ROUND_ROBIN", LoadBalancer(LbAlgorithm.ROUND_ROBIN)),
        ("simple: RANDOM", LoadBalancer(LbAlgorithm.RANDOM)),
        ("simple: PASSTHROUGH", LoadBalancer(LbAlgorithm.PASSTHROUGH)),
        ("consistentHash: {httpHeaderName: X-A}", LoadBalancer(RING, HashKey(HashSource.HEADER, "x-a"), 1024)),
        ("consistentHash: {useSourceIp: true}", LoadBalancer(RING, HashKey(HashSource.SOURCE_IP), 1024)),
        (
            "consistentHash: {httpQueryParameterName: q, minimumRingSize: 7}",
            LoadBalancer(RING, HashKey(HashSource.QUERY, "q"), 7),
        ),
        (
            "consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 8}}",
            LoadBalancer(RING, HashKey(HashSource.QUERY, "q"), 8),
        ),
        (
            "consistentHash: {useSourceIp: true, maglev: {}}",
            LoadBalancer(LbAlgorithm.MAGLEV, HashKey(HashSource.SOURCE_IP), 65_537),
        ),
        ("consistentHash: {httpCookie: {name: c}}", LoadBalancer(RING, HashKey(COOKIE, "c"), 1024)),
        ("consistentHash: {httpCookie: {name: c, ttl: 0s}}", LoadBalancer(RING, HashKey(COOKIE, "c", "", 0), 1024)),
        (
            "consistentHash: {httpCookie: {name: c, path: /, ttl: 1m, attributes: [{name: SameSite, value: Lax}]}}",
            LoadBalancer(RING, HashKey(COOKIE, "c", "/", 60_000, (("SameSite", "Lax"),)), 1024),
        ),
        ("consistentHash: {}", LoadBalancer()),
        ("warmup: {duration: 10s}", LoadBalancer(warmup=l7.Warmup(10_000))),
        (
            "simple: ROUND_ROBIN, warmup: {duration: 10s, minimumPercent: 50, aggression: 1.5}",
            LoadBalancer(LbAlgorithm.ROUND_ROBIN, warmup=l7.Warmup(10_000, 50, 1_500_000)),
        ),
        ("warmupDurationSecs: 10s", LoadBalancer(warmup=l7.Warmup(10_000))),
        ("simple: RANDOM, warmup: {duration: 10s}", LoadBalancer(LbAlgorithm.RANDOM)),
        (
            "localityLbSetting: {distribute: [{from: r/*, to: {r/z: 80, q: 20}}]}",
            LoadBalancer(locality=l7.LocalityPolicy((l7.LocalityShare("r/*", (("r/z", 80), ("q", 20))),))),
        ),
        ("localityLbSetting: {failover: [{from: a, to: b}]}", LoadBalancer()),  # nobody looks for outliers
        (
            "zoneAwareLbSetting: {enabled: true, minClusterSize: 6}",
            LoadBalancer(locality=l7.LocalityPolicy(zone_aware=True, min_hosts=6)),
        ),
    ],
)
def test_load_balancing(settings: str, expected: LoadBalancer) -> None:
    assert policy(f"loadBalancer: {{{settings}}}").lb == expected


@pytest.mark.parametrize(
    ("mesh", "setting", "expected"),
    [
        ("", "", l7.LocalityPolicy()),
        ("", "localityLbSetting: {failoverPriority: [a, b=c]}", l7.LocalityPolicy(priorities=("a", "b=c"))),
        ("", "localityLbSetting: {failover: [{from: a, to: b}]}", l7.LocalityPolicy(failover=(("a", "b"),))),
        ("", "localityLbSetting: {enabled: false}", None),
        ("localityLbSetting: {enabled: false}", "", None),
        ("localityLbSetting: {enabled: false}", "localityLbSetting: {enabled: true}", l7.LocalityPolicy()),
        ("localityLbSetting: {failover: [{from: a, to: b}]}", "", l7.LocalityPolicy(failover=(("a", "b"),))),
    ],
)
def test_localities_fail_over_once_outliers_are_looked_for(
    mesh: str, setting: str, expected: l7.LocalityPolicy | None
) -> None:
    found = policy(f"outlierDetection: {{}}, loadBalancer: {{{setting}}}", mesh_config(mesh or "{}"))
    assert found.lb.locality == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{}", ConnectionPool()),
        ("{tcp: {maxConnections: 7, connectTimeout: 2s}}", ConnectionPool(7, 2000)),
        (
            "{tcp: {idleTimeout: 0s}, http: {idleTimeout: 0s}}",
            ConnectionPool(idle_timeout_ms=0, http_idle_timeout_ms=0),
        ),
        ("{tcp: {idleTimeout: 1s, maxConnectionDuration: 3s}}", ConnectionPool(idle_timeout_ms=1000, max_age_ms=3000)),
        (
            "{tcp: {tcpKeepalive: {probes: 3, time: 10s, interval: 1s}}}",
            ConnectionPool(keepalive=l7.Keepalive(3, 10_000, 1000)),
        ),
        (
            "{http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4}}",
            ConnectionPool(max_pending_requests=1, max_requests=2, requests_per_connection=3, max_retries=4),
        ),
        ("{http: {h2UpgradePolicy: UPGRADE}}", ConnectionPool(h2_upgrade=l7.H2Upgrade.ALWAYS)),
        ("{http: {h2UpgradePolicy: DO_NOT_UPGRADE}}", ConnectionPool(h2_upgrade=l7.H2Upgrade.NEVER)),
        ("{http: {useClientProtocol: true}}", ConnectionPool(h2_upgrade=l7.H2Upgrade.CLIENT)),
        (
            "{http: {maxConcurrentStreams: 5, http2KeepAlive: {interval: 1s, timeout: 2s}}}",
            ConnectionPool(max_streams=5, h2_ping_interval_ms=1000, h2_ping_timeout_ms=2000),
        ),
    ],
)
def test_connection_pools(settings: str, expected: ConnectionPool) -> None:
    assert policy(f"connectionPool: {settings}").pool == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{}", l7.OutlierDetection()),
        ("{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3}", l7.OutlierDetection(0, 3)),
        ("{consecutiveErrors: 2}", l7.OutlierDetection(5, 2)),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1}",
            l7.OutlierDetection(split_local=True, consecutive_local=1),
        ),
        (
            "{interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100, minHealthPercent: 50}",
            l7.OutlierDetection(interval_ms=1000, ejection_ms=2000, max_ejected_percent=100, min_health_percent=50),
        ),
        (
            "{outlierDetectionHttpErrorCodes: [429]}",
            l7.OutlierDetection(statuses=(429,)),
        ),
    ],
)
def test_outlier_detection(settings: str, expected: l7.OutlierDetection) -> None:
    assert policy(f"outlierDetection: {settings}").outliers == expected


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("{mode: DISABLE}", None),  # inside the tunnel there is nothing to disable
        ("{mode: ISTIO_MUTUAL}", None),
        ("{mode: SIMPLE}", l7.UpstreamTls(trust=l7.Trust(system=True))),
        (
            "{mode: SIMPLE, sni: s, subjectAltNames: [a], caCertificates: /ca.pem, caCrl: /crl.pem}",
            l7.UpstreamTls(None, l7.Trust(file="/ca.pem", crl_file="/crl.pem"), ("a",), "s"),
        ),
        ("{mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}", l7.UpstreamTls()),
        (
            "{mode: SIMPLE, credentialName: c}",
            l7.UpstreamTls(trust=l7.Trust(("default/c",))),
        ),
        (
            "{mode: SIMPLE, credentialName: 'kubernetes://default/c'}",
            l7.UpstreamTls(trust=l7.Trust(("default/c",))),
        ),
        (  # a Secret of another namespace is nobody's to use: no handshake succeeds
            "{mode: MUTUAL, credentialName: 'kubernetes://other/c'}",
            l7.UpstreamTls(l7.KeyPair(), l7.Trust()),
        ),
        (
            "{mode: SIMPLE, credentialName: 'configmap://other/c'}",
            l7.UpstreamTls(trust=l7.Trust(config_maps=("other/c",))),
        ),
        (
            "{mode: MUTUAL, credentialName: c, subjectAltNames: [a]}",
            l7.UpstreamTls(l7.KeyPair(secret="default/c"), l7.Trust(("default/c",)), ("a",)),
        ),
        (
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca}",
            l7.UpstreamTls(l7.KeyPair("", "/c", "/k"), l7.Trust(file="/ca")),
        ),
    ],
)
def test_tls_at_a_waypoint(tls: str, expected: l7.UpstreamTls | None) -> None:
    assert policy(f"tls: {tls}").tls == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("proxyProtocol: {}", TrafficPolicy(proxy_protocol=l7.ProxyProtocol.V1)),
        ("proxyProtocol: {version: V2}", TrafficPolicy(proxy_protocol=l7.ProxyProtocol.V2)),
        ("tunnel: {targetHost: h, targetPort: 1}", TrafficPolicy(tunnel=l7.Tunnel("h", 1))),
        ("tunnel: {protocol: POST, targetHost: h, targetPort: 1}", TrafficPolicy(tunnel=l7.Tunnel("h", 1, post=True))),
        ("retryBudget: {}", TrafficPolicy(retry_budget=l7.RetryBudget(200_000, 3))),
        (
            "retryBudget: {percent: 12.5, minRetryConcurrency: 0, budgetInterval: 10s}",
            TrafficPolicy(retry_budget=l7.RetryBudget(125_000, 0, 10_000)),
        ),
    ],
)
def test_the_smaller_sections(settings: str, expected: TrafficPolicy) -> None:
    assert policy(settings) == expected


def test_defaults_of_the_mesh() -> None:
    mesh = mesh_config(
        """
connectTimeout: 3s
tcpKeepalive: {time: 5s}
defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}, outlierDetection: {interval: 1s}}
"""
    )
    found = Mesh(mesh).destination().policy
    assert found.pool == ConnectionPool(9, 3000, l7.Keepalive(0, 5000))
    assert found.outliers == l7.OutlierDetection(interval_ms=1000)
    own = policy("connectionPool: {tcp: {connectTimeout: 1s}}, outlierDetection: {}", mesh)
    assert own.pool == ConnectionPool(connect_timeout_ms=1000, keepalive=l7.Keepalive(0, 5000))
    assert own.outliers == l7.OutlierDetection()


def test_a_subset_replaces_sections_and_a_port_inherits_nothing() -> None:
    destination = Mesh(
        rule(
            """
host: reviews
trafficPolicy:
  loadBalancer: {simple: RANDOM}
  connectionPool: {tcp: {maxConnections: 1}}
  portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 2}}}]
subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    trafficPolicy:
      connectionPool: {http: {maxRetries: 5}}
      portLevelSettings: [{port: {number: 70}, loadBalancer: {simple: ROUND_ROBIN}}]
"""
        )
    ).destination()
    random, round_robin = LoadBalancer(LbAlgorithm.RANDOM), LoadBalancer(LbAlgorithm.ROUND_ROBIN)
    assert destination.policy == TrafficPolicy(random, ConnectionPool(1))
    assert destination.port_policies == ((80, TrafficPolicy(pool=ConnectionPool(2))),)
    v1, v2 = destination.subsets
    assert v1 == l7.Subset("v1", {"version": "v1"}, destination.policy, destination.port_policies)
    assert v2.policy == TrafficPolicy(random, ConnectionPool(max_retries=5))
    assert v2.ports == (
        (80, TrafficPolicy(pool=ConnectionPool(max_retries=5))),  # the top's port, then the subset's section
        (70, TrafficPolicy(round_robin)),
    )


def test_a_subset_keeps_the_sections_it_does_not_name_and_replaces_the_others() -> None:
    top = (
        "tunnel: {targetHost: t, targetPort: 1}, proxyProtocol: {version: V2}, retryBudget: {percent: 10}, "
        "tls: {mode: SIMPLE, sni: s}, outlierDetection: {interval: 1s}"
    )
    own = (
        "tunnel: {targetHost: u, targetPort: 2}, proxyProtocol: {}, retryBudget: {percent: 20}, "
        "tls: {mode: SIMPLE, sni: v}, outlierDetection: {interval: 2s}"
    )
    settings = "loadBalancer: {simple: RANDOM}"
    spec = f"host: reviews\ntrafficPolicy: {{{top}}}\nsubsets:\n"
    subsets = "".join(
        f"- {{name: {name}, trafficPolicy: {{{text}}}}}\n" for name, text in (("a", settings), ("b", own))
    )
    kept, replaced = (one.policy for one in Mesh(rule(spec + subsets)).destination().subsets)
    assert kept == policy(f"{top}, {settings}")
    assert replaced == policy(own)
    assert replaced != policy(top)


def limited(number: int, host: str, name: str, **meta: Any) -> str:
    extra = meta.pop("extra", "")
    spec = f"host: {host}\ntrafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {number}}}}}}}\n{extra}"
    return rule(spec, name, **meta)


FULL = "reviews.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([limited(1, FULL, "a", namespace="istio-system")], 1),
        ([limited(1, FULL, "a", namespace="istio-system"), limited(2, "reviews", "b")], 2),
        ([limited(1, FULL, "a", namespace="elsewhere")], l7.UNLIMITED),
        ([limited(1, FULL, "a", namespace="istio-system", extra="exportTo: ['.']")], l7.UNLIMITED),
        ([limited(1, FULL, "a", namespace="istio-system", extra="exportTo: [default]")], 1),
        ([limited(1, "reviews", "a", extra="exportTo: [nobody]")], 1),  # the own namespace is never kept out
        ([limited(1, "'*.default.svc.cluster.local'", "a"), limited(2, "'*.cluster.local'", "b")], 1),
        ([limited(1, "'*.default.svc.cluster.local'", "a"), limited(2, "reviews", "b", created=5)], 2),
        ([limited(1, "'*'", "a")], 1),
        ([limited(1, "reviews", "a", created=2), limited(2, FULL, "b", created=1)], 2),  # the older of one host
        ([limited(1, "reviews", "a", created=1), limited(2, FULL, "b", created=2)], 1),
        (
            [
                limited(1, "reviews", "a"),
                limited(
                    2,
                    "reviews",
                    "b",
                    created=1,
                    extra="workloadSelector: {matchLabels: {gateway.networking.k8s.io/gateway-name: wp}}",
                ),
            ],
            2,
        ),
        ([limited(1, "reviews", "a", extra="workloadSelector: {matchLabels: {app: x}}")], l7.UNLIMITED),
    ],
)
def test_which_rule_is_followed(rules: Sequence[str], expected: int) -> None:
    assert Mesh(*rules).destination().policy.pool.max_connections == expected


def test_rules_of_one_host_are_merged() -> None:
    destination = Mesh(
        rule("host: reviews\nsubsets: [{name: a, labels: {v: '1'}}]", "one"),
        rule(
            "host: reviews\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}\n"
            "subsets: [{name: a, labels: {v: '2'}}, {name: b}]",
            "two",
            created=1,
        ),
        rule("host: reviews\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}", "three", created=2),
    ).destination()
    assert destination.policy.lb.algorithm is LbAlgorithm.RANDOM
    assert [(one.name, one.labels) for one in destination.subsets] == [("a", {"v": "1"}), ("b", {})]


def test_names_of_a_service_entry_are_what_its_certificate_must_have() -> None:
    entry = (
        "hosts: [api.example.com]\nresolution: DNS\nports: [{number: 443, name: http}]\nsubjectAltNames: [san.example]"
    )
    mesh = Mesh(
        obj("ServiceEntry", "e", entry),
        rule("host: api.example.com\ntrafficPolicy: {tls: {mode: SIMPLE}}"),
    )
    (destination,) = mesh.service("default/api.example.com").destinations
    assert destination.policy.tls == l7.UpstreamTls(trust=l7.Trust(system=True), names=("san.example",))


def test_a_backend_tls_policy_goes_before_destination_rules() -> None:
    wanted = l7.UpstreamTls(trust=l7.Trust(config_maps=("default/ca",)), sni="x")

    def backend_tls(_view: View, _namespace: str, _hostname: str, port: int) -> l7.UpstreamTls | None:
        return wanted if port == 80 else None

    text = rule("host: reviews\ntrafficPolicy: {tls: {mode: SIMPLE}}\nsubsets: [{name: a}]")
    destination = Mesh(text, seams=Seams(backend_tls=backend_tls)).destination()
    assert destination.policy.tls == l7.UpstreamTls(trust=l7.Trust(system=True))
    assert [(number, one.tls) for number, one in destination.port_policies] == [(80, wanted)]
    assert [(number, one.tls) for number, one in destination.subsets[0].ports] == [(80, wanted)]


ROOT_RULE = "host: '*.local'\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}"
ROOT_WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: istio-system}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
status: {addresses: [{type: Hostname, value: wp.istio-system.svc.cluster.local}]}
---
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: istio-system}}
"""


@pytest.mark.parametrize(
    ("export", "more", "expected"),
    [
        ("", (), LbAlgorithm.RANDOM),
        ("", (rule("host: reviews\ntrafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}"),), LbAlgorithm.PASSTHROUGH),
        ("exportTo: ['.']", (rule("host: reviews\nsubsets: [{name: a}]"),), LbAlgorithm.RANDOM),
        ("exportTo: [istio-system]", (rule("host: reviews\nsubsets: [{name: a}]"),), LbAlgorithm.RANDOM),
        ("exportTo: ['.', b]", (rule("host: reviews\nsubsets: [{name: a}]"),), LbAlgorithm.LEAST_REQUEST),
    ],
)
def test_a_client_in_the_root_namespace_takes_what_is_for_everybody_last(
    export: str, more: Sequence[str], expected: LbAlgorithm
) -> None:
    mesh = Mesh(ROOT_WAYPOINT, rule(f"{ROOT_RULE}\n{export}", "root", namespace="istio-system"), *more)
    assert mesh.destination().policy.lb.algorithm is expected
