"""Which namespaces are read: MeshConfig's discovery selectors, less the excluded ones."""

from __future__ import annotations

from collections.abc import Iterable

from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, read_mesh_config
from istiod.objects import ConfigMap, Namespace
from istiod.objects.gateway_api import LabelSelector
from istiod.store import Change, Store
from istiod.translate.common import matches
from meshcore.errors import ConfigError


class Discovery:
    """Follows the selectors and the labels of namespaces. The root namespace is always read."""

    def __init__(self, store: Store, root_namespace: str, excluded: Iterable[str] = ()) -> None:
        self._store = store
        self._root = root_namespace
        self._excluded = frozenset(excluded)
        self._selectors: tuple[LabelSelector, ...] = ()
        if self._excluded:
            store.select(self.selects)

    def selects(self, namespace: str) -> bool:
        """Whether objects of a namespace are in force. One that has no Namespace object has no labels."""
        if namespace in self._excluded:
            return False
        if not self._selectors or namespace == self._root:
            return True
        found = self._store.get(Namespace, "", namespace)
        labels = found.metadata.labels if found is not None else {}
        return any(matches(selector, labels) for selector in self._selectors)

    def namespaces(self) -> list[str]:
        """Those that are read and can take new objects: one on its way out takes nothing any more."""
        return [
            name
            for (_, name), value in self._store.of(Namespace).items()
            if not value.metadata.deletion_timestamp and self.selects(name)
        ]

    def follow(self, changes: Iterable[Change]) -> list[Change]:
        """What further changed because these changes selected or dropped namespaces."""
        kinds = {change.key for change in changes}
        mesh = ("ConfigMap", self._root, CONFIG_MAP)
        if mesh in kinds:
            self._selectors = self._read()
        elif not self._selectors or not any(kind == "Namespace" for kind, _, _ in kinds):
            return []
        return self._store.select(self.selects)

    def _read(self) -> tuple[LabelSelector, ...]:
        """Selectors that cannot be read leave those of before in force."""
        stored = self._store.get(ConfigMap, self._root, CONFIG_MAP)
        if stored is None or CONFIG_KEY not in stored.data:
            return ()
        try:
            return read_mesh_config(stored.data[CONFIG_KEY]).discovery_selectors
        except ConfigError:
            return self._selectors
