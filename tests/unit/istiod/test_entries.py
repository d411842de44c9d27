"""ServiceEntry and WorkloadEntry: services, endpoints, selection, visibility and allocated addresses."""

from __future__ import annotations

import pytest

from istiod import autoallocate
from istiod.autoallocate import POOLS, SLOTS, allocate
from istiod.objects import ServiceEntry
from istiod.translate.statuses import StatusPatch
from meshcore.model import (
    AppProtocol,
    HealthPolicy,
    LbMode,
    LbScope,
    LoadBalancing,
    Locality,
    NetworkAddress,
    Port,
    TunnelProtocol,
    Visibility,
    WorkloadStatus,
)
from tests.unit.istiod.test_waypoints import gateway
from tests.unit.istiod.translate_support import Mesh, parsed

ISTIO = "apiVersion: networking.istio.io/v1\n"
PORTS = "ports: [{number: 80, name: http, protocol: HTTP}]"
KEY = "default/db.example"
SE_UID = "networking.istio.io/ServiceEntry/default/e"
WE_UID = "networking.istio.io/WorkloadEntry/default/vm"


def entry(spec: str = "", name: str = "e", meta: str = "", status: str = "", hosts: str = "db.example") -> str:
    return (
        f"---\n{ISTIO}kind: ServiceEntry\nmetadata: {{name: {name}, {meta}}}\n"
        f"spec: {{hosts: [{hosts}], {PORTS}, {spec}}}\nstatus: {{{status}}}\n"
    )


def vm(spec: str = "", meta: str = "") -> str:
    labels = "" if "labels:" in spec else "labels: {app: db}, "
    return (
        f"---\n{ISTIO}kind: WorkloadEntry\nmetadata: {{name: vm, {meta}}}\nspec: {{address: 2.2.2.2, {labels}{spec}}}\n"
    )


def config(text: str) -> str:
    return f"---\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {text}\n"


def test_a_host_is_a_service() -> None:
    mesh = Mesh(entry("resolution: STATIC, addresses: [10.0.0.0/24, 10.9.9.9], subjectAltNames: [san.example]"))
    found = mesh.service(KEY)
    assert (found.name, found.hostname) == ("e", "db.example")
    assert found.addresses == (
        NetworkAddress("", bytes((10, 0, 0, 0)), 24),
        NetworkAddress("", bytes((10, 9, 9, 9)), None),
    )
    assert found.ports == (Port(80, 80, AppProtocol.HTTP11),)
    assert found.subject_alt_names == ("san.example",)
    assert found.canonical


def test_every_host_has_its_own_resource() -> None:
    mesh = Mesh(entry("resolution: DNS", hosts="a.example, b.example"))
    assert mesh.names() == {
        "default/a.example",
        "default/b.example",
        f"Kubernetes/{SE_UID}/a.example",
        f"Kubernetes/{SE_UID}/b.example",
    }


def test_allocated_addresses_count_where_the_spec_has_none() -> None:
    status = "addresses: [{value: 240.240.0.7, host: db.example}, {value: 240.240.0.8, host: other}]"
    assert Mesh(entry("resolution: STATIC", status=status)).service(KEY).addresses == (
        NetworkAddress("", bytes((240, 240, 0, 7))),
    )
    own = Mesh(entry("resolution: STATIC, addresses: [10.9.9.9]", status=status)).service(KEY)
    assert own.addresses == (NetworkAddress("", bytes((10, 9, 9, 9))),)


def test_resolution_none_keeps_the_address_asked_for() -> None:
    balancing = Mesh(entry("resolution: NONE")).service(KEY).load_balancing
    assert balancing == LoadBalancing(mode=LbMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)


