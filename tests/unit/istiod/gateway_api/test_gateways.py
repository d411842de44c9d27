"""What gateways and waypoints are told: listeners, hosts and connections, from every route at them."""

from __future__ import annotations

import pytest

from istiod.translate.l7.routes import PortRoutes
from meshcore import l7
from tests.unit.istiod.gateway_api.support import (
    API,
    CONFIG,
    World,
    authorities,
    gateway,
    route,
    secret,
    service,
)

A = "backendRefs: [{name: a, port: 8080}]"
BACKEND = l7.Backend("default/a.default.svc.cluster.local", 8080)
CERT = "tls: {certificateRefs: [{name: cert}]}"


def hosts(world: World, port: int = 80) -> dict[str, list[str]]:
    """The names of the rules by host, of the only listener of a port."""
    (listener,) = (one for one in world.config().listeners if one.port == port)
    return {host: [rule.name for rule in one.rules] for one in listener.http for host in one.hosts}


def named(name: str, spec: str = "", *, section: str = "") -> str:
    """A route whose only rule has its name."""
    parents = f"[{{name: gw, sectionName: {section}}}]" if section else "[{name: gw}]"
    more = f"{spec}, " if spec else ""
    return route(f"{more}rules: [{{name: {name}, {A}}}]", name=name, parents=parents)


def test_a_gateway_as_a_whole() -> None:
    world = World(gateway(), service(), named("r"))
    rule = world.rule()
    assert world.config() == l7.Gateway(
        name="gw",
        namespace="default",
        listeners=(l7.Listener("web", 80, l7.Protocol.HTTP, http=(l7.VirtualHost(("*",), (rule,)),)),),
        destinations=(l7.Destination("default/a.default.svc.cluster.local", ((8080, l7.Protocol.HTTP),)),),
    )


@pytest.mark.parametrize("name", ["istio-waypoint", "istio-remote", "nginx"])
def test_other_classes_have_no_configuration_of_a_gateway(name: str) -> None:
    world = World(f"{API}\nkind: Gateway\nmetadata: {{name: gw}}\nspec: {{gatewayClassName: {name}, listeners: []}}")
    assert world.graph.outputs[CONFIG] == {}


def test_an_east_west_gateway_takes_tunnels() -> None:
    listeners = (
        "[{name: mesh, port: 15008, protocol: HBONE, tls: {mode: Terminate}},"
        " {name: auto, port: 15443, protocol: TLS, tls: {mode: Passthrough, "
        "options: {gateway.istio.io/listener-protocol: auto-passthrough}}}]"
    )
    spec = f"{{gatewayClassName: istio-east-west, listeners: {listeners}}}"
    world = World(f"{API}\nkind: Gateway\nmetadata: {{name: gw}}\nspec: {spec}")
    tunnel, auto = world.config().listeners
    assert (tunnel.protocol, tunnel.tls) == (
        l7.Protocol.HBONE,
        l7.ListenerTls(client=l7.ClientAuth.REQUIRED, mesh=True),
    )
    assert auto.auto_passthrough
    assert world.conditions("Gateway", "gw")["Accepted"] == ("True", "Accepted")


def test_routes_share_a_host_and_hosts_share_rules() -> None:
    world = World(
        gateway(), service(), named("one", "hostnames: [x.example, y.example]"), named("two", "hostnames: [y.example]")
    )
    assert hosts(world) == {"x.example": ["one"], "y.example": ["one", "two"]}
    (listener,) = world.config().listeners
    assert [host.hosts for host in listener.http] == [("x.example",), ("y.example",)]


ISOLATED = (
    "[{name: any, port: 80, protocol: HTTP},"
    " {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'},"
    " {name: foo, port: 80, protocol: HTTP, hostname: '*.foo.example.com'},"
    " {name: abc, port: 80, protocol: HTTP, hostname: abc.foo.example.com}]"
)


