"""Which VirtualServices a waypoint follows for a service, and what holds where none does."""

from __future__ import annotations

import pytest

from istiod.translate.graph import View
from istiod.translate.l7.routes import PortRoutes, RouteTables
from istiod.translate.l7.service import Seams
from meshcore import l7
from meshcore.l7 import Backend, Forward, HttpMatch, HttpRule, Protocol, RetryOn, StreamRule, TextKind, TextMatch
from meshcore.model import IpMatch
from tests.unit.istiod.l7.support import DETAILS, RATINGS, REVIEWS, Mesh, mesh_config, obj, virtual_service

TO_REVIEWS = "http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}]}]"
INBOUND = l7.Retry(2, RetryOn.RESET_BEFORE_REQUEST)


def names(mesh: Mesh, port: int = 80) -> list[str]:
    return [rule.name for rule in mesh.rules(port)]


def default(port: int, retry: l7.Retry | None = INBOUND) -> HttpRule:
    return HttpRule("default", Forward((Backend(REVIEWS, port),)), retry=retry)


def stream(port: int) -> StreamRule:
    return StreamRule("default", (Backend(REVIEWS, port),))


def test_without_rules_each_port_goes_to_the_service_itself() -> None:
    service = Mesh().service()
    assert service.waypoint == "default/wp"
    assert service.ports == (
        l7.ServicePort(80, Protocol.HTTP, (default(80),)),
        l7.ServicePort(70, Protocol.GRPC, (default(70, None),)),  # gRPC is not retried unasked
        l7.ServicePort(90, Protocol.TCP, (), (stream(90),)),
        l7.ServicePort(443, Protocol.TLS, (), (stream(443),)),
        l7.ServicePort(60, Protocol.AUTO, (default(60),), (stream(60),)),
    )
    assert [one.service for one in service.destinations] == [REVIEWS]


@pytest.mark.parametrize(
    ("policy", "retry"),
    [
        ("{attempts: 4, retryOn: '5xx', perTryTimeout: 1s, backoff: 1ms}", l7.Retry(4, RetryOn.HTTP_5XX, (), 0, 1, 10)),
        ("{attempts: 0}", None),
    ],
)
def test_the_mesh_sets_the_retries_of_the_default_rule(policy: str, retry: l7.Retry | None) -> None:
    mesh = Mesh(mesh_config(f"defaultInboundHttpRetryPolicy: {policy}"))
    assert mesh.rules() == (default(80, retry),)


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ("{name: http2-a, port: 1}", Protocol.HTTP2),
        ("{name: grpc-web, port: 1}", Protocol.GRPC_WEB),
        ("{name: x, port: 1, appProtocol: kubernetes.io/h2c}", Protocol.HTTP2),
        ("{name: x, port: 1, appProtocol: kubernetes.io/ws}", Protocol.HTTP),
        ("{name: x, port: 1, appProtocol: kubernetes.io/wss}", Protocol.HTTP),
        ("{name: http, port: 1, appProtocol: tcp}", Protocol.TCP),
        ("{name: HTTP, port: 1}", Protocol.HTTP),
        ("{name: h2c, port: 1}", Protocol.HTTP2),
        ("{name: grpc-web-a, port: 1}", Protocol.GRPC_WEB),
        ("{name: mysql, port: 1}", Protocol.TCP),
        ("{name: redis-a, port: 1}", Protocol.TCP),
        ("{name: mail, port: 25}", Protocol.TCP),
        ("{name: http, port: 25}", Protocol.HTTP),
        ("{name: https-a, port: 1}", Protocol.TLS),
        ("{name: mongo, port: 1}", Protocol.TCP),
        ("{name: db, port: 3306}", Protocol.TCP),
        ("{name: db, port: 1}", Protocol.AUTO),
    ],
)
def test_protocols(port: str, protocol: Protocol) -> None:
    mesh = Mesh(f"kind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{port}]}}")
    (found,) = mesh.service("default/s.default.svc.cluster.local").ports
    assert found.protocol is protocol


