"""A pair of sidecars as Istio configures them, between a client's pod and a server's, both with captured traffic.

From what istiod sends to a sidecar, reproduced:
* Client: `virtualOutbound` on 15001 hands each connection to the listener of its original destination. Port 8080 has a
  connection manager and routes by host, with Istio's retry policy; the other ports are plain TCP. Destinations nobody
  knows go on untouched. Clusters have one endpoint, the server's pod, mutual TLS, the exact identity of the server, SNI
  in Istio's form, and the protocols that the filter istio.alpn would ask for: `istio-http/1.1` or `istio`.
* Server: `virtualInbound` on 15006 with original_dst and tls_inspector, a filter chain for each port that takes mutual
  TLS only (PeerAuthentication STRICT), an AuthorizationPolicy on the client's identity as HTTP or network RBAC,
  `x-forwarded-client-cert`, and the connection to the application from 127.0.0.6 to the pod's own address.
* Both: HTTP/1.1 between them (Istio upgrades only when it is told to), request ids, the filters grpc_stats, fault, cors
  and router, labels of statistics, circuit breakers at their maximum. Tracing and access log are off, as they are in
  Istio unless asked for.

Different: TLS is 1.3 where Istio allows 1.2; certificates come from files and endpoints stand in the configuration,
where Istio sends both while the sidecar runs; the proxy is told apart by a mark, not by its user id. Envoy's network
RBAC judges when the client's first byte comes, so a server that speaks first is heard until then, here as in Istio.

Missing, because they exist in Istio's own build of Envoy only: istio.stats, which counts requests by workload and
service, and istio.metadata_exchange, which tells it who the other side is. Both cost time for every request or
connection, so a real sidecar is dearer than these. Missing as well: clusters and listeners of the other services of
a cluster, of which a real sidecar has hundreds; they cost memory.
"""

from __future__ import annotations

from typing import Final

from bench.envoy import common
from bench.envoy.common import ANY_ADDRESS, NO_LIMIT, SERVICE, Json, Setup
from bench.subjects.base import Address
from cni.redirect import INBOUND_PORT, OUTBOUND_PORT

_PASSTHROUGH: Final = "PassthroughCluster"
_BLACK_HOLE: Final = "BlackHoleCluster"
_APP_SOURCE: Final = "127.0.0.6"  # where Istio's proxies reach the application from; its rules let that pass
_HTTP_ALPN: Final = ("istio-http/1.1", "istio", "http/1.1")
_TCP_ALPN: Final = ("istio",)
_SERVER_ALPN: Final = ("h2", "http/1.1")
_TLS_READ: Final = 512  # bytes that the TLS inspector reads at first; Istio's, for memory


def configs(setup: Setup) -> dict[str, Json]:
    """Role -> configuration of its Envoy. Capture the client's pod outbound and the server's inbound."""
    return {"client": client(setup), "server": server(setup)}


def client(setup: Setup) -> Json:
    clusters = [_outbound_cluster(setup, setup.http, _HTTP_ALPN)]
    listeners = [_virtual_outbound(), _outbound_http(setup)]
    for port in setup.streams.values():
        name = _outbound_name(port)
        where = Address(setup.server.address, port)
        proxy = common.tcp_proxy(f"{name};", name)
        listeners.append(_captured(f"{where.host}_{port}", where, proxy))
        clusters.append(_outbound_cluster(setup, port, _TCP_ALPN))
    passing = {"upstream_bind_config": common.bind(setup.mark)}
    clusters += [common.original_destination(_PASSTHROUGH, NO_LIMIT, **passing), _black_hole()]
    return common.bootstrap("sidecar~client", listeners, clusters, stats_config=common.stats_config())


def server(setup: Setup) -> Json:
    ports = (setup.http, *setup.streams.values())
    chains = [_blocked(INBOUND_PORT), _inbound_chain(setup, setup.http, [_inbound_manager(setup)])]
    for port in setup.streams.values():
        name = _inbound_name(port)
        rules = common.allow(common.authenticated(setup.client.identity))
        policy = common.extension("rbac", "filters.network.rbac.v3.RBAC", rules=rules, stat_prefix="tcp.")
        chains.append(_inbound_chain(setup, port, [policy, common.tcp_proxy(f"{name};", name)]))
    inspector = common.extension(
        "envoy.filters.listener.tls_inspector",
        "filters.listener.tls_inspector.v3.TlsInspector",
        initial_read_buffer_size=_TLS_READ,
    )
    inbound = common.listener("virtualInbound", Address(ANY_ADDRESS, INBOUND_PORT), []) | {
        "traffic_direction": "INBOUND",
        "listener_filters": [common.original_dst_filter(), inspector],
        "listener_filters_timeout": "0s",
        "continue_on_listener_filters_timeout": True,
        "max_connections_to_accept_per_socket_event": 1,
        "filter_chains": chains,
    }
    to_app = {"upstream_bind_config": common.bind(setup.mark, _APP_SOURCE)}
    clusters = [
        common.original_destination(name, NO_LIMIT, alt_stat_name=f"{name};", **to_app)
        for name in map(_inbound_name, ports)
    ]
    return common.bootstrap("sidecar~server", [inbound], [*clusters, _black_hole()], stats_config=common.stats_config())


