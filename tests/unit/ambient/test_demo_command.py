"""`ambient demo` and `ambient exec` as commands: what they refuse, and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from ambient import exec as ambient_exec
from ambient.demo import cleanup, manifests, state, topology
from ambient.demo.cli import command
from ambient.demo.errors import DemoBusy, DemoError, NoDemo
from ambient.demo.processes import start_time
from ambient.demo.scenarios import ALL
from ambient.demo.scenarios.base import Scenario
from ambient.demo.table import as_object


@pytest.fixture
def running() -> state.Running:
    """This very process: it is alive as long as the test."""
    return state.Running("pytest", os.getpid(), start_time(os.getpid()) or 0)


def test_scenarios_have_names_of_their_own() -> None:
    names = [each.name for each in ALL]
    assert len(set(names)) == len(names)


def test_list_names_every_scenario() -> None:
    printed = CliRunner().invoke(command, ["--list"]).output
    assert [line.split()[0] for line in printed.splitlines()] == [each.name for each in ALL]


def test_a_wrong_name_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(command, ["--only", "stict"])
    assert result.exit_code == 2
    assert "did you mean 'strict'?" in result.output


def test_the_json_object_has_the_promised_shape() -> None:
    scenario = Scenario("a", "A", lambda _: "")
    assert as_object([(scenario, True, "3 of 3", 0.1), (scenario, False, "nothing", 0.1)]) == {
        "scenarios": [
            {"name": "a", "ok": True, "observed": "3 of 3"},
            {"name": "a", "ok": False, "observed": "nothing"},
        ],
        "ok": False,
    }


def test_exec_without_a_mesh_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NoDemo, match="ambient demo --keep"):
        state.find(tmp_path)


def test_exec_in_an_unknown_pod_names_those_there_are(running: state.Running) -> None:
    mesh = state.State(running, rootless=False, namespaces={"web-1": running, "frontend": running})
    with pytest.raises(NoDemo, match="frontend, web-1"):
        ambient_exec.enter_line(mesh, "web-9", ["true"])


def test_exec_enters_the_network_and_without_root_the_user_namespace(running: state.Running) -> None:
    mesh = state.State(running, rootless=False, namespaces={"web-1": running})
    line = ambient_exec.enter_line(mesh, "shop/web-1", ["curl", "-s", "x"])
    assert line == ["nsenter", "--target", str(running.pid), "--net", "--", "curl", "-s", "x"]
    rootless = msgspec.structs.replace(mesh, rootless=True)
    assert {"--user", "--preserve-credentials"} <= set(ambient_exec.enter_line(rootless, "web-1", ["true"]))


def test_a_reused_pid_is_not_taken_for_the_process(running: state.Running) -> None:
    assert running.alive
    assert not msgspec.structs.replace(running, started=running.started + 1).alive


def test_leftovers_never_include_the_caller(running: state.Running, tmp_path: Path) -> None:
    other = msgspec.structs.replace(running, started=running.started + 1)
    mesh = state.State(other, rootless=False, namespaces={"web-1": other}, processes=(other,))
    assert cleanup.leftovers(tmp_path, mesh) == {}


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoError, match=r"thesis\.txt"):
        state.RunDir(tmp_path).acquire()
    assert (tmp_path / "thesis.txt").exists()


def test_one_demo_at_a_time(tmp_path: Path) -> None:
    first, second = state.RunDir(tmp_path / "run"), state.RunDir(tmp_path / "run")
    first.acquire()
    with pytest.raises(DemoBusy, match=str(os.getpid())):
        second.acquire()
    first.remove()
    assert not (tmp_path / "run").exists()
    second.acquire()
    second.remove()


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="too long"):
        state.RunDir(tmp_path / ("x" * 100)).acquire()


def test_manifests_are_replaced_as_a_whole(tmp_path: Path) -> None:
    directory = manifests.ManifestDir(tmp_path)
    directory.write("namespaces", manifests.namespaces(enrolled=True))
    directory.write("namespaces", manifests.namespaces(enrolled=False))
    (path,) = tmp_path.iterdir()
    found = list(yaml.safe_load_all(path.read_text()))
    assert [each["kind"] for each in found] == ["Namespace"] * 4
    assert not any("labels" in each["metadata"] for each in found)
    directory.remove("namespaces")
    directory.remove("namespaces")
    assert list(tmp_path.iterdir()) == []


def test_a_pod_that_is_made_again_has_another_uid() -> None:
    first, second = (manifests.pod_uid(topology.WEB_3, generation) for generation in (1, 2))
    assert first != second
    assert manifests.pod_uid(topology.WEB_1, 1) != manifests.pod_uid(topology.WEB_2, 1)


def test_endpoints_are_those_of_the_service() -> None:
    pods = {pod.name: pod for pod in topology.PODS}
    found = manifests.endpoint_slice(topology.WEB, pods, dict.fromkeys(pods, "uid"))
    assert [each["targetRef"]["name"] for each in found["endpoints"]] == ["web-1", "web-2"]
