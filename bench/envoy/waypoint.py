"""One Envoy as a waypoint in a pod of its own, as Istio's ambient mode sets it up; HBONE Envoys stand on either side.

The way of a request: the client's HBONE Envoy tunnels to the waypoint (15008, mutual TLS, CONNECT named for the
original destination). Inside the waypoint `connect_terminate` ends the tunnel and notes destination and identity in
filter state; the internal listener `main_internal` picks a filter chain by destination address and port; its connection
manager checks the identity, routes, and hands the request to the internal listener `connect_originate`, which opens a
tunnel to the server's pod (15008, mutual TLS). There the server's HBONE Envoy lets the waypoint's identity in. Names,
listeners, filters and settings are those that istiod sends to a waypoint. The same parts are missing as for sidecars
(see `bench.envoy.sidecar`): istio.stats and the filters that find out who the peer is exist in Istio's build only.
Also, here the destination is the server's pod, where Istio would name the service's address.

The route table has as many routes as asked for, of which a request for the benchmark's page matches the last and no
other. Envoy tries routes in order, so this is the dearest request. All routes lead to the same cluster, and the answer
says in `x-bench-route` which one was taken. Before the last, which takes everything, come in turn:
* an exact path, `/api/v1/items/NUMBER`
* a prefix, `/shop/NUMBER/`
* the benchmark's own page with the header `x-tenant: tenant-NUMBER`: the path matches, the header does not
* a prefix by whole segments, `/team/NUMBER`
istiod writes an HTTPRoute or VirtualService out as such a list: one route for each match, in order, each with its own
retry policy and metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from bench.envoy import common, hbone
from bench.envoy.common import ANY_ADDRESS, NO_LIMIT, SERVICE, STREAMS, Json, Party, Setup
from bench.errors import BenchError
from bench.subjects.base import Address
from cni.redirect import HBONE_PORT

PAGE: Final = "/1k"
"""The benchmark's page."""

ROUTE_HEADER: Final = "x-bench-route"
TENANT_HEADER: Final = "x-tenant"

_TERMINATE: Final = "connect_terminate"
_MAIN: Final = "main_internal"
_ORIGINATE: Final = "connect_originate"
_DESTINATION: Final = "envoy.filters.listener.original_dst"  # filter of that name, its metadata, its filter state
_PEER: Final = "io.istio.peer_principal"
_INTERNAL_BUFFER: Final = 64  # KiB between internal listeners; Istio's
_KEEPALIVE: Final = {"interval": "10s", "timeout": "20s"}  # of tunnels into a waypoint; Istio's
_TUNNEL_IDLE: Final = "3600s"


def configs(setup: Setup, routes: int) -> dict[str, Json]:
    """Role -> configuration of its Envoy, `routes` of them in the waypoint. Capture the client's pod outbound.

    Raises BenchError when `setup` has no waypoint.
    """
    own = setup.waypoint
    if own is None:
        raise BenchError("the waypoint's path needs a pod for the waypoint")
    return {
        "client": hbone.client(setup, own),
        "waypoint": waypoint(setup, own, routes),
        "server": hbone.server(setup, own),
    }


def route_name(number: int) -> str:
    """What `x-bench-route` says of the route of that number; the first is 0, the last one less than their count."""
    return f"route-{number}"


def route_matches(count: int) -> Iterable[Json]:
    """`count` matches as Envoy writes them: the module says which, and in which order."""
    for number in range(count - 1):
        kind = number % 4
        if kind == 0:
            yield {"path": f"/api/v1/items/{number}"}
        elif kind == 1:
            yield {"prefix": f"/shop/{number}/"}
        elif kind == 2:
            header = {"name": TENANT_HEADER, "string_match": {"exact": f"tenant-{number}"}}
            yield {"path": PAGE, "headers": [header]}
        else:
            yield {"path_separated_prefix": f"/team/{number}"}
    yield {"prefix": "/"}


