"""Routes of the Gateway API: whether what they name exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from istiod.analyze.hosts import Hosts
from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from istiod.objects import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute
from istiod.objects.routes import BackendRef, GRPCRule, HTTPRule, L4Rule, ParentRef, Route
from istiod.resources import GATEWAY_API, NETWORKING
from meshcore.manifests import Key
from meshcore.yamldoc import Path

KINDS: Final[dict[str, type[Route]]] = {
    "HTTPRoute": HTTPRoute,
    "GRPCRoute": GRPCRoute,
    "TCPRoute": TCPRoute,
    "TLSRoute": TLSRoute,
}
_OBJECTS: Final = {
    ("Gateway", GATEWAY_API): "Gateway",
    ("ListenerSet", GATEWAY_API): "ListenerSet",
    ("Service", ""): "Service",
    ("Service", "core"): "Service",
    ("ServiceEntry", NETWORKING): "ServiceEntry",
}
"""Kinds that a route refers to, and their names in the store."""


def references(world: World) -> Iterator[Message]:
    hosts = Hosts(world)
    for kind, python_type in KINDS.items():
        for (namespace, name), route in world.store.of(python_type).items():
            key: Key = (kind, namespace, name)
            for index, parent in enumerate(route.spec.parent_refs):
                yield from _parent(world, key, parent, ("spec", "parentRefs", index))
            for backend, path in _backends(route):
                yield from _backend(world, hosts, key, backend, path)


def _parent(world: World, key: Key, parent: ParentRef, path: Path) -> Iterator[Message]:
    kind = _OBJECTS.get((parent.kind, parent.group))
    place = parent.namespace or key[1]
    if kind is not None and world.missing(kind, place, parent.name):
        yield message("IST0101", key, path, what=f"parent {parent.kind}", name=f"{place}/{parent.name}")


def _backends(route: Route) -> Iterator[tuple[BackendRef, Path]]:
    rules: Sequence[HTTPRule | GRPCRule | L4Rule] = route.spec.rules
    for number, rule in enumerate(rules):
        base: Path = ("spec", "rules", number)
        for index, backend in enumerate(rule.backend_refs):
            yield backend, (*base, "backendRefs", index)
        for index, one in enumerate(rule.filters if not isinstance(rule, L4Rule) else ()):
            if one.request_mirror is not None:
                mirror = one.request_mirror.backend_ref
                plain = BackendRef(mirror.name, mirror.kind, mirror.group, mirror.namespace, mirror.port)
                yield plain, (*base, "filters", index, "requestMirror", "backendRef")


def _backend(world: World, hosts: Hosts, key: Key, backend: BackendRef, path: Path) -> Iterator[Message]:
    place = backend.namespace or key[1]
    if (backend.kind, backend.group) == ("Hostname", NETWORKING):
        if not hosts.find(backend.name, key[1]) and not hosts.unsure():
            yield message("IST0101", key, path, what="host", name=backend.name)
        return
    kind = _OBJECTS.get((backend.kind, backend.group))
    if kind is not None and world.missing(kind, place, backend.name):
        yield message("IST0101", key, path, what=f"backend {backend.kind}", name=f"{place}/{backend.name}")
