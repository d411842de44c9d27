"""Settings, the commands' help and the small HTTP server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni import http
from cni.cli import command
from cni.config import load
from cni.probes import kubelet_uid
from meshcore.errors import ConfigError

PLACES: dict[str, object] = {"config_dir": "/c", "status_dir": "/s"}


def test_an_option_wins_over_the_environment_and_that_over_the_default() -> None:
    environment = {"NODE_NAME": "env", "AMBIENT_IPV6": "false", "EXCLUDE_NAMESPACES": "a,b", "MONITORING_PORT": "1"}
    settings = load({**PLACES, "node": "option", "ipv6": None}, environment)
    assert (settings.node, settings.ipv6, settings.metrics_port) == ("option", False, 1)
    assert settings.excluded_namespaces == {"a", "b"}
    assert settings.health_port == 8000
    assert not settings.dns_capture


@pytest.mark.parametrize(
    "options, environment, text",
    [
        ({}, {}, "give --node, or set NODE_NAME"),
        ({"node": "n"}, {"AMBIENT_IPV6": "maybe"}, "ipv6"),
        ({"node": "n"}, {"MONITORING_PORT": "99999"}, "metrics_port"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load({**PLACES, **options}, environment)


@pytest.mark.parametrize("arguments", [[], ["agent"], ["rules"], ["cleanup"]])
def test_help_has_examples(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [*arguments, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output


def test_a_wrong_namespace_is_an_error_of_ours() -> None:
    result = CliRunner().invoke(command, ["rules", "--netns", "/nowhere"])
    assert "/nowhere: No such file" in str(result.exception)


def test_the_kubelet_is_found_by_name(tmp_path: Path) -> None:
    def process(pid: str, comm: str, cmdline: bytes) -> None:
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(comm + "\n")
        (tmp_path / pid / "cmdline").write_bytes(cmdline)

    process("1", "init", b"/sbin/init")
    process("2", "kubelite", b"/bin/other\0")
    (tmp_path / "3").mkdir()  # a process that just ended
    (tmp_path / "self").mkdir()
    assert kubelet_uid(tmp_path) is None
    process("4", "kubelet", b"/usr/bin/kubelet\0--config")
    assert kubelet_uid(tmp_path) == (tmp_path / "4").stat().st_uid


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\nhost: a\r\n\r\n", b"200 OK"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method"),
        (b"nonsense\r\n\r\n", b"405 Method"),
        (b"x" * 20_000, b""),
        (b"GET /metrics HTTP/1.1\r\n", b""),
    ],
)
def test_http(request_: bytes, status: bytes) -> None:
    async def main() -> bytes:
        metrics = http.Metrics(lambda: 2)
        server = await http.serve(0, {"/metrics": lambda: (200, metrics.render())})
        # Port 0 gives each address family a port of its own, in no particular order.
        port = next(each.getsockname()[1] for each in server.sockets if each.family == socket.AF_INET)
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request_)
                writer.write_eof()
                return await _rest(reader)
        finally:
            server.close()

    answer = asyncio.run(main())
    assert answer.partition(b" ")[2].startswith(status)
    if status == b"200 OK":
        assert b"ztunnel_connected 2\n" in answer
    if not status:
        assert answer == b""


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def test_a_port_that_is_taken_is_named() -> None:
    async def main() -> None:
        server = await http.serve(0, {})
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(ConfigError, match=f"port {port} for /metrics"):
                await http.serve(port, {"/metrics": lambda: (200, "")})
        finally:
            server.close()

    asyncio.run(main())
