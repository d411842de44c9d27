"""From what a source read to the store: nothing is half applied, and what is not used is not kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from istiod.intake import Intake
from istiod.kube.changes import RawChange
from istiod.objects import AuthorizationPolicy, ConfigMap, Pod, Secret, Service
from istiod.resources import BY_STORE_KIND
from istiod.store import Store
from meshcore import yamldoc
from meshcore.manifests import Manifest, Scan

POLICY = (
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec:\n"
    "  rules:\n  - from:\n    - source:\n        principals:\n        - %s\n"
)
KEY = ("AuthorizationPolicy", "default", "x")


def raw(intake: Intake, kind: str, value: dict[str, Any] | None, name: str = "x", namespace: str = "default") -> int:
    body = None if value is None else msgspec.Raw(msgspec.json.encode(value))
    return len(intake.raw(BY_STORE_KIND[kind], [RawChange(namespace, name, body, "1")]))


def meta(**extra: Any) -> dict[str, Any]:
    return {"name": "x", "namespace": "default", **extra}


def test_errors_carry_file_and_line_and_say_what_stays_in_force() -> None:
    intake = Intake(Store())
    for value, errors, changed in (("a", 0, 1), ("''", 1, 0), ("b", 0, 1)):
        document = next(yamldoc.parse(POLICY % value))
        manifest = Manifest(
            "f.yaml", 1, "security.istio.io/v1", "AuthorizationPolicy", "default", "x", document.data, document.text
        )
        changes = intake.scan(Scan({manifest.key: manifest}, frozenset({manifest.key}), frozenset(), ()))
        assert (len(list(intake.errors())), len(changes)) == (errors, changed)
        held = intake.store.of(AuthorizationPolicy)["default", "x"]
        assert held.metadata.namespace == "default"
        assert held.spec.rules[0].from_[0].source.principals == ({"''": "a"}.get(value, value),)
        if errors:
            (error,) = intake.errors()
            assert str(error).startswith(
                "f.yaml:9: AuthorizationPolicy default/x: spec.rules[0].from[0].source.principals"
            )
            assert str(error).endswith("; the previous version stays in force")
    assert len(intake.scan(Scan({}, frozenset(), frozenset({KEY}), ()))) == 1
    assert not intake.findings


@pytest.mark.parametrize(
    "status",
    [
        {
            "conditions": [{"type": "ZtunnelAccepted", "status": "True", "observedGeneration": "3"}]
        },  # as upstream writes it
        {"conditions": [{"type": 1}]},
        {"conditions": "none"},
        "none",
    ],
)
def test_a_status_of_whatever_shape_does_not_keep_an_object_of_the_api_from_being_used(status: Any) -> None:
    intake = Intake(Store())
    policy = {"metadata": meta(), "spec": {"action": "DENY", "rules": [{}]}, "status": status}
    assert raw(intake, "AuthorizationPolicy", policy) == 1
    assert intake.store.of(AuthorizationPolicy)["default", "x"].spec.action == "DENY"
    assert not intake.findings
    assert raw(intake, "AuthorizationPolicy", {**policy, "spec": {"action": "DENY"}}) == 0
    assert [problem.path[0] for problem in intake.findings[KEY].problems] == ["spec"]


def test_an_invalid_object_of_the_api_keeps_its_last_good_version() -> None:
    intake = Intake(Store())
    good = {"metadata": meta(), "spec": {"action": "DENY", "rules": [{}]}}
    assert raw(intake, "AuthorizationPolicy", good) == 1
    assert raw(intake, "AuthorizationPolicy", {"metadata": meta(), "spec": {"action": "DENY"}}) == 0
    assert intake.findings[KEY].refused
    assert intake.findings[KEY].kept
    assert intake.touched == {KEY}
    assert intake.store.of(AuthorizationPolicy)["default", "x"].spec.action == "DENY"
    (error,) = intake.errors()
    assert str(error).startswith("AuthorizationPolicy default/x: spec.rules")
    assert raw(intake, "AuthorizationPolicy", None) == 1
    assert not intake.findings


def test_an_invalid_object_that_never_was_good_is_not_in_force() -> None:
    intake = Intake(Store())
    assert raw(intake, "AuthorizationPolicy", {"metadata": meta(), "spec": {"action": "NOPE"}}) == 0
    assert not intake.findings[KEY].kept
    assert not intake.store.of(AuthorizationPolicy)


def test_a_null_of_the_api_is_an_absent_field() -> None:
    intake = Intake(Store())
    pod = {"metadata": meta(labels=None, creationTimestamp=None), "spec": {"nodeName": None}, "status": {"podIP": None}}
    assert raw(intake, "Pod", pod) == 1
    assert intake.store.of(Pod)["default", "x"].spec.node_name == ""


def test_what_cannot_be_read_at_all_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    intake = Intake(Store())
    raw(intake, "Service", {"metadata": meta(), "spec": {"type": "ClusterIP"}})
    assert raw(intake, "Service", {"metadata": meta(), "spec": {"type": 5}}) == 0
    assert "Service default/x from the API server cannot be read" in caplog.text
    assert ("default", "x") in intake.store.of(Service)


def test_annotations_and_data_that_nobody_reads_are_not_kept() -> None:
    intake = Intake(Store())
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "ambient.istio.io/redirection": "enabled"}
    raw(intake, "Pod", {"metadata": meta(annotations=notes)})
    assert intake.store.of(Pod)["default", "x"].metadata.annotations == {"ambient.istio.io/redirection": "enabled"}
    raw(intake, "ConfigMap", {"metadata": meta(), "data": {"mesh": "{}", "game.properties": "lives=3"}})
    assert intake.store.of(ConfigMap)["default", "x"].data == {"mesh": "{}"}
    raw(intake, "Secret", {"metadata": meta(), "data": {"tls.crt": "YQ==", "password": "aHVudGVyMg=="}})
    secret = intake.store.of(Secret)["default", "x"]
    assert secret.data == {"tls.crt": "YQ=="}
    assert "YQ" not in repr(secret)


def test_a_field_of_a_newer_definition_is_a_warning_in_a_cluster_but_not_in_a_policy() -> None:
    intake = Intake(Store())
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    spec = {"hosts": ["a.example"], "resolution": "DNS", "ports": ports, "newer": 1}
    assert raw(intake, "ServiceEntry", {"metadata": meta(), "spec": spec}) == 1
    (warning,) = intake.warnings()
    assert warning.field == "spec.newer"
    spec = {"action": "DENY", "rules": [{}], "newer": 1}
    assert raw(intake, "AuthorizationPolicy", {"metadata": meta(), "spec": spec}) == 0
    (error,) = intake.errors()
    assert error.field == "spec.newer"


def test_a_kind_that_is_only_recognised_may_be_wrong() -> None:
    document = next(yamldoc.parse("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {}\n"))
    manifest = Manifest("f.yaml", 1, "networking.istio.io/v1", "Sidecar", "default", "x", document.data, document.text)
    intake = Intake(Store())
    assert intake.scan(Scan({manifest.key: manifest}, frozenset({manifest.key}), frozenset(), ())) == []
    assert [error.object for error in intake.errors()] == ["Sidecar default/x"]


@pytest.mark.parametrize("broken", ["{", "discoverySelectors: 5", "extensionProviders: {}"])
def test_a_mesh_config_that_cannot_be_read_leaves_the_last_good_one_in_force(broken: str) -> None:
    intake = Intake(Store(), "root")

    def put(text: str, namespace: str = "root") -> int:
        value = {"metadata": {"name": "istio", "namespace": namespace}, "data": {"mesh": text}}
        return raw(intake, "ConfigMap", value, "istio", namespace)

    assert put("trustDomainAliases: [old.example]") == 1
    assert put(broken) == 0
    (error,) = intake.errors()
    assert str(error).startswith("ConfigMap root/istio: data.mesh: MeshConfig")
    assert str(error).endswith("; the previous version stays in force")
    assert "old.example" in intake.store.of(ConfigMap)["root", "istio"].data["mesh"]
    assert put("{}") == 1
    assert not intake.findings
    assert put(broken, "elsewhere") == 1  # some other ConfigMap of that name


def test_the_lines_of_a_text_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    document = next(yamldoc.parse(POLICY % "''"))
    manifest = Manifest(
        "f.yaml", 1, "security.istio.io/v1", "AuthorizationPolicy", "default", "x", document.data, document.text
    )
    looked: list[str] = []

    def counted(text: str) -> dict[yamldoc.Path, int]:
        looked.append(text)
        return yamldoc.field_lines(text)

    monkeypatch.setattr("meshcore.manifests.field_lines", counted)
    intake = Intake(Store())
    intake.scan(Scan({KEY: manifest}, frozenset({KEY}), frozenset(), ()))
    assert list(intake.errors()) == list(intake.errors())
    assert len(looked) == 1
