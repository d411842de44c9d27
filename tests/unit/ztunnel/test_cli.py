"""The proxy's command line: a user's mistake is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

TIMEOUT_S = 30
MINIMAL = {"PATH": "/usr/bin:/bin"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ztunnel", *arguments],
        env=MINIMAL | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_help_names_the_settings() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in ("XDS_ADDRESS", "AMBIENT_UPCALL_TIMEOUT", "ZTUNNEL_WORKER_THREADS"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"IPV6_ENABLED": "yes"}, "IPV6_ENABLED='yes' is neither true nor false"),
        ({"RUST_LOG": "loud"}, "log level 'loud'"),
        ({"AMBIENT_READINESS_PORT": "1", "AMBIENT_STATS_PORT": "x"}, "AMBIENT_STATS_PORT='x' is not a whole number"),
    ],
)
def test_a_wrong_setting_is_one_line(environment: dict[str, str], named: str) -> None:
    done = run(**environment)
    assert done.returncode == 1
    assert done.stderr.startswith("ztunnel: error: ")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            "proxy", "ztunnel", AMBIENT_READINESS_PORT=str(port), IPV6_ENABLED="false", INPOD_UDS="/nonexistent/zds"
        )
    assert done.returncode == 1
    assert done.stderr == f"ztunnel: error: port {port} cannot be used: Address already in use\n"


def test_an_unknown_command() -> None:
    done = run("prxy")
    assert done.returncode == 2
    assert "prxy" in done.stderr
