"""Everything that leaves the graph: the families of resources, and the translator that keeps them up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from istiod import objects
from istiod.store import Change, Index, Store
from istiod.translate import (
    authorization,
    conditions,
    entries,
    gateway_api,
    indexes,
    peer_authentication,
    services,
    workloads,
)
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Diff, Family, Graph, View
from istiod.translate.indexes import ENTRIES_BY_HOST, MTLS_ANY
from istiod.translate.l7 import families as l7_families
from istiod.translate.l7 import indexes as l7_indexes
from istiod.translate.waypoints import waypoint
from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Authorization,
    Clause,
    Match,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
)


def allow_waypoint(view: View, namespace: str, name: str) -> Mapping[str, Authorization]:
    """The synthetic policy that lets a waypoint's identity in: workloads that have the waypoint name it."""
    if not view.settings.allow_waypoints:
        return {}
    found = view.ask(waypoint, namespace, name)
    if found is None:
        return {}
    source = Match(service_accounts=(ServiceAccountMatch(namespace, found.service_account),))
    policy = Authorization(
        workloads.waypoint_policy_name(found),
        namespace,
        PolicyScope.WORKLOAD_SELECTOR,
        PolicyAction.ALLOW,
        (Rule((Clause((source,)),)),),
    )
    return {f"{namespace}/{policy.name}": policy}


FAMILIES: Final = (
    Family(ADDRESS_TYPE, (objects.Service,), services.service_addresses),
    Family(ADDRESS_TYPE, (ENTRIES_BY_HOST,), services.entry_addresses),
    Family(ADDRESS_TYPE, (objects.Pod,), workloads.pod_addresses),
    Family(ADDRESS_TYPE, (objects.WorkloadEntry,), entries.workload_entry_addresses),
    Family(ADDRESS_TYPE, (objects.ServiceEntry,), entries.service_entry_workloads),
    Family(ADDRESS_TYPE, (objects.EndpointSlice,), entries.slice_workloads),
    Family(AUTHORIZATION_TYPE, (objects.AuthorizationPolicy,), authorization.ztunnel_policy),
    Family(AUTHORIZATION_TYPE, (objects.PeerAuthentication,), peer_authentication.converted),
    Family(AUTHORIZATION_TYPE, (MTLS_ANY,), peer_authentication.static_strict),
    Family(AUTHORIZATION_TYPE, (objects.Gateway,), allow_waypoint),
    *conditions.FAMILIES,
    *l7_families.FAMILIES,
    *gateway_api.FAMILIES,
)

INDEXES: Final[tuple[Index[Any], ...]] = (*indexes.INDEXES, *l7_indexes.INDEXES, *gateway_api.INDEXES)
"""Those that a store needs for the families."""


class Translator:
    """The resources of a store. `apply` what `Store.put` returned; it gives the differences."""

    def __init__(self, store: Store, settings: MeshConfig) -> None:
        self.graph = Graph(store, FAMILIES, settings)

    def resources(self, output: str) -> Mapping[str, Any]:
        """Everything of one output, by name; a live view that the caller only reads."""
        return self.graph.outputs[output]

    def apply(self, changes: Iterable[Change]) -> list[Diff]:
        return self.graph.apply(changes)
