"""A real API server takes the definitions, and refuses what `istiod.schema.faults` refuses: no more, no less."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from istiod.resources import BY_STORE_KIND, Resource, resource_of, store_kind
from istiod.schema import definitions, faults
from tests.support import kubernetes
from tests.support.kubernetes import APPLY, ApiError, Json, Kubernetes
from tests.support.worker_harness import eventually
from tests.unit.istiod.schema_samples import SAMPLES, changed, paths, replaced

pytestmark = pytest.mark.timeout(120)  # a start takes seconds, and several times that on a busy machine

CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STRICT: Final = "?dryRun=All&fieldValidation=Strict"
ATTEMPTS: Final = 600  # five seconds' worth; of the 12 000 there are, another part for each seed
SEED: Final = 1
VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    7,
    -1,
    70_000,
    1.5,
    "7",
    "true",
    "no such value!",
    "",
    [],
    {},
    ["x"],
    {"x": "y"},
)


@pytest.fixture(scope="module")
def kube(request: pytest.FixtureRequest) -> Kubernetes:
    """A server that serves every kind."""
    found = kubernetes.shared(request.config)
    for definition in definitions().values():
        try:
            found.request("POST", CRDS, definition)
        except ApiError as error:
            if error.reason != "AlreadyExists":  # the server is shared with other tests
                raise
    eventually(lambda: served(found), lambda: f"every kind is served: {states(found)}", 30)
    return found


def states(kube: Kubernetes) -> dict[str, dict[str, str]]:
    return {
        item["metadata"]["name"]: {c["type"]: c["status"] for c in item["status"].get("conditions") or ()}
        for item in kube.request("GET", CRDS)["items"]
    }


def served(kube: Kubernetes) -> bool:
    try:
        for resource in BY_STORE_KIND.values():
            for version in resource.versions if resource.custom else ():
                kube.request("GET", resource.path(version=version))
    except ApiError as error:
        if error.status not in (404, 429):  # not served yet; its storage is being made
            raise
        return False
    return True


def resource(obj: Json) -> Resource:
    found = resource_of(obj["kind"], obj["apiVersion"])
    assert found is not None
    return found


def refusal(kube: Kubernetes, namespace: str, obj: Json, version: str = "") -> str:
    """Why the server would not take an object; empty if it would."""
    kind = resource(obj)
    version = version or kind.version
    path = kind.path(namespace, version=version) + STRICT
    try:
        kube.request("POST", path, {**obj, "apiVersion": f"{kind.group}/{version}"})
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        return str(error)
    return ""


def test_the_definitions_are_established_and_structural(kube: Kubernetes) -> None:
    found = states(kube)
    for name in definitions():
        conditions = found[name.removesuffix(".yaml")]
        assert conditions["Established"] == conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda obj: store_kind(resource(obj)))
def test_every_version_takes_the_samples(kube: Kubernetes, sample: Json) -> None:
    namespace = kube.create_namespace()
    assert {
        version: refusal(kube, namespace, sample, version) for version in resource(sample).versions
    } == dict.fromkeys(resource(sample).versions, "")


def attempts() -> list[Json]:
    """Samples with one thing changed: a value of another kind, a field missing or stray, a list that is double."""
    made: list[Json] = []
    for sample in SAMPLES:
        for path, value in list(paths({"spec": sample["spec"]}))[1:]:
            made += [replaced(sample, path, other) for other in VALUES]
            made.append(changed(sample, path, lambda holder, part: holder.pop(part)))
            if isinstance(value, dict):
                made.append(replaced(sample, path, {**value, "strayField": 1}))
            if isinstance(value, list):
                made.append(replaced(sample, path, [*value, *value]))
    return made


def test_the_server_and_the_tables_refuse_the_same(kube: Kubernetes) -> None:
    namespace = kube.create_namespace()
    outcomes = {True: 0, False: 0}
    for obj in random.Random(SEED).sample(attempts(), ATTEMPTS):
        said = refusal(kube, namespace, obj)
        ours = [problem for problem in faults(resource(obj), obj) if not problem.warning]
        assert bool(said) == bool(ours), f"{obj['kind']} {obj['spec']}: server: {said}, tables: {ours}"
        outcomes[bool(said)] += 1
    assert min(outcomes.values()) > ATTEMPTS // 20


def test_two_writers_own_a_condition_each(kube: Kubernetes) -> None:
    namespace = kube.create_namespace()
    sample = next(obj for obj in SAMPLES if obj["kind"] == "AuthorizationPolicy")
    kind = resource(sample)
    kube.request("POST", kind.path(namespace), sample)

    def apply(writer: str, condition: str) -> Any:
        status = {"conditions": [{"type": condition, "status": "True"}]}
        identity = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": sample["metadata"]["name"]}}
        path = f"{kind.path(namespace, sample['metadata']['name'])}/status?fieldManager={writer}"
        return kube.request("PATCH", path, {**identity, "status": status}, content=APPLY)

    apply("one", "ZtunnelAccepted")
    found = apply("two", "WaypointAccepted")["status"]["conditions"]
    assert {condition["type"] for condition in found} == {"ZtunnelAccepted", "WaypointAccepted"}
