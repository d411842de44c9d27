"""The page /metrics: what is counted where it happens, and what is looked up when somebody asks."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Final

from istiod.admin import Answer, Request, json
from istiod.objects import KINDS
from istiod.parts import Parts
from meshcore.model import ADDRESS_TYPE, WorkloadStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@cache
def version() -> str:
    """Of this software."""
    try:
        return metadata.version("ambient-mesh")
    except metadata.PackageNotFoundError:
        return "unknown"


def version_page(request: Request) -> Answer:
    """A route of the monitoring port."""
    del request
    return json({"version": version()})


class MetricsPage:
    """A route of the monitoring port."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, request: Request) -> Answer:
        del request
        self._process()
        self._authority()
        self._objects()
        self._graph()
        self._sources()
        return Answer(200, self._parts.metrics.render().encode(), CONTENT_TYPE)

    def _process(self) -> None:
        parts, metrics = self._parts, self._parts.metrics
        metrics.set("pilot_info", 1, version=version())
        metrics.set("istiod_uptime_seconds", parts.uptime)
        metrics.set("istiod_leader", parts.election is None or parts.election.is_leader)
        if parts.reflectors:
            metrics.set("istiod_managed_clusters", 1, cluster_type="local")

    def _authority(self) -> None:
        authority, now = self._parts.authority.current, datetime.now(UTC)
        for name, expiry in (("root_cert", authority.root_expiry), ("cert_chain", authority.chain_expiry)):
            self._parts.metrics.set(f"citadel_server_{name}_expiry_seconds", (expiry - now).total_seconds())

    def _objects(self) -> None:
        parts, metrics = self._parts, self._parts.metrics
        metrics.replace("istiod_objects", {kind: len(parts.store.by_kind(kind)) for kind in KINDS})
        metrics.set("pilot_virt_services", len(parts.store.by_kind("VirtualService")))
        services = unhealthy = 0
        for address in parts.published.objects(ADDRESS_TYPE).values():
            services += address.service is not None
            unhealthy += address.workload is not None and address.workload.status is WorkloadStatus.UNHEALTHY
        metrics.set("pilot_services", services)
        metrics.set("pilot_endpoint_not_ready", unhealthy)

    def _graph(self) -> None:
        parts, metrics = self._parts, self._parts.metrics
        if parts.translator is None:
            return
        graph = parts.translator.graph
        counted: Counter[tuple[str, ...]] = Counter()
        for result, numbers in (("computed", graph.computed), ("kept", graph.kept)):
            counted.update({(derivation, result): number for derivation, number in numbers.items()})
        metrics.replace("istiod_translations_total", dict(counted))
        metrics.set("istiod_translation_failures_total", graph.failures)
        metrics.set("istiod_translation_nodes", graph.size)

    def _sources(self) -> None:
        metrics = self._parts.metrics
        for reflector in self._parts.reflectors:
            resource, stats = reflector.resource, reflector.stats
            name = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
            metrics.set("istiod_reflector_objects", len(reflector), resource=name)
            metrics.set("istiod_reflector_synced", reflector.synced.is_set(), resource=name)
            metrics.set("istiod_reflector_lists_total", stats.lists, resource=name)
            metrics.set("istiod_reflector_watches_total", stats.watches, resource=name)
            metrics.set("istiod_reflector_events_total", stats.events, resource=name)
            metrics.set("istiod_reflector_errors_total", stats.errors, resource=name)
