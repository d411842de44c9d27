"""The verbs that write: what the server fills in, refuses and keeps."""

from __future__ import annotations

import copy
import random
import string
import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.support.apiserver import managers, status
from tests.support.apiserver.kinds import CRD_GROUP, Kind, of_crd
from tests.support.apiserver.managers import Owners, Writer
from tests.support.apiserver.store import Key, Obj, Store


class Target(NamedTuple):
    """What a URL names."""

    kind: Kind
    version: str
    namespace: str
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)

    def writer(self, manager: str, operation: str) -> Writer:
        return Writer(manager, operation, self.kind.api_version(self.version), self.subresource)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """Writes to a store by the rules of the API."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, target: Target) -> Obj:
        obj = self._store.get(target.kind, target.key)
        if obj is None:
            raise status.not_found(target.kind, target.name)
        return obj

    def create(self, target: Target, body: Obj, writer: Writer) -> Obj:
        body = self._checked(target, body)
        meta = body["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(random.choices(string.ascii_lowercase, k=5))
        if not meta.get("name"):
            raise status.invalid(target.kind, "", "metadata.name: Required value: name or generateName is required")
        if meta.get("resourceVersion"):
            raise status.bad_request("resourceVersion should not be set on objects to be created")
        target = target._replace(name=meta["name"])
        if target.namespace and self._namespace(target.namespace) is None:
            raise status.Refusal(404, "NotFound", f'namespaces "{target.namespace}" not found')
        if self._store.get(target.kind, target.key) is not None:
            raise status.already_exists(target.kind, target.name)
        if target.kind.has_status and not target.kind.keeps_status:
            body.pop("status", None)
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if target.kind.custom:
            meta["generation"] = 1
        owners = managers.update(target.kind, None, body, writer)
        return self._store_as(target, None, body, owners)

    def replace(self, target: Target, body: Obj, manager: str) -> Obj:
        old = self.get(target)
        body = self._checked(target, body)
        if target.kind.custom and not body["metadata"].get("resourceVersion"):
            raise status.invalid(
                target.kind,
                target.name,
                "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
            )
        return self._update(target, old, body, manager)

    def merge_patch(self, target: Target, patch: Any, manager: str) -> Obj:
        old = self.get(target)
        body = _merge_patch(old, patch)
        if "resourceVersion" not in (patch.get("metadata") or {}):
            body["metadata"].pop("resourceVersion")
        return self._update(target, old, self._checked(target, body), manager)

    def apply(self, target: Target, config: Obj, manager: str, *, force: bool) -> tuple[Obj, bool]:
        """-> (object, whether it is new)."""
        if not manager:
            raise status.bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
            )
        config = self._checked(target, config)
        if config["metadata"].get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        writer = target.writer(manager, "Apply")
        old = self._store.get(target.kind, target.key)
        if old is None:
            if target.subresource:
                raise status.not_found(target.kind, target.name)
            return self.create(target, config, writer), True
        self._same_version(target, old, config)
        allowed = {"apiVersion", "kind", "metadata", "status"} if target.subresource else set(config)
        config = {name: value for name, value in config.items() if name in allowed}
        merged, owners = managers.apply(target.kind, old, config, writer, force=force)
        return self._store_as(target, old, _confined(target, old, merged), owners), False

    def delete(self, target: Target, options: Obj) -> Obj:
        """-> the last state. With finalizers, the object stays until they are gone."""
        old = self.get(target)
        for name, value in (options.get("preconditions") or {}).items():
            if (held := old["metadata"].get(name)) != value:
                label = {"uid": "UID", "resourceVersion": "ResourceVersion"}[name]
                why = f"Precondition failed: {label} in precondition: {value}, {label} in object meta: {held}"
                raise status.conflict(target.kind, target.name, why)
        if old["metadata"].get("finalizers"):
            marked = copy.deepcopy(old)
            marked["metadata"].setdefault("deletionTimestamp", now())
            return self._store_as(target, old, marked, managers.read(old))
        return self._remove(target)

    def force(self, target: Target, obj: Obj) -> Obj:
        """Store an object as it is, status and all, whatever was there; for tests that set a stage."""
        obj = copy.deepcopy(obj)
        old = self._store.get(target.kind, target.key)
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": now()} if old is None else {}
        kept = {name: old["metadata"][name] for name in ("uid", "creationTimestamp")} if old is not None else made
        obj["metadata"] = kept | obj["metadata"] | {"managedFields": [], "resourceVersion": self._store.next_version()}
        self._store.put(target.kind, target.key, obj)
        return obj

    def _update(self, target: Target, old: Obj, body: Obj, manager: str) -> Obj:
        self._same_version(target, old, body)
        new = _confined(target, old, body)
        owners = managers.update(target.kind, old, new, target.writer(manager, "Update"))
        return self._store_as(target, old, new, owners)

    def _store_as(self, target: Target, old: Obj | None, new: Obj, owners: Owners) -> Obj:
        """A write that changes nothing is not one."""
        meta = new["metadata"]
        managers.write(new, owners, old, now())
        if old is not None:
            meta["resourceVersion"] = old["metadata"]["resourceVersion"]
            if _without_times(new) == _without_times(old):
                return old
            if target.kind.custom and _spec_of(new) != _spec_of(old):
                meta["generation"] = old["metadata"].get("generation", 0) + 1
            if "deletionTimestamp" in meta and not meta.get("finalizers"):
                return self._remove(target)
        meta["resourceVersion"] = self._store.next_version()
        if target.kind.group == CRD_GROUP:
            self._define(new)
        self._store.put(target.kind, target.key, new)
        return new

    def _remove(self, target: Target) -> Obj:
        last = self._store.remove(target.kind, target.key)
        if target.kind.group == CRD_GROUP:
            self.undefine(of_crd(last).id)
        return last

    def _define(self, crd: Obj) -> None:
        if any(version.get("served") for version in crd["spec"]["versions"]):
            kind = of_crd(crd)
            self._store.kinds[kind.id] = kind
        crd["status"] = {
            "conditions": [{"type": "Established", "status": "True", "reason": "InitialNamesAccepted"}],
            "acceptedNames": crd["spec"]["names"],
        }

    def undefine(self, kind_id: tuple[str, str]) -> None:
        """Remove a kind and all objects of it."""
        kind = self._store.kinds.pop(kind_id, None)
        if kind is None:
            return
        for obj in self._store.select(kind):
            self._store.remove(kind, (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
        self._store.wake()

    def _namespace(self, name: str) -> Obj | None:
        return self._store.get(self._store.kinds[("", "namespaces")], ("", name))

    def _same_version(self, target: Target, old: Obj, body: Obj) -> None:
        meta, held = body["metadata"], old["metadata"]
        if meta.get("resourceVersion") and meta["resourceVersion"] != held["resourceVersion"]:
            raise status.modified(target.kind, target.name)
        if meta.get("uid") and meta["uid"] != held["uid"]:
            raise status.conflict(target.kind, target.name, f"Precondition failed: UID in precondition: {meta['uid']}")

    def _checked(self, target: Target, given: Any) -> Obj:
        """A copy of the body that says what the URL says."""
        if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
            raise status.bad_request("the object provided is unrecognized (must be of type object)")
        body: Obj = copy.deepcopy(given)
        wanted = target.kind.api_version(target.version)
        if (body.setdefault("apiVersion", wanted), body.setdefault("kind", target.kind.kind)) != (
            wanted,
            target.kind.kind,
        ):
            raise status.bad_request(
                f"{body['kind']} in version {body['apiVersion']!r} cannot be handled as a {target.kind.kind}"
            )
        meta = body.setdefault("metadata", {})
        if target.name and meta.setdefault("name", target.name) != target.name:
            raise status.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL")
        if target.namespace and meta.setdefault("namespace", target.namespace) != target.namespace:
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        return body


def _confined(target: Target, old: Obj, new: Obj) -> Obj:
    """What of `new` this URL may change; the rest stays as in `old`."""
    fixed = {
        name: old["metadata"][name]
        for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp")
        if name in old["metadata"]
    }
    if target.subresource == "status":
        held = copy.deepcopy(old)
        held.pop("status", None)
        return held | ({"status": new["status"]} if "status" in new else {})
    new = new | {"metadata": new["metadata"] | fixed}
    if target.kind.has_status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = copy.deepcopy(old["status"])
    return new


def _spec_of(obj: Obj) -> Obj:
    return {name: value for name, value in obj.items() if name not in {"metadata", "status", "apiVersion"}}


def _without_times(obj: Obj) -> Obj:
    meta = dict(obj["metadata"])
    meta["managedFields"] = [
        {name: value for name, value in entry.items() if name != "time"} for entry in meta.get("managedFields", ())
    ]
    return obj | {"metadata": meta}


def _merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_patch(merged.get(name), value)
    return merged
