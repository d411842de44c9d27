"""The definitions made of the tables: structural, whole, and the same as the files under deploy/crds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from istiod.resources import GATEWAY_API, RESOURCES
from istiod.schema import crd, definitions, manifest, write
from istiod.schema.definitions import schema
from istiod.schema.fields import Number, Record, Text, anything, int_or_string, list_of, record, text
from meshcore.errors import ConfigError

ROOT = Path(__file__).parents[3]
CUSTOM = [resource for resource in RESOURCES if resource.custom]
DEFINITIONS = definitions()


def schemas(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and those in it, with their places; the bare conditions of `oneOf` are no schemas of values."""
    yield path, found
    for name, inner in found.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}")
    if "items" in found:
        yield from schemas(found["items"], f"{path}[]")
    if "additionalProperties" in found:
        yield from schemas(found["additionalProperties"], f"{path}.*")


def breaches(found: dict[str, Any]) -> list[str]:
    """Where a schema is not structural, by the rules of apiextensions.k8s.io/v1."""
    broken: list[str] = []
    for path, inner in schemas(found):
        kind, properties = inner.get("type"), inner.get("properties", {})
        opaque = inner.get("x-kubernetes-preserve-unknown-fields") or inner.get("x-kubernetes-int-or-string")
        keys = inner.get("x-kubernetes-list-map-keys", [])
        entries = inner.get("items", {})
        rules = {
            "has no type": kind is None and not opaque,
            "int-or-string has a type": bool(kind and inner.get("x-kubernetes-int-or-string")),
            "has both kinds of members": bool(properties and "additionalProperties" in inner),
            "is closed": inner.get("additionalProperties") is False,
            "a list without items": kind == "array" and not entries,
            "requires what is not there": not set(inner.get("required", [])) <= set(properties),
            "keys that may be absent": not set(keys) <= set(entries.get("required", [])),
            "keys that are no scalars": any(entries["properties"][k].get("type") in ("object", "array") for k in keys),
            "a set of mappings": inner.get("x-kubernetes-list-type") == "set" and entries.get("type") != "string",
            "a default that is not allowed": "default" in inner and not fits(inner["default"], inner),
            "a junction with values": any(set(c) - {"not", "required", "oneOf"} for c in junctions(inner)),
        }
        broken += [f"{path}: {rule}" for rule, holds in rules.items() if holds]
    return broken


def fits(default: Any, found: dict[str, Any]) -> bool:
    allowed = default in found.get("enum", [default])
    return allowed and re.search(found.get("pattern", ""), str(default)) is not None


