"""DestinationRule: each refusal of the webhook, by field; what is right passes without a word."""

from __future__ import annotations

import pytest

from tests.unit.istiod.validating import Case, error, expect, said, short, warning

P = "spec.trafficPolicy"
L = f"{P}.loadBalancer"
C = f"{P}.connectionPool"
H = f"{L}.consistentHash"


def policy(text: str) -> str:
    return f"{{host: a, trafficPolicy: {{{text}}}}}"


def balancer(text: str) -> str:
    return policy(f"loadBalancer: {{{text}}}, outlierDetection: {{}}")


def tls(text: str) -> str:
    return policy(f"tls: {{{text}}}")


def hashing(text: str) -> str:
    return balancer(f"consistentHash: {{{text}}}")


CASES = [
    error("{}", "spec.host", "missing"),
    error("{host: a_b}", "spec.host", "not a host name"),
    error("{host: a, exportTo: [a, a]}", "spec.exportTo[1]", "stands twice"),
    error("{host: a, subsets: [{name: s}, {name: s}]}", "spec.subsets[1].name", "stands twice"),
    error("{host: a, subsets: [null]}", "spec.subsets[0]", "found nothing"),
    error("{host: a, subsets: [{labels: {a: b}}]}", "spec.subsets[0].name", "missing"),
    error("{host: a, subsets: [{name: a_b}]}", "spec.subsets[0].name", "not the name of a subset"),
    error("{host: a, subsets: [{name: s, labels: {a: 'b*'}}]}", "spec.subsets[0].labels.a", "label value"),
    error("{host: a, subsets: [{name: s, trafficPolicy: {}}]}", "spec.subsets[0].trafficPolicy", "is empty"),
    error(policy(""), P, "is empty"),
    error(
        policy("tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {version: V1}"), f"{P}.proxyProtocol", "beside"
    ),
    error(policy("tunnel: {protocol: GET, targetHost: a, targetPort: 1}"), f"{P}.tunnel.protocol", "CONNECT, POST"),
    error(policy("tunnel: {targetHost: '*.a', targetPort: 1}"), f"{P}.tunnel.targetHost", "single host"),
    error(policy("tunnel: {targetHost: a}"), f"{P}.tunnel.targetPort", "missing"),
    error(policy("tunnel: {targetPort: 1}"), f"{P}.tunnel.targetHost", "missing"),
    error(policy("tunnel: {targetHost: a, targetPort: 70000}"), f"{P}.tunnel.targetPort", "65535"),
    error(policy("proxyProtocol: {version: V3}"), f"{P}.proxyProtocol.version", "V1, V2"),
    error(policy("retryBudget: {percent: 101}"), f"{P}.retryBudget.percent", "10"),
    error(policy("connectionPool: {}"), C, "is empty"),
    error(policy("connectionPool: {tcp: {maxConnections: -1}}"), f"{C}.tcp.maxConnections", "at least 0"),
    error(policy("connectionPool: {tcp: {connectTimeout: 0s}}"), f"{C}.tcp.connectTimeout", "shorter"),
    error(policy("connectionPool: {tcp: {tcpKeepalive: {time: x}}}"), f"{C}.tcp.tcpKeepalive.time", "not a duration"),
    error(policy("connectionPool: {http: {maxRetries: -1}}"), f"{C}.http.maxRetries", "at least 0"),
    error(policy("connectionPool: {http: {http2MaxRequests: -1}}"), f"{C}.http.http2MaxRequests", "at least 0"),
    error(policy("connectionPool: {http: {maxConcurrentStreams: -1}}"), f"{C}.http.maxConcurrentStreams", "at least"),
    error(
        policy("connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}"),
        f"{C}.http.useClientProtocol",
        "UPGRADE",
    ),
    error(
        policy("connectionPool: {http: {http2KeepAlive: {interval: 1s}}}"), f"{C}.http.http2KeepAlive.timeout", "both"
    ),
    error(
        policy("connectionPool: {http: {http2KeepAlive: {timeout: 1s}}}"), f"{C}.http.http2KeepAlive.interval", "both"
    ),
    error(hashing("httpCookie: {ttl: 0s}"), f"{H}.httpCookie.name", "missing"),
    error(hashing("httpCookie: {name: a, ttl: -1s}"), f"{H}.httpCookie.ttl", "shorter"),
    error(
        hashing("httpCookie: {name: a, attributes: [{name: b}, {name: b}]}"),
        f"{H}.httpCookie.attributes[1].name",
        "twice",
    ),
    error(hashing("useSourceIp: true, maglev: {tableSize: 0}"), f"{H}.maglev.tableSize", "not a prime"),
    error(hashing("useSourceIp: true, maglev: {tableSize: 65536}"), f"{H}.maglev.tableSize", "not a prime"),
    error(hashing("useSourceIp: true, maglev: {tableSize: 5000011}"), f"{H}.maglev.tableSize", "below 5000011"),
    error(hashing("httpHeaderName: 'a b'"), f"{H}.httpHeaderName", "not a header name"),
    warning(hashing("ringHash: {}"), H, "hashes nothing"),
    warning(hashing("useSourceIp: true, minimumRingSize: 9"), f"{H}.minimumRingSize", "deprecated", "IST0002"),
    error(
        balancer("localityLbSetting: {enabled: true}, zoneAwareLbSetting: {enabled: true}"),
        f"{L}.zoneAwareLbSetting",
        "beside localityLbSetting",
    ),
    error(balancer("warmup: {}"), f"{L}.warmup.duration", "missing"),
    error(balancer("warmup: {duration: 1s, minimumPercent: 101}"), f"{L}.warmup.minimumPercent", "10"),
    error(balancer("warmup: {duration: 1s, aggression: 0}"), f"{L}.warmup.aggression", "0"),
    error(
        balancer("localityLbSetting: {distribute: [{from: a, to: {a: 100}}], failover: [{from: a, to: b}]}"),
        f"{L}.localityLbSetting.failover",
        "beside distribute",
    ),
    error(
        balancer("localityLbSetting: {distribute: [{from: a, to: {a: 90}}]}"),
        f"{L}.localityLbSetting.distribute[0].to",
        "add up to 90",
    ),
    error(
        balancer("localityLbSetting: {distribute: [{from: a, to: {a: 100, b: 0}}]}"),
        f"{L}.localityLbSetting.distribute[0].to.b",
        "1 to 100",
    ),
    error(
        balancer("localityLbSetting: {failover: [{from: a, to: a}]}"),
        f"{L}.localityLbSetting.failover[0].to",
        "same region",
    ),
    error(
        balancer("localityLbSetting: {failover: [{from: a/b, to: c}]}"),
        f"{L}.localityLbSetting.failover[0].from",
        "not a region alone",
    ),
    error(
        balancer("localityLbSetting: {failover: [{from: a, to: '*'}]}"),
        f"{L}.localityLbSetting.failover[0].to",
        "not a region alone",
    ),
    error(
        balancer(
            "localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/region]}"
        ),
        f"{L}.localityLbSetting.failoverPriority[0]",
        "what failover is about",
    ),
    warning(
        policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}"),
        f"{L}.localityLbSetting.failover",
        "without outlierDetection",
    ),
    warning(
        policy("outlierDetection: {consecutiveErrors: 3}"),
        f"{P}.outlierDetection.consecutiveErrors",
        "deprecated",
        "IST0002",
    ),
    error(
        policy("outlierDetection: {consecutiveLocalOriginFailures: 3}"),
        f"{P}.outlierDetection.consecutiveLocalOriginFailures",
        "splitExternalLocalOriginErrors",
    ),
    error(policy("outlierDetection: {interval: 1us}"), f"{P}.outlierDetection.interval", "shorter"),
    error(
        policy("outlierDetection: {maxEjectionPercent: 101}"), f"{P}.outlierDetection.maxEjectionPercent", "0 to 100"
    ),
    error(policy("portLevelSettings: [{tls: {}}]"), f"{P}.portLevelSettings[0].port.number", "missing"),
    error(policy("portLevelSettings: [{port: {number: 80}}]"), f"{P}.portLevelSettings[0]", "is empty"),
    error(
        policy("portLevelSettings: [{port: {number: 70000}, tls: {}}]"), f"{P}.portLevelSettings[0].port.number", "5"
    ),
    error(tls("mode: MUTUAL, privateKey: /k"), f"{P}.tls.clientCertificate", "missing: mode MUTUAL"),
    error(tls("mode: MUTUAL, clientCertificate: /c"), f"{P}.tls.privateKey", "missing: mode MUTUAL"),
    error(tls("mode: SIMPLE, credentialName: c, caCertificates: /a"), f"{P}.tls.caCertificates", "credentialName"),
    error(tls("mode: MUTUAL, credentialName: c, privateKey: /a"), f"{P}.tls.privateKey", "credentialName"),
    error(tls("mode: SIMPLE, insecureSkipVerify: true, caCertificates: /a"), f"{P}.tls.caCertificates", "says not to"),
    error(tls("mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]"), f"{P}.tls.subjectAltNames", "says not"),
    error(tls("mode: SIMPLE, credentialName: 'configmap://other/c'"), f"{P}.tls.credentialName", "one namespace"),
    error(tls("mode: SIMPLE, credentialName: 'configmap://c'"), f"{P}.tls.credentialName", "not of the form"),
    warning(tls("mode: ISTIO_MUTUAL, privateKey: /a"), f"{P}.tls.privateKey", "certificates of the mesh"),
    error("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [b]}", "spec.exportTo[0]", "its own namespace"),
    error("{host: a, workloadSelector: {matchLabels: {a: '*'}}}", "spec.workloadSelector.matchLabels.a", "wildcards"),
]