def waypoint(setup: Setup, own: Party, routes: int) -> Json:
    """The waypoint itself; `own` is its pod and identity."""
    clusters = [_internal(_MAIN, _internal_endpoint(_MAIN)), _originate_cluster(setup, own)]
    chains = [{"name": _vip("http", setup.http), "filters": [_manager(setup, routes)]}]
    clusters.append(_vip_cluster(setup, "http", setup.http))
    for port in setup.streams.values():
        name = _vip("tcp", port)
        policy = common.extension("rbac", "filters.network.rbac.v3.RBAC", rules=_allow(setup), stat_prefix="tcp.")
        chains.append({"name": name, "filters": [policy, common.tcp_proxy(f"{name};", name)]})
        clusters.append(_vip_cluster(setup, "tcp", port))
    internal = common.typed("bootstrap.internal_listener.v3.InternalListener", buffer_size_kb=_INTERNAL_BUFFER)
    return common.bootstrap(
        "waypoint",
        [_terminate_listener(own), _main_listener(setup, chains), _originate_listener()],
        clusters,
        bootstrap_extensions=[{"name": "envoy.bootstrap.internal_listener", "typed_config": internal}],
        stats_config=common.stats_config(),
    )


def _vip(protocol: str, port: int) -> str:
    return f"inbound-vip|{port}|{protocol}|{SERVICE}"


# Into the waypoint


def _note(key: str, value: str, factory: str = "") -> Json:
    """A value for the filter state of the connection inside the tunnel."""
    found: Json = {
        "object_key": key,
        "format_string": {"text_format_source": {"inline_string": value}},
        "shared_with_upstream": "ONCE",
    }
    return found | ({"factory_key": factory} if factory else {})


