"""`ambient ztunnel-config`: columns, and what it says when nobody answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from ambient import ztunnel_config
from ambient.ztunnel_config import command
from meshcore.errors import MeshError

LEAF = {
    "pem": "LS0t",
    "serialNumber": "255",
    "validFrom": "2020-01-01T00:00:00Z",
    "expirationTime": "2099-01-01T00:00:00Z",
}
OLD = LEAF | {"expirationTime": "2021-01-01T00:00:00Z"}

DUMP: dict[str, Any] = {
    "workloads": [
        {
            "workloadIps": ["10.0.0.2"],
            "protocol": "HBONE",
            "name": "web",
            "namespace": "shop",
            "node": "n1",
            "waypoint": {"destination": "shop/way.shop.svc", "hboneMtlsPort": 15008},
        },
        {"workloadIps": ["10.0.0.1"], "protocol": "TCP", "name": "cli", "namespace": "a"},
    ],
    "services": [
        {
            "name": "way",
            "namespace": "shop",
            "hostname": "way.shop.svc",
            "vips": ["/10.9.0.1"],
            "endpoints": {"u1": {"status": "Healthy"}, "u2": {"status": "Unhealthy"}},
        }
    ],
    "policies": [{"name": "p", "namespace": "shop", "action": "Deny", "scope": "Namespace"}],
    "certificates": [
        {"identity": "spiffe://x", "state": "Available", "certChain": [LEAF], "rootCerts": [OLD]},
        {"identity": "spiffe://y", "state": "Initializing", "certChain": [], "rootCerts": []},
    ],
    "workloadState": {
        "u": {
            "state": "Up",
            "info": {"name": "cli", "namespace": "a", "serviceAccount": "s"},
            "connections": {
                "inbound": [{"src": "10.0.0.2:1", "originalDst": None, "actualDst": "10.0.0.1:80", "protocol": "TCP"}],
                "outbound": [
                    {
                        "src": "10.0.0.1:2",
                        "originalDst": "10.9.0.1:80",
                        "actualDst": "10.0.0.2:15008",
                        "protocol": "HBONE",
                    }
                ],
            },
        }
    },
}


@pytest.fixture
def admin() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(DUMP).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()]


def test_workloads(admin: str) -> None:
    assert cells(run("workloads", "--admin", admin)) == [
        ["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"],
        ["a", "cli", "10.0.0.1", "None", "TCP"],
        ["shop", "web", "10.0.0.2", "n1", "way", "HBONE"],
    ]


def test_services_and_policies(admin: str) -> None:
    assert cells(run("services", "--admin", admin))[1] == ["shop", "way", "10.9.0.1", "None", "1/2"]
    assert cells(run("policies", "--admin", admin))[1] == ["shop", "p", "Deny", "Namespace"]


def test_certificates(admin: str) -> None:
    rows = cells(run("certificates", "--admin", admin))
    assert rows[1][:5] == ["spiffe://x", "Leaf", "Available", "true", "ff"]
    assert rows[2][:4] == ["spiffe://x", "Root", "Available", "false"]
    assert rows[3] == ["spiffe://y", "Leaf", "Initializing", "false"]


def test_connections_name_both_sides(admin: str) -> None:
    assert cells(run("connections", "--admin", admin))[1:] == [
        ["cli.a", "Inbound", "10.0.0.1:80", "web.shop:1", "TCP"],
        ["cli.a", "Outbound", "10.0.0.1:2", "web.shop:15008", "way.shop.svc:80", "HBONE"],
    ]


def test_json_yaml_and_all(admin: str) -> None:
    assert json.loads(run("policies", "-o", "json", "--admin", admin)) == DUMP["policies"]
    assert json.loads(run("all", "-o", "json", "--admin", admin)) == DUMP
    assert "scope: Namespace" in run("policies", "-o", "yaml", "--admin", admin)
    assert "---" in json.loads(run("certificates", "-o", "json", "--admin", admin))[0]["certChain"][0]["pem"]
    assert run("all", "--admin", admin).count("NAMESPACE") == 3


def test_nobody_answers() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(MeshError, match=f"127.0.0.1:{port}.*is a ztunnel running there"):
            CliRunner().invoke(command, ["workloads", "--admin", f"127.0.0.1:{port}"], catch_exceptions=False)


def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(MeshError, match="/run/netns/no-such-netns"):
        CliRunner().invoke(command, ["workloads", "--netns", "no-such-netns"], catch_exceptions=False)


@pytest.mark.parametrize("admin", ["x", "host:", "host:0", "host:99999"])
def test_a_wrong_address_is_refused(admin: str) -> None:
    result = CliRunner().invoke(command, ["workloads", "--admin", admin])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output


def test_a_table_has_its_header_when_empty() -> None:
    assert ztunnel_config.table(*ztunnel_config.policies({})) == "NAMESPACE   POLICY NAME   ACTION   SCOPE"
