"""The tables of fields: what is right passes in silence, and each fault is named at its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod import objects
from istiod.resources import RESOURCES, Resource, resource_of, store_kind
from istiod.schema import TABLES, faults, unused
from istiod.schema.check import HINTS_MAX
from istiod.schema.fields import Anything, Entries, Field, Items, Record, record
from meshcore import yamldoc
from meshcore.manifests import dotted
from tests.unit.istiod.schema_samples import SAMPLES, paths, replaced

CUSTOM = [resource for resource in RESOURCES if resource.custom]
API = {obj["kind"]: obj["apiVersion"] for obj in SAMPLES}
ISTIO_GATEWAY_API = "networking.istio.io/v1"


def resource(obj: dict[str, Any]) -> Resource:
    found = resource_of(obj["kind"], obj["apiVersion"])
    assert found is not None
    return found


def said(obj: dict[str, Any], *, strict: bool = True) -> list[tuple[str, str, bool]]:
    return [(dotted(p.path), p.message, p.warning) for p in faults(resource(obj), obj, strict=strict)]


def of(kind: str, text: str, api: str = "") -> dict[str, Any]:
    obj: dict[str, Any] = next(iter(yamldoc.parse(text))).data
    return {"apiVersion": api or API[kind], "kind": kind, "metadata": {"name": "x"}, **obj}


def leads_to(kind: Field, path: yamldoc.Path) -> Field:
    """The field of the table at a place in a part of an object."""
    for part in path:
        match kind:
            case Record():
                kind = kind.fields[str(part)]
            case Items():
                kind = kind.item
            case Entries():
                kind = kind.value
    return kind


def named(obj: dict[str, Any]) -> str:
    return store_kind(resource(obj))


def test_every_custom_kind_has_a_table_and_a_sample() -> None:
    kinds = {store_kind(resource) for resource in CUSTOM}
    assert kinds == set(TABLES) == {named(obj) for obj in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_the_fields_of_the_documentation_are_known(sample: dict[str, Any]) -> None:
    assert said(sample) == []


def test_kinds_of_kubernetes_itself_are_not_looked_at() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"anything": 1}}
    assert said(pod) == []
    assert unused(resource(pod), pod) == []


R = "spec.http[0]"
FAULTS = [
    ("VirtualService", "spec: {http: [{timout: 5s}]}", f"{R}.timout", "unknown field; did you mean 'timeout'?"),
    ("VirtualService", "spec: {http: [{retries: {retryon: 5xx}}]}", f"{R}.retries.retryon", "did you mean 'retryOn'"),
    (
        "VirtualService",
        "spec: {http: [{timeout: 5}]}",
        f"{R}.timeout",
        "expected a duration such as 1.5s, found a number",
    ),
    ("VirtualService", "spec: {hosts: reviews}", "spec.hosts", "expected a list, found text"),
    ("VirtualService", "spec: {hosts: [null]}", "spec.hosts[0]", "expected text, found nothing"),
    ("VirtualService", "spec: {hosts: [1.5]}", "spec.hosts[0]", "expected text, found a number (1.5); use quotes"),
    ("VirtualService", "spec: {http: {}}", "spec.http", "expected a list, found a mapping"),
    ("VirtualService", "spec: {http: [a]}", R, "expected a mapping, found text"),
    ("VirtualService", "spec: {http: [{route: [{weight: 1}]}]}", f"{R}.route[0].destination", "missing"),
    (
        "VirtualService",
        "spec: {http: [{route: [{destination: {host: a}, weight: '9'}]}]}",
        f"{R}.route[0].weight",
        "expected a whole number, found text; leave the quotes out",
    ),
    (
        "VirtualService",
        "spec: {http: [{match: [{uri: {prefix: /, exact: /a}}]}]}",
        f"{R}.match[0].uri.exact",
        "cannot stand beside",
    ),
    (
        "VirtualService",
        "spec: {http: [{match: [{ignoreUriCase: 'true'}]}]}",
        f"{R}.match[0].ignoreUriCase",
        "quotes out",
    ),
    (
        "VirtualService",
        "spec: {http: [{match: [{port: 1.5}]}]}",
        f"{R}.match[0].port",
        "a whole number, found a number",
    ),
    ("VirtualService", "spec: {http: [{headers: {request: {set: [a]}}}]}", f"{R}.headers.request.set", "a mapping"),
    ("VirtualService", "spec: []", "spec", "expected a mapping, found a list"),
    ("VirtualService", "specs: {}", "specs", "unknown field; did you mean 'spec'?"),
    ("HTTPRoute", "spec: {rules: [{retry: {codes: [200]}}]}", "spec.rules[0].retry.codes[0]", "200 is less than 400"),
    ("DestinationRule", "spec: {}", "spec.host", "missing"),
    ("DestinationRule", "{}", "spec", "missing"),
    ("DestinationRule", "spec: null", "spec", "missing"),
    (
        "DestinationRule",
        "spec: {host: a, trafficPolicy: {tls: {mode: simple}}}",
        "spec.trafficPolicy.tls.mode",
        "did you mean SIMPLE?",
    ),
    (
        "DestinationRule",
        "spec: {host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {}}}}",
        "spec.trafficPolicy.loadBalancer.consistentHash",
        "choose one of simple, consistentHash",
    ),
    ("ServiceEntry", "spec: {hosts: []}", "spec.hosts", "is empty"),
    (
        "ServiceEntry",
        "spec: {hosts: [a], ports: [{name: a, number: 1}, {name: a, number: 2}]}",
        "spec.ports[1].name",
        "'a' stands twice",
    ),
    ("ServiceEntry", "spec: {hosts: [a], ports: [{name: a, number: -1}]}", "spec.ports[0].number", "-1 is less than 0"),
    ("ServiceEntry", "spec: {hosts: [a], ports: [{name: '', number: 1}]}", "spec.ports[0].name", "is empty"),
    ("EnvoyFilter", "spec: {configPatches: [{patch: {value: 1}}]}", "spec.configPatches[0].patch.value", "a mapping"),
    (
        "WasmPlugin",
        "spec: {url: a, match: [{ports: [{number: 0}]}]}",
        "spec.match[0].ports[0].number",
        "is less than 1",
    ),
    ("WasmPlugin", "spec: {url: a, sha256: ABC}", "spec.sha256", "'ABC' is not a SHA-256"),
    ("Gateway", "spec: {gatewayClassName: a, listeners: []}", "spec.listeners", "is empty"),
    (
        "Gateway",
        "spec: {gatewayClassName: a, listeners: [{name: a, port: 70000, protocol: HTTP}]}",
        "spec.listeners[0].port",
        "70000 is more than 65535",
    ),
    ("HTTPRoute", "spec: {hostnames: [A.example.com]}", "spec.hostnames[0]", "is not a host name in lower case"),
    ("HTTPRoute", f"spec: {{hostnames: [{'a' * 254}]}}", "spec.hostnames[0]", "is longer than 253 characters"),
    ("HTTPRoute", f"spec: {{hostnames: [{', '.join('a' * 17)}]}}", "spec.hostnames", "holds 17 entries, more than 16"),
    (
        "HTTPRoute",
        "spec: {rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]}]}",
        "spec.rules[0].filters[0].requestRedirect.statusCode",
        "304 is not one of 301, 302, 303, 307, 308",
    ),
    (
        "HTTPRoute",
        "spec: {rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a, a]}}]}]}",
        "spec.rules[0].filters[0].requestHeaderModifier.remove[1]",
        "'a' stands twice",
    ),
    ("HTTPRoute", "spec: {rules: [{timeouts: {request: 5 s}}]}", "spec.rules[0].timeouts.request", "is not a duration"),
]


@pytest.mark.parametrize(("kind", "text", "path", "message"), FAULTS)
def test_a_fault_is_named_at_its_place(kind: str, text: str, path: str, message: str) -> None:
    api = "gateway.networking.k8s.io/v1" if kind == "Gateway" else ""
    ((found, words, warning),) = said(of(kind, text, api))
    assert found == path
    assert message in words
    assert not warning


def test_what_is_no_object_is_said_to_be_none() -> None:
    assert [(p.path, p.message) for p in faults(CUSTOM[0], [])] == [((), "expected a mapping, found a list")]


def test_the_two_gateways_have_a_table_each() -> None:
    obj = of("Gateway", "spec: {servers: []}", ISTIO_GATEWAY_API)
    assert said(obj) == []
    assert "spec.servers" in [path for path, _, _ in said(obj | {"apiVersion": "gateway.networking.k8s.io/v1"})]


def test_a_fault_of_the_status_is_a_warning() -> None:
    obj = of("VirtualService", "{spec: {}, status: {conditions: 1, stray: 2}}")
    assert [(path, warning) for path, _, warning in said(obj)] == [("status.conditions", True), ("status.stray", True)]


def test_an_unknown_field_is_a_warning_where_a_newer_definition_may_have_it() -> None:
    obj = of("VirtualService", "{spec: {stray: 1, hosts: 2}, more: 3}")
    warnings = {path: warning for path, _, warning in said(obj, strict=False)}
    assert warnings == {"spec.stray": True, "spec.hosts": False, "more": True}


def test_many_unknown_fields_get_a_bounded_number_of_hints() -> None:
    obj = of("VirtualService", "spec: {}")
    obj["spec"] = {f"host{number}": 1 for number in range(1000)}
    messages = [message for _, message, _ in said(obj)]
    assert len(messages) == 1000
    assert sum("did you mean" in message for message in messages) == HINTS_MAX


def test_a_long_value_is_shown_in_part() -> None:
    ((_, message, _),) = said(of("AuthorizationPolicy", f"spec: {{action: {'x' * 10_000}}}"))
    assert len(message) < 200


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_a_stray_field_is_found_wherever_it_stands(sample: dict[str, Any]) -> None:
    table = TABLES[named(sample)]
    tried = 0
    for part in ("spec", "status"):
        for path, value in paths(sample.get(part)):
            known = table.part(part)
            if known is None or not isinstance(value, dict) or not isinstance(leads_to(known, path), Record):
                continue
            where = (part, *path)
            obj = replaced(sample, where, {**value, "strayField": 1})
            assert [(found, message) for found, message, _ in said(obj)] == [
                (dotted((*where, "strayField")), "unknown field")
            ]
            tried += 1
    assert tried >= 1


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_null_is_absent(sample: dict[str, Any]) -> None:
    """In a mapping; an entry of a list cannot be absent."""
    table = TABLES[named(sample)]
    for path, _ in paths(sample["spec"]):
        holder = leads_to(table.spec, path[:-1]) if path else record({})
        if isinstance(holder, Anything):
            continue
        found = said(replaced(sample, ("spec", *path), None))
        if isinstance(holder, Items) or (isinstance(holder, Record) and path and path[-1] in holder.required):
            assert [place for place, _, _ in found] == [dotted(("spec", *path))]
        elif path:
            assert found == []


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_no_value_in_any_place_is_too_much(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(SAMPLES))
    path, _ = data.draw(st.sampled_from(list(paths({"spec": sample["spec"]}))[1:]))
    obj = replaced(sample, path, data.draw(json))
    problems = list(faults(resource(obj), obj))
    assert all(problem.path[: len(path)] == path[: len(problem.path)] for problem in problems)
    unused(resource(obj), obj)


def test_depth_costs_nothing() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    obj = of("EnvoyFilter", "spec: {}") | {"spec": {"configPatches": [{"patch": {"value": deep}}], "stray": deep}}
    assert [path for path, _, _ in said(obj)] == ["spec.stray"]


class Port(objects.Object, frozen=True):
    number: int = 0


class Spec(objects.Object, frozen=True):
    hosts: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    workload_selector: dict[str, dict[str, str]] | None = None
    endpoints: Any = None


class Entry(objects.Object, frozen=True):
    spec: Spec = Spec()


def test_fields_that_no_type_has_are_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects.KINDS, "ServiceEntry", Entry)
    obj = of(
        "ServiceEntry",
        """
        spec:
          hosts: [a]
          location: MESH_EXTERNAL
          resolution: null
          ports: [{number: 1}, {number: 2, name: b, protocol: TCP}]
          workloadSelector: {labels: {a: b}}
          endpoints: [{address: 1.2.3.4}]
          stray: 1
        """,
    )
    found = [dotted(path) for path in unused(resource(obj), obj)]
    assert found == ["spec.location", "spec.ports[1].name", "spec.ports[1].protocol"]


def test_nothing_is_said_unused_of_a_kind_without_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(objects.KINDS, "ServiceEntry", raising=False)
    obj = of("ServiceEntry", "spec: {hosts: [a]}")
    assert unused(resource(obj), obj) == []
    assert unused(resource(obj), []) == []


def test_istiod_acts_on_no_field_that_the_api_does_not_have() -> None:
    """A slip in the name of a field would never be read. One type may serve several places: each field fits in one."""
    fits: dict[tuple[str, str], bool] = {}
    for kind in objects.KINDS.keys() & TABLES.keys():
        for field in msgspec.structs.fields(objects.KINDS[kind]):
            part = TABLES[kind].part(field.encode_name)
            if part is not None:
                for owner, name, known in compared(part, field.type):
                    fits[owner, name] = known or fits.get((owner, name), False)
    assert [name for name, known in fits.items() if not known] == []
    assert len(fits) > 100


def compared(field: Field, expected: Any) -> Iterator[tuple[str, str, bool]]:
    """Each field of each type, and whether the table has it there."""
    inner = [arg for arg in get_args(expected) if arg is not type(None)]
    match field:
        case Record() if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
            for member in msgspec.structs.fields(expected):
                name = member.encode_name
                yield expected.__name__, name, name in field.fields
                if name in field.fields:
                    yield from compared(field.fields[name], member.type)
        case Items() if get_origin(expected) is tuple:
            yield from compared(field.item, inner[0])
        case Entries() if get_origin(expected) is dict:
            yield from compared(field.value, inner[1])
        case _ if len(inner) == 1 and get_origin(expected) not in (tuple, dict):
            yield from compared(field, inner[0])
