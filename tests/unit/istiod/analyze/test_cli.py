"""`ambient analyze` from the command line: what it prints where, and how it ends."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from ambient import cli
from istiod.analyze import config
from istiod.analyze.cli import EXIT_FOUND
from istiod.kube import credentials
from tests.support.apiserver import KubeApi, api_server
from tests.unit.istiod.analyze.samples import WEB, route
from tests.unit.istiod.analyze.support import obj
from tests.unit.istiod.kube.support import control_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """An error, a warning and a message."""
    path = tmp_path / "bad.yaml"
    weak = obj("DestinationRule", "d", "{host: web}", namespace="shop")
    path.write_text(
        route("{host: gone}", hosts="[gone]", namespace="shop")
        + weak
        + obj("Service", "s", "{ports: [{name: x, port: 1}]}")
    )
    return str(path)


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(WEB)
    return str(path)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with api_server(token="admin-token") as found:
        yield found


def kubeconfig(api: KubeApi, path: Path, namespace: str = "shop") -> str:
    parts = {
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": api.token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(parts))
    return str(path)


def test_what_is_in_order_is_said_in_one_line(good: str, capsys: Capture) -> None:
    assert cli.run(["analyze", good]) == 0
    assert capsys.readouterr().out == f"No validation issues found when analyzing {good}.\n"


def test_errors_end_with_the_code_of_upstream(bad: str, capsys: Capture) -> None:
    assert cli.run(["analyze", bad]) == EXIT_FOUND == 79
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines() if not line.startswith(" ")] == [
        "Error",
        "Warning",
        "Info",
    ]
    assert f"Error [IST0101] (VirtualService shop/vs {bad}:5) spec.http[0].route[0].destination.host: host" in said.out
    assert said.err == f"Found when analyzing {bad}: 1 error, 1 warning, 1 remark.\n"


@pytest.mark.parametrize(
    ("options", "code", "levels"),
    [
        (["-n", "default"], 0, ["Info"]),
        (["-n", "default", "--failure-threshold", "Info"], 79, ["Info"]),
        (["--output-threshold", "warning"], 79, ["Error", "Warning"]),
        (["-n", "default", "--output-threshold", "Error", "--failure-threshold", "Info"], 79, []),
        (["-S", "IST0101=VirtualService *.shop"], 0, ["Warning", "Info"]),
        (["-S", "IST0101=VirtualService *.shop", "--failure-threshold", "warning"], 79, ["Warning", "Info"]),
    ],
)
def test_options_choose_what_is_told_and_what_fails(
    bad: str, options: list[str], code: int, levels: list[str], capsys: Capture
) -> None:
    assert cli.run(["analyze", bad, "-o", "json", *options]) == code
    assert [one["level"] for one in msgspec.json.decode(capsys.readouterr().out)] == levels


def test_output_for_programs_is_nothing_but_that(good: str, capsys: Capture) -> None:
    assert cli.run(["analyze", good, "-o", "yaml"]) == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out) == []
    assert said.err.startswith("No validation issues found")


def test_the_standard_input_is_analysed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    text = route("{host: gone}").encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert cli.run(["analyze", "-"]) == EXIT_FOUND
    assert "stdin:5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to analyse"),
        (["no/such/file.yaml"], "no such file or directory"),
        (["-k", "-n", "a", "-A"], "exclude each other"),
        ([".", "-S", "IST0101"], "--suppress"),
        (["-k", "--kubeconfig", "/no/such/config"], "/no/such/config"),
    ],
)
def test_a_mistake_of_the_caller_is_one_line(arguments: list[str], words: str, capsys: Capture) -> None:
    assert cli.run(["analyze", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ambient: error: ")
    assert words in said
    assert said.count("\n") == 1


def test_an_empty_directory_is_noticed(tmp_path: Path, capsys: Capture) -> None:
    assert cli.run(["analyze", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"There are no objects in {tmp_path}.\n"


def test_the_codes_are_listed(capsys: Capture) -> None:
    assert cli.run(["analyze", "--list-codes"]) == 0
    assert "IST0101  Error    ReferencedResourceNotFound\n" in capsys.readouterr().out


def test_a_cluster_is_analysed_in_the_namespace_of_the_context(api: KubeApi, tmp_path: Path, capsys: Capture) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}
    control_of(api).put({**service, "spec": {"ports": [{"name": "x", "port": 80}]}})
    found = kubeconfig(api, tmp_path / "config")
    assert cli.run(["analyze", "--kube", "--kubeconfig", found]) == 0
    assert capsys.readouterr().out.startswith("Info [IST0118] (Service shop/web) spec.ports[0].name: ")
    assert cli.run(["analyze", "--kube", "--kubeconfig", found, "-n", "default"]) == 0
    assert capsys.readouterr().out == "No validation issues found when analyzing namespace: default.\n"


def test_files_are_laid_over_the_cluster(api: KubeApi, tmp_path: Path, capsys: Capture) -> None:
    web = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}
    control_of(api).put({**web, "spec": {"ports": [{"name": "http", "port": 80}]}})
    found = kubeconfig(api, tmp_path / "config")
    (tmp_path / "vs.yaml").write_text(route("{host: web}", namespace="shop"))
    arguments = ["analyze", "-k", "-A", "--kubeconfig", found, str(tmp_path / "vs.yaml"), "-S", "AMB0005=*"]
    assert cli.run(arguments) == 0
    assert capsys.readouterr().out == "No validation issues found when analyzing all namespaces.\n"
    (tmp_path / "vs.yaml").write_text(route("{host: web, port: {number: 81}}", namespace="shop"))
    assert cli.run(arguments) == EXIT_FOUND


def test_objects_of_files_without_a_namespace_are_of_that_of_the_context(
    api: KubeApi, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n")
    found = kubeconfig(api, tmp_path / "config")
    assert cli.run(["analyze", "-k", "--kubeconfig", found, str(tmp_path / "a.yaml")]) == 0
    assert "(Service shop/a " in capsys.readouterr().out


def test_the_kubeconfig_is_the_first_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".kube").mkdir()
    for name in ("one", ".kube/config"):
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{tmp_path / 'one'}")
    assert config.kubeconfig() == str(tmp_path / "one")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert config.kubeconfig() == ""
    monkeypatch.delenv("KUBECONFIG")
    assert config.kubeconfig() == str(tmp_path / ".kube/config")


def test_without_a_kubeconfig_and_outside_of_a_pod_the_way_to_name_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", str(tmp_path / "none"))
    assert cli.run(["analyze", "--kube"]) == 1
    assert "name --kubeconfig" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    arguments = ["analyze", "--kube", "--kubeconfig", kubeconfig(api, tmp_path / "config")]
    assert cli.run(arguments) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.run(arguments) == 0
    said = capsys.readouterr()
    assert "reading pods" in said.err
    assert said.err.endswith("\r\x1b[K")
    assert "reading" not in said.out
