"""Which waypoint stands in front of what: every rule of the binding labels."""

from __future__ import annotations

import pytest

from istiod.translate.common import MeshConfig
from meshcore.model import (
    ApplicationTunnel,
    GatewayAddress,
    NamespacedHostname,
    NetworkAddress,
    PolicyAction,
    TunnelTarget,
)
from tests.unit.istiod.translate_support import Mesh

HOST = "w.default.svc.cluster.local"
BOUND = GatewayAddress(hostname=NamespacedHostname("default", HOST))
SERVICE = "default/s.default.svc.cluster.local"
POD = "/Pod/default/p"
USE = "istio.io/use-waypoint: w"
RED = "{key: team, operator: In, values: [red, green]}"


def gateway(
    name: str = "w",
    namespace: str = "default",
    *,
    labels: str = "",
    notes: str = "",
    gateway_class: str = "istio-waypoint",
    routes: str = "",
    address: str = "type: Hostname, value: {name}.{namespace}.svc.cluster.local",
) -> str:
    status = f"{{addresses: [{{{address.format(name=name, namespace=namespace)}}}]}}" if address else "{}"
    return (
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n"
        f"metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}, annotations: {{{notes}}}}}\n"
        f"spec: {{gatewayClassName: {gateway_class}, listeners: "
        f"[{{name: mesh, port: 15008, protocol: HBONE{routes}}}]}}\nstatus: {status}\n"
    )


def service(labels: str = "", notes: str = "", namespace: str = "default", name: str = "s") -> str:
    return (
        f"---\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}, "
        f"annotations: {{{notes}}}}}\nspec: {{selector: {{app: {name}}}, clusterIP: 10.1.0.1}}\n"
    )


def pod(labels: str = "", namespace: str = "default") -> str:
    meta = f"{{name: p, namespace: {namespace}, labels: {{{labels}}}}}"
    return f"---\nkind: Pod\nmetadata: {meta}\nstatus: {{podIP: 10.0.0.1}}\n"


def namespace(labels: str, notes: str = "", name: str = "default") -> str:
    return f"---\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}, annotations: {{{notes}}}}}\n"


def test_a_label_on_the_service_binds_it_and_not_its_pods() -> None:
    mesh = Mesh(gateway() + service(USE) + pod("app: s"))
    assert mesh.service(SERVICE).waypoint == BOUND
    assert mesh.workload(POD).waypoint is None


def test_the_namespace_speaks_for_what_has_no_label() -> None:
    mesh = Mesh(gateway(labels="istio.io/waypoint-for: all") + namespace(USE) + service() + pod())
    assert mesh.service(SERVICE).waypoint == BOUND
    assert mesh.workload(POD).waypoint == BOUND


def test_none_opts_out_of_the_namespace() -> None:
    mesh = Mesh(gateway() + namespace(USE) + service("istio.io/use-waypoint: none"))
    assert mesh.service(SERVICE).waypoint is None


@pytest.mark.parametrize(
    ("accepted", "of_service", "of_pod"),
    [
        ("", BOUND, None),
        ("istio.io/waypoint-for: service", BOUND, None),
        ("istio.io/waypoint-for: workload", None, BOUND),
        ("istio.io/waypoint-for: all", BOUND, BOUND),
        ("istio.io/waypoint-for: none", None, None),
    ],
)
def test_traffic_types(accepted: str, of_service: GatewayAddress | None, of_pod: GatewayAddress | None) -> None:
    mesh = Mesh(gateway(labels=accepted) + service(USE) + pod(USE))
    assert mesh.service(SERVICE).waypoint == of_service
    assert mesh.workload(POD).waypoint == of_pod


def test_the_class_gives_the_traffic_type_where_the_gateway_says_nothing() -> None:
    kind = (
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n"
        "metadata: {name: mine, labels: {istio.io/waypoint-for: workload}}\n"
        "spec: {controllerName: istio.io/mesh-controller}\n"
    )
    mesh = Mesh(kind + gateway(gateway_class="mine") + service(USE) + pod(USE))
    assert mesh.service(SERVICE).waypoint is None
    assert mesh.workload(POD).waypoint == BOUND


