"""Translation, row by row: Pod, Service, EndpointSlice, PeerAuthentication and AuthorizationPolicy."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

import pytest

from istiod.intake import Intake
from istiod.store import Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import INDEXES, Translator
from meshcore import yamldoc
from meshcore.manifests import Key, Manifest, Scan
from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Address,
    AppProtocol,
    Authorization,
    Clause,
    HealthPolicy,
    IPFamilies,
    IpMatch,
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    Match,
    NetworkAddress,
    NetworkMode,
    PolicyAction,
    PolicyScope,
    Port,
    Rule,
    Service,
    ServiceAccountMatch,
    StringMatch,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
)

MESH = MeshConfig()
NO_IDENTITY = Clause((Match(not_principals=(StringMatch(presence=True),)),))
STRICT = "istio-system/istio_converted_static_strict"
GLOBAL_KINDS = ("Namespace", "Node")
API = {"EndpointSlice": "discovery.k8s.io/v1", "AuthorizationPolicy": "security.istio.io/v1"}
API["PeerAuthentication"] = API["AuthorizationPolicy"]


def _fields(text: str) -> dict[str, Any]:
    return next((dict(document.data) for document in yamldoc.parse(text)), {})


def obj(kind: str, name: str, namespace: str = "default", text: str = "", **meta: Any) -> dict[str, Any]:
    value = {"apiVersion": API.get(kind, "v1"), "kind": kind, **_fields(text)}
    value["metadata"] = {"name": name, **meta}
    if kind not in GLOBAL_KINDS:
        value["metadata"]["namespace"] = namespace
    return value


class Resources(NamedTuple):
    """Resource name to resource, by type."""

    addresses: dict[str, Address]
    authorizations: dict[str, Authorization]


def translate(*objects: dict[str, Any], mesh: MeshConfig = MESH) -> Resources:
    manifests: dict[Key, Manifest] = {}
    for value in objects:
        meta = value["metadata"]
        manifest = Manifest("f", 1, value["apiVersion"], value["kind"], meta.get("namespace", ""), meta["name"], value)
        manifests[manifest.key] = manifest
    intake = Intake(Store(INDEXES))
    intake.scan(Scan(manifests, frozenset(manifests), frozenset(), ()))
    assert not list(intake.errors())
    translator = Translator(intake.store, mesh)
    return Resources(dict(translator.resources(ADDRESS_TYPE)), dict(translator.resources(AUTHORIZATION_TYPE)))


def pod(text: str = "", status: str = "podIPs: [{ip: 10.0.0.1}]", **meta: Any) -> dict[str, Any]:
    return obj("Pod", "p", text=f"spec: {{{text}}}\nstatus: {{{status}}}", **meta)


def workload(*objects: dict[str, Any], mesh: MeshConfig = MESH) -> Workload:
    found = translate(*objects, mesh=mesh).addresses["Kubernetes//Pod/default/p"].workload
    assert found is not None
    return found


def service(*objects: dict[str, Any]) -> Service:
    found = translate(*objects).addresses["default/s.default.svc.cluster.local"].service
    assert found is not None
    return found


def test_a_plain_pod() -> None:
    assert workload(pod("nodeName: n, serviceAccountName: a", labels={"app": "web"})) == Workload(
        uid="Kubernetes//Pod/default/p",
        name="p",
        namespace="default",
        addresses=(ipaddress.ip_address("10.0.0.1").packed,),
        service_account="a",
        node="n",
        canonical_name="web",
        canonical_revision="latest",
        workload_name="p",
        cluster_id="Kubernetes",
    )


READY = "podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: '%s'}]"


@pytest.mark.parametrize(
    ("status", "meta", "expected"),
    [
        ("podIPs: [{ip: 10.0.0.1}]", {}, WorkloadStatus.HEALTHY),
        (READY % "True", {}, WorkloadStatus.HEALTHY),
        (READY % "False", {}, WorkloadStatus.UNHEALTHY),
        (READY % "Unknown", {}, WorkloadStatus.UNHEALTHY),
        ("podIPs: [{ip: 10.0.0.1}], conditions: [{type: Scheduled, status: 'True'}]", {}, WorkloadStatus.UNHEALTHY),
        (READY % "True", {"deletionTimestamp": "2026-01-01T00:00:00Z"}, WorkloadStatus.UNHEALTHY),
        ("podIP: 10.0.0.1, phase: Pending", {}, WorkloadStatus.HEALTHY),
        ("podIPs: [{ip: 10.0.0.1}], phase: Succeeded", {}, None),
        ("podIPs: [{ip: 10.0.0.1}], phase: Failed", {}, None),
        ("phase: Running", {}, None),
        ("podIPs: []", {}, None),
    ],
)
def test_existence_and_health(status: str, meta: dict[str, Any], expected: WorkloadStatus | None) -> None:
    found = translate(pod(status=status, **meta)).addresses
    assert [a.workload.status for a in found.values() if a.workload] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, (TunnelProtocol.NONE, False)),
        ({"annotations": {"ambient.istio.io/redirection": "enabled"}}, (TunnelProtocol.HBONE, False)),
        ({"annotations": {"ambient.istio.io/redirection": "disabled"}}, (TunnelProtocol.NONE, False)),
        ({"labels": {"networking.istio.io/tunnel": "http"}}, (TunnelProtocol.HBONE, True)),
        ({"labels": {"security.istio.io/tlsMode": "istio"}}, (TunnelProtocol.NONE, False)),
        ({"labels": {"istio.io/dataplane-mode": "ambient"}}, (TunnelProtocol.NONE, False)),
    ],
)
def test_tunnel(meta: dict[str, Any], expected: tuple[TunnelProtocol, bool]) -> None:
    found = workload(pod(**meta))
    assert (found.tunnel_protocol, found.native_tunnel) == expected


def owner(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"kind": "Other", "name": "x"}, {"kind": kind, "name": name, "controller": True}]


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({}, "p"),
        ({"ownerReferences": owner("ReplicaSet", "web-5d4f"), "labels": {"pod-template-hash": "5d4f"}}, "web"),
        ({"ownerReferences": owner("ReplicaSet", "web-5d4f")}, "web-5d4f"),
        ({"ownerReferences": owner("StatefulSet", "db")}, "db"),
        ({"ownerReferences": owner("Job", "nightly-28765432")}, "nightly"),
        ({"ownerReferences": owner("Job", "once")}, "once"),
        ({"ownerReferences": [{"kind": "ReplicaSet", "name": "web-1"}]}, "p"),
    ],
)
def test_workload_name(meta: dict[str, Any], name: str) -> None:
    found = workload(pod(**meta))
    assert (found.workload_name, found.canonical_name) == (name, name)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"app": "a"}, ("a", "latest")),
        ({"app": "a", "app.kubernetes.io/name": "k", "version": "v1"}, ("k", "v1")),
        (
            {
                "app.kubernetes.io/name": "k",
                "service.istio.io/canonical-name": "c",
                "version": "v1",
                "app.kubernetes.io/version": "v2",
            },
            ("c", "v2"),
        ),
        ({"service.istio.io/canonical-revision": "r", "app.kubernetes.io/version": "v2"}, ("p", "r")),
    ],
)
def test_canonical_names(labels: dict[str, str], expected: tuple[str, str]) -> None:
    found = workload(pod(labels=labels))
    assert (found.canonical_name, found.canonical_revision) == expected


def test_locality_network_host_network_and_trust_domain() -> None:
    labels = {
        "topology.kubernetes.io/region": "r",
        "topology.kubernetes.io/zone": "z",
        "topology.istio.io/subzone": "s",
    }
    network = {"topology.istio.io/network": "net1"}
    found = workload(
        pod("nodeName: n, hostNetwork: true", labels={"topology.istio.io/network": "ignored"}),
        obj("Node", "n", labels=labels),
        obj("Namespace", "istio-system", labels=network),
        mesh=MeshConfig(trust_domain="corp"),
    )
    assert found.locality == Locality("r", "z", "s")
    assert found.network == "net1"
    assert found.network_mode is NetworkMode.HOST_NETWORK
    assert found.trust_domain == "corp"
    assert found.service_account == "default"


S_PORTS = "spec: {selector: {app: web}, clusterIPs: [10.1.0.1], ports: [%s]}"


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("{port: 80}", (Port(80, 80),)),
        ("{port: 80, targetPort: 8080}", (Port(80, 8080),)),
        ("{port: 80, targetPort: web}", (Port(80, 9090),)),
        ("{port: 80, targetPort: side}", (Port(80, 9191),)),
        ("{port: 80, targetPort: init}", ()),
        ("{port: 80, targetPort: udp}", ()),
        ("{port: 80, targetPort: nowhere}", ()),
        ("{port: 53, protocol: UDP}", ()),
        ("{port: 80, name: http-x}", (Port(80, 80, AppProtocol.HTTP11),)),
    ],
)
def test_ports_of_a_selected_pod(port: str, expected: tuple[Port, ...]) -> None:
    spec = (
        "containers: [{name: a, ports: [{name: web, containerPort: 9090},"
        " {name: udp, containerPort: 1, protocol: UDP}]}],"
        "initContainers: [{name: i, ports: [{name: init, containerPort: 1}]},"
        "{name: s, restartPolicy: Always, ports: [{name: side, containerPort: 9191}]}]"
    )
    found = workload(pod(spec, labels={"app": "web"}), obj("Service", "s", text=S_PORTS % port))
    assert found.services == {"default/s.default.svc.cluster.local": expected}


def test_a_service_selects_in_its_own_namespace_by_all_labels() -> None:
    other = obj("Service", "s", "other", S_PORTS % "{port: 80}")
    more = obj("Service", "s", text="spec: {selector: {app: web, tier: x}, ports: [{port: 80}]}")
    none = obj("Service", "n", text="spec: {ports: [{port: 80}]}")
    assert workload(pod(labels={"app": "web"}), other, more, none).services == {}


SLICE = """addressType: %s
ports: [{name: "", port: 9000}, {name: u, port: 53, protocol: UDP}]
endpoints: [%s]
"""
OF_S = {"kubernetes.io/service-name": "s"}


def test_a_slice_that_names_a_pod_adds_the_service_to_it() -> None:
    entry = obj(
        "EndpointSlice",
        "e",
        text=SLICE % ("IPv4", "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}"),
        labels=OF_S,
    )
    found = workload(pod(), entry, obj("Service", "s", text="spec: {ports: [{port: 80}]}"))
    assert found.services == {"default/s.default.svc.cluster.local": (Port(80, 9000),)}


def test_a_slice_without_pods_makes_workloads_without_identity() -> None:
    entry = obj(
        "EndpointSlice",
        "e",
        text=SLICE % ("IPv4", "{addresses: [10.9.0.1, 10.9.0.2], conditions: {ready: false}}, {addresses: [10.9.0.3]}"),
        labels=OF_S,
    )
    svc = obj("Service", "s", text="spec: {ports: [{port: 80}]}")
    found = translate(entry, svc, obj("Node", "n")).addresses
    base = "Kubernetes/discovery.k8s.io/EndpointSlice/default/e/10.9.0."
    assert found.keys() == {"default/s.default.svc.cluster.local", base + "1", base + "2", base + "3"}
    assert found[base + "3"].workload == Workload(
        uid=base + "3",
        name="e",
        namespace="default",
        addresses=(ipaddress.ip_address("10.9.0.3").packed,),
        cluster_id="Kubernetes",
        services={"default/s.default.svc.cluster.local": (Port(80, 9000),)},
        network_mode=NetworkMode.HOST_NETWORK,
    )
    assert found[base + "1"] == Address(workload=found[base + "1"].workload)
    assert found[base + "1"].workload.status is WorkloadStatus.UNHEALTHY  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("family", "labels", "service_type"),
    [("FQDN", OF_S, "ClusterIP"), ("IPv4", {}, "ClusterIP"), ("IPv4", OF_S, "ExternalName")],
)
def test_slices_that_make_nothing(family: str, labels: dict[str, str], service_type: str) -> None:
    address = "example.com" if family == "FQDN" else "10.9.0.1"
    entry = obj("EndpointSlice", "e", text=SLICE % (family, f"{{addresses: [{address}]}}"), labels=labels)
    svc = obj("Service", "s", text=f"spec: {{type: {service_type}, ports: [{{port: 80}}]}}")
    assert all(a.workload is None for a in translate(entry, svc).addresses.values())


def test_a_service() -> None:
    text = (
        "spec: {clusterIP: 10.1.0.1, clusterIPs: [10.1.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], "
        "ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc-a, port: 90, targetPort: named}]}"
    )
    assert service(obj("Service", "s", text=text)) == Service(
        name="s",
        namespace="default",
        hostname="s.default.svc.cluster.local",
        addresses=(
            NetworkAddress("", ipaddress.ip_address("10.1.0.1").packed),
            NetworkAddress("", ipaddress.ip_address("fd00::1").packed),
        ),
        ports=(Port(80, 8080, AppProtocol.HTTP11), Port(90, 0, AppProtocol.GRPC)),
        ip_families=IPFamilies.DUAL,
        canonical=True,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x, port: 1", AppProtocol.UNKNOWN),
        ("name: http2-a, port: 1", AppProtocol.HTTP2),
        ("name: https, port: 1", AppProtocol.TLS),
        ("name: tcp-a, port: 1", AppProtocol.TCP),
        ("name: grpc-web-a, port: 1", AppProtocol.UNKNOWN),
        ("name: http, port: 1, appProtocol: grpc", AppProtocol.GRPC),
        ("name: a, port: 1, appProtocol: kubernetes.io/h2c", AppProtocol.HTTP2),
    ],
)
def test_app_protocol(text: str, expected: AppProtocol) -> None:
    assert service(obj("Service", "s", text=f"spec: {{ports: [{{{text}}}]}}")).ports[0].app_protocol is expected


@pytest.mark.parametrize(
    ("families", "expected"),
    [("[]", IPFamilies.AUTOMATIC), ("[IPv4]", IPFamilies.IPV4_ONLY), ("[IPv6]", IPFamilies.IPV6_ONLY)],
)
def test_ip_families(families: str, expected: IPFamilies) -> None:
    assert service(obj("Service", "s", text=f"spec: {{ipFamilies: {families}}}")).ip_families is expected


CLOSE = (LbScope.NETWORK, LbScope.REGION, LbScope.ZONE)
TRAFFIC = "networking.istio.io/traffic-distribution"


@pytest.mark.parametrize(
    ("spec", "own", "of_namespace", "expected"),
    [
        ("", {}, {}, None),
        ("internalTrafficPolicy: Local", {}, {}, LoadBalancing((LbScope.NODE,), LbMode.STRICT)),
        ("trafficDistribution: PreferClose", {}, {}, LoadBalancing(CLOSE, LbMode.FAILOVER)),
        ("trafficDistribution: PreferSameZone", {}, {}, LoadBalancing(CLOSE, LbMode.FAILOVER)),
        (
            "trafficDistribution: PreferSameNode",
            {TRAFFIC: "PreferClose"},
            {},
            LoadBalancing((*CLOSE, LbScope.SUBZONE, LbScope.NODE), LbMode.FAILOVER),
        ),
        ("", {TRAFFIC: "PreferClose"}, {TRAFFIC: "Any"}, LoadBalancing(CLOSE, LbMode.FAILOVER)),
        ("", {}, {TRAFFIC: "PreferClose"}, LoadBalancing(CLOSE, LbMode.FAILOVER)),
        ("", {TRAFFIC: "Any"}, {TRAFFIC: "PreferClose"}, None),
        ("publishNotReadyAddresses: true", {}, {}, LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)),
    ],
)
def test_load_balancing(spec: str, own: dict[str, str], of_namespace: dict[str, str], expected: LoadBalancing) -> None:
    space = obj("Namespace", "default", annotations=of_namespace)
    assert service(obj("Service", "s", text=f"spec: {{{spec}}}", annotations=own), space).load_balancing == expected


def test_headless_external_name_and_load_balancer_addresses() -> None:
    headless = "spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}"
    assert service(obj("Service", "s", text=headless)).addresses == ()
    balancer = "spec: {clusterIP: 10.1.0.1, type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}"
    assert len(service(obj("Service", "s", text=balancer)).addresses) == 1
    assert not translate(obj("Service", "s", text="spec: {type: ExternalName, externalName: a.b}")).addresses


@pytest.mark.parametrize(
    ("own", "of_namespace", "expected"), [(None, "true", True), ("false", "true", False), ("true", None, True)]
)
def test_ingress_use_waypoint(own: str | None, of_namespace: str | None, expected: bool) -> None:
    label = "istio.io/ingress-use-waypoint"
    space = obj("Namespace", "default", labels={label: of_namespace} if of_namespace else {})
    assert service(obj("Service", "s", labels={label: own} if own else {}), space).ingress_use_waypoint is expected


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
        ([mtls("w", "PERMISSIVE", selector=WEB, ports="{80: {mode: DISABLE}}")], ()),
    ],
)  # fmt: skip
def test_effective_mode(settings: list[dict[str, Any]], expected: tuple[str, ...]) -> None:
    assert attached(*settings)[0] == expected


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
