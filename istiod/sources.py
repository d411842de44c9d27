"""Sources of objects and the store of their last good versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from istiod import objects
from istiod.validate import Problem, check
from meshcore.manifests import Key, Manifest, ManifestError, Scan

T = TypeVar("T")


class Applied(NamedTuple):
    """What one batch did: keys whose typed object changed, and what is wrong now with any object in the store."""

    changed: frozenset[Key]
    errors: tuple[ManifestError, ...]
    warnings: tuple[ManifestError, ...]


class Store:
    """Typed objects by kind. An object with an error keeps its last good version until it is fixed or removed."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[tuple[str, str], Any]] = {kind: {} for kind in objects.KINDS}
        self._errors: dict[Key, tuple[ManifestError, ...]] = {}
        self._warnings: dict[Key, tuple[ManifestError, ...]] = {}

    def of(self, kind: str, python_type: type[T]) -> dict[tuple[str, str], T]:
        """All objects of a kind by (namespace, name); read-only for the caller."""
        del python_type
        return self._kinds[kind]

    @property
    def size(self) -> int:
        return sum(len(kind) for kind in self._kinds.values())

    def apply(self, scan: Scan) -> Applied:
        """Take over what a reading changed."""
        changed = self._put(scan.objects[key] for key in sorted(scan.changed))
        for key in scan.removed:
            self._errors.pop(key, None)
            self._warnings.pop(key, None)
            held = self._kinds.get(key[0])
            if held is not None and held.pop(key[1:], None) is not None:
                changed.add(key)
        errors = tuple(e for _, es in sorted(self._errors.items()) for e in es)
        warnings = tuple(w for _, ws in sorted(self._warnings.items()) for w in ws)
        return Applied(frozenset(changed), errors, warnings)

    def _put(self, manifests: Iterable[Manifest]) -> set[Key]:
        changed: set[Key] = set()
        for manifest in manifests:
            checked = check(manifest.kind, manifest.api_version, manifest.obj)
            if checked is None:
                continue
            key = manifest.key
            self._errors.pop(key, None)
            self._warnings.pop(key, None)
            held = self._kinds[key[0]]
            errors = [p for p in checked.problems if not p.warning]
            warnings = [p for p in checked.problems if p.warning]
            if errors:
                stays = "; the previous version stays in force" if key[1:] in held else ""
                self._errors[key] = tuple(_located(manifest, p, stays) for p in errors)
                continue
            if warnings:
                self._warnings[key] = tuple(_located(manifest, p) for p in warnings)
            value = _with_namespace(checked.value, manifest.namespace)
            if held.get(key[1:]) != value:
                held[key[1:]] = value
                changed.add(key)
        return changed


def _with_namespace(value: Any, namespace: str) -> Any:
    """An object without a namespace is in `default`; later stages need not know."""
    if value.metadata.namespace == namespace:
        return value
    meta = msgspec.structs.replace(value.metadata, namespace=namespace)
    return msgspec.structs.replace(value, metadata=meta)


def _located(manifest: Manifest, problem: Problem, suffix: str = "") -> ManifestError:
    return manifest.error(problem.path, problem.message + suffix)
