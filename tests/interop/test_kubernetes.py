"""The kube-apiserver that `make kube` builds does what our own tests ask of it; it is the referee of our fake one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import kubernetes, processes
from tests.support.build import ROOT
from tests.support.kubernetes import APPLY, ISSUER, ApiError, Json, Kubernetes
from tests.support.worker_harness import eventually

# A start takes seconds, and several times that on a busy machine.
pytestmark = pytest.mark.timeout(120)

GROUP = "interop.ambient.test"
DEFINITION: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"gauges.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"limit": {"type": "integer", "maximum": 10}}},
                            "status": {
                                "type": "object",
                                "properties": {
                                    "conditions": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["type"],
                                        "items": {
                                            "type": "object",
                                            "required": ["type", "status"],
                                            "properties": {"type": {"type": "string"}, "status": {"type": "string"}},
                                        },
                                    }
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture(scope="session")
def kube(request: pytest.FixtureRequest) -> Kubernetes:
    return kubernetes.shared(request.config)


@pytest.fixture
def found() -> kubernetes.Binaries:
    return kubernetes.needed()


@pytest.fixture
def namespace(kube: Kubernetes) -> str:
    return kube.create_namespace()


@pytest.fixture(scope="module")
def gauges(kube: Kubernetes) -> str:
    """A kind of ours -> its path up to the version."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    kube.request("POST", path, DEFINITION)

    def served() -> bool:
        try:
            kube.request("GET", f"/apis/{GROUP}/v1/gauges")
        except ApiError as error:
            # Not known yet, or known and its storage not yet open.
            if error.status not in {404, 429}:
                raise
            return False
        return True

    eventually(served, "the new kind is served")
    return f"/apis/{GROUP}/v1"


def review(kube: Kubernetes, token: str, audience: str = "istio-ca") -> Json:
    body = {"spec": {"token": token, "audiences": [audience]}}
    status: Json = kube.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]
    return status


def apply_condition(kube: Kubernetes, path: str, manager: str, kind: str, status: str, *, force: bool = False) -> Json:
    query = f"?fieldManager={manager}&force={str(force).lower()}"
    patch = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Gauge",
        "status": {"conditions": [{"type": kind, "status": status}]},
    }
    made: Json = kube.request("PATCH", f"{path}/status{query}", patch, content=APPLY)
    return made


def conditions(gauge: Json) -> dict[str, str]:
    return {each["type"]: each["status"] for each in gauge["status"]["conditions"]}


def test_it_is_the_version_that_make_kube_names(kube: Kubernetes, found: kubernetes.Binaries) -> None:
    assert kube.request("GET", "/version")["gitVersion"] == found.apiserver.parent.name


