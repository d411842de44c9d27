"""What is written for Envoy in pods: Envoy accepts it, people can read it, and it says what the scenarios rely on."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import config
from bench.certs import Authority, LeafFiles
from bench.envoy import common, hbone, sidecar, waypoint
from bench.envoy.capture import TABLE, Rules, removal
from bench.envoy.common import Json, Party, Setup
from bench.errors import BenchError

ADDRESSES = {"client": "10.77.1.31", "server": "10.77.2.31", "waypoint": "10.77.2.131"}
ROUTES = 10_000

Configs = Callable[[Setup], dict[str, Json]]


def setup_with(files: Callable[[str], LeafFiles], logs: Path) -> Setup:
    client, server, own = (Party(address, role, files(role)) for role, address in ADDRESSES.items())
    return Setup(client, server, logs, own)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    directory = tmp_path_factory.mktemp("envoy")
    authority = Authority()
    return setup_with(lambda role: authority.issue_files(role, directory), directory)


def validate(path: Path, level: str) -> subprocess.CompletedProcess[str]:
    command = [common.binary(), "--mode", "validate", "-c", str(path), "-l", level]
    environment = config.child_environment(path.parent)
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environment)


@pytest.mark.parametrize(
    "configs",
    [
        sidecar.configs,
        hbone.configs,
        lambda setup: waypoint.configs(setup, 1),
        lambda setup: waypoint.configs(setup, 50),
        lambda setup: waypoint.configs(setup, ROUTES),
    ],
    ids=["sidecar", "hbone", "waypoint-1", "waypoint-50", f"waypoint-{ROUTES}"],
)
def test_envoy_accepts_it(configs: Configs, setup: Setup, tmp_path: Path) -> None:
    for role, bootstrap in configs(setup).items():
        path = tmp_path / f"{role}.json"
        path.write_text(common.dump(bootstrap))
        done = validate(path, "warning")
        assert done.returncode == 0, done.stderr
        # A field on its way out would be gone with some next Envoy.
        assert "deprecated" not in done.stderr.lower(), done.stderr


def test_a_wrong_field_is_not_accepted(setup: Setup, tmp_path: Path) -> None:
    """The test above can fail."""
    path = tmp_path / "client.json"
    path.write_text(common.dump(hbone.client(setup, setup.server) | {"no_such_field": 1}))
    done = validate(path, "error")
    assert done.returncode != 0
    assert "no_such_field" in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": []},
        {"a": {"b": [1, 2.5, None, True, "x\ny"]}},
        [["long" * 20, {"key": "word " * 20, "list": [{"n": number} for number in range(40)]}]],
    ],
)
def test_what_is_shown_is_what_envoy_gets(value: Any) -> None:
    text = common.dump(value)
    assert json.loads(text) == value
    assert text.endswith("\n")


def nowhere(role: str) -> LeafFiles:
    return LeafFiles(Path(f"/nowhere/{role}.pem"), Path(f"/nowhere/{role}.key"), Path("/nowhere/root.pem"))


def test_showing_needs_no_certificate_and_starts_nothing() -> None:
    """Configurations follow from names alone, so they can be printed where nothing runs."""
    setup = setup_with(nowhere, Path("/nowhere"))
    for configs in (sidecar.configs(setup), hbone.configs(setup), waypoint.configs(setup, 3)):
        for bootstrap in configs.values():
            assert json.loads(common.dump(bootstrap)) == bootstrap


def test_a_large_table_is_shown_in_lines_that_people_can_read() -> None:
    bootstrap = waypoint.configs(setup_with(nowhere, Path("/nowhere")), ROUTES)["waypoint"]
    text = common.dump(bootstrap)
    assert json.loads(text) == bootstrap
    lines = text.splitlines()
    assert max(map(len, lines)) <= 150
    assert len(lines) < 25 * ROUTES  # and not a line for every bracket


def matched(match: Json, path: str, headers: dict[str, str]) -> bool:
    """Envoy's rules for the kinds of match that are used."""
    bare = path.partition("?")[0]
    for wanted in match.get("headers", ()):
        if headers.get(wanted["name"]) != wanted["string_match"]["exact"]:
            return False
    if "path" in match:
        return bool(bare == match["path"])
    if "prefix" in match:
        return bare.startswith(match["prefix"])
    segment = match["path_separated_prefix"]
    return bool(bare == segment or bare.startswith(f"{segment}/"))


