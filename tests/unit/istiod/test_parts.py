"""Publishing, settings and the command."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from istiod import config
from istiod.cli import command
from istiod.metrics import Metrics
from istiod.push import Published, Pusher
from istiod.translate.graph import Diff
from meshcore.errors import ConfigError, MeshError
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE

NEEDED = {"config_dir": "c", "state_dir": "s"}


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), max_size=6))
def test_only_what_changed_is_told_and_encoded_again(states: list[dict[str, int]]) -> None:
    published = Published()
    told: list[frozenset[str]] = []
    published.listen(lambda url, names: told.append(names) if url == ADDRESS_TYPE else None)
    before: dict[str, int] = {}
    for state in states:
        resources = dict(published.resources[ADDRESS_TYPE])
        told.clear()
        gone = dict.fromkeys(before.keys() - state.keys())
        changed = published.update(ADDRESS_TYPE, {**gone, **state})
        assert changed == {name for name in before.keys() | state.keys() if before.get(name) != state.get(name)}
        assert told == ([changed] if changed else [])
        now = published.resources[ADDRESS_TYPE]
        assert now.keys() == state.keys()
        assert all(now[name] is resources[name] for name in state.keys() - changed)
        before = state


def test_equal_content_has_an_equal_version_everywhere() -> None:
    one, two = Published(), Published()
    for published in (one, two):
        published.update(AUTHORIZATION_TYPE, {"a": ["x"]})
    assert one.resources[AUTHORIZATION_TYPE]["a"] == two.resources[AUTHORIZATION_TYPE]["a"]


def pusher(after: float, longest: float) -> tuple[Pusher, list[float]]:
    calls: list[float] = []

    def compute() -> list[Diff]:
        calls.append(asyncio.get_running_loop().time())
        return []

    return Pusher(Published(), compute, Metrics(), after=after, longest=longest), calls


def test_changes_that_follow_each_other_closely_are_pushed_once() -> None:
    async def scenario() -> None:
        push, calls = pusher(0.1, 10)
        stop = asyncio.Event()
        task = asyncio.create_task(push.run(stop))
        for _ in range(5):
            push.trigger(["Pod"])
            await asyncio.sleep(0.01)
        last = asyncio.get_running_loop().time()
        while not calls:  # noqa: ASYNC110 - what is awaited is a call, which sets no event
            await asyncio.sleep(0.01)
        assert calls[0] - last >= 0.08
        stop.set()
        await task
        assert len(calls) == 1

    run(scenario())


def test_an_endless_stream_of_changes_is_pushed_at_the_limit() -> None:
    async def scenario() -> None:
        push, calls = pusher(0.2, 0.3)
        stop = asyncio.Event()
        task = asyncio.create_task(push.run(stop))
        while not calls:
            push.trigger(["Pod"])
            await asyncio.sleep(0.01)
        stop.set()
        await task

    run(scenario())


@pytest.mark.parametrize(
    ("value", "seconds"), [("100ms", 0.1), ("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)]
)
def test_durations(value: str, seconds: float) -> None:
    assert config.duration(value, "X") == seconds


@pytest.mark.parametrize("value", ["", "5", "s", "1x", "1h 2m", "-1s"])
def test_bad_durations(value: str) -> None:
    with pytest.raises(ConfigError, match="X: "):
        config.duration(value, "X")


def test_an_option_wins_over_the_environment() -> None:
    environment = {
        "TRUST_DOMAIN": "env",
        "CLUSTER_ID": "c1",
        "PILOT_DEBOUNCE_AFTER": "50ms",
        "CA_TRUSTED_NODE_ACCOUNTS": "a/b, c/d",
    }
    settings = config.load(NEEDED | {"trust_domain": "option", "port": None}, environment)
    assert (settings.trust_domain, settings.cluster_id, settings.debounce_after) == ("option", "c1", 0.05)
    assert settings.trusted_node_accounts == ("a/b", "c/d")
    assert settings.port == 15012


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        ({"port": 70000}, {}, "--port"),
        ({}, {"PILOT_DEBOUNCE_MAX": "soon"}, "PILOT_DEBOUNCE_MAX"),
        ({}, {"CA_TRUSTED_NODE_ACCOUNTS": "ztunnel"}, "CA_TRUSTED_NODE_ACCOUNTS"),
        ({}, {"MAX_WORKLOAD_CERT_TTL": "1h"}, "DEFAULT_WORKLOAD_CERT_TTL"),
        ({}, {"DEFAULT_WORKLOAD_CERT_TTL": "1s"}, "DEFAULT_WORKLOAD_CERT_TTL"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.load(NEEDED | options, environment)


def test_a_token_from_the_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["token", "--state-dir", str(tmp_path), "--node", "n1", "--ttl", "1h"])
    assert done.exit_code == 0
    key = (tmp_path / "token-key").read_bytes()
    assert (tmp_path / "token-key").stat().st_mode & 0o777 == 0o600
    claims = jwt.decode(done.output.strip(), key, ["HS256"], audience="istio-ca")
    assert (claims["sub"], claims["node"]) == ("istio-system/ztunnel", "n1")
    assert claims["exp"] - claims["iat"] == 3600
    again = CliRunner().invoke(command, ["--state-dir", str(tmp_path), "token", "--node", "n1"])
    assert again.exit_code == 0
    assert (tmp_path / "token-key").read_bytes() == key


@pytest.mark.parametrize("arguments", [["token", "--node", "n"], ["token", "--state-dir", "x"]])
def test_missing_options_are_usage_errors(arguments: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert "Missing option" in done.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"config_dir": "c"}, "--state-dir: missing"),
        ({"state_dir": "s"}, "--state-dir: goes with --config-dir only"),
        ({"status_dir": "s"}, "--status-dir: goes with --config-dir only"),
        ({"context": "c"}, "--context: goes with --kubeconfig only"),
    ],
)
def test_a_directory_or_a_cluster_and_never_half_of_either(options: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}"):
        config.load(options, {})


def test_a_bad_node_name_is_a_clear_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["token", "--state-dir", str(tmp_path), "--node", "a/b"])
    assert isinstance(done.exception, MeshError)
    assert "--node" in str(done.exception)


def test_the_process_starts_says_what_is_wrong_live_and_stops_on_sigterm(tmp_path: Path) -> None:
    config_dir, state = tmp_path / "config", tmp_path / "state"
    config_dir.mkdir()
    arguments = ["--config-dir", str(config_dir), "--state-dir", str(state), "--address", "127.0.0.1"]
    arguments += ["--port", "0", "--http-port", "0", "--monitoring-port", "0"]
    program = "from istiod.cli import command; command()"
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), True)
        assert "serving on 127.0.0.1:" in process.stderr.readline()
        (config_dir / "bad.yaml").write_text(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n  action: DENI\n"
        )
        line = process.stderr.readline()
        assert f"{config_dir}/bad.yaml:5: AuthorizationPolicy default/x: spec.action: 'DENI'" in line
        assert "did you mean DENY?" in line
        (config_dir / "bad.yaml").unlink()
        assert "in order again" in process.stderr.readline()
        assert "BEGIN CERTIFICATE" in (state / "root-cert.pem").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait(5)
