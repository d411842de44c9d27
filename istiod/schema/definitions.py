"""CustomResourceDefinitions made of the tables: structural schemas, as apiextensions.k8s.io/v1 demands them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from istiod.resources import GATEWAY_API, RESOURCES, Resource
from istiod.schema.fields import (
    Anything,
    Column,
    Entries,
    Field,
    Flag,
    Items,
    Number,
    NumberOrText,
    Record,
    Table,
    Text,
)
from istiod.schema.tables import table
from meshcore.errors import ConfigError
from meshcore.manifests import write_atomic

Schema = dict[str, Any]

LABELS: Final = {"app.kubernetes.io/part-of": "ambient-mesh"}
# The API server admits a group below k8s.io only with this note, and asks that an unapproved definition says so.
_PROTECTED: Final = {"api-approved.kubernetes.io": "unapproved, made of the field tables of ambient-mesh"}
_LINE_CHARS: Final = 120
_FLOW_CHARS: Final = 90


def crd(resource: Resource) -> dict[str, Any]:
    """The definition of one kind, as an object. Raises ConfigError for a kind that no definition defines."""
    found = table(resource)
    if found is None:
        raise ConfigError(f"{resource.kind} is a kind of Kubernetes itself: it has no CustomResourceDefinition")
    metadata: dict[str, Any] = {"name": f"{resource.plural}.{resource.group}", "labels": dict(LABELS)}
    if resource.group == GATEWAY_API:
        metadata["annotations"] = dict(_PROTECTED)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": resource.group,
            "names": _names(resource, found),
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [
                _version(found, version, storage=version == resource.version) for version in resource.versions
            ],
        },
    }


def definitions() -> dict[str, dict[str, Any]]:
    """Every definition, by the name of its file."""
    return {f"{resource.plural}.{resource.group}.yaml": crd(resource) for resource in RESOURCES if resource.custom}


def manifest(definition: dict[str, Any]) -> str:
    """One definition as YAML."""
    return yaml.dump(definition, Dumper=_Plain, sort_keys=False, width=_LINE_CHARS)


def write(directory: str) -> list[str]:
    """Write every definition as a file, each replaced atomically; the names. Raises OSError."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    found = definitions()
    for name, definition in found.items():
        write_atomic(Path(directory, name), manifest(definition).encode())
    return list(found)


class _Plain(yaml.SafeDumper):
    """Without anchors, because the versions of a kind share their schema and many readers refuse aliases. What fits
    into a line stands in one.
    """

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style or len(repr(mapping)) <= _FLOW_CHARS)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style or len(repr(sequence)) <= _FLOW_CHARS)


def _names(resource: Resource, found: Table) -> dict[str, Any]:
    families = ["gateway-api"]
    if resource.group != GATEWAY_API:
        families = ["istio-io", resource.group.replace(".", "-")]
    names: dict[str, Any] = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "categories": families,
    }
    if found.short_names:
        names["shortNames"] = list(found.short_names)
    return names


def _version(found: Table, version: str, *, storage: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": schema(found.spec),
    }
    result: dict[str, Any] = {"name": version, "served": True, "storage": storage}
    if found.status is not None:
        properties["status"] = schema(found.status)
        result["subresources"] = {"status": {}}
    if found.columns:
        result["additionalPrinterColumns"] = [_column(column) for column in found.columns]
    root: Schema = {"type": "object", "properties": properties}
    if found.spec.required:
        root["required"] = ["spec"]
    result["schema"] = {"openAPIV3Schema": root}
    return result


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        shown["priority"] = column.priority
    return shown


def schema(field: Field) -> Schema:
    """The structural schema of one field."""
    match field:
        case Record():
            return _record(field)
        case Items():
            return _items(field)
        case Entries():
            return _without(
                {"type": "object", "maxProperties": field.at_most, "additionalProperties": schema(field.value)}
            )
        case Text():
            return _text(field)
        case Number():
            return _number(field)
        case Flag():
            return {"type": "boolean"}
        case NumberOrText():
            return {"x-kubernetes-int-or-string": True}
        case Anything():
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    raise TypeError(f"BUG: no schema for {type(field).__name__}")


def _record(field: Record) -> Schema:
    result: Schema = {"type": "object"}
    if field.required:
        result["required"] = list(field.required)
    groups = [_at_most_one(group) for group in field.one_of]
    if len(groups) == 1:
        result["oneOf"] = groups[0]
    elif groups:
        result["allOf"] = [{"oneOf": group} for group in groups]
    result["properties"] = {name: schema(inner) for name, inner in field.fields.items()}
    return result


def _at_most_one(group: tuple[str, ...]) -> list[Schema]:
    """None of the group, or exactly one of it."""
    single: list[Schema] = [{"required": [name]} for name in group]
    return [{"not": {"anyOf": single}}, *single]


def _items(field: Items) -> Schema:
    result = _without({"type": "array", "minItems": field.at_least or None, "maxItems": field.at_most})
    if field.keys:
        result |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(field.keys)}
    elif field.unique:
        result["x-kubernetes-list-type"] = "set"
    result["items"] = schema(field.item)
    return result


def _text(field: Text) -> Schema:
    return _without(
        {
            "type": "string",
            "enum": list(field.values) or None,
            "pattern": f"^({field.pattern})$" if field.pattern else None,
            "minLength": field.at_least or None,
            "maxLength": field.at_most,
            "default": field.default,
        }
    )


def _number(field: Number) -> Schema:
    return _without(
        {
            "type": "integer" if field.whole else "number",
            "enum": list(field.values) or None,
            "minimum": field.minimum,
            "maximum": field.maximum,
            "default": field.default,
        }
    )


def _without(fields: Schema) -> Schema:
    """What is set of `fields`."""
    return {name: value for name, value in fields.items() if value is not None}