def _terminate_listener(own: Party) -> Json:
    notes = [
        _note(f"{_DESTINATION}.local_ip", "%REQ(:AUTHORITY)%"),
        _note(f"{_DESTINATION}.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        _note(_PEER, "%DOWNSTREAM_PEER_URI_SAN%", "envoy.string"),
        _note("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%", "envoy.string"),
    ]
    authority = common.extension(
        "connect_authority", "filters.http.set_filter_state.v3.Config", on_request_headers=notes
    )
    host = {"name": "default", "domains": ["*"], "routes": [common.connect_route(_MAIN)]}
    manager = common.manager(
        _TERMINATE,
        {"name": "default", "virtual_hosts": [host]},
        [authority],
        **common.tunnels(STREAMS, connection_keepalive=_KEEPALIVE),
        use_remote_address=False,
        server_name="istio-envoy",
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
    )
    return common.listener(
        _TERMINATE,
        Address(ANY_ADDRESS, HBONE_PORT),
        [manager],
        common.tls_server(own.files, common.any_account(), "h2"),
        # Tunnels are few and long: without it all may land on one worker.
        connection_balance_config={"exact_balance": {}},
    )


def _internal_endpoint(listener: str, destination: str = "") -> Json:
    """Leads to an internal listener, and tells it where the connection is meant to go."""
    internal = {"server_listener_name": listener} | ({"endpoint_id": destination} if destination else {})
    found: Json = {"endpoint": {"address": {"envoy_internal_address": internal}}}
    return found | ({"metadata": {"filter_metadata": {_DESTINATION: {"local": destination}}}} if destination else {})


def _internal(name: str, endpoint: Json, *metadata: str, **more: Any) -> Json:
    """A cluster of an internal listener; `metadata` of the endpoint goes along."""
    raw = common.extension("raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer")
    socket = common.extension(
        "internal_upstream",
        "transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        passthrough_metadata=[{"kind": {"host": {}}, "name": each} for each in metadata],
        transport_socket=raw,
    )
    return common.cluster(name, endpoint, NO_LIMIT, transport_socket=socket, alt_stat_name=f"{name};", **more)


# In the waypoint


def _chain(name: str) -> Json:
    value = {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": name}
    return {"action": {"name": name, "typed_config": value}}


def _tree(kind: str, **by: Json) -> Json:
    found = common.typed(f"matching.common_inputs.network.v3.{kind}")
    return {"matcher_tree": {"input": {"name": kind, "typed_config": found}, **by}}


def _main_listener(setup: Setup, chains: list[Json]) -> Json:
    names = {setup.http: _vip("http", setup.http)} | {port: _vip("tcp", port) for port in setup.streams.values()}
    ports = {str(port): _chain(name) for port, name in names.items()}
    addresses = {
        "@type": "type.googleapis.com/xds.type.matcher.v3.IPMatcher",
        "range_matchers": [
            {
                "ranges": [{"address_prefix": setup.server.address, "prefix_len": 32}],
                "on_match": {"matcher": _tree("DestinationPortInput", exact_match_map={"map": ports})},
            }
        ],
    }
    return {
        "name": _MAIN,
        "internal_listener": {},
        "traffic_direction": "INBOUND",
        # The inspectors are off for ports whose protocol is declared, so they are not here.
        "listener_filters": [common.original_dst_filter()],
        "filter_chain_matcher": _tree("DestinationIPInput", custom_match={"name": "ip", "typed_config": addresses}),
        "filter_chains": chains,
    }


def _allow(setup: Setup) -> Json:
    """The client's identity, as noted where the tunnel ended: inside it there is no certificate."""
    noted = {"filter_state": {"key": _PEER, "string_match": {"exact": setup.client.identity}}}
    return common.allow(noted)


def _manager(setup: Setup, routes: int) -> Json:
    name = _vip("http", setup.http)
    source = {"istio": {"config": f"/apis/networking.istio.io/v1/namespaces/bench/virtual-service/{SERVICE}"}}
    table = [
        common.service_route(route_name(number), match, name, setup.http) | {"metadata": {"filter_metadata": source}}
        for number, match in enumerate(route_matches(routes))
    ]
    tell = {"header": {"key": ROUTE_HEADER, "value": "%ROUTE_NAME%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    host = {
        "name": f"inbound|http|{setup.http}",
        "domains": ["*"],
        "response_headers_to_add": [tell],
        "routes": table,
    }
    policy = common.extension("rbac", "filters.http.rbac.v3.RBAC", rules=_allow(setup))
    return common.manager(
        f"inbound_{ANY_ADDRESS}_{setup.http};",
        {"name": name, "virtual_hosts": [host], "validate_clusters": False},
        [policy, *common.http_filters()],
        **common.manager_settings(),
        server_name="istio-envoy",
    )


# Out of the waypoint


def _vip_cluster(setup: Setup, protocol: str, port: int) -> Json:
    endpoint = _internal_endpoint(_ORIGINATE, f"{setup.server.address}:{port}")
    return _internal(_vip(protocol, port), endpoint, _DESTINATION, lb_policy="LEAST_REQUEST")


def _originate_listener() -> Json:
    proxy = common.tcp_proxy(_ORIGINATE, _ORIGINATE, tunneling_config={"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"})
    return {
        "name": _ORIGINATE,
        "internal_listener": {},
        "use_original_dst": False,
        "listener_filters": [common.original_dst_filter()],
        "filter_chains": [{"filters": [proxy]}],
    }


def _originate_cluster(setup: Setup, own: Party) -> Json:
    explicit = {"http2_protocol_options": {"allow_connect": True}}
    options = common.typed(
        "upstreams.http.v3.HttpProtocolOptions",
        common_http_protocol_options={"idle_timeout": _TUNNEL_IDLE},
        explicit_http_config=explicit,
    )
    return common.original_destination(
        _ORIGINATE,
        NO_LIMIT,
        alt_stat_name=f"{_ORIGINATE};",
        original_dst_lb_config={"upstream_port_override": HBONE_PORT},
        transport_socket=common.tls_client(own.files, common.any_account(), "h2"),
        typed_extension_protocol_options={common.HTTP_OPTIONS: options},
        upstream_bind_config=common.bind(setup.mark),
    )
