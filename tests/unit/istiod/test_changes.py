"""What objects turn into one after the other: names, addresses and owners that change hands."""

from __future__ import annotations

from meshcore.model import NetworkMode, Port, WorkloadStatus
from tests.unit.istiod.test_entries import entry
from tests.unit.istiod.translate_support import Mesh, parsed

HOST = "s.default.svc.cluster.local"
KEY = f"default/{HOST}"
SERVICE = (
    "---\nkind: Service\nmetadata: {name: s}\n"
    "spec: {type: %s, selector: {app: s}, clusterIP: 10.1.0.1, ports: [{port: 80, targetPort: 8080}]}\n"
)


def pod(name: str, ip: str = "10.0.0.1", labels: str = "app: s", spec: str = "", status: str = "") -> str:
    return (
        f"---\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{{spec}}}\n"
        f"status: {{podIPs: [{{ip: {ip}}}], {status}}}\n"
    )


def test_a_service_that_becomes_a_mere_name_goes_and_its_pods_forget_it() -> None:
    mesh = Mesh(SERVICE % "ClusterIP" + pod("a"))
    assert mesh.workload("/Pod/default/a").services == {KEY: (Port(80, 8080),)}
    mesh.put(SERVICE % "ExternalName")
    assert mesh.names() == {"Kubernetes//Pod/default/a"}
    assert mesh.workload("/Pod/default/a").services == {}
    own = entry("resolution: STATIC, addresses: [10.2.0.1], endpoints: [{address: 1.1.1.1}]", hosts=HOST)
    mesh.put(own)  # now the host is free
    assert mesh.service(KEY).name == "e"
    assert mesh.workload("networking.istio.io/ServiceEntry/default/e/1.1.1.1").services.keys() == {KEY}
    mesh.put(SERVICE % "ClusterIP")
    assert mesh.service(KEY).name == "s"
    assert mesh.names() == {KEY, "Kubernetes//Pod/default/a"}


def test_the_address_of_a_pod_that_has_finished_belongs_to_the_next() -> None:
    mesh = Mesh(pod("a"))
    mesh.put(pod("a", status="phase: Succeeded") + pod("b"))
    assert mesh.names() == {"Kubernetes//Pod/default/b"}
    mesh.put(pod("a", status="phase: Failed") + pod("b", "10.0.0.2"))
    assert mesh.workload("/Pod/default/b").addresses == (bytes((10, 0, 0, 2)),)


def test_an_object_removed_and_made_again_in_one_batch_is_the_new_one() -> None:
    mesh = Mesh(SERVICE % "ClusterIP" + pod("a"))
    key = ("Pod", "default", "a")
    mesh.apply([mesh.store.put(key, None), *(mesh.store.put(*one) for one in parsed(pod("a", "10.0.0.9")))])
    found = mesh.workload("/Pod/default/a")
    assert (found.addresses, found.services) == ((bytes((10, 0, 0, 9)),), {KEY: (Port(80, 8080),)})


def test_a_pod_without_labels_and_one_on_the_network_of_its_host() -> None:
    bare = "---\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1}\n"
    host = pod("h", "192.168.0.1", spec="hostNetwork: true, nodeName: n")
    every = (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n"
        "spec: {selector: {}, action: DENY, rules: [{}]}\n"
    )
    mesh = Mesh(SERVICE % "ClusterIP" + every + bare + host)
    plain = mesh.workload("/Pod/default/a")
    assert (plain.services, plain.authorization_policies, plain.canonical_name) == ({}, ("default/x",), "a")
    shared = mesh.workload("/Pod/default/h")
    assert (shared.network_mode, shared.services) == (NetworkMode.HOST_NETWORK, {KEY: (Port(80, 8080),)})


def test_a_headless_service_of_two_families_and_its_two_slices() -> None:
    def addresses(name: str, family: str, address: str, ready: str) -> str:
        return (
            f"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: "
            f"{{kubernetes.io/service-name: s}}}}\naddressType: {family}\nports: [{{name: '', port: 9000}}]\n"
            f"endpoints: [{{addresses: ['{address}'], conditions: {{ready: {ready}}}}}]\n"
        )

    headless = (
        "---\nkind: Service\nmetadata: {name: s}\n"
        "spec: {clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4, IPv6], ports: [{port: 80}]}\n"
    )
    mesh = Mesh(headless + addresses("four", "IPv4", "10.9.0.1", "null") + addresses("six", "IPv6", "fd00::9", "false"))
    assert mesh.service(KEY).addresses == ()
    uid = "discovery.k8s.io/EndpointSlice/default"
    four, six = mesh.workload(f"{uid}/four/10.9.0.1"), mesh.workload(f"{uid}/six/fd00::9")
    assert four.services == six.services == {KEY: (Port(80, 9000),)}
    assert (four.status, six.status) == (WorkloadStatus.HEALTHY, WorkloadStatus.UNHEALTHY)
    assert (len(four.addresses[0]), len(six.addresses[0])) == (4, 16)