def test_a_name_that_means_nothing_binds_nothing() -> None:
    assert Mesh(service(USE)).service(SERVICE).waypoint is None


def test_a_waypoint_counts_once_it_has_addresses() -> None:
    mesh = Mesh(gateway(address="") + service(USE))
    assert mesh.service(SERVICE).waypoint is None
    mesh.put(gateway())
    assert mesh.service(SERVICE).waypoint == BOUND


def test_an_ingress_gateway_is_no_waypoint() -> None:
    assert Mesh(gateway(gateway_class="istio") + service(USE)).service(SERVICE).waypoint is None


def test_an_address_is_used_where_there_is_no_hostname() -> None:
    mesh = Mesh(gateway(address="value: 10.9.9.9") + service(USE))
    assert mesh.service(SERVICE).waypoint == GatewayAddress(address=NetworkAddress("", bytes((10, 9, 9, 9))))


@pytest.mark.parametrize(
    ("routes", "bound"),
    [
        ("", False),
        (", allowedRoutes: {namespaces: {from: Same}}", False),
        (", allowedRoutes: {namespaces: {from: All}}", True),
        (", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: red}}}}", True),
        (", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: blue}}}}", False),
        (f", allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchExpressions: [{RED}]}}}}}}", True),
    ],
)
def test_a_waypoint_of_another_namespace_must_admit(routes: str, bound: bool) -> None:
    labels = f"{USE}, istio.io/use-waypoint-namespace: infra"
    mesh = Mesh(gateway(namespace="infra", routes=routes) + namespace("team: red") + service(labels))
    assert (mesh.service(SERVICE).waypoint is not None) is bound


def test_pods_and_services_of_a_waypoint_get_none_themselves() -> None:
    own = "gateway.networking.k8s.io/gateway-name: w"
    mesh = Mesh(gateway(labels="istio.io/waypoint-for: all") + namespace(USE) + service(own) + pod(own))
    assert mesh.service(SERVICE).waypoint is None
    assert mesh.workload(POD).waypoint is None
    managed = "gateway.istio.io/managed: istio.io-mesh-controller"
    assert Mesh(gateway() + namespace(USE) + service(managed)).service(SERVICE).waypoint is None


@pytest.mark.parametrize(
    ("weight", "weights"),
    [
        ("'10'", (90, 10)),
        ("'0'", (100, 0)),
        ("'100'", (0, 100)),
        *((text, ()) for text in ("'101'", "'0000999'", "'x'", "'-1'", "''", "'\u00b2'")),
    ],
)
def test_a_canary_takes_its_share(weight: str, weights: tuple[int, ...]) -> None:
    labels = f"{USE}, istio.io/use-waypoint-canary: c"
    mesh = Mesh(gateway() + gateway("c") + service(labels, f"istio.io/use-waypoint-canary-weight: {weight}"))
    found = mesh.service(SERVICE)
    assert found.waypoint == BOUND
    assert tuple(one.weight for one in found.weighted_waypoints) == weights
    if weights:
        assert found.weighted_waypoints[0].destination == BOUND


@pytest.mark.parametrize("canary", ["w", "missing"])
def test_a_canary_that_cannot_be_used_leaves_the_primary(canary: str) -> None:
    labels = f"{USE}, istio.io/use-waypoint-canary: {canary}"
    mesh = Mesh(gateway() + service(labels, "istio.io/use-waypoint-canary-weight: '10'"))
    assert mesh.service(SERVICE).waypoint == BOUND
    assert not mesh.service(SERVICE).weighted_waypoints


def test_a_canary_on_the_namespace_does_not_join_a_primary_on_the_service() -> None:
    space = namespace("istio.io/use-waypoint-canary: c", "istio.io/use-waypoint-canary-weight: '10'")
    mesh = Mesh(gateway() + gateway("c") + space + service(USE))
    assert not mesh.service(SERVICE).weighted_waypoints
    mesh.put(namespace(f"{USE}, istio.io/use-waypoint-canary: c", "istio.io/use-waypoint-canary-weight: '10'"))
    mesh.put(service())
    assert [one.weight for one in mesh.service(SERVICE).weighted_waypoints] == [90, 10]