def test_the_listener_that_names_a_host_most_closely_has_it_alone() -> None:
    everything = "hostnames: [bar.com, '*.example.com', '*.foo.example.com', abc.foo.example.com, x.example.com]"
    world = World(
        gateway(ISOLATED), service(), *(named(one, everything, section=one) for one in ("any", "wild", "foo", "abc"))
    )
    assert hosts(world) == {
        "*": [],
        "bar.com": ["any"],
        "*.example.com": ["wild"],
        "x.example.com": ["wild"],
        "*.foo.example.com": ["foo"],
        "abc.foo.example.com": ["abc"],
    }


def test_a_listener_without_routes_keeps_its_hosts_from_the_others() -> None:
    world = World(gateway(ISOLATED), service(), named("any", section="any"))
    assert hosts(world) == {
        "*": ["any"],
        "*.example.com": [],
        "*.foo.example.com": [],
        "abc.foo.example.com": [],
    }


def test_https_listeners_are_told_apart_by_server_name() -> None:
    both = (
        f"[{{name: a, port: 443, protocol: HTTPS, hostname: a.example, {CERT}}},"
        f" {{name: any, port: 443, protocol: HTTPS, {CERT}}}]"
    )
    world = World(gateway(both), service(), secret(), named("r"))
    found = {one.name: (one.hosts, [host.hosts for host in one.http]) for one in world.config().listeners}
    assert found == {"a": (("a.example",), [("a.example",)]), "any": (("*",), [("*",)])}
    assert all(one.tls is not None and one.protocol is l7.Protocol.HTTPS for one in world.config().listeners)


def test_a_redirect_stays_at_the_port_of_its_listener() -> None:
    both = "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 8080, protocol: HTTP}]"
    redirect = "rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}]"
    world = World(gateway(both), route(redirect))
    actions = {port: world.rule(port).action for port in (80, 8080)}
    assert actions == {port: l7.Redirect(302, authority="example.org", port=port) for port in (80, 8080)}


def test_server_names_choose_among_tls_routes() -> None:
    listener = "[{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}]"
    spec = f"hostnames: ['*.example', a.example], rules: [{{name: one, {A}}}]"
    world = World(
        gateway(listener),
        service(),
        route(spec, kind="TLSRoute", name="one"),
        route(f"hostnames: ['*.b.example'], rules: [{{name: two, {A}}}]", kind="TLSRoute", name="two"),
    )
    (found,) = world.config().listeners
    assert (found.protocol, found.tls, found.http) == (l7.Protocol.TLS, None, ())
    assert [(rule.name, rule.sni) for rule in found.streams] == [
        ("one", ("a.example",)),
        ("two", ("*.b.example",)),
        ("one", ("*.example",)),
    ]
    assert found.streams[0] == l7.StreamRule("one", (BACKEND,), ("a.example",), origin="TLSRoute/default/one")
    assert world.listener("tls")["attachedRoutes"] == 2


def test_a_listener_that_ends_tls_takes_tls_and_tcp_routes() -> None:
    listener = f"[{{name: tls, port: 443, protocol: TLS, hostname: a.example, {CERT}}}]"
    world = World(
        gateway(listener),
        service(),
        secret(),
        route(f"hostnames: [a.example], rules: [{{{A}}}]", kind="TLSRoute"),
        route(kind="TCPRoute"),
    )
    (found,) = world.config().listeners
    assert found.tls == l7.ListenerTls(keys=(l7.KeyPair("default/cert"),))
    assert [(rule.origin, rule.sni) for rule in found.streams] == [
        ("TLSRoute/default/r", ("a.example",)),
        ("TCPRoute/default/r", ()),
    ]


