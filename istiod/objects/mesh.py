"""MeshConfig, as it stands under the key `mesh` of the ConfigMap `istio` (mesh.istio.io/v1alpha1)."""

from __future__ import annotations

import msgspec

from istiod.objects.base import Object
from istiod.objects.gateway_api import LabelSelector


class EntryVisibilityPolicy(Object, frozen=True):
    namespace_selector: LabelSelector = LabelSelector()
    visibility: str = "PUBLIC"


class EntryVisibility(Object, frozen=True):
    default_visibility: str = "PUBLIC"
    policies: tuple[EntryVisibilityPolicy, ...] = ()


class MeshConfigFile(Object, frozen=True):
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    discovery_selectors: tuple[LabelSelector, ...] = ()
    service_entry_visibility: EntryVisibility = msgspec.field(default_factory=EntryVisibility)
