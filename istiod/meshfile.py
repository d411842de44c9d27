"""MeshConfig as users write it: YAML under the key `mesh` of the ConfigMap `istio` in the root namespace."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from istiod.objects.base import convert
from istiod.objects.mesh import MeshConfigFile
from istiod.objects.mesh_l7 import MeshL7File
from meshcore.errors import ConfigError
from meshcore.yamldoc import YamlError, parse

CONFIG_MAP: Final = "istio"
CONFIG_KEY: Final = "mesh"

T = TypeVar("T")


def document(text: str) -> dict[str, Any]:
    """The fields as data; raises ConfigError naming the line."""
    try:
        documents = list(parse(text))
    except YamlError as exc:
        raise ConfigError(f"MeshConfig, line {exc.line}: {exc}") from None
    data: Any = documents[0].data if documents else {}
    if not isinstance(data, dict):
        raise ConfigError("MeshConfig: it is no mapping of names to values")
    return data


def read_mesh_config(text: str) -> MeshConfigFile:
    """What concerns workloads and services. Raises ConfigError naming line or field."""
    return converted(document(text), MeshConfigFile)


def read_mesh_l7(text: str) -> MeshL7File:
    """What concerns waypoints and gateways. Raises ConfigError naming line or field."""
    return converted(document(text), MeshL7File)


def converted(data: dict[str, Any], kind: type[T]) -> T:
    """Raises ConfigError naming the field."""
    try:
        return convert(data, kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"MeshConfig: {exc}") from None
