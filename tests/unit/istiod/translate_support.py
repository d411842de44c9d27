"""Objects from YAML, and what the graph makes of them."""

from __future__ import annotations

from typing import Any

from istiod import objects
from istiod.resources import resource_of, store_kind
from istiod.store import Change, Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import INDEXES, Translator
from meshcore import yamldoc
from meshcore.manifests import CLUSTER_SCOPED, Key
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE, Authorization, Service, Workload


def parsed(text: str) -> list[tuple[Key, Any]]:
    """Key and typed object of every document; the namespace defaults to `default`."""
    found = []
    for document in yamldoc.parse(text):
        obj = dict(document.data)
        resource = resource_of(obj["kind"], obj.get("apiVersion", "v1"))
        assert resource is not None, obj
        meta = dict(obj["metadata"])
        if obj["kind"] not in CLUSTER_SCOPED:
            meta.setdefault("namespace", "default")
        kind = store_kind(resource)
        value = objects.convert({**obj, "metadata": meta}, objects.KINDS[kind])
        found.append(((kind, meta.get("namespace", ""), meta["name"]), value))
    return found


class Mesh:
    """A store and its translator; `put` applies YAML."""

    def __init__(self, text: str = "", settings: MeshConfig | None = None) -> None:
        self.store = Store(INDEXES)
        for key, value in parsed(text):
            self.store.put(key, value)
        self.translator = Translator(self.store, settings or MeshConfig())

    def put(self, text: str) -> None:
        changes = [self.store.put(key, value) for key, value in parsed(text)]
        self.apply(changes)

    def remove(self, *keys: Key) -> None:
        self.apply([self.store.put(key, None) for key in keys])

    def workload(self, uid: str) -> Workload:
        found: Workload = self.translator.resources(ADDRESS_TYPE)[f"Kubernetes/{uid}"].workload
        return found

    def service(self, key: str) -> Service:
        found: Service = self.translator.resources(ADDRESS_TYPE)[key].service
        return found

    def names(self) -> set[str]:
        return set(self.translator.resources(ADDRESS_TYPE))

    def policy(self, key: str) -> Authorization:
        found: Authorization = self.translator.resources(AUTHORIZATION_TYPE)[key]
        return found

    def apply(self, changes: list[Change | None]) -> None:
        """Take over what the store returned, as one batch."""
        self.translator.apply(change for change in changes if change is not None)
        assert self.translator.graph.failures == 0
