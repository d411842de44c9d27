"""The mesh's settings: those istiod was started with, overlaid by MeshConfig."""

from __future__ import annotations

from typing import Final

import msgspec

from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, read_mesh_config
from istiod.objects import ConfigMap, Namespace
from istiod.translate.common import MeshConfig, VisibilityPolicy, matches
from istiod.translate.graph import View
from meshcore.errors import ConfigError

NETWORK_LABEL: Final = "topology.istio.io/network"


def mesh_config(view: View) -> MeshConfig:
    """A MeshConfig that cannot be read and never could counts as absent (the intake keeps the last good one).

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


def entry_visibility(view: View, namespace: str) -> str:
    """PUBLIC, NAMESPACE or NONE for the ServiceEntries of a namespace (MeshConfig.serviceEntryVisibility)."""
    mesh = view.ask(mesh_config)
    if mesh.entry_visibility_policies:
        found = view.get(Namespace, "", namespace)
        labels = found.metadata.labels if found is not None else {}
        for policy in mesh.entry_visibility_policies:
            if matches(policy.selector, labels):
                return policy.visibility
    return mesh.entry_visibility
