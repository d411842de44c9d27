"""Waypoints: labels that bind to one which cannot be used, and routes that no waypoint follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from istiod.analyze.hosts import Hosts
from istiod.analyze.message import Message, message
from istiod.analyze.routes import KINDS
from istiod.analyze.virtual_services import key_of, known_hosts
from istiod.analyze.world import World
from istiod.objects import Meta, Namespace, Pod, ServiceEntry, VirtualService, WorkloadEntry
from istiod.translate.common import labels_of
from istiod.translate.services import DYNAMIC
from istiod.translate.waypoints import (
    NONE,
    SERVICE_TRAFFIC,
    USE_CANARY,
    USE_WAYPOINT,
    USE_WAYPOINT_NAMESPACE,
    WORKLOAD_TRAFFIC,
    Binding,
    bind,
    service_binding,
    waypoint,
)
from meshcore.manifests import Key
from meshcore.yamldoc import Path

_UNSUPPORTED: Final = "UnsupportedTrafficType"
_INJECTION: Final = "istio-injection"
_REVISION: Final = "istio.io/rev"


def bindings(world: World) -> Iterator[Message]:
    """What the labels of objects and namespaces come to."""
    for kind in ("Service", "ServiceEntry"):
        for (namespace, name), service in world.store.by_kind(kind).items():
            labels = service.metadata.labels
            if USE_WAYPOINT in labels:
                found = service_binding(world.view, kind, namespace, name)
                yield from _judged(world, (kind, namespace, name), labels, found, namespace)
    workloads: list[tuple[str, Meta, Mapping[str, str]]] = []
    for pod in world.store.of(Pod).values():
        workloads.append(("Pod", pod.metadata, pod.metadata.labels))
    for entry in world.store.of(WorkloadEntry).values():
        workloads.append(("WorkloadEntry", entry.metadata, labels_of(entry)))
    for kind, meta, labels in workloads:
        if USE_WAYPOINT in labels:
            found = bind(world.view, meta.namespace, labels, meta.annotations, WORKLOAD_TRAFFIC)
            yield from _judged(world, (kind, meta.namespace, meta.name), labels, found, meta.namespace)
    for (_, name), space in world.store.of(Namespace).items():
        yield from _of_namespace(world, name, space)


def _of_namespace(world: World, name: str, namespace: Namespace) -> Iterator[Message]:
    """Told once, at the namespace, and not for all that is in it."""
    meta = namespace.metadata
    if USE_WAYPOINT not in meta.labels:
        return
    found = bind(world.view, name, meta.labels, meta.annotations, SERVICE_TRAFFIC)
    if found.reason == _UNSUPPORTED:
        workloads = bind(world.view, name, meta.labels, meta.annotations, WORKLOAD_TRAFFIC)
        found = found if workloads.waypoint is None else workloads
    yield from _judged(world, ("Namespace", "", name), meta.labels, found, name)


def _judged(world: World, key: Key, labels: Mapping[str, str], found: Binding, namespace: str) -> Iterator[Message]:
    path: Path = ("metadata", "labels", USE_WAYPOINT)
    if found.canary_problem:
        yield message("AMB0003", key, ("metadata", "labels", USE_CANARY), text=found.canary_problem)
    if found.waypoint is not None or not found.reason:
        return
    place, name = labels.get(USE_WAYPOINT_NAMESPACE) or namespace, labels[USE_WAYPOINT]
    if waypoint(world.view, place, name) is not None:
        hint = ""
        if found.reason == _UNSUPPORTED:
            hint = f"Label the Gateway {place}/{name} with istio.io/waypoint-for: all."
        yield message("AMB0003", key, path, hint, text=f"{found.reason}: {found.message}")
    elif world.exists("Gateway", place, name):
        text = f"the Gateway {place}/{name} is no waypoint: its class is another"
        yield message("AMB0003", key, path, text=text)
    elif world.missing("Gateway", place, name):
        hint = "Traffic goes directly, without the policies and routes of a waypoint."
        yield message("IST0101", key, path, hint, what="waypoint", name=f"{place}/{name}")


def routes(world: World) -> Iterator[Message]:
    """Rules for traffic inside the mesh to a service that has no waypoint."""
    hosts = Hosts(world)
    for found in world.store.of(VirtualService).values():
        for host, path in known_hosts(found, hosts):
            if host.sure and not _bound(world, host.key):
                yield message("AMB0005", key_of(found), path, _advice(host.key), host=host.name)
    for kind, python_type in KINDS.items():
        for (namespace, name), route in world.store.of(python_type).items():
            for index, parent in enumerate(route.spec.parent_refs):
                target: Key = (parent.kind, parent.namespace or namespace, parent.name)
                mesh = parent.kind in ("Service", "ServiceEntry") and world.exists(*target)
                if mesh and not _bound(world, target):
                    place: Path = ("spec", "parentRefs", index)
                    title = f"{target[0]} {target[1]}/{target[2]}"
                    yield message("AMB0005", (kind, namespace, name), place, _advice(target), host=title)


def _bound(world: World, key: Key) -> bool:
    """Whether it is bound, or meant to be: that a waypoint cannot be used is told elsewhere."""
    binding = world.view.ask(service_binding, *key)
    return bool(binding.reason)


def _advice(key: Key) -> str:
    return f"Bind the {key[0]} {key[1]}/{key[2]}, or its namespace, with the label {USE_WAYPOINT}."


def dynamic_entries(world: World) -> Iterator[Message]:
    """Wildcard hosts that only a waypoint can resolve."""
    for (namespace, name), entry in world.store.of(ServiceEntry).items():
        wild = any(host.startswith("*") for host in entry.spec.hosts)
        if entry.spec.resolution == DYNAMIC and wild and not _bound(world, ("ServiceEntry", namespace, name)):
            text = "a wildcard host with DYNAMIC_DNS is resolved by a waypoint, and this entry is bound to none"
            hint = _advice(("ServiceEntry", namespace, name))
            yield message("AMB0003", ("ServiceEntry", namespace, name), ("spec", "resolution"), hint, text=text)


def injection_labels(world: World) -> Iterator[Message]:
    """Two labels that both choose an injector."""
    for (_, name), namespace in world.store.of(Namespace).items():
        labels = namespace.metadata.labels
        if _REVISION in labels and labels.get(_INJECTION) not in (None, NONE):
            yield message("IST0123", ("Namespace", "", name), ("metadata", "labels", _REVISION))