def _outbound_name(port: int) -> str:
    return f"outbound|{port}||{SERVICE}"


def _inbound_name(port: int) -> str:
    return f"inbound|{port}||"


def _black_hole() -> Json:
    return {"name": _BLACK_HOLE, "type": "STATIC", "connect_timeout": "10s"}


def _blocked(port: int) -> Json:
    """Whoever connects to the redirection's own port would go round in circles."""
    proxy = common.tcp_proxy(f"{_BLACK_HOLE};", _BLACK_HOLE)
    return {"name": f"blackhole-{port}", "filter_chain_match": {"destination_port": port}, "filters": [proxy]}


def _virtual_outbound() -> Json:
    unknown = {"name": "catch-all", "filters": [common.tcp_proxy(f"{_PASSTHROUGH};", _PASSTHROUGH)]}
    return common.listener("virtualOutbound", Address(ANY_ADDRESS, OUTBOUND_PORT), []) | {
        "traffic_direction": "OUTBOUND",
        "use_original_dst": True,
        "filter_chains": [_blocked(OUTBOUND_PORT), unknown],
    }


def _captured(name: str, where: Address, network_filter: Json) -> Json:
    """A listener that gets its connections from `virtualOutbound` alone."""
    found = common.listener(name, where, [network_filter])
    return {**found, "traffic_direction": "OUTBOUND", "bind_to_port": False}


def _outbound_http(setup: Setup) -> Json:
    known = f"{SERVICE}:{setup.http}"
    route = common.service_route("default", {"prefix": "/"}, _outbound_name(setup.http), setup.http)
    elsewhere = {"cluster": _PASSTHROUGH, "timeout": "0s"}
    short = [SERVICE.removesuffix(end) for end in ("", ".cluster.local", ".svc.cluster.local")]
    hosts = [
        {
            "name": known,
            "domains": [*short, setup.server.address],
            "routes": [route],
            "include_request_attempt_count": True,
        },
        {
            "name": "allow_any",
            "domains": ["*"],
            "routes": [{"name": "allow_any", "match": {"prefix": "/"}, "route": elsewhere}],
            "include_request_attempt_count": True,
        },
    ]
    routes = {
        "name": str(setup.http),
        "virtual_hosts": hosts,
        "validate_clusters": False,
        "ignore_port_in_host_matching": True,
    }
    name = f"{ANY_ADDRESS}_{setup.http}"
    manager = common.manager(f"outbound_{name};", routes, common.http_filters(), **common.manager_settings())
    return _captured(name, Address(ANY_ADDRESS, setup.http), manager)


def _outbound_cluster(setup: Setup, port: int, alpn: tuple[str, ...]) -> Json:
    name = _outbound_name(port)
    sni = f"outbound_.{port}_._.{SERVICE}"
    return common.cluster(
        name,
        common.endpoint(Address(setup.server.address, port)),
        NO_LIMIT,
        alt_stat_name=f"{name};",
        lb_policy="LEAST_REQUEST",
        transport_socket=common.tls_client(setup.client.files, common.exact(setup.server.identity), *alpn, sni=sni),
        upstream_bind_config=common.bind(setup.mark),
    )


def _inbound_chain(setup: Setup, port: int, filters: list[Json]) -> Json:
    return {
        "name": f"{ANY_ADDRESS}_{port}",
        "filter_chain_match": {"destination_port": port, "transport_protocol": "tls"},
        "filters": filters,
        "transport_socket": common.tls_server(
            setup.server.files, common.any_account(), *(_SERVER_ALPN if port == setup.http else _TCP_ALPN)
        ),
    }


def _inbound_manager(setup: Setup) -> Json:
    name = _inbound_name(setup.http)
    unlimited = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
    route = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": {"cluster": name, "timeout": "0s", "max_stream_duration": unlimited},
        "decorator": {"operation": f"{SERVICE}:{setup.http}/*"},
    }
    host = {"name": f"inbound|http|{setup.http}", "domains": ["*"], "routes": [route]}
    return common.manager(
        f"inbound_{ANY_ADDRESS}_{setup.http};",
        {"name": name, "virtual_hosts": [host], "validate_clusters": False},
        [common.http_policy(setup.client.identity), *common.http_filters()],
        **common.manager_settings(),
        server_name="istio-envoy",
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
    )