def test_traffic_distribution_of_an_entry_and_of_its_namespace() -> None:
    close = (LbScope.NETWORK, LbScope.REGION, LbScope.ZONE)
    note = "annotations: {networking.istio.io/traffic-distribution: %s}"
    space = f"---\nkind: Namespace\nmetadata: {{name: default, {note % 'PreferSameNode'}}}\n"
    mesh = Mesh(entry("resolution: STATIC", meta=note % "PreferClose") + space)
    assert mesh.service(KEY).load_balancing == LoadBalancing(close, LbMode.FAILOVER)
    mesh.put(entry("resolution: STATIC"))
    node = (*close, LbScope.SUBZONE, LbScope.NODE)
    assert mesh.service(KEY).load_balancing == LoadBalancing(node, LbMode.FAILOVER)


def test_inline_endpoints_are_workloads() -> None:
    spec = (
        "resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {http: 8080}, labels: {app: db, version: v2}, "
        "locality: r/z/s, weight: 5, serviceAccount: acc, network: n2}, {address: 'unix:///sock'}, {address: db.local}]"
    )
    mesh = Mesh(entry(spec))
    found = mesh.workload(f"{SE_UID}/1.1.1.1")
    assert found.addresses == (bytes((1, 1, 1, 1)),)
    assert found.services == {KEY: (Port(80, 8080, AppProtocol.HTTP11),)}
    assert (found.canonical_name, found.canonical_revision, found.service_account) == ("db", "v2", "acc")
    assert (found.locality, found.capacity, found.network) == (Locality("r", "z", "s"), 5, "n2")
    assert found.status is WorkloadStatus.HEALTHY
    assert found.tunnel_protocol is TunnelProtocol.NONE
    named = mesh.workload(f"{SE_UID}/db.local")
    assert (named.addresses, named.hostname) == ((), "db.local")
    assert len(mesh.names()) == 3


def test_labels_of_an_entry_are_those_of_its_endpoints_unless_these_say_otherwise() -> None:
    spec = "resolution: STATIC, endpoints: [{address: 1.1.1.1}, {address: 1.1.1.2, labels: {app: own}}]"
    mesh = Mesh(entry(spec, meta="labels: {app: whole, version: v3}"))
    found = [mesh.workload(f"{SE_UID}/1.1.1.{number}") for number in (1, 2)]
    assert [(one.canonical_name, one.canonical_revision) for one in found] == [("whole", "v3"), ("own", "v3")]


def test_what_makes_no_workload() -> None:
    assert Mesh(vm().replace("2.2.2.2", "unix:///sock")).names() == set()
    assert Mesh(entry("resolution: DNS, workloadSelector: {labels: {app: db}}")).names() == {KEY}
    assert Mesh(entry("resolution: STATIC")).names() == {KEY}


@pytest.mark.parametrize("resolution", ["DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"])
def test_a_host_that_dns_resolves_is_its_own_endpoint(resolution: str) -> None:
    found = Mesh(entry(f"resolution: {resolution}")).workload(f"{SE_UID}/db.example")
    assert (found.addresses, found.hostname) == ((), "db.example")
    assert found.services == {KEY: (Port(80, 80, AppProtocol.HTTP11),)}


def test_a_workload_entry() -> None:
    meta = "labels: {networking.istio.io/tunnel: http}, annotations: {istio.io/autoRegistrationGroup: group}"
    found = Mesh(vm("weight: 3, serviceAccount: acc, locality: r", meta)).workload(WE_UID)
    assert (found.workload_name, found.capacity, found.service_account) == ("group", 3, "acc")
    assert (found.tunnel_protocol, found.native_tunnel) == (TunnelProtocol.HBONE, True)
    assert found.locality == Locality("r")
    named = Mesh(vm(meta="labels: {service.istio.io/workload-name: w}")).workload(WE_UID)
    assert named.workload_name == "w"


def test_entries_and_services_select_workload_entries() -> None:
    service = (
        "---\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: db}, clusterIP: 10.1.0.1, ports: "
        "[{name: http, port: 81, targetPort: 8081}, {name: other, port: 82, targetPort: named}, "
        "{name: lost, port: 83, targetPort: nowhere}]}\n"
    )
    selecting = entry("resolution: STATIC, workloadSelector: {labels: {app: db}}")
    selecting += "---\nkind: Service\nmetadata: {name: n}\nspec: {type: ExternalName, selector: {app: db}}\n"
    found = Mesh(selecting + service + vm("ports: {http: 9000, named: 9001}")).workload(WE_UID)
    assert found.services == {
        KEY: (Port(80, 9000, AppProtocol.HTTP11),),
        "default/s.default.svc.cluster.local": (Port(81, 9000, AppProtocol.HTTP11), Port(82, 9001)),
    }