@pytest.mark.parametrize("count", [1, 2, 50, ROUTES])
def test_the_page_is_for_the_last_route_alone(count: int) -> None:
    matches = list(waypoint.route_matches(count))
    assert len(matches) == count
    assert [number for number, match in enumerate(matches) if matched(match, waypoint.PAGE, {})] == [count - 1]
    for number, match in enumerate(matches[:-1]):
        header = {waypoint.TENANT_HEADER: f"tenant-{number}"} if "headers" in match else {}
        path = next(match[kind] for kind in ("path", "prefix", "path_separated_prefix") if kind in match)
        # Its own request is for this route, and for no other before it of the same neighbourhood.
        near = matches[max(0, number - 8) : number + 1]
        assert [matched(each, path, header) for each in near] == [False] * (len(near) - 1) + [True]


def walk(value: Any) -> Iterator[Json]:
    """All objects inside a configuration."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(each)


def test_what_leaves_a_pod_is_marked_and_encrypted(setup: Setup) -> None:
    """Every cluster with a real address has the mark; every one that leads out of the pod has mutual TLS 1.3."""
    for configs in (sidecar.configs(setup), hbone.configs(setup), waypoint.configs(setup, 1)):
        for role, bootstrap in configs.items():
            for cluster in bootstrap["static_resources"]["clusters"]:
                if "envoy_internal_address" in json.dumps(cluster) or cluster["name"] == "BlackHoleCluster":
                    continue
                (option,) = cluster["upstream_bind_config"]["socket_options"]
                assert option["int_value"] == setup.mark
                local = role == "server" or cluster["name"] == "PassthroughCluster"
                assert ("transport_socket" in cluster) != local, cluster["name"]
            for found in walk(bootstrap):
                if "tls_params" in found:
                    assert found["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"


def test_the_log_of_the_tunnels_is_where_it_is_looked_for(setup: Setup) -> None:
    configs = hbone.configs(setup)
    paths = {found["path"] for bootstrap in configs.values() for found in walk(bootstrap) if "path" in found}
    assert paths == set(map(str, hbone.logs(setup)))
    assert not any("access_log" in found for bootstrap in sidecar.configs(setup).values() for found in walk(bootstrap))


def test_a_waypoints_path_needs_a_waypoint(setup: Setup) -> None:
    with pytest.raises(BenchError, match="needs a pod for the waypoint"):
        waypoint.configs(setup._replace(waypoint=None), 1)


def test_too_few_descriptors_are_named_before_envoy_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"hard": 20_000}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, limits["hard"]))
    common.require_files(10_000)
    with pytest.raises(BenchError, match=r"20256 file descriptors for 20000 connections, the hard limit is 20000"):
        common.require_files(20_000)
    limits["hard"] = resource.RLIM_INFINITY
    common.require_files(20_000)


def test_the_command_starts_any_number_of_envoys(tmp_path: Path) -> None:
    command = common.command(tmp_path / "x.json", 3)
    assert command[0] == common.binary()
    assert command[command.index("--concurrency") + 1] == "3"
    assert "--disable-hot-restart" in command  # or the second one would ask the first to hand over


@pytest.mark.parametrize("outbound", [False, True])
@pytest.mark.parametrize("inbound", [False, True])
def test_the_rules_capture_what_they_are_asked_to(outbound: bool, inbound: bool) -> None:
    text = Rules(outbound=outbound, inbound=inbound).text()
    assert text.startswith(removal())
    assert ("redirect to :15001" in text, "redirect to :15006" in text) == (outbound, inbound)
    assert ("meta mark & 0xfff == 0x539 return" in text) == outbound
    assert ("tcp dport { 15008 } return" in text) == inbound
    assert text.count("hook") == outbound + inbound
    assert {part.split()[2] for part in text.splitlines() if part.startswith(("add", "delete"))} == {"inet"}
    assert text.count(TABLE) == 3


def test_exempt_ports_come_before_the_redirection() -> None:
    lines = Rules(outbound=True, inbound=True, exempt_outbound=(53, 15012), exempt_inbound=(15008, 15020)).text()
    for ports, target in (("53, 15012", 15001), ("15008, 15020", 15006)):
        assert 0 < lines.index(f"tcp dport {{ {ports} }} return") < lines.index(f"redirect to :{target}")
    assert "{  }" not in Rules(inbound=True, exempt_inbound=()).text()