def junctions(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [*found.get("oneOf", []), *found.get("allOf", []), *found.get("anyOf", [])]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_is_whole_and_structural(name: str) -> None:
    definition = DEFINITIONS[name]
    spec = definition["spec"]
    assert definition["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}" == name.removesuffix(".yaml")
    assert [version["storage"] for version in spec["versions"]].count(True) == 1
    assert spec["versions"][0]["storage"]
    for version in spec["versions"]:
        root = version["schema"]["openAPIV3Schema"]
        assert breaches(root) == []
        assert root["properties"]["metadata"] == {"type": "object"}
        assert ("status" in root["properties"]) == ("subresources" in version) == (name[:15] != "referencegrants")


def test_every_version_that_is_understood_is_served() -> None:
    for resource in CUSTOM:
        spec = crd(resource)["spec"]
        assert tuple(version["name"] for version in spec["versions"] if version["served"]) == resource.versions
        assert (spec["scope"] == "Namespaced") == resource.namespaced


def test_only_opaque_parts_keep_unknown_fields() -> None:
    kept = {
        name: [
            path
            for path, inner in schemas(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
            if "x-kubernetes-preserve-unknown-fields" in inner
        ]
        for name, definition in DEFINITIONS.items()
    }
    assert {name: found for name, found in kept.items() if found} == {
        "envoyfilters.networking.istio.io.yaml": [".spec.configPatches[].patch.value"],
        "trafficextensions.extensions.istio.io.yaml": [".spec.wasm.pluginConfig"],
        "wasmplugins.extensions.istio.io.yaml": [".spec.pluginConfig"],
    }


@pytest.mark.parametrize("name", [name for name in DEFINITIONS if not name.startswith("referencegrants")])
def test_conditions_are_told_apart_by_type(name: str) -> None:
    root = DEFINITIONS[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found = [inner for path, inner in schemas(root) if path.endswith("conditions")]
    assert found
    assert all(inner["x-kubernetes-list-map-keys"] == ["type"] for inner in found)


def test_a_protected_group_says_that_it_is_not_approved() -> None:
    for resource in CUSTOM:
        notes = crd(resource)["metadata"].get("annotations", {})
        assert ("api-approved.kubernetes.io" in notes) == (resource.group == GATEWAY_API)


def test_kubectl_shows_what_it_is_known_to_show() -> None:
    gateway = crd(
        next(resource for resource in CUSTOM if resource.plural == "gateways" and resource.group == GATEWAY_API)
    )
    version = gateway["spec"]["versions"][0]
    assert [column["name"] for column in version["additionalPrinterColumns"]] == [
        "Class",
        "Address",
        "Programmed",
        "Age",
    ]
    assert gateway["spec"]["names"]["shortNames"] == ["gtw"]


def test_a_kind_of_kubernetes_itself_has_no_definition() -> None:
    with pytest.raises(ConfigError, match="Pod is a kind of Kubernetes itself"):
        crd(next(resource for resource in RESOURCES if resource.kind == "Pod"))


def test_words_become_schemas() -> None:
    assert schema(int_or_string()) == {"x-kubernetes-int-or-string": True}
    assert schema(anything()) == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert schema(text(pattern="a|b", at_least=1)) == {"type": "string", "pattern": "^(a|b)$", "minLength": 1}
    assert schema(Number(0, whole=False)) == {"type": "number", "minimum": 0}
    assert schema(list_of(Text(), unique=True))["x-kubernetes-list-type"] == "set"
    two = record({"a": Text(), "b": Text(), "c": Text(), "d": Text()}, one_of=(("a", "b"), ("c", "d")))
    assert [len(part["oneOf"]) for part in schema(two)["allOf"]] == [3, 3]


def test_a_slip_in_a_table_is_found_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="no such field: b"):
        record({"a": Text()}, required=("b",))


def test_a_schema_that_is_not_structural_is_found_out() -> None:
    keyed = list_of(record({"a": Text()}), keys=("a",))
    assert breaches(schema(Record({"x": keyed}))) == [".x: keys that may be absent"]
    assert breaches({"type": "object", "properties": {"a": {}}}) == [".a: has no type"]


def test_the_files_are_what_the_tables_give() -> None:
    held = {path.name: path.read_text() for path in (ROOT / "deploy" / "crds").iterdir()}
    assert held.keys() == DEFINITIONS.keys(), "run: python -m istiod.schema deploy/crds"
    stale = [name for name, definition in DEFINITIONS.items() if held[name] != manifest(definition)]
    assert stale == [], "run: python -m istiod.schema deploy/crds"


def test_a_file_says_what_the_definition_says(tmp_path: Path) -> None:
    assert sorted(write(str(tmp_path / "new"))) == sorted(path.name for path in (tmp_path / "new").iterdir())
    for name, definition in DEFINITIONS.items():
        text = (tmp_path / "new" / name).read_text()
        assert yaml.safe_load(text) == definition
        assert "&id" not in text


def test_the_command_writes_them_all(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "istiod.schema"]
    done = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith(f"{len(CUSTOM)} definitions in ")
    assert len(list(tmp_path.iterdir())) == len(CUSTOM)


def test_the_command_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "istiod.schema", str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: cannot write to ")
