"""Everything that is analysed: the objects as written, and the store that istiod itself would work with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec

from istiod import objects
from istiod.analyze.message import Message
from istiod.discovery import Discovery
from istiod.intake import Intake
from istiod.kube.changes import RawChange
from istiod.objects import Gateway, Pod, WorkloadEntry
from istiod.objects.gateway_api import GatewayAddressSpec, GatewayStatus
from istiod.problem import Problem
from istiod.resources import Resource, store_kind
from istiod.store import DEFAULT_REVISION, Change, Store
from istiod.translate.common import MeshConfig, labels_of
from istiod.translate.graph import Graph, View
from istiod.translate.indexes import INDEXES
from istiod.validate import check
from istiod.validate.field import Field
from meshcore.manifests import Key, Manifest, Scan
from meshcore.yamldoc import Path

TEMPLATES: Final = ("Deployment", "StatefulSet", "DaemonSet")
"""Kinds of which pods are made: files hold these, not the pods."""
_POD_OF: Final[Mapping[str, Path]] = {"Pod": (), **dict.fromkeys(TEMPLATES, ("spec", "template"))}
SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


class Written:
    """One object as it was written, in a file or in the API server; decoded when somebody looks at it."""

    __slots__ = ("_raw", "api_version", "key", "kind", "manifest")

    def __init__(
        self, key: Key, kind: str, api_version: str, raw: dict[str, Any] | msgspec.Raw, manifest: Manifest | None = None
    ) -> None:
        self.key = key
        self.kind = kind
        self.api_version = api_version
        self.manifest = manifest
        self._raw = raw

    @property
    def obj(self) -> dict[str, Any]:
        """Never changed by a reader."""
        if isinstance(self._raw, msgspec.Raw):
            self._raw = msgspec.json.decode(self._raw, type=dict[str, Any])
        return self._raw

    @property
    def root(self) -> Field:
        return Field(self.obj)

    @property
    def spec(self) -> Field:
        return self.root["spec"]


class Workload(NamedTuple):
    """A pod, what pods are made from, or a WorkloadEntry."""

    key: Key
    labels: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.key[0]} {self.key[1]}/{self.key[2]}"


class World:
    """Add manifests and items of the API, then `close`; after that analyzers read it.

    `namespace` is that of objects which name none.
    """

    def __init__(
        self, settings: MeshConfig | None = None, *, revision: str = DEFAULT_REVISION, namespace: str = "default"
    ) -> None:
        self.settings = settings or MeshConfig()
        self.store = Store(INDEXES, revision=revision)
        self.intake = Intake(self.store)
        self.written: dict[Key, Written] = {}
        self.faults: list[Message] = []
        """What is wrong with files, and with reading the cluster."""
        self.live = False
        """Objects of a cluster are among them: what is missing is missing."""
        self.unseen: set[str] = set()
        """Kinds, by their names in the store, of which not every object could be read."""
        self.untyped: dict[Key, tuple[Problem, ...]] = {}
        """What the checks say about objects of kinds that have no type, and so no place in the store."""
        self._namespace = namespace
        self._settings_changes: list[Change] = []

    def add_manifests(self, manifests: Iterable[Manifest]) -> None:
        """Objects of files; they take the place of what was added before under the same key."""
        found: dict[Key, Manifest] = {}
        for manifest in manifests:
            if manifest.namespace and not (manifest.obj.get("metadata") or {}).get("namespace"):
                manifest = msgspec.structs.replace(manifest, namespace=self._namespace)
            found[manifest.key] = manifest
            self.written[manifest.key] = Written(
                manifest.key, manifest.kind, manifest.api_version, manifest.obj, manifest
            )
            if manifest.key[0] not in objects.KINDS:
                self._check(self.written[manifest.key])
        typed = frozenset(key for key in found if key[0] in objects.KINDS)
        self._note(self.intake.scan(Scan(found, typed, frozenset(), ())))

    def add_items(self, resource: Resource, items: Sequence[RawChange]) -> None:
        """Objects of the API server, of any kind."""
        self.live = True
        kind = store_kind(resource)
        for item in items:
            if item.raw is not None:
                key = (kind, item.namespace, item.name)
                self.written[key] = Written(key, resource.kind, resource.api_version, item.raw)
                if kind not in objects.KINDS and resource.custom:
                    self._check(self.written[key])
        if kind in objects.KINDS:
            self._note(self.intake.raw(resource, items))

    def close(self) -> None:
        """Leave out namespaces that the mesh does not read, and fill in what istiod has yet to do.

        A Gateway in a file has no status: it counts as if it were deployed, under the name it will get.
        """
        Discovery(self.store, self.settings.root_namespace).follow(self._settings_changes)
        for (namespace, name), gateway in list(self.store.of(Gateway).items()):
            key = ("Gateway", namespace, name)
            if self.written[key].manifest is None or gateway.status.addresses:
                continue
            address = GatewayAddressSpec(self.settings.hostname(namespace, name), "Hostname")
            self.store.put(key, msgspec.structs.replace(gateway, status=GatewayStatus(addresses=(address,))))

    @cached_property
    def view(self) -> View:
        """Reads what istiod derives from the objects, with istiod's own functions."""
        return View(Graph(self.store, (), self.settings), {})

    def of(self, kind: str) -> Iterator[Written]:
        """All objects of a kind (its name in the store), those with errors too, in the order of their names."""
        return (self.written[key] for key in self._by_kind.get(kind, ()))

    def exists(self, kind: str, namespace: str, name: str) -> bool:
        return (kind, namespace, name) in self.written

    def missing(self, kind: str, namespace: str, name: str) -> bool:
        """Whether there is certainly no such object."""
        return kind not in self.unseen and not self.exists(kind, namespace, name)

    @cached_property
    def workloads(self) -> dict[str, list[Workload]]:
        """By namespace; what makes pods stands beside the pods themselves."""
        found: dict[str, list[Workload]] = {}
        for kind in TEMPLATES:
            for one in self.of(kind):
                labels = {name: label.text for name, label in pod_of(one)["metadata"]["labels"].members()}
                found.setdefault(one.key[1], []).append(Workload(one.key, labels))
        for (namespace, name), pod in self.store.of(Pod).items():
            if not pod.finished:
                found.setdefault(namespace, []).append(Workload(("Pod", namespace, name), pod.metadata.labels))
        for (namespace, name), entry in self.store.of(WorkloadEntry).items():
            found.setdefault(namespace, []).append(Workload(("WorkloadEntry", namespace, name), labels_of(entry)))
        return found

    @property
    def problems(self) -> Iterator[tuple[Key, Sequence[Problem]]]:
        """What the checks of single objects say; objects in order are left out."""
        for key, finding in self.intake.findings.items():
            yield key, finding.problems
        yield from self.untyped.items()

    @property
    def knows_workloads(self) -> bool:
        """Whether that a selector finds nothing means something: configuration is often kept without workloads."""
        return not self.unseen.intersection(("Pod", *TEMPLATES)) and (self.live or bool(self.workloads))

    def selected(self, namespace: str, labels: Mapping[str, str]) -> list[Workload]:
        """The workloads that labels select in a namespace, in all namespaces with ""."""
        places = [self.workloads.get(namespace, [])] if namespace else list(self.workloads.values())
        wanted = labels.items()
        return [one for place in places for one in place if wanted <= one.labels.items()]

    def scope(self, namespace: str) -> str:
        """Where the selector of a policy looks: everywhere for one of the root namespace."""
        return "" if namespace == self.settings.root_namespace else namespace

    def _note(self, changes: Iterable[Change]) -> None:
        self._settings_changes += [change for change in changes if change.key[0] == "ConfigMap"]

    def _check(self, one: Written) -> None:
        checked = check(one.kind, one.api_version, one.obj)
        self.untyped.pop(one.key, None)
        if checked is not None and checked.problems:
            self.untyped[one.key] = tuple(checked.problems)

    @cached_property
    def _by_kind(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = {}
        for key in sorted(self.written):
            found.setdefault(key[0], []).append(key)
        return found


def pod_of(one: Written) -> Field:
    """The pod that an object is or makes, with `metadata` and `spec`; absent for other kinds."""
    path = _POD_OF.get(one.kind)
    if path is None:
        return Field(None)
    found = one.root
    for name in path:
        found = found[str(name)]
    return found