def test_it_refuses_a_stranger_and_a_service_account_without_a_role(kube: Kubernetes, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        kube.request("GET", "/api/v1/pods", token="nobody")
    assert refused.value.status == 401
    kube.create_service_account(namespace, "guest")
    token = kube.service_account_token(namespace, "guest", audience=ISSUER)
    with pytest.raises(ApiError, match="cannot list resource") as refused:
        kube.request("GET", "/api/v1/pods", token=token)
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


def test_a_review_tells_the_pod_and_the_node_of_a_token(kube: Kubernetes, namespace: str) -> None:
    kube.create_service_account(namespace, "ztunnel")
    node = kube.request("POST", "/api/v1/nodes", {"metadata": {"name": f"node-of-{namespace}"}})["metadata"]
    pod = kube.create_pod(namespace, "ztunnel-1", service_account="ztunnel", node=node["name"], ip="10.244.1.7")
    assert pod["status"]["podIP"] == "10.244.1.7"
    answer = review(kube, kube.service_account_token(namespace, "ztunnel", pod=pod))
    assert answer["authenticated"] is True
    assert answer["audiences"] == ["istio-ca"]
    user = answer["user"]
    assert user["username"] == f"system:serviceaccount:{namespace}:ztunnel"
    told = {key.removeprefix("authentication.kubernetes.io/"): value for key, value in user["extra"].items()}
    del told["credential-id"]
    assert told == {
        "pod-name": ["ztunnel-1"],
        "pod-uid": [pod["metadata"]["uid"]],
        "node-name": [node["name"]],
        "node-uid": [node["uid"]],
    }


def test_a_token_holds_for_its_audience_and_as_long_as_its_pod(kube: Kubernetes, namespace: str) -> None:
    kube.create_service_account(namespace, "web")
    pod = kube.create_pod(namespace, "web-1", service_account="web")
    # Two, because the server remembers a good one for ten seconds.
    token, other = (kube.service_account_token(namespace, "web", pod=pod) for _ in range(2))
    assert review(kube, token, "someone-else").get("authenticated", False) is False
    assert review(kube, token)["authenticated"] is True
    kube.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/web-1?gracePeriodSeconds=0")
    ended = review(kube, other)
    assert ended.get("authenticated", False) is False
    assert "token has been invalidated" in ended["error"], ended


def test_an_object_of_a_new_kind_is_stored_and_checked(kube: Kubernetes, namespace: str, gauges: str) -> None:
    path = f"{gauges}/namespaces/{namespace}/gauges"
    gauge: Json = {"apiVersion": f"{GROUP}/v1", "kind": "Gauge", "metadata": {"name": "one"}, "spec": {"limit": 3}}
    kube.request("POST", path, gauge)
    assert [each["spec"] for each in kube.request("GET", path)["items"]] == [{"limit": 3}]
    gauge["metadata"]["name"] = "two"
    gauge["spec"]["limit"] = 11
    with pytest.raises(ApiError, match=r"spec\.limit") as refused:
        kube.request("POST", path, gauge)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")


def test_managers_apply_conditions_beside_each_other(kube: Kubernetes, namespace: str, gauges: str) -> None:
    path = f"{gauges}/namespaces/{namespace}/gauges/one"
    kube.request(
        "POST", path.rpartition("/")[0], {"apiVersion": f"{GROUP}/v1", "kind": "Gauge", "metadata": {"name": "one"}}
    )
    apply_condition(kube, path, "ours", "Accepted", "True")
    both = apply_condition(kube, path, "theirs", "Ready", "False")
    assert conditions(both) == {"Accepted": "True", "Ready": "False"}
    with pytest.raises(ApiError, match="conflict with") as refused:
        apply_condition(kube, path, "theirs", "Accepted", "False")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    # What a manager applies no longer goes, what is not its own stays.
    taken = apply_condition(kube, path, "theirs", "Accepted", "False", force=True)
    assert conditions(taken) == {"Accepted": "False"}


def test_a_watch_from_a_forgotten_version_is_gone(kube: Kubernetes, namespace: str, gauges: str) -> None:
    # The watch cache of a kind begins where the kind was made, long after version 1.
    watch = f"{gauges}/namespaces/{namespace}/gauges?watch=1&resourceVersion=1&timeoutSeconds=2"
    (event,) = map(json.loads, kube.text("GET", watch).splitlines())
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


def test_a_failed_start_shows_the_logs_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: kubernetes.Binaries
) -> None:
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(kubernetes, "SERVICE_RANGE", "10.96.0.0/99")
    with pytest.raises(AssertionError, match="kube-apiserver ended with") as failed, kubernetes.kubernetes():
        pass
    assert "service-cluster-ip-range" in "".join(failed.value.__notes__)
    assert processes.with_environment(str(tmp_path)) == set()
    assert list(tmp_path.iterdir()) == []


STARTS_ETCD = """
import sys, time
from pathlib import Path
from tests.support import kubernetes
directory = Path(sys.argv[1])
with kubernetes._running(directory, "etcd", kubernetes.needed().etcd, kubernetes._etcd_flags(directory)):
    print("started", flush=True)
    sys.stdin.read()
"""


def test_the_processes_die_with_a_test_run_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: kubernetes.Binaries
) -> None:
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    command = [sys.executable, "-c", STARTS_ETCD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"started\n"
            eventually((tmp_path / "etcd.sock").is_socket, "etcd listens")
            assert len(processes.with_environment(str(tmp_path))) == 2
        finally:
            owner.kill()
    eventually(lambda: processes.with_environment(str(tmp_path)) == set(), "etcd is gone too")
