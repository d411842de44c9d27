"""The mesh's settings: those istiod was started with, overlaid by MeshConfig."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from istiod.objects import ConfigMap, Namespace
from istiod.objects.base import convert
from istiod.objects.mesh import MeshConfigFile
from istiod.translate.common import MeshConfig, VisibilityPolicy
from istiod.translate.graph import View
from meshcore.errors import ConfigError
from meshcore.yamldoc import YamlError, parse

CONFIG_MAP: Final = "istio"
CONFIG_KEY: Final = "mesh"
NETWORK_LABEL: Final = "topology.istio.io/network"


def read_mesh_config(text: str) -> MeshConfigFile:
    """Raises ConfigError naming line or field."""
    try:
        documents = list(parse(text))
    except YamlError as exc:
        raise ConfigError(f"MeshConfig, line {exc.line}: {exc}") from None
    data: Any = documents[0].data if documents else {}
    try:
        return convert(data, MeshConfigFile)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"MeshConfig: {exc}") from None


def mesh_config(view: View) -> MeshConfig:
    """A MeshConfig that cannot be read counts as absent; `analyze` and the log say what is wrong with it.

    The trust domain is read at the start only: certificates cannot follow it afterwards.
    """
    settings = view.settings
    system = view.get(Namespace, "", settings.root_namespace)
    network = system.metadata.labels.get(NETWORK_LABEL, "") if system is not None else ""
    settings = msgspec.structs.replace(settings, network=network or settings.network)
    stored = view.get(ConfigMap, settings.root_namespace, CONFIG_MAP)
    if stored is None or CONFIG_KEY not in stored.data:
        return settings
    try:
        wanted = read_mesh_config(stored.data[CONFIG_KEY])
    except ConfigError:
        return settings
    visibility = wanted.service_entry_visibility
    return msgspec.structs.replace(
        settings,
        trust_domain_aliases=wanted.trust_domain_aliases or settings.trust_domain_aliases,
        discovery_selectors=wanted.discovery_selectors,
        entry_visibility=visibility.default_visibility,
        entry_visibility_policies=tuple(
            VisibilityPolicy(policy.namespace_selector, policy.visibility) for policy in visibility.policies
        ),
    )
