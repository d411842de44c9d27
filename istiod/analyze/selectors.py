"""Selectors: those that select nothing, that meet, and that mean a Gateway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from istiod.analyze.message import Message, message
from istiod.analyze.world import World, Written
from istiod.translate.indexes import GATEWAY_NAME
from meshcore.yamldoc import Path

_WHERE: Final[dict[str, Path]] = {
    **dict.fromkeys(
        (
            "AuthorizationPolicy",
            "RequestAuthentication",
            "PeerAuthentication",
            "Telemetry",
            "WasmPlugin",
            "ProxyConfig",
        ),
        ("selector", "matchLabels"),
    ),
    **dict.fromkeys(("Sidecar", "EnvoyFilter"), ("workloadSelector", "labels")),
    "ServiceEntry": ("workloadSelector", "labels"),
    "DestinationRule": ("workloadSelector", "matchLabels"),
}
"""The selector of each kind, below `spec`."""
_MESH_WIDE: Final = frozenset(
    {"AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin", "EnvoyFilter"}
)
"""Kinds whose selector holds for every namespace when they stand in the root namespace."""
_FOR_GATEWAYS: Final = ("AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin")


class Selecting(NamedTuple):
    """An object and its labels; `labels` is empty when it selects by namespace."""

    one: Written
    labels: dict[str, str]
    path: Path
    targeted: bool

    @property
    def title(self) -> str:
        return f"{self.one.kind} {self.one.key[1]}/{self.one.key[2]}"

    def scope(self, world: World) -> str:
        """The namespace in which it selects; empty for all."""
        return world.scope(self.one.key[1]) if self.one.kind in _MESH_WIDE else self.one.key[1]


def selecting(world: World, kind: str) -> Iterator[Selecting]:
    """All objects of a kind that selects, also of kinds that istiod does not use."""
    for one in world.of(kind):
        field = one.spec
        for name in _WHERE[kind]:
            field = field[str(name)]
        labels = {name: value.text for name, value in field.members()}
        targeted = bool(one.spec["targetRef"] or one.spec["targetRefs"])
        yield Selecting(one, labels, field.path, targeted)


def nothing_selected(world: World) -> Iterator[Message]:
    if not world.knows_workloads:
        return
    for kind in _WHERE:
        for found in selecting(world, kind):
            if found.labels and not world.selected(found.scope(world), found.labels):
                labels = ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items()))
                yield message("IST0127", found.one.key, found.path, labels=labels)


def sidecars(world: World) -> Iterator[Message]:
    yield from _conflicts(world, "Sidecar", "IST0110", "IST0111")


def telemetries(world: World) -> Iterator[Message]:
    yield from _conflicts(world, "Telemetry", "IST0159", "IST0160")


def _conflicts(world: World, kind: str, selected: str, whole: str) -> Iterator[Message]:
    """Objects of a kind of which a workload, and a namespace, can have one."""
    by_namespace: dict[str, list[Selecting]] = {}
    for found in selecting(world, kind):
        if not found.targeted:
            by_namespace.setdefault(found.one.key[1], []).append(found)
    for namespace, group in by_namespace.items():
        for found in group:
            others = [other for other in group if other is not found and bool(other.labels) == bool(found.labels)]
            if not found.labels and others:
                yield message(whole, found.one.key, ("spec",), others=_titles(others))
            elif found.labels:
                yield from _meet(world, namespace, found, others, selected)


def _meet(world: World, namespace: str, found: Selecting, others: Sequence[Selecting], code: str) -> Iterator[Message]:
    same = [other for other in others if other.labels == found.labels]
    if same:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items()))
        yield message(code, found.one.key, found.path, others=_titles(same), workload=f"what has {labels}")
        return
    for workload in world.selected(namespace, found.labels):
        both = [other for other in others if other.labels.items() <= workload.labels.items()]
        if both:
            yield message(code, found.one.key, found.path, others=_titles(both), workload=workload.title)
            return


def _titles(found: Sequence[Selecting]) -> str:
    return ", ".join(one.title for one in found)


def gateways(world: World) -> Iterator[Message]:
    """Policies that mean the pods of a Gateway of the Gateway API by a selector."""
    for kind in _FOR_GATEWAYS:
        for found in selecting(world, kind):
            if not found.labels or found.targeted:
                continue
            names = {
                f"{pod.key[1]}/{pod.labels[GATEWAY_NAME]}"
                for pod in world.selected(found.scope(world), found.labels)
                if GATEWAY_NAME in pod.labels
            }
            if GATEWAY_NAME in found.labels:
                names.add(f"{found.one.key[1]}/{found.labels[GATEWAY_NAME]}")
            for name in sorted(names):
                hint = "spec.targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: %s}]"
                yield message("IST0166", found.one.key, found.path, hint % name.partition("/")[2], gateway=name)
