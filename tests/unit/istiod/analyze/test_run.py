"""What is told of all that is found: levels, namespaces, suppressions, order, places."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from istiod.analyze import Level, Message, Options, World, analyze
from istiod.analyze.message import message
from istiod.analyze.run import PER_CODE_AND_OBJECT_MAX
from istiod.analyze.suppress import parse
from meshcore.errors import ConfigError
from tests.unit.istiod.analyze.samples import WEB, mesh_config, policy, route, waypoint
from tests.unit.istiod.analyze.support import codes, messages, obj, world_of

BAD_PORT = obj("Service", "%s", "{ports: [{name: x, port: 80}]}", "%s")
TELLS = BAD_PORT % ("a", "one") + BAD_PORT % ("b", "two")
MISSING = route("{host: gone}", hosts="[gone]")


def told(options: Options, *texts: str) -> list[tuple[str, str]]:
    return [(one.code.id, one.resource) for one in analyze(world_of(*texts), options)]


def test_errors_come_first_and_then_what_stands_first_in_the_file() -> None:
    found = messages(TELLS, MISSING)
    assert [one.code.level for one in found] == [Level.ERROR, Level.INFO, Level.INFO]
    assert [one.resource for one in found] == ["VirtualService vs.default", "Service a.one", "Service b.two"]
    assert found[1].line < found[2].line


def test_a_message_stands_at_the_line_of_its_field() -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 80\n    name: web\n"
    (one,) = messages(text)
    assert (one.place, one.field) == ("stdin:8", "spec.ports[0].name")


@pytest.mark.parametrize(
    ("namespace", "expected"), [("one", ["Service a.one"]), ("", ["Service a.one", "Service b.two"])]
)
def test_a_namespace_limits_what_is_told(namespace: str, expected: list[str]) -> None:
    assert [resource for _, resource in told(Options(namespace), TELLS)] == expected


def test_a_namespace_does_not_limit_what_is_read() -> None:
    other = obj("Service", "web", "{ports: [{name: http, port: 80}]}", "other")
    text = route("{host: web.other.svc.cluster.local}", hosts="[web.other.svc.cluster.local]") + other
    assert "IST0101" not in {code for code, _ in told(Options("default"), text)}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("IST0118=Service a.one", ["Service b.two"]),
        ("IST0118=Service *", []),
        ("IST0118=*.two", ["Service a.one"]),
        ("IST0101=Service a.one", ["Service a.one", "Service b.two"]),
        ("IST0118=Service a", ["Service a.one", "Service b.two"]),
        ("IST0118=Service ?.one", ["Service a.one", "Service b.two"]),
    ],
)
def test_a_pattern_suppresses_a_code_of_some_objects(pattern: str, left: list[str]) -> None:
    assert [resource for _, resource in told(Options(suppressions=(parse(pattern),)), TELLS)] == left


@pytest.mark.parametrize("text", ["IST0101", "IST0101=", "IST9999=Pod *", ""])
def test_a_wrong_suppression_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--suppress"):
        parse(text)


@pytest.mark.parametrize(("listed", "left"), [("IST0118", 0), ("'IST0101, IST0118'", 0), ("'*'", 0), ("IST0101", 1)])
def test_an_annotation_suppresses_codes_of_its_object(listed: str, left: int) -> None:
    notes = f"galley.istio.io/analyze-suppress: {listed}"
    assert len(codes(obj("Service", "a", "{ports: [{name: x, port: 80}]}", notes=notes))) == left


def test_one_mistake_is_not_told_without_end() -> None:
    ports = ", ".join(f"{{name: x{number}, port: {number}}}" for number in range(1, 2 * PER_CODE_AND_OBJECT_MAX))
    assert codes(obj("Service", "a", f"{{ports: [{ports}]}}")) == ["IST0118"] * PER_CODE_AND_OBJECT_MAX


def test_a_fault_of_an_analyzer_is_told_and_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    def broken(world: World) -> Iterator[Message]:
        yield from ()
        raise ZeroDivisionError(str(world.live))

    def working(world: World) -> Iterator[Message]:
        yield message("IST0133", None, text=str(world.live))

    found = analyze(world_of(WEB), None, (broken, working))
    assert [one.code.id for one in found] == ["IST0001", "IST0133"]
    assert "broken" in found[0].text
    assert "BUG: broken failed" in caplog.text


def test_an_object_with_an_error_exists_all_the_same() -> None:
    broken = obj("Service", "web", "{ports: [{name: http, port: 0}]}")
    assert sorted(codes(broken, route("{host: web}"))) == ["IST0106"]
    faulty_entry = obj("ServiceEntry", "s", "{hosts: [a.example], resolution: WRONG}")
    assert "IST0101" not in codes(faulty_entry, route("{host: a.example}"))


def test_kinds_without_a_type_are_checked_too() -> None:
    found = messages(obj("EnvoyFilter", "f", "{configPatches: [{applyTo: NOWHERE}]}"))
    assert ("IST0106", "spec.configPatches[0].applyTo") in {(one.code.id, one.field) for one in found}


def test_a_waypoint_in_a_file_counts_as_ready() -> None:
    assert codes(obj("Service", "web", labels="istio.io/use-waypoint: wp") + waypoint()) == []


def test_namespaces_that_the_mesh_does_not_read_are_not_analysed() -> None:
    selectors = mesh_config('{discoverySelectors: [{matchLabels: {mesh: "on"}}]}')
    outside = obj("Namespace", "out", namespace="") + BAD_PORT % ("a", "out")
    inside = obj("Namespace", "in", namespace="", labels="mesh: 'on'") + BAD_PORT % ("b", "in")
    assert [one.resource for one in messages(selectors, outside, inside)] == ["Service b.in"]


def test_objects_of_another_revision_are_not_analysed() -> None:
    text = obj(
        "VirtualService",
        "a",
        "{hosts: [gone], http: [{route: [{destination: {host: gone}}]}]}",
        labels="istio.io/rev: x",
    )
    assert codes(text) == []


def test_what_selects_nothing_is_told_only_where_workloads_are_known() -> None:
    text = policy("p", "{selector: {matchLabels: {app: web}}, rules: [{}]}")
    assert codes(text) == []
    assert [one.code.id for one in messages(text, live=True)] == ["IST0127"]