@pytest.mark.parametrize(
    ("binding", "tunnel"),
    [
        ("PROXY/15088", ApplicationTunnel(TunnelTarget.PROXY, 15088)),
        ("PROXY", ApplicationTunnel(TunnelTarget.PROXY, 0)),
        ("NONE/80", ApplicationTunnel(TunnelTarget.NONE, 80)),
        ("NOPE", None),
        ("PROXY/65536", None),
        ("PROXY/\u00b2", None),
    ],
)
def test_a_third_party_waypoint_says_how_it_wants_its_traffic(binding: str, tunnel: ApplicationTunnel | None) -> None:
    notes = f"ambient.istio.io/waypoint-inbound-binding: {binding}"
    own = pod("gateway.networking.k8s.io/gateway-name: w")
    mesh = Mesh(gateway(gateway_class="theirs", notes=notes) + service(USE) + own)
    assert mesh.workload(POD).application_tunnel == tunnel
    assert mesh.service(SERVICE).waypoint == BOUND


def test_a_class_may_say_how_its_waypoints_want_their_traffic_unless_they_do() -> None:
    notes = "annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}"
    theirs = (
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\n"
        f"metadata: {{name: theirs, {notes}}}\nspec: {{controllerName: example.com/c}}\n"
    )
    own = pod("gateway.networking.k8s.io/gateway-name: w")
    mesh = Mesh(theirs + gateway(gateway_class="theirs") + service(USE) + own)
    assert mesh.workload(POD).application_tunnel == ApplicationTunnel(TunnelTarget.PROXY, 15088)
    assert mesh.service(SERVICE).waypoint == BOUND
    mesh.put(gateway(gateway_class="theirs", notes="ambient.istio.io/waypoint-inbound-binding: NONE/80"))
    assert mesh.workload(POD).application_tunnel == ApplicationTunnel(TunnelTarget.NONE, 80)


def test_the_address_of_a_waypoint_names_the_namespace_of_its_service_and_the_network() -> None:
    elsewhere = gateway(address="type: Hostname, value: w.infra.svc.cluster.local")
    found = Mesh(elsewhere + service(USE)).service(SERVICE).waypoint
    assert found == GatewayAddress(hostname=NamespacedHostname("infra", "w.infra.svc.cluster.local"))
    foreign = gateway(gateway_class="istio-remote", address="type: Hostname, value: w.example.com")
    found = Mesh(foreign + service(USE)).service(SERVICE).waypoint
    assert found == GatewayAddress(hostname=NamespacedHostname("default", "w.example.com"))
    system = namespace("topology.istio.io/network: n1", name="istio-system")
    found = Mesh(system + gateway(address="value: 10.9.9.9") + service(USE)).service(SERVICE).waypoint
    assert found == GatewayAddress(address=NetworkAddress("n1", bytes((10, 9, 9, 9))))


def test_services_of_an_east_west_gateway_get_no_waypoint_nor_do_those_of_its_deployment() -> None:
    for own in (
        "gateway.networking.k8s.io/gateway-name: ew",
        "gateway.istio.io/managed: istio.io-eastwest-controller",
    ):
        mesh = Mesh(gateway() + gateway("ew", gateway_class="istio-east-west") + namespace(USE) + service(own))
        assert mesh.service(SERVICE).waypoint is None


def test_a_remote_gateway_without_a_listener_for_tunnels_is_no_waypoint() -> None:
    text = gateway(gateway_class="istio-remote").replace("protocol: HBONE", "protocol: TCP")
    assert Mesh(text + service(USE)).service(SERVICE).waypoint is None


def test_a_canary_may_be_in_another_namespace_that_admits() -> None:
    labels = f"{USE}, istio.io/use-waypoint-canary: c, istio.io/use-waypoint-canary-namespace: infra"
    notes = "istio.io/use-waypoint-canary-weight: '10'"
    everybody = ", allowedRoutes: {namespaces: {from: All}}"
    mesh = Mesh(gateway() + gateway("c", "infra", routes=everybody) + service(labels, notes))
    canary = mesh.service(SERVICE).weighted_waypoints[1].destination
    assert canary == GatewayAddress(hostname=NamespacedHostname("infra", "c.infra.svc.cluster.local"))