def test_the_oldest_tcp_route_has_the_listener() -> None:
    world = World(
        gateway("[{name: tcp, port: 9000, protocol: TCP}]"),
        service(),
        route(kind="TCPRoute", name="young", created="2026-02-01T00:00:00Z"),
        route("rules: [{backendRefs: [{name: a, port: 8080, weight: 9}, {name: none, port: 1}]}]", kind="TCPRoute"),
    )
    (found,) = world.config().listeners
    assert [rule.origin for rule in found.streams] == ["TCPRoute/default/r", "TCPRoute/default/young"]
    assert found.streams[0].backends == (
        l7.Backend("default/a.default.svc.cluster.local", 8080, weight=9),
        l7.Backend(status=500),
    )


def test_destinations_are_every_service_that_is_named() -> None:
    mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 8080}}}]"
    world = World(
        gateway("[{name: web, port: 80, protocol: HTTP}, {name: tcp, port: 9000, protocol: TCP}]"),
        service(),
        service("m"),
        service("t", ports="[{name: tcp, port: 9000}]"),
        route(f"rules: [{{{mirror}, {A}}}]"),
        route("rules: [{backendRefs: [{name: t, port: 9000}]}]", kind="TCPRoute"),
    )
    assert [one.service.split(".")[0] for one in world.config().destinations] == ["default/a", "default/m", "default/t"]


def policy(
    validation: str = "wellKnownCACertificates: System", *, name: str = "p", target: str = "", when: str = ""
) -> str:
    created = when or "2026-01-01T00:00:00Z"
    return (
        f"{API}\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, generation: 2, creationTimestamp: '{created}'}}\n"
        f"spec: {{targetRefs: [{{group: '', kind: Service, name: a{target}}}], "
        f"validation: {{hostname: a.example, {validation}}}}}"
    )


def tls_of(world: World) -> dict[int, l7.UpstreamTls | None]:
    (found,) = world.config().destinations
    return {port: policy.tls for port, policy in found.port_policies}


SYSTEM = l7.UpstreamTls(trust=l7.Trust(system=True), sni="a.example")
PORTS = "[{name: http, port: 8080}, {name: alt, port: 8081}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (policy(), {8080: SYSTEM, 8081: SYSTEM}),
        (policy(target=", sectionName: alt"), {8081: SYSTEM}),
        (policy(target=", sectionName: none"), {}),
        (
            policy("caCertificateRefs: [{kind: ConfigMap, name: ca}]", target=", sectionName: http"),
            {8080: l7.UpstreamTls(trust=l7.Trust(config_maps=("default/ca",)), sni="a.example")},
        ),
        (
            policy("caCertificateRefs: [{kind: ConfigMap, name: ca}, {kind: ConfigMap, name: b}]"),
            dict.fromkeys(
                (8080, 8081),
                l7.UpstreamTls(trust=l7.Trust(config_maps=("default/ca", "default/b")), sni="a.example"),
            ),
        ),
        (
            policy("caCertificateRefs: [{kind: ConfigMap, name: none}]", target=", sectionName: http"),
            {8080: l7.UpstreamTls(trust=l7.Trust(), sni="a.example")},
        ),
        (
            policy(
                "wellKnownCACertificates: System, subjectAltNames: "
                "[{type: Hostname, hostname: b.example}, {type: URI, uri: 'spiffe://x/y'}]",
                target=", sectionName: http",
            ),
            {8080: l7.UpstreamTls(trust=l7.Trust(system=True), names=("b.example", "spiffe://x/y"), sni="a.example")},
        ),
    ],
)
def test_backend_tls(text: str, expected: dict[int, l7.UpstreamTls]) -> None:
    world = World(gateway(), service(ports=PORTS), authorities(), authorities("b"), route(), text)
    assert tls_of(world) == expected


def test_a_policy_for_a_port_goes_before_one_for_the_service() -> None:
    precise = policy("caCertificateRefs: [{kind: ConfigMap, name: ca}]", name="precise", target=", sectionName: alt")
    world = World(gateway(), service(ports=PORTS), authorities(), route(), policy(), precise)
    found = tls_of(world)
    assert found[8080] == SYSTEM
    assert found[8081] == l7.UpstreamTls(trust=l7.Trust(config_maps=("default/ca",)), sni="a.example")


