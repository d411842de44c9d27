"""From what a source read to objects in the store: checked, converted, and never half applied.

An object with an error keeps its last good version in force until it is fixed or removed. Objects of Kubernetes itself
that come from an API server were checked there and are decoded at once; everything else goes through the checks that
the webhook and `analyze` use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from istiod import objects
from istiod.kube.changes import RawChange
from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, read_mesh_config, read_mesh_l7
from istiod.objects.trim import trimmed
from istiod.resources import SECURITY, Resource, store_kind
from istiod.store import Change, Store
from istiod.validate import Problem, check
from meshcore.errors import ConfigError
from meshcore.manifests import Key, Manifest, ManifestError, Scan, dotted, title

log = logging.getLogger("istiod.intake")

_STAYS: Final = "; the previous version stays in force"


class Finding(NamedTuple):
    """What the checks say about one object now; `kept` if an earlier version of it is in force instead, `ours` unless
    it is another revision's, or in a namespace that is not read.
    """

    problems: tuple[Problem, ...]
    kept: bool
    ours: bool = True

    @property
    def refused(self) -> bool:
        return any(not problem.warning for problem in self.problems)


class Intake:
    """The one writer of a store's objects. `findings` says what is wrong, by key; objects in order are not in it."""

    def __init__(self, store: Store, root_namespace: str = "istio-system") -> None:
        self.store = store
        self._mesh = ("ConfigMap", root_namespace, CONFIG_MAP)
        self.findings: dict[Key, Finding] = {}
        self.places: dict[Key, Manifest] = {}
        """Where an object of `findings` is written, if it is in a file."""
        self.touched: set[Key] = set()
        """Objects whose finding changed since somebody cleared this set."""
        self._lines: dict[Key, tuple[tuple[ManifestError, bool], ...]] = {}
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}

    def scan(self, scan: Scan) -> list[Change]:
        """Take over what a reading of the directory changed."""
        changes: list[Change | None] = []
        for key in sorted(scan.removed):
            if key[0] in objects.KINDS:
                changes.append(self._remove(key))
        for key in sorted(scan.changed):
            manifest = scan.objects[key]
            changes.append(self._checked(key, manifest.kind, manifest.api_version, manifest.obj, manifest))
        return [change for change in changes if change is not None]

    def raw(self, resource: Resource, batch: Sequence[RawChange]) -> list[Change]:
        """Take over what the API server told about objects of one kind."""
        kind = store_kind(resource)
        changes: list[Change | None] = []
        for item in batch:
            key = (kind, item.namespace, item.name)
            if item.raw is None:
                changes.append(self._remove(key))
            elif resource.custom:
                obj = msgspec.json.decode(item.raw)
                obj.setdefault("kind", resource.kind)  # items of a list do not repeat it
                obj.setdefault("apiVersion", resource.api_version)
                changes.append(self._checked(key, resource.kind, obj["apiVersion"], obj, None))
            else:
                changes.append(self._decoded(key, item.raw))
        return [change for change in changes if change is not None]

    def errors(self) -> Iterable[ManifestError]:
        """Every error now, with its place."""
        return (error for key in sorted(self.findings) for error, warning in self._placed_problems(key) if not warning)

    def warnings(self) -> Iterable[ManifestError]:
        return (error for key in sorted(self.findings) for error, warning in self._placed_problems(key) if warning)

    def _placed_problems(self, key: Key) -> tuple[tuple[ManifestError, bool], ...]:
        """Problems of an object with their lines, and whether each is a warning. A line costs a reading of the text."""
        found = self._lines.get(key)
        if found is None:
            finding = self.findings[key]
            stays = _STAYS if finding.kept else ""
            found = self._lines[key] = tuple(
                (self._located(key, problem, "" if problem.warning else stays), problem.warning)
                for problem in finding.problems
            )
        return found

    def _remove(self, key: Key) -> Change | None:
        self._note(key, (), None, {})
        return self.store.put(key, None)

    def _checked(
        self, key: Key, kind: str, api_version: str, obj: dict[str, Any], manifest: Manifest | None
    ) -> Change | None:
        # A cluster's definitions may be newer than our tables: what they let through and we do not know is a warning
        # there, except in a policy, which must not hold for less than it says.
        strict = manifest is not None or api_version.startswith(SECURITY)
        checked = check(kind, api_version, obj, strict=strict)
        if checked is None:
            return None
        problems = checked.problems
        if manifest is None:  # the status of an object of the API is written by controllers, us among them
            problems = [problem for problem in problems if problem.path[:1] != ("status",)]
            if checked.value is None:
                without = {field: value for field, value in obj.items() if field != "status"}
                checked = check(kind, api_version, without, strict=strict) or checked
        labels = (obj.get("metadata") or {}).get("labels")
        wrong = self._mesh_problems(key, checked.value)
        self._note(key, (*problems, *wrong), manifest, labels if isinstance(labels, dict) else {})
        if checked.value is None or wrong:
            return None
        return self.store.put(key, trimmed(_placed(checked.value, key[1])))

    def _decoded(self, key: Key, raw: msgspec.Raw) -> Change | None:
        kind = key[0]
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(objects.KINDS[kind])
        try:
            value = decoder.decode(raw)
        except msgspec.ValidationError:
            try:  # a null where the type has a default
                value = objects.convert(msgspec.json.decode(raw), objects.KINDS[kind])
            except msgspec.ValidationError as exc:
                log.error("%s %s/%s from the API server cannot be read: %s", *key, exc)  # noqa: TRY400 - a fault of the object
                return None
        if key == self._mesh:
            wrong = self._mesh_problems(key, value)
            self._note(key, wrong, None, {})
            if wrong:
                return None
        return self.store.put(key, trimmed(value))

    def _mesh_problems(self, key: Key, value: Any) -> tuple[Problem, ...]:
        """What is wrong with MeshConfig, which is an object as far as its users are concerned."""
        if key != self._mesh or value is None or CONFIG_KEY not in value.data:
            return ()
        for read in (read_mesh_config, read_mesh_l7):
            try:
                read(value.data[CONFIG_KEY])
            except ConfigError as exc:
                return (Problem(("data", CONFIG_KEY), str(exc)),)
        return ()

    def _note(
        self, key: Key, problems: tuple[Problem, ...], manifest: Manifest | None, labels: Mapping[str, str]
    ) -> None:
        before = self.findings.pop(key, None)
        self.places.pop(key, None)
        self._lines.pop(key, None)
        if problems:
            kept = key[1:] in self.store.by_kind(key[0])
            self.findings[key] = Finding(problems, kept, self.store.in_force(key[0], key[1], labels))
            if manifest is not None:
                self.places[key] = manifest
        if before != self.findings.get(key):
            self.touched.add(key)

    def _located(self, key: Key, problem: Problem, suffix: str) -> ManifestError:
        manifest = self.places.get(key)
        if manifest is not None:
            return manifest.error(problem.path, problem.message + suffix)
        return ManifestError("", 0, title(key), dotted(problem.path), problem.message + suffix)


def _placed(value: Any, namespace: str) -> Any:
    """An object without a namespace is in `default`; later stages need not know."""
    if value.metadata.namespace == namespace:
        return value
    return msgspec.structs.replace(value, metadata=msgspec.structs.replace(value.metadata, namespace=namespace))