@pytest.mark.parametrize("case", CASES, ids=short)
def test_a_destination_rule_is_told_what_is_wrong(case: Case) -> None:
    expect("DestinationRule", case)


@pytest.mark.parametrize("algorithm", ["ringHash: {}", "maglev: {}"])
def test_two_ring_sizes_are_one_too_many(algorithm: str) -> None:
    found = said("DestinationRule", hashing(f"useSourceIp: true, minimumRingSize: 9, {algorithm}"))
    assert [(p.path[-1], p.warning) for p in found] == [("minimumRingSize", False), ("minimumRingSize", True)]


@pytest.mark.parametrize(
    "spec",
    [
        "{host: '*.a.com', exportTo: ['*']}",
        "{host: 10.0.0.1}",
        "{host: a, subsets: [{name: V1, labels: {a: b}}, {name: v2}], workloadSelector: {matchLabels: {a: b}}}",
        balancer("simple: LEAST_REQUEST, warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}"),
        hashing("httpCookie: {name: a, ttl: 0s}, maglev: {tableSize: 65537}"),
        balancer("localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [network]}"),
        balancer("localityLbSetting: {distribute: [{from: a/*, to: {a/b/*: 80, c: 20}}]}"),
        policy("connectionPool: {tcp: {idleTimeout: 0s, connectTimeout: 30ms}, http: {maxRequestsPerConnection: 0}}"),
        policy("outlierDetection: {consecutiveLocalOriginFailures: 3, splitExternalLocalOriginErrors: true}"),
        policy("portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]"),
        tls("mode: MUTUAL, credentialName: 'configmap://here/c', subjectAltNames: [a]"),
        tls("mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a"),
        policy("tunnel: {targetHost: proxy.a.com, targetPort: 3128}"),
    ],
    ids=lambda spec: spec[:70],
)
def test_a_right_destination_rule_passes_without_a_word(spec: str) -> None:
    assert said("DestinationRule", spec) == []