@pytest.mark.parametrize(
    ("namespace", "spec", "follows"),
    [
        ("default", "hosts: [reviews]", True),
        ("default", "hosts: [Reviews.default.svc.cluster.local]", True),
        ("default", "hosts: [other, '*.default.svc.cluster.local']", True),
        ("default", "hosts: [ratings]", False),
        ("default", "hosts: [reviews]\ngateways: [gw]", False),
        ("default", "hosts: [reviews]\ngateways: [gw, mesh]", True),
        ("default", "hosts: [reviews]\nexportTo: [other]", False),
        ("default", "hosts: [reviews]\nexportTo: ['.']", True),
        ("other", "hosts: [reviews.default.svc.cluster.local]", False),  # neither the service's nor the waypoint's
    ],
)
def test_which_virtual_services_are_followed(namespace: str, spec: str, *, follows: bool) -> None:
    mesh = Mesh(virtual_service(f"{spec}\n{TO_REVIEWS}", namespace=namespace))
    assert names(mesh) == (["vs"] if follows else ["default"])


def far_away(*documents: str) -> Mesh:
    """The service `details` of the namespace `other` behind a waypoint in `default`."""
    use = "{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: default}"
    labelled = f"kind: Service\nmetadata: {{name: details, namespace: other, labels: {use}}}\n"
    ports = "spec: {clusterIP: 10.0.0.3, ports: [{name: http, port: 9080}]}"
    gateway = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
status: {addresses: [{type: Hostname, value: wp.default.svc.cluster.local}]}
"""
    return Mesh(gateway, labelled + ports, *documents)


@pytest.mark.parametrize(
    ("namespace", "spec", "follows"),
    [
        ("default", "hosts: [details.other.svc.cluster.local]", True),
        ("default", "hosts: [details]", False),  # that would be details.default
        ("other", "hosts: [details]", True),
        ("other", "hosts: [details]\nexportTo: ['.']", False),  # the waypoint is elsewhere
        ("other", "hosts: [details]\nexportTo: [default]", True),
        ("istio-system", "hosts: [details.other.svc.cluster.local]", False),
    ],
)
def test_a_waypoint_elsewhere_follows_its_own_namespace_too(namespace: str, spec: str, *, follows: bool) -> None:
    mesh = far_away(virtual_service(f"{spec}\n{TO_REVIEWS}", namespace=namespace))
    (port,) = mesh.service(DETAILS).ports
    assert [rule.name for rule in port.http] == (["vs"] if follows else ["default"])


def test_the_source_namespace_is_the_waypoints() -> None:
    spec = "hosts: [details]\nhttp: [{match: [{sourceNamespace: %s}], route: [{destination: {host: details}}]}]"
    for namespace, follows in (("default", True), ("other", False)):
        mesh = far_away(virtual_service(spec % namespace, namespace="other"))
        assert (mesh.service(DETAILS).ports[0].http[0].name == "vs") is follows


def test_the_mesh_may_keep_virtual_services_to_themselves() -> None:
    private = mesh_config("defaultVirtualServiceExportTo: ['.']")
    mesh = far_away(virtual_service(f"hosts: [details]\n{TO_REVIEWS}", namespace="other"), private)
    assert mesh.service(DETAILS).ports[0].http[0].name == "default"


def test_several_are_concatenated_by_age() -> None:
    def one(name: str, created: int, path: str) -> str:
        match = f"match: [{{uri: {{exact: {path}}}}}]"
        spec = f"hosts: [reviews]\nhttp: [{{{match}, route: [{{destination: {{host: reviews}}}}]}}]"
        return virtual_service(spec, name, created=created)

    assert names(Mesh(one("a", 2, "/2"), one("c", 1, "/1"), one("b", 2, "/3"))) == ["c", "a", "b"]


def test_a_rule_for_other_ports_leaves_the_default() -> None:
    spec = "hosts: [reviews]\nhttp: [{match: [{port: 70}], route: [{destination: {host: ratings}}]}]"
    mesh = Mesh(virtual_service(spec))
    assert names(mesh) == ["default"]
    assert names(mesh, 70) == ["vs"]


def test_when_no_rule_matches_nothing_is_added() -> None:
    spec = "hosts: [reviews]\nhttp: [{match: [{uri: {exact: /a}}], route: [{destination: {host: ratings}}]}]"
    (rule,) = Mesh(virtual_service(spec)).rules()
    assert rule.match is not None


STREAMS = """
hosts: [reviews]
tls:
  - match: [{sniHosts: [%s]}]
    route: [{destination: {host: ratings}}]
