"""Whatever is written gives an answer: no value of any shape makes a check raise."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod import objects
from istiod.problem import Problem
from istiod.resources import BY_STORE_KIND, resource_of, store_kind
from istiod.validate import check, problems
from istiod.validate.objects import CHECKS, PROBLEMS_MAX
from istiod.validate.texts import milliseconds
from tests.unit.istiod import schema_samples

WORDS = [
    "",
    "a",
    "*",
    "*.a",
    "~",
    "/",
    "a/b",
    "10.0.0.1",
    "10.0.0.0/8",
    "80",
    "1s",
    "9" * 35 + "h",
    "unix:///a",
    "(",
    "\ud800",
    "{}",
    "://",
    "٣",
]
VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 70000)
    | st.floats()
    | st.sampled_from([2**64, -(2**70), 10**300])
    | st.sampled_from(WORDS)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner),
    max_leaves=8,
)
PLACES = [(obj, path) for obj in schema_samples.SAMPLES for path, _ in schema_samples.paths(obj) if path]


@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=1), st.randoms(use_true_random=False))
def test_a_right_object_with_any_part_replaced_gives_an_answer(changes: list[Any], random: Any) -> None:
    (obj, path), value = changes[0]
    changed = schema_samples.replaced(obj, path, value)
    again = [place for place, _ in schema_samples.paths(changed) if place]
    changed = schema_samples.replaced(changed, random.choice(again), random.choice([None, [], {}, "", 0, [None], [{}]]))
    resource = resource_of(obj["kind"], obj["apiVersion"])
    assert resource is not None
    assert all(isinstance(problem, Problem) for problem in problems(resource, changed))


@given(st.sampled_from(sorted(BY_STORE_KIND)), VALUES)
def test_any_value_at_all_gives_an_answer(kind: str, value: Any) -> None:
    for obj in (value, {"metadata": value, "spec": value, "status": value, "endpoints": value, "ports": value}):
        for problem in problems(BY_STORE_KIND[kind], obj):
            assert problem.message
            assert problem.code.startswith("IST")


@given(st.sampled_from(sorted(objects.KINDS)), VALUES)
def test_an_object_is_either_usable_or_told_why_not(kind: str, spec: Any) -> None:
    resource = BY_STORE_KIND[kind]
    checked = check(resource.kind, resource.api_version, {"metadata": {"name": "x"}, "spec": spec})
    assert checked is not None
    assert (checked.value is None) == any(not problem.warning for problem in checked.problems)


@given(st.text() | st.from_regex(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?(ns|ms|s|m|h)){1,3}"))
def test_any_text_is_a_duration_or_none(text: str) -> None:
    found = milliseconds(text)
    assert found is None or found == found.normalize()


@pytest.mark.parametrize(
    ("text", "value"), [("1.5s", 1500), ("1h30m", 5_400_000), ("100ms", 100), ("0", 0), (".5s", 500), ("-1s", -1000)]
)
def test_durations_are_read_as_go_writes_them(text: str, value: int) -> None:
    assert milliseconds(text) == value


def test_an_object_nested_too_deep_is_refused_at_once() -> None:
    spec: Any = {}
    for _ in range(5000):
        spec = {"a": [spec]}
    found = problems(BY_STORE_KIND["EnvoyFilter"], {"spec": spec})
    assert [(problem.path, "nested deeper" in problem.message) for problem in found] == [((), True)]


HOSTS = [f"h{i}.example.com" for i in range(20_000)]
TO = [{"destination": {"host": "a"}}]


@pytest.mark.parametrize(
    ("kind", "spec", "count"),
    [
        ("VirtualService", {"hosts": ["*.example.com", *HOSTS], "http": [{"route": TO}]}, PROBLEMS_MAX),
        ("VirtualService", {"hosts": [*HOSTS, "*.example.com"], "http": [{"route": TO}]}, 1),
        ("VirtualService", {"hosts": HOSTS, "tls": [{"match": [{"sniHosts": HOSTS}], "route": TO}]}, 0),
        (
            "VirtualService",
            {"hosts": ["a"], "http": [{"match": [{"uri": {"prefix": f"/{h}"}} for h in HOSTS], "route": TO}]},
            0,
        ),
        (
            "VirtualService",
            {"hosts": ["a"], "http": [{"route": TO, "fault": {"abort": {"grpcStatus": h}}} for h in HOSTS]},
            PROBLEMS_MAX,
        ),
        ("HTTPRoute", {"parentRefs": [{"name": "g", "port": 1 + i} for i in range(20_000)]}, 1),
        ("AuthorizationPolicy", {"rules": [{"to": [{"operation": {"paths": [h]}}]} for h in HOSTS]}, PROBLEMS_MAX),
    ],
)
def test_the_largest_objects_take_no_longer_than_their_size_asks(kind: str, spec: Any, count: int) -> None:
    start = time.monotonic()
    found = problems(BY_STORE_KIND[kind], {"metadata": {"name": "x"}, "spec": spec})
    assert len(found) == count
    assert time.monotonic() - start < 10  # a second or less; comparing all with all takes minutes


def test_an_error_behind_many_warnings_is_found() -> None:
    rules = [{"to": [{"operation": {"paths": ["/a"]}}]} for _ in range(200)]
    obj = {"metadata": {"name": "x"}, "spec": {"rules": [*rules, {"to": [{"operation": {"ports": ["0"]}}]}]}}
    assert [p.path[-2:] for p in problems(BY_STORE_KIND["AuthorizationPolicy"], obj) if not p.warning] == [("ports", 0)]


def test_every_kind_of_the_mesh_has_checks_of_its_own() -> None:
    shape_says_it_all = {"GatewayClass", "ReferenceGrant"}
    assert {kind for kind, resource in BY_STORE_KIND.items() if resource.custom} - CHECKS.keys() == shape_says_it_all


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "A"}, ("metadata", "name")),
        ({"name": "a" * 254}, ("metadata", "name")),
        ({"name": "a", "namespace": "a.b"}, ("metadata", "namespace")),
        ({"name": "a", "labels": {"a b": "c"}}, ("metadata", "labels", "a b")),
        ({"name": "a", "labels": {"a/b/c": "d"}}, ("metadata", "labels", "a/b/c")),
        ({"name": "a", "labels": {"a": "b!"}}, ("metadata", "labels", "a")),
    ],
)
def test_names_and_labels_follow_the_rules_of_the_api_server(metadata: dict[str, Any], field: tuple[str, ...]) -> None:
    found = problems(BY_STORE_KIND["Telemetry"], {"metadata": metadata, "spec": {}})
    assert [problem.path for problem in found] == [field]


def test_a_kind_without_a_type_is_checked_and_not_converted() -> None:
    checked = check("Sidecar", "networking.istio.io/v1", {"metadata": {"name": "x"}, "spec": {}})
    assert "Sidecar" not in objects.KINDS
    assert checked is not None
    assert checked.value is None
    assert [problem.path for problem in checked.problems] == [("spec",)]


def test_a_pattern_that_is_no_unicode_is_an_error() -> None:
    obj = {"spec": {"hosts": ["a"], "http": [{"match": [{"uri": {"regex": "\ud800"}}], "redirect": {"uri": "/"}}]}}
    assert ["Unicode" in problem.message for problem in problems(BY_STORE_KIND["VirtualService"], obj)] == [True]


def test_a_field_of_the_wrong_shape_is_told_once() -> None:
    obj = {"metadata": {"name": "x"}, "spec": {"hosts": "a", "http": [{"route": 1}]}}
    found = problems(BY_STORE_KIND["VirtualService"], obj)
    assert len({problem.path for problem in found}) == len(found)
    assert ("spec", "hosts") in {problem.path for problem in found}


def test_samples_of_the_documentation_raise_no_error_beyond_their_contradictions() -> None:
    """The samples show every field, some of which contradict each other on purpose; the rest of each is right."""
    wrong = {
        store_kind(resource)
        for obj in schema_samples.SAMPLES
        if (resource := resource_of(obj["kind"], obj["apiVersion"])) is not None
        and any(not problem.warning for problem in problems(resource, obj))
    }
    assert wrong <= {"AuthorizationPolicy", "DestinationRule", "EnvoyFilter", "HTTPRoute"}


def test_the_library_for_patterns_is_loaded_only_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)  # importing it fails now
    obj = {"metadata": {"name": "x"}, "spec": {"hosts": ["a"], "http": [{"redirect": {"uri": "/"}}]}}
    assert problems(BY_STORE_KIND["VirtualService"], obj) == []
