"""`ambient proxy-status`: columns, one proxy in detail, and what it says when nobody answers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ambient.cli import cli
from ambient.proxy_status import command
from meshcore.errors import MeshError
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream import Node
from tests.unit.istiod.support import Mesh, pod

ENVOY = "type.googleapis.com/envoy.config."
ZTUNNEL = {
    "proxy": "ztunnel~10.0.0.7~ztunnel-a.istio-system~cluster.local",
    "connectionId": "ztunnel-a.istio-system-1",
    "cluster": "Kubernetes",
    "istiod": "istiod-0",
    "version": "1.2",
    "identity": "spiffe://cluster.local/ns/istio-system/sa/ztunnel",
    "types": {
        ADDRESS_TYPE: {"name": "WDS", "state": "ERROR", "sent": 3, "acked": 2, "held": 9, "rejected": "uid-1: bad"},
        AUTHORIZATION_TYPE: {"name": "WADS", "state": "SYNCED", "sent": 1, "acked": 1, "lastRejected": "p: once"},
    },
}
WAYPOINT = {
    "proxy": "waypoint~10.0.0.8~way.shop~cluster.local",
    "cluster": "Kubernetes",
    "istiod": "istiod-0",
    "version": "1.30",
    "types": {
        f"{ENVOY}cluster.v3.Cluster": {"name": "CDS", "state": "SYNCED"},
        f"{ENVOY}listener.v3.Listener": {"name": "LDS", "state": "STALE"},
        f"{ENVOY}endpoint.v3.ClusterLoadAssignment": {"name": "EDS", "state": "SYNCED"},
        f"{ENVOY}route.v3.RouteConfiguration": {"name": "RDS", "state": "NOT SENT"},
        "new/Kind": {"name": "Kind", "state": "SYNCED"},
    },
}
SILENT = {"proxy": "", "cluster": "Kubernetes", "istiod": "istiod-0", "version": "unknown", "types": {}}


class Istiod:
    """Answers every path with one body."""

    def __init__(self) -> None:
        self.body: bytes = json.dumps([WAYPOINT, ZTUNNEL, SILENT]).encode()
        self.status = 200
        self.paths: list[str] = []
        self.address = ""


@pytest.fixture
def istiod() -> Iterator[Istiod]:
    state = Istiod()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.paths.append(self.path)
            self.send_response(state.status)
            self.send_header("content-length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.address = f"127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join(10)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()]


def test_the_table(istiod: Istiod) -> None:
    assert cells(run("--istiod", istiod.address)) == [
        ["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"],
        ["?", "Kubernetes", "istiod-0", "unknown", "0"],
        ["way.shop", "Kubernetes", "istiod-0", "1.30", "5 (CDS,LDS,EDS,RDS,Kind)"],
        ["ztunnel-a.istio-system", "Kubernetes", "istiod-0", "1.2", "2 (WADS,WDS)"],
    ]
    assert istiod.paths == ["/debug/syncz"]


def test_a_column_for_each_type(istiod: Istiod) -> None:
    rows = cells(run("--istiod", istiod.address, "--verbose"))
    types = ["CDS", "LDS", "EDS", "RDS", "ECDS", "WADS", "WDS", "Kind"]
    assert rows[0] == ["NAME", "CLUSTER", *types, "ISTIOD", "VERSION"]
    states = {row[0]: row[2:-2] for row in rows}
    assert states["way.shop"] == ["SYNCED", "STALE", "SYNCED", "NOT SENT", "IGNORED", "IGNORED", "IGNORED", "SYNCED"]
    assert states["ztunnel-a.istio-system"] == [*["IGNORED"] * 5, "SYNCED", "ERROR", "IGNORED"]


@pytest.mark.parametrize("name", ["ztunnel-a", "ztunnel-a.istio-system", ZTUNNEL["proxy"], ZTUNNEL["connectionId"]])
def test_one_proxy(istiod: Istiod, name: str) -> None:
    text = run(name, "--istiod", istiod.address)
    assert "Identity:   spiffe://cluster.local/ns/istio-system/sa/ztunnel\n" in text
    assert ["WDS", "ERROR", "3", "2", "9", ADDRESS_TYPE] in cells(text)
    assert "WDS was refused: uid-1: bad" in text
    assert "WADS was refused before, and accepted since: p: once" in text
    assert "way.shop" not in text


def test_json_and_several_replicas(istiod: Istiod) -> None:
    assert json.loads(run("-o", "json", "--istiod", istiod.address)) == [WAYPOINT, ZTUNNEL, SILENT]
    assert json.loads(run("way", "-o", "json", "--istiod", istiod.address)) == [WAYPOINT]
    twice = run("--istiod", istiod.address, "--istiod", istiod.address)
    assert len(twice.splitlines()) == 7


def test_both_forms_of_a_workload_are_one_column(istiod: Istiod) -> None:
    types: dict[str, Any] = {"a": {"name": "WDS", "state": "STALE"}, "b": {"name": "WDS", "state": "SYNCED"}}
    istiod.body = json.dumps([{"proxy": "p", "types": types}]).encode()
    assert "STALE" in run("--istiod", istiod.address, "--verbose")
    assert "1 (WDS)" in run("--istiod", istiod.address)


def test_a_proxy_that_is_not_there(istiod: Istiod) -> None:
    with pytest.raises(MeshError, match=f"no proxy 'nobody' is connected to {istiod.address}"):
        CliRunner().invoke(command, ["nobody", "--istiod", istiod.address], catch_exceptions=False)


def test_nobody_answers() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(MeshError, match=f"127.0.0.1:{port}.*is an istiod running there.*port-forward"):
            CliRunner().invoke(command, ["--istiod", f"127.0.0.1:{port}"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b"only for callers on this host\n", "status 403: only for callers on this host"),
        (200, b"<html>", "something that is not JSON"),
        (200, b'{"workloads": []}', "something else than istiod"),
        (200, b'[{"types": {}}]', "something else than istiod"),
    ],
)
def test_something_else_answers(istiod: Istiod, status: int, body: bytes, words: str) -> None:
    istiod.status, istiod.body = status, body
    with pytest.raises(MeshError, match=words):
        CliRunner().invoke(command, ["--istiod", istiod.address], catch_exceptions=False)


def test_a_wrong_address_is_a_usage_error() -> None:
    result = CliRunner().invoke(command, ["--istiod", "here"])
    assert result.exit_code == 2
    assert "--istiod 'here' is not of the form HOST:PORT" in result.output


def test_the_command_is_known() -> None:
    assert "proxy-status" in CliRunner().invoke(cli, ["--help"]).output


def test_a_real_istiod(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    (mesh.config / "web.yaml").write_text(pod("web"))
    node = Node("ztunnel~1.1.1.1~zt.istio-system~x", namespace="istio-system", version="9.9")

    async def scenario() -> None:
        await mesh.istiod.http.start("127.0.0.1", 0)
        address = f"127.0.0.1:{mesh.istiod.http.port}"
        async with asyncio.timeout(20), mesh.running(), mesh.subscriber(node=node) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE)
            await subscriber.client.ready(AUTHORIZATION_TYPE)
            metrics = mesh.istiod.metrics
            await subscriber.until(lambda: metrics.get("pilot_xds_send_time") == 2)
            row = cells(await asyncio.to_thread(run, "--istiod", address))[1]
            assert (row[0], row[3], row[4]) == ("zt.istio-system", "9.9", "2 (WADS,WDS)")
            await subscriber.until(
                lambda: all(not one.waiting for p in mesh.istiod.proxies.values() for one in p.types.values())
            )
            assert "SYNCED" in await asyncio.to_thread(run, "zt", "--istiod", address)

    asyncio.run(scenario())