def test_an_entry_selects_pods_of_its_namespace_only() -> None:
    selecting = entry("resolution: STATIC, workloadSelector: {labels: {app: db}}")
    pods = "".join(
        f"---\nkind: Pod\nmetadata: {{name: p, namespace: {place}, labels: {{app: db}}}}\nstatus: {{podIP: 1.0.0.{n}}}"
        "\n"
        for n, place in enumerate(("default", "other"), 1)
    )
    mesh = Mesh(selecting + pods)
    assert mesh.workload("/Pod/default/p").services == {KEY: (Port(80, 80, AppProtocol.HTTP11),)}
    assert mesh.workload("/Pod/other/p").services == {}


def test_labels_of_a_workload_entry_stand_in_two_places_and_those_of_the_metadata_win() -> None:
    service = "---\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: meta, tier: t}, ports: [{port: 81}]}\n"
    found = Mesh(service + vm("labels: {app: spec, tier: t}", "labels: {app: meta}")).workload(WE_UID)
    assert found.canonical_name == "meta"
    assert found.services == {"default/s.default.svc.cluster.local": (Port(81, 81),)}


def test_a_locality_without_a_region_is_one_all_the_same() -> None:
    assert Mesh(vm("locality: /z")).workload(WE_UID).locality == Locality("", "z")
    assert Mesh(vm("locality: //")).workload(WE_UID).locality is None


def test_hosts_are_the_same_in_any_case() -> None:
    status = "addresses: [{value: 240.240.0.7, host: DB.Example}]"
    mesh = Mesh(entry("resolution: DNS", hosts="DB.Example, db.example", status=status))
    assert mesh.names() == {KEY, f"Kubernetes/{SE_UID}/db.example"}
    assert mesh.service(KEY).addresses == (NetworkAddress("", bytes((240, 240, 0, 7))),)
    assert mesh.workload(f"{SE_UID}/db.example").services == {KEY: (Port(80, 80, AppProtocol.HTTP11),)}
    own = entry("resolution: STATIC", hosts="S.Default.svc.cluster.local")
    service = "---\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.1.0.1}\n"
    assert Mesh(own + service).names() == {"default/s.default.svc.cluster.local"}


def test_policies_hold_for_workload_entries() -> None:
    policy = (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"
        "spec: {selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]}\n"
    )
    strict = (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s}\n"
        "spec: {mtls: {mode: STRICT}}\n"
    )
    found = Mesh(vm() + policy + strict).workload(WE_UID)
    assert found.authorization_policies == ("default/p", "istio-system/istio_converted_static_strict")


def test_a_kubernetes_service_beats_an_entry_of_its_name_and_the_oldest_entry_the_others() -> None:
    host = "s.default.svc.cluster.local"
    service = "---\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: s}, clusterIP: 10.1.0.1}\n"
    old = entry("resolution: STATIC, addresses: [1.0.0.1]", "old", "creationTimestamp: '2026-01-01'", hosts=host)
    new = entry("resolution: STATIC, addresses: [1.0.0.2]", "new", "creationTimestamp: '2026-01-02'", hosts=host)
    mesh = Mesh(old + new)
    assert mesh.service(f"default/{host}").name == "old"
    mesh.put(service)
    assert mesh.service(f"default/{host}").name == "s"
    mesh.remove(("Service", "default", "s"), ("ServiceEntry", "default", "old"))
    assert mesh.service(f"default/{host}").name == "new"