def test_a_gateway_shows_its_own_certificate_to_backends_with_tls() -> None:
    client = "tls: {backend: {clientCertificateRef: {name: cert}}}"
    world = World(gateway(more=client), service(), secret(), route(), policy())
    assert world.conditions("Gateway", "gw")["ResolvedRefs"] == ("True", "ResolvedRefs")
    found = tls_of(world)[8080]
    assert found is not None
    assert found.key == l7.KeyPair("default/cert")
    world.remove(("Secret", "default", "cert"))
    assert world.conditions("Gateway", "gw")["ResolvedRefs"] == ("False", "InvalidClientCertificateRef")
    assert tls_of(world) == {8080: SYSTEM}


def test_its_certificate_is_shown_also_where_a_destination_rule_asks_for_the_same_tls() -> None:
    rule = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr}\n"
        "spec: {host: a, trafficPolicy: {tls: {mode: SIMPLE, sni: a.example}}}"
    )
    client = "tls: {backend: {clientCertificateRef: {name: cert}}}"
    world = World(gateway(more=client), service(), secret(), route(), policy(), rule)
    found = tls_of(world)[8080]
    assert found is not None
    assert found.key == l7.KeyPair("default/cert")


PLACES = [("a", 8080), ("b", 8081)]
MESH_PARENT = "[{group: '', kind: Service, name: a}]"


def test_rules_of_a_service_by_port() -> None:
    world = World(
        service(ports=PORTS),
        route(f"rules: [{{name: both, {A}}}]", name="both", parents=MESH_PARENT),
        route(
            f"rules: [{{name: exact, matches: [{{path: {{type: Exact, value: /x}}}}], {A}}}]",
            name="exact",
            parents="[{group: '', kind: Service, name: a, port: 8081}]",
        ),
    )
    found = {port: [rule.name for rule in routes.http] for port, routes in world.mesh("a").items()}
    assert found == {8080: ["both"], 8081: ["exact", "both"]}


def test_a_route_of_two_services_has_at_each_the_ports_that_are_named_for_it() -> None:
    parents = ", ".join(f"{{group: '', kind: Service, name: {name}, port: {port}}}" for name, port in PLACES)
    world = World(service(ports=PORTS), service("b", ports=PORTS), route(parents=f"[{parents}]"))
    assert [(name, port) for name in ("a", "b") for port in world.mesh(name)] == PLACES


def test_hostnames_of_a_route_say_nothing_in_the_mesh() -> None:
    world = World(service(), route(f"hostnames: [other.example], rules: [{{name: x, {A}}}]", parents=MESH_PARENT))
    assert [rule.name for rule in world.mesh("a")[8080].http] == ["x"]


def test_a_service_without_routes_has_none() -> None:
    assert World(service(), service("b"), route(parents=MESH_PARENT)).mesh("b") == {}


def test_a_redirect_in_the_mesh_stays_at_the_port_of_the_service() -> None:
    redirect = "rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}]"
    world = World(service(), route(redirect, parents=MESH_PARENT))
    (rule,) = world.mesh("a")[8080].http
    assert rule.action == l7.Redirect(302, authority="example.org", port=8080)


def test_connections_in_the_mesh_follow_tls_routes_before_tcp_routes() -> None:
    world = World(
        service(),
        route(f"rules: [{{name: tcp, {A}}}]", kind="TCPRoute", parents=MESH_PARENT),
        route(f"hostnames: [a.example], rules: [{{name: tls, {A}}}]", kind="TLSRoute", parents=MESH_PARENT),
    )
    assert world.mesh("a") == {
        8080: PortRoutes(
            streams=(
                l7.StreamRule("tls", (BACKEND,), ("a.example",), origin="TLSRoute/default/r"),
                l7.StreamRule("tcp", (BACKEND,), origin="TCPRoute/default/r"),
            )
        )
    }
