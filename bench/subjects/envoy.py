"""The rival: real Envoy, as an HBONE-like pair and as a sidecar pair. Both are configured to do what our pair does.

HBONE pair: tcp_proxy tunnels each connection as HTTP/2 CONNECT over mutual TLS 1.3 to a second Envoy, which checks the
peer's identity (RBAC) and ends the tunnel. Sidecar pair: HTTP connection managers on both sides, HTTP/1.1 over mutual
TLS between them, RBAC on the server's side. Access logs go to files, statistics are on, circuit breakers are out of
the way; windows and buffers stay at Envoy's defaults.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ambient.demo.processes import Processes
from bench import certs, config
from bench.certs import Authority, LeafFiles
from bench.envoy import common
from bench.envoy.common import Json, binary, command
from bench.subjects.base import Address, await_answer, truncate

__all__ = ["EnvoyHbone", "EnvoyPair", "EnvoySidecar", "binary"]

_MANY: Final = 100_000  # circuit breakers: above anything a load opens
_SERVER: Final = certs.spiffe("server")


def _cluster(name: str, target: Address, **more: Json) -> Json:
    return common.cluster(name, common.endpoint(target), _MANY, **more)


def _manager(log: Path, hosts: list[Json], http_filters: list[Json], **more: object) -> Json:
    routes = {"name": "routes", "virtual_hosts": hosts}
    return common.manager("http", routes, http_filters, access_log=common.access_log(log), **more)


def _policy() -> Json:
    """Only the client's identity is let in."""
    return common.http_policy(certs.spiffe("client"))


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
            process = self._processes.start(f"{self.name}-{role}", command(path, self.concurrency))
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
            proxy = common.tcp_proxy(
                name,
                "tunnel",
                idle_timeout="0s",
                tunneling_config={
                    "hostname": authority,
                    "headers_to_add": [{"header": {"key": "baggage", "value": "service.name=client"}}],
                },
                access_log=common.access_log(self.logs["client"]),
            )
            listeners.append(common.listener(name, entry, [proxy]))
            route = common.connect_route(name, idle_timeout="0s")
            hosts.append({"name": name, "domains": [authority], "routes": [route]})
            clusters.append(_cluster(name, target))
        tunnel = _cluster(
            "tunnel",
            self._between,
            transport_socket=common.tls_client(files["client"], common.exact(_SERVER), "h2"),
            typed_extension_protocol_options=common.http2_options(max_concurrent_streams=common.STREAMS),
        )
        manager = _manager(self.logs["server"], hosts, [_policy()], **common.tunnels(common.SERVER_STREAMS))
        inbound = common.listener("hbone", self._between, [manager], common.tls_server(files["server"], None, "h2"))
        return {
            "server": common.bootstrap("server", [inbound], clusters),
            "client": common.bootstrap("client", listeners, [tunnel]),
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

        tls = common.tls_client(files["client"], common.exact(_SERVER), "http/1.1")
        peer = _cluster("peer", self._between, transport_socket=tls)
        outbound = common.listener("outbound", self.http, [_manager(self.logs["client"], everything("peer"), [])])
        manager = _manager(
            self.logs["server"], everything("web"), [_policy()], forward_client_cert_details="APPEND_FORWARD"
        )
        accept = common.tls_server(files["server"], None, "http/1.1")
        inbound = common.listener("inbound", self._between, [manager], accept)
        web = _cluster("web", Address(config.ORIGIN, config.HTTP_PORT))
        return {
            "server": common.bootstrap("server", [inbound], [web]),
            "client": common.bootstrap("client", [outbound], [peer]),
        }
