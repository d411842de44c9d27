"""The mesh-wide settings of waypoints and gateways, read from MeshConfig."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from istiod.objects import ConfigMap, convert
from istiod.objects.mesh_l7 import ExtensionProvider, MeshL7File
from istiod.translate.graph import View
from istiod.translate.meshconfig import CONFIG_KEY, CONFIG_MAP
from meshcore.errors import ConfigError
from meshcore.yamldoc import YamlError, parse

DEFAULT_EXPORT: Final = ("*",)


def mesh_l7(view: View) -> MeshL7File:
    """What MeshConfig says; one that cannot be read counts as absent (`meshconfig.read_mesh_config` says why)."""
    stored = view.get(ConfigMap, view.settings.root_namespace, CONFIG_MAP)
    if stored is None or CONFIG_KEY not in stored.data:
        return MeshL7File()
    try:
        return read_mesh_l7(stored.data[CONFIG_KEY])
    except ConfigError:
        return MeshL7File()


def read_mesh_l7(text: str) -> MeshL7File:
    """Raises ConfigError naming line or field."""
    try:
        documents = list(parse(text))
    except YamlError as exc:
        raise ConfigError(f"MeshConfig, line {exc.line}: {exc}") from None
    data: Any = documents[0].data if documents else {}
    try:
        return convert(data, MeshL7File)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"MeshConfig: {exc}") from None


def provider(view: View, name: str) -> ExtensionProvider | None:
    """An entry of MeshConfig.extensionProviders."""
    return next((one for one in view.ask(mesh_l7).extension_providers if one.name == name), None)


def exported(export_to: tuple[str, ...], default: tuple[str, ...], own: str, reader: str) -> bool:
    """Whether an object of the namespace `own` may be used by one of `reader` (exportTo)."""
    names = export_to or default or DEFAULT_EXPORT
    return "*" in names or reader in names or ("." in names and own == reader)
