"""`ambient ztunnel-config`: columns, and what it says when nobody answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ambient import pages, ztunnel_config
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


def test_one_name_for_a_subject_is_as_good_as_the_other(admin: str) -> None:
    for one, many in ztunnel_config.ALIASES.items():
        assert run(one, "--admin", admin) == run(many, "--admin", admin)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("workloads", "--workload-namespace", "shop"), ["web"]),
        (("workloads", "--workload-node", "n1"), ["web"]),
        (("workloads", "--address", "10.0.0.1"), ["cli"]),
        (("workloads", "--workload-namespace", "a", "--address", "10.0.0.1"), ["cli"]),
        (("services", "--service-namespace", "a"), []),
        (("services", "--service-namespace", "shop"), ["way"]),
        (("policies", "--policy-namespace", "a"), []),
    ],
)
def test_filters(admin: str, arguments: tuple[str, ...], names: list[str]) -> None:
    assert [row[1] for row in cells(run(*arguments, "--admin", admin))[1:]] == names
    assert [one["name"] for one in json.loads(run(*arguments, "-o", "json", "--admin", admin))] == names


def test_connections_of_one_direction_and_without_names(admin: str) -> None:
    assert cells(run("connections", "--direction", "inbound", "--admin", admin))[1:] == [
        ["cli.a", "Inbound", "10.0.0.1:80", "web.shop:1", "TCP"]
    ]
    assert cells(run("connections", "--direction", "outbound", "--raw", "--admin", admin))[1:] == [
        ["cli.a", "Outbound", "10.0.0.1:2", "10.0.0.2:15008", "10.9.0.1:80", "HBONE"]
    ]
    found = json.loads(run("connections", "--direction", "outbound", "-o", "json", "--admin", admin))
    assert {side: len(each) for side, each in found["u"]["connections"].items()} == {"inbound": 0, "outbound": 1}


def test_connections_of_one_namespace_still_name_peers_of_others(admin: str) -> None:
    rows = cells(run("connections", "--workload-namespace", "a", "--admin", admin))[1:]
    assert [row[3] for row in rows] == ["web.shop:1", "web.shop:15008"]
    assert cells(run("connections", "--workload-namespace", "shop", "--admin", admin))[1:] == []


def test_a_saved_dump(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(json.dumps(DUMP))
    assert cells(run("policies", "--file", str(file)))[1] == ["shop", "p", "Deny", "Namespace"]
    piped = CliRunner().invoke(command, ["policies", "--file", "-"], input=json.dumps(DUMP))
    assert piped.output == run("policies", "--file", str(file))


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not JSON"), ("[]", "not the config dump"), ("{}", "not the config dump")]
)
def test_a_file_that_is_no_dump(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "dump.json"
    file.write_text(content)
    with pytest.raises(MeshError, match=words):
        run("policies", "--file", str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match=r"--file .*gone.json: No such file"):
        run("policies", "--file", str(tmp_path / "gone.json"))


def test_only_one_place_to_look() -> None:
    result = CliRunner().invoke(command, ["policies", "--file", "x", "--node", "node-1"])
    assert result.exit_code == 2
    assert "give one" in result.output


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
    assert pages.table(*ztunnel_config.policies({})) == "NAMESPACE   POLICY NAME   ACTION   SCOPE"