def test_the_network_of_the_cluster_is_that_of_everything_in_it() -> None:
    system = "---\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: n1}}\n"
    service = "---\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}\n"
    entries_of = (
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: "
        "{kubernetes.io/service-name: s}}\nports: [{name: '', port: 80}]\nendpoints: [{addresses: [3.3.3.3]}]\n"
    )
    own = entry("resolution: STATIC, addresses: [10.9.9.9], endpoints: [{address: 1.1.1.1}]")
    named = entry("resolution: DNS", "d", hosts="d.example")
    mesh = Mesh(system + service + entries_of + own + named + vm())
    for key in (KEY, "default/s.default.svc.cluster.local"):
        assert {address.network for address in mesh.service(key).addresses} == {"n1"}
    workloads = [name.removeprefix("Kubernetes/") for name in mesh.names() if name.startswith("Kubernetes/")]
    assert len(workloads) == 4
    assert {mesh.workload(uid).network for uid in workloads} == {"n1"}


def test_a_waypoint_for_workloads_takes_those_of_entries() -> None:
    mesh = Mesh(gateway(labels="istio.io/waypoint-for: workload") + vm(meta="labels: {istio.io/use-waypoint: w}"))
    assert mesh.workload(WE_UID).waypoint is not None


def test_endpoints_of_an_entry_that_does_not_count_are_none() -> None:
    def one(name: str, day: int, address: str) -> str:
        spec = f"resolution: STATIC, endpoints: [{{address: {address}}}]"
        return entry(spec, name, f"creationTimestamp: '2026-01-0{day}'")

    mesh = Mesh(one("old", 1, "1.1.1.1") + one("new", 2, "1.1.1.2"))
    assert mesh.names() == {KEY, "Kubernetes/networking.istio.io/ServiceEntry/default/old/1.1.1.1"}
    mesh.remove(("ServiceEntry", "default", "old"))
    assert mesh.names() == {KEY, "Kubernetes/networking.istio.io/ServiceEntry/default/new/1.1.1.2"}


def test_ports_waypoints_and_ingress_of_an_entry() -> None:
    ports = "[{number: 80, name: tcp, targetPort: 8080}, {number: 53, name: dns, protocol: UDP}]"
    labels = "istio.io/use-waypoint: w, istio.io/use-waypoint-canary: c, istio.io/ingress-use-waypoint: 'true'"
    note = "annotations: {istio.io/use-waypoint-canary-weight: '10'}"
    text = entry("resolution: STATIC", meta=f"labels: {{{labels}}}, {note}").replace(PORTS, f"ports: {ports}")
    found = Mesh(text + gateway() + gateway("c")).service(KEY)
    assert found.ports == (Port(80, 8080, AppProtocol.TCP),)
    assert found.waypoint is not None
    assert [one.weight for one in found.weighted_waypoints] == [90, 10]
    assert found.ingress_use_waypoint


def test_one_namespace_owns_a_host_for_the_others() -> None:
    one = entry("resolution: STATIC", meta="namespace: a, creationTimestamp: '2026-01-02'")
    two = entry("resolution: STATIC", meta="namespace: b, creationTimestamp: '2026-01-01'")
    mesh = Mesh(one + two)
    assert [mesh.service(f"{place}/db.example").canonical for place in ("a", "b")] == [False, True]
    host = "s.default.svc.cluster.local"
    service = "---\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.1.0.1}\n"
    mesh = Mesh(entry("resolution: STATIC", meta="namespace: a", hosts=host) + service)
    assert [mesh.service(f"{place}/{host}").canonical for place in ("a", "default")] == [False, True]


def test_visibility_comes_from_the_mesh_config() -> None:
    inline = entry("resolution: STATIC, endpoints: [{address: 1.1.1.1}]")
    label = "---\nkind: Namespace\nmetadata: {name: default, labels: {team: red}}\n"
    mesh = Mesh(inline + label)
    assert mesh.service(KEY).visibility is Visibility.PUBLIC
    mesh.put(config("serviceEntryVisibility: {defaultVisibility: NAMESPACE}"))
    assert mesh.service(KEY).visibility is Visibility.NAMESPACE
    assert not mesh.service(KEY).canonical
    blue = "[{namespaceSelector: {matchLabels: {team: blue}}, visibility: NONE}]"
    mesh.put(config(f"serviceEntryVisibility: {{policies: {blue}}}"))
    assert mesh.service(KEY).visibility is Visibility.PUBLIC
    red = "[{namespaceSelector: {matchLabels: {team: red}}, visibility: NONE}]"
    mesh.put(config(f"serviceEntryVisibility: {{policies: {red}}}"))
    assert mesh.names() == set()
    mesh.put(config("serviceEntryVisibility: {defaultVisibility: NAMESPACE"))  # cannot be read: counts as absent
    assert mesh.service(KEY).visibility is Visibility.PUBLIC


