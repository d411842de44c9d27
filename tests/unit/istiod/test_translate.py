"""Translation, row by row: Pod, Service and EndpointSlice."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

import pytest

from istiod.intake import Intake
from istiod.store import Store
from istiod.translate.common import MeshConfig, small_number
from istiod.translate.mesh import INDEXES, Translator
from meshcore import yamldoc
from meshcore.manifests import Key, Manifest, Scan
from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Address,
    AppProtocol,
    Authorization,
    HealthPolicy,
    IPFamilies,
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    NetworkAddress,
    NetworkMode,
    Port,
    Service,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
)

MESH = MeshConfig()
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
        ("{port: 80, targetPort: '8080'}", (Port(80, 8080),)),
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
    name = obj("Service", "x", text="spec: {type: ExternalName, selector: {app: web}, ports: [{port: 80}]}")
    assert workload(pod(labels={"app": "web"}), other, more, none, name).services == {}


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


def test_slices_of_one_service_add_up_and_a_selector_goes_first() -> None:
    def entry(name: str, port: str, number: int, address: str) -> dict[str, Any]:
        text = (
            f"addressType: IPv{6 if ':' in address else 4}\nports: [{{name: {port}, port: {number}}}]\n"
            f"endpoints: [{{addresses: ['{address}'], targetRef: {{kind: Pod, name: p}}}}]"
        )
        return obj("EndpointSlice", name, text=text, labels=OF_S)

    slices = (entry("e", "a", 9000, "10.0.0.1"), entry("f", "a", 9000, "fd00::1"), entry("g", "b", 9001, "10.0.0.1"))
    key = "default/s.default.svc.cluster.local"
    ports = "ports: [{name: a, port: 80}, {name: b, port: 81}]"
    found = workload(pod(), *slices, obj("Service", "s", text=f"spec: {{{ports}}}"))
    assert found.services == {key: (Port(80, 9000), Port(81, 9001))}
    chosen = workload(
        pod(labels={"a": "b"}), *slices, obj("Service", "s", text=f"spec: {{selector: {{a: b}}, {ports}}}")
    )
    assert chosen.services == {key: (Port(80, 80), Port(81, 81))}


def test_a_slice_without_pods_makes_workloads_without_identity() -> None:
    machine = "{addresses: [10.9.0.3], targetRef: {kind: VirtualMachine, name: p}}"
    entry = obj(
        "EndpointSlice",
        "e",
        text=SLICE % ("IPv4", f"{{addresses: [10.9.0.1, 10.9.0.2], conditions: {{ready: false}}}}, {machine}"),
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
        "ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc-a, port: 90, targetPort: named}, "
        "{name: a, port: 91, targetPort: '8091'}]}"
    )
    assert service(obj("Service", "s", text=text)) == Service(
        name="s",
        namespace="default",
        hostname="s.default.svc.cluster.local",
        addresses=(
            NetworkAddress("", ipaddress.ip_address("10.1.0.1").packed),
            NetworkAddress("", ipaddress.ip_address("fd00::1").packed),
        ),
        ports=(Port(80, 8080, AppProtocol.HTTP11), Port(90, 0, AppProtocol.GRPC), Port(91, 8091)),
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
        ("name: a, port: 1, appProtocol: kubernetes.io/ws", AppProtocol.HTTP11),
        ("name: a, port: 1, appProtocol: kubernetes.io/wss", AppProtocol.HTTP11),
        ("name: a, port: 1, appProtocol: grpc-web", AppProtocol.UNKNOWN),
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


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("100", 100), ("101", None), ("", None), ("\u00b2", None), ("0" * 5000 + "1", None)]
)
def test_a_small_number(text: str, number: int | None) -> None:
    assert small_number(text, 100) == number


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
        ("", {TRAFFIC: "prefersamezone"}, {}, LoadBalancing(CLOSE, LbMode.FAILOVER)),
        ("", {TRAFFIC: "Any"}, {TRAFFIC: "PreferClose"}, None),
        ("publishNotReadyAddresses: true", {}, {}, LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)),
        (
            "publishNotReadyAddresses: true, internalTrafficPolicy: Local, trafficDistribution: PreferClose",
            {},
            {},
            LoadBalancing((LbScope.NODE,), LbMode.STRICT, HealthPolicy.ALLOW_ALL),
        ),
        (
            "publishNotReadyAddresses: true, trafficDistribution: PreferClose",
            {},
            {},
            LoadBalancing(CLOSE, LbMode.FAILOVER, HealthPolicy.ALLOW_ALL),
        ),
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