@pytest.mark.parametrize(
    ("binding", "bound"),
    [("PROXY/15088", True), ("PROXY", True), ("PROXY/15089", False), ("NONE/15089", False), ("NONE", False)],
)
def test_the_listener_that_takes_the_traffic_of_a_third_party_waypoint_says_who_is_admitted(
    binding: str, bound: bool
) -> None:
    notes = f"ambient.istio.io/waypoint-inbound-binding: {binding}"
    routes = "}, {name: p, port: 15088, protocol: istio.io/PROXY, allowedRoutes: {namespaces: {from: All}}"
    more = "}, {name: n, port: 15089, protocol: TCP"
    text = gateway(namespace="infra", gateway_class="theirs", notes=notes, routes=routes + more)
    mesh = Mesh(text + service(f"{USE}, istio.io/use-waypoint-namespace: infra"))
    assert (mesh.service(SERVICE).waypoint is not None) is bound


def test_an_entry_that_only_its_namespace_sees_gets_no_waypoint_of_another() -> None:
    labels = f"{USE}, istio.io/use-waypoint-namespace: infra"
    entry = (
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, labels: {%s}}\n"
        "spec: {hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}\n"
    )
    everybody = ", allowedRoutes: {namespaces: {from: All}}"
    config = "serviceEntryVisibility: {defaultVisibility: NAMESPACE}"
    hidden = f"---\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
    mesh = Mesh(gateway() + gateway(namespace="infra", routes=everybody) + entry % labels)
    assert mesh.service("default/a.example").waypoint is not None
    mesh.put(hidden)
    assert mesh.service("default/a.example").waypoint is None
    mesh.put(entry % USE + service(labels))
    assert mesh.service("default/a.example").waypoint == BOUND
    assert mesh.service(SERVICE).waypoint is not None  # it is no ServiceEntry


def test_a_remote_gateway_may_be_a_waypoint_unless_it_leads_to_another_network() -> None:
    mesh = Mesh(gateway(gateway_class="istio-remote", address="value: 10.9.9.9") + service(USE))
    assert mesh.service(SERVICE).waypoint is not None
    mesh.put(gateway(gateway_class="istio-remote", address="value: 10.9.9.9", labels="topology.istio.io/network: n2"))
    assert mesh.service(SERVICE).waypoint is None


def test_the_identity_of_a_waypoint_is_let_in_on_demand() -> None:
    text = gateway(labels="istio.io/waypoint-for: all", notes="gateway.istio.io/service-account: acc") + pod(USE)
    key = "default/istio_allow_waypoint_default_w"
    mesh = Mesh(text, MeshConfig(allow_waypoints=True))
    assert mesh.workload(POD).authorization_policies == (key,)
    policy = mesh.policy(key)
    assert policy.action is PolicyAction.ALLOW
    assert policy.rules[0].clauses[0].matches[0].service_accounts[0].service_account == "acc"
    assert Mesh(text).workload(POD).authorization_policies == ()


def test_the_waypoints_of_the_services_of_a_pod_are_let_in_too() -> None:
    notes = "istio.io/use-waypoint-canary-weight: '10'"
    text = gateway() + gateway("c") + service(f"{USE}, istio.io/use-waypoint-canary: c", notes) + pod("app: s")
    keys = ("default/istio_allow_waypoint_default_w", "default/istio_allow_waypoint_default_c")
    assert Mesh(text, MeshConfig(allow_waypoints=True)).workload(POD).authorization_policies == keys


@pytest.mark.parametrize(
    ("on_service", "on_namespace", "used"),
    [("", "", False), ("'true'", "", True), ("", "'true'", True), ("'false'", "'true'", False)],
)
def test_ingress_use_waypoint(on_service: str, on_namespace: str, used: bool) -> None:
    label = "istio.io/ingress-use-waypoint: "
    mesh = Mesh(namespace(on_namespace and label + on_namespace) + service(on_service and label + on_service))
    assert mesh.service(SERVICE).ingress_use_waypoint is used