def entries(text: str) -> list[ServiceEntry]:
    return [value for _, value in parsed(text)]


def allocated(patches: list[StatusPatch]) -> dict[str, list[str]]:
    return {patch.name: [one["value"] for one in patch.status["addresses"]] for patch in patches}


def test_an_entry_gets_an_address_of_each_family_that_stays_the_same() -> None:
    (patch,) = allocate(entries(entry("resolution: STATIC")))
    assert patch.field_manager == "istio-ip-autoallocate"
    four, six = patch.status["addresses"]
    assert four["host"] == six["host"] == "db.example"
    held = f"{{value: {four['value']}, host: db.example}}, {{value: '{six['value']}', host: db.example}}"
    again = entry("resolution: STATIC", status=f"addresses: [{held}]")
    assert list(allocate(entries(again))) == []
    assert list(allocate(entries(entry("resolution: STATIC")))) == [patch]


@pytest.mark.parametrize(
    ("spec", "hosts", "meta", "wanted"),
    [
        ("resolution: NONE", "a", "", False),
        ("resolution: STATIC, addresses: [1.1.1.1]", "a", "", False),
        ("resolution: DNS", "'*.a'", "", False),
        ("resolution: DYNAMIC_DNS", "'*.a'", "", True),
        ("resolution: DNS", "a", "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}", False),
        ("resolution: DNS", "a", "labels: {networking.istio.io/enable-autoallocate-ip: 'true'}", True),
    ],
)
def test_who_gets_an_address(spec: str, hosts: str, meta: str, wanted: bool) -> None:
    assert bool(list(allocate(entries(entry(spec, meta=meta, hosts=hosts))))) is wanted


def test_the_older_of_two_keeps_an_address() -> None:
    status = "addresses: [{value: 240.240.0.7, host: db.example}, {value: '2001:2::7', host: db.example}]"
    old = entry("resolution: DNS", "old", "creationTimestamp: '2026-01-01'", status)
    new = entry("resolution: DNS", "new", "creationTimestamp: '2026-01-02'", status)
    found = allocated(list(allocate(entries(new + old))))
    assert found.keys() == {"new"}
    assert "240.240.0.7" not in found["new"]


def test_addresses_are_taken_back_with_their_host() -> None:
    status = "addresses: [{value: 240.240.0.7, host: gone}, {value: '2001:2::7', host: gone}]"
    (patch,) = allocate(entries(entry("resolution: NONE", status=status)))
    assert patch.status == {"addresses": []}


def test_an_entry_with_addresses_of_its_own_keeps_what_it_was_given() -> None:
    status = "addresses: [{value: 240.240.0.7, host: db.example}, {value: '2001:2::7', host: db.example}]"
    assert list(allocate(entries(entry("resolution: DNS, addresses: [1.1.1.1]", status=status)))) == []


def test_a_full_pool_leaves_the_youngest_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoallocate, "SLOTS", 2)
    many = "".join(
        entry("resolution: DNS", f"e{n}", f"creationTimestamp: '{2026 - n}'", hosts=f"h{n}") for n in range(3)
    )
    assert allocated(list(allocate(entries(many)))).keys() == {"e1", "e2"}


def test_a_crowded_pool_gives_different_addresses_and_ends_without_fault() -> None:
    assert POOLS[0].num_addresses == SLOTS + 2
    many = entries("".join(entry("resolution: DNS", f"e{n}", hosts=f"h{n}") for n in range(300)))
    values = [value for found in allocated(list(allocate(many))).values() for value in found]
    assert len(values) == len(set(values)) == 600
