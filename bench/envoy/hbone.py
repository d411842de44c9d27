"""A pair of Envoys that tunnel as ztunnels do, in the pods of a client and a server.

Client: every captured connection (15001) becomes an HTTP/2 CONNECT, named for its original destination, inside mutual
TLS 1.3 to port 15008 of the server's pod, or of the waypoint's; up to 100 of them share a TLS connection. Server: 15008
ends the tunnel, checks the peer's identity by RBAC and connects to the application at the pod's own address. The access
log has a line per connection, as ztunnel's. `workers` is 2 like those of a ztunnel.

Only what Envoy can be told is the same: the application sees the pod's address and not the client's, since Envoy
does not take on the address of who asked through a CONNECT; a tunnel goes to one peer, where a ztunnel looks up the
destination; and there are no counters by workload.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.envoy import common
from bench.envoy.common import ANY_ADDRESS, NO_LIMIT, STREAMS, Json, Party, Setup
from bench.subjects.base import Address
from cni.redirect import HBONE_PORT, OUTBOUND_PORT

_TUNNEL: Final = "hbone"
_DESTINATION: Final = "%DOWNSTREAM_LOCAL_ADDRESS%"  # what original_dst has put back


def configs(setup: Setup) -> dict[str, Json]:
    """Role -> configuration of its Envoy. Capture the client's pod outbound; the server's needs nothing."""
    return {"client": client(setup, setup.server), "server": server(setup, setup.client)}


def logs(setup: Setup) -> list[Path]:
    """The access logs that these write."""
    return [setup.access_log(role) for role in ("client", "server")]


def client(setup: Setup, peer: Party) -> Json:
    """The client's half, with tunnels to the pod of `peer`."""
    baggage = f"k8s.cluster.name=bench,k8s.namespace.name=bench,service.name={setup.client.account}"
    proxy = common.tcp_proxy(
        "outbound",
        _TUNNEL,
        idle_timeout="0s",
        tunneling_config={
            "hostname": _DESTINATION,
            "headers_to_add": [{"header": {"key": "baggage", "value": baggage}}],
        },
        access_log=common.access_log(setup.access_log("client")),
    )
    captured = common.listener(
        "outbound",
        Address(ANY_ADDRESS, OUTBOUND_PORT),
        [proxy],
        traffic_direction="OUTBOUND",
        listener_filters=[common.original_dst_filter()],
    )
    tunnel = common.cluster(
        _TUNNEL,
        common.endpoint(Address(peer.address, HBONE_PORT)),
        NO_LIMIT,
        transport_socket=common.tls_client(setup.client.files, common.exact(peer.identity), "h2"),
        typed_extension_protocol_options=common.http2_options(max_concurrent_streams=STREAMS),
        upstream_bind_config=common.bind(setup.mark),
    )
    return common.bootstrap("hbone~client", [captured], [tunnel])


def server(setup: Setup, peer: Party) -> Json:
    """The server's half; only the identity of `peer` is let in."""
    hosts, clusters = [], []
    for name, port in {"http": setup.http, **setup.streams}.items():
        app = Address(setup.server.address, port)
        hosts.append(
            {
                "name": name,
                "domains": [f"{app.host}:{app.port}"],
                "routes": [common.connect_route(name, idle_timeout="0s")],
            }
        )
        bind = common.bind(setup.mark)
        clusters.append(common.cluster(name, common.endpoint(app), NO_LIMIT, upstream_bind_config=bind))
    manager = common.manager(
        "hbone",
        {"name": "hbone", "virtual_hosts": hosts},
        [common.http_policy(peer.identity)],
        access_log=common.access_log(setup.access_log("server")),
        **common.tunnels(common.SERVER_STREAMS),
    )
    inbound = common.listener(
        "hbone",
        Address(ANY_ADDRESS, HBONE_PORT),
        [manager],
        common.tls_server(setup.server.files, common.any_account(), "h2"),
        traffic_direction="INBOUND",
        # Tunnels are few and long: without it both may land on one worker. Istio does so for its HBONE listeners.
        connection_balance_config={"exact_balance": {}},
    )
    return common.bootstrap("hbone~server", [inbound], clusters)
