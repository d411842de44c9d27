"""All analyzers. Each reads a world and gives messages; none depends on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from istiod.analyze import (
    destination_rules,
    envoy_filters,
    gateways,
    metadata,
    policies,
    routes,
    selectors,
    services,
    single,
    virtual_services,
    waypoints,
)
from istiod.analyze.message import Message
from istiod.analyze.world import World

Analyzer: TypeAlias = Callable[[World], Iterator[Message]]

ANALYZERS: Final[tuple[Analyzer, ...]] = (
    single.checks,
    single.mesh_config,
    single.unused_fields,
    single.conditions,
    single.proxy_user,
    single.definitions,
    metadata.known_annotations,
    metadata.known_labels,
    services.port_names,
    services.shared_pods,
    virtual_services.gateways,
    virtual_services.references,
    virtual_services.conflicts,
    virtual_services.ingress_subsets,
    destination_rules.hosts,
    destination_rules.certificates,
    destination_rules.entry_ports,
    gateways.workloads,
    gateways.conflicts,
    gateways.duplicate_certificates,
    gateways.credentials,
    gateways.classes,
    routes.references,
    selectors.nothing_selected,
    selectors.sidecars,
    selectors.telemetries,
    selectors.gateways,
    envoy_filters.patches,
    policies.attached,
    policies.nobody_follows,
    policies.peer_authentication,
    policies.trust_domains,
    policies.authorizers,
    policies.telemetry_providers,
    policies.claim_routes,
    waypoints.bindings,
    waypoints.routes,
    waypoints.dynamic_entries,
    waypoints.injection_labels,
)

OF_ONE_OBJECT: Final[tuple[Analyzer, ...]] = (
    single.checks,
    single.unused_fields,
    metadata.known_annotations,
    metadata.known_labels,
)
"""Those that need no other object."""