tcp:
  - match: [{destinationSubnets: [10.0.0.0/8, nonsense]}]
    route: [{destination: {host: details.other.svc.cluster.local}}]
  - match: [{sourceNamespace: default}]
    route: [{destination: {host: gone}}]
"""


def test_tcp_rules_and_then_the_service_itself() -> None:
    assert Mesh(virtual_service(STREAMS % "x.y")).port(90).streams == (
        StreamRule(
            "vs", (Backend(DETAILS, 9080),), subnets=(IpMatch(b"\x0a\0\0\0", 8),), origin="VirtualService/default/vs"
        ),
        stream(90),
    )


@pytest.mark.parametrize(
    ("sni", "follows"),
    [("reviews.default.svc.cluster.local", True), ("'*.svc.cluster.local'", True), ("other.example", False)],
)
def test_tls_rules_are_for_the_services_own_name(sni: str, *, follows: bool) -> None:
    first = Mesh(virtual_service(STREAMS % sni)).port(443).streams[0]
    assert (first.backends == (Backend(RATINGS, 8080),)) is follows
    assert first.sni == ()


def test_routes_of_the_gateway_api_go_first() -> None:
    path = HttpMatch(path=TextMatch(TextKind.EXACT, "/api"))
    attached = HttpRule("route", Forward((Backend(RATINGS, 8080),)), path, "HTTPRoute/default/r")

    def routes(_view: View, namespace: str, hostname: str) -> RouteTables:
        reviews = f"{namespace}/{hostname}" == REVIEWS
        return {80: PortRoutes((attached,)), 90: PortRoutes((), (StreamRule("t", ()),))} if reviews else {}

    mesh = Mesh(virtual_service(f"hosts: [reviews]\n{TO_REVIEWS}"), seams=Seams(routes=routes))
    assert names(mesh) == ["route", "vs"]
    assert [one.name for one in mesh.port(90).streams] == ["t"]
    assert [one.service for one in mesh.service().destinations] == [RATINGS, REVIEWS]
    alone = Mesh(seams=Seams(routes=routes))
    assert names(alone) == ["route"]  # the rest is 404
    assert names(alone, 70) == ["default"]


ENTRY = """
hosts: [api.example.com, '*.wild.example.com']
resolution: %s
ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  - {number: 53, name: dns, protocol: UDP}
"""


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        ("NONE", l7.Resolution.ORIGINAL),
        ("STATIC", l7.Resolution.ENDPOINTS),
        ("DNS", l7.Resolution.DNS),
        ("DNS_ROUND_ROBIN", l7.Resolution.DNS_ROUND_ROBIN),
        ("DYNAMIC_DNS", l7.Resolution.DYNAMIC_DNS),
    ],
)
def test_hosts_of_service_entries(resolution: str, expected: l7.Resolution) -> None:
    race = "annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}"
    mesh = Mesh(
        obj("ServiceEntry", "e", ENTRY % resolution, meta=race),
        virtual_service("hosts: ['*.example.com']\nhttp: [{route: [{destination: {host: api.example.com}}]}]"),
    )
    assert mesh.port(80, "default/api.example.com").http[0].name == "vs"
    assert mesh.port(443, "default/api.example.com").protocol is Protocol.TLS
    assert [port.number for port in mesh.service("default/api.example.com").ports] == [80, 443]
    assert mesh.port(80, "default/*.wild.example.com").http[0].action == Forward(
        (Backend("default/api.example.com", 80),)
    )
    (destination,) = mesh.service("default/api.example.com").destinations
    assert (destination.resolution, destination.race) == (expected, True)


def test_a_service_without_waypoint_is_not_sent() -> None:
    mesh = Mesh()
    assert DETAILS not in mesh.graph.outputs[l7.SERVICE_TYPE]
    mesh.put(
        "kind: Service\nmetadata: {name: reviews, labels: {istio.io/use-waypoint: none}}\nspec: {ports: [{port: 80}]}"
    )
    assert REVIEWS not in mesh.graph.outputs[l7.SERVICE_TYPE]
