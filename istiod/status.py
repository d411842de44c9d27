"""Writes status conditions back: to the Kubernetes API, or to a directory beside the files. Leaders only.

What should stand in the status of an object is computed like everything else; here it is brought there, a few objects
at a time, each until it succeeds or its object is gone, so that a slow API server delays nothing but the status itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from istiod.kube.client import KubeClient
from istiod.kube.errors import NotFound
from istiod.kube.tasks import until_stopped
from istiod.metrics import Metrics
from istiod.resources import BY_STORE_KIND, Resource
from istiod.translate.statuses import StatusPatch, object_of, with_times
from meshcore.errors import MeshError
from meshcore.manifests import Key, remove_status, status_file, write_atomic

log = logging.getLogger("istiod.status")

PARALLEL: Final = 8
ATTEMPTS: Final = 5
RETRY_S: Final = 1.0
"""Doubled after each attempt; after the last one the object waits for the next change or leader."""


class StatusWriter(Protocol):
    """Where a status is written. Raises MeshError."""

    async def write(self, patch: StatusPatch) -> None:
        """Make the fields of `patch.field_manager` those of the patch; an empty status takes them all back."""


class StatusKeeper:
    """Keeps the statuses of all objects as they should be while `run` runs."""

    def __init__(self, writer: StatusWriter, metrics: Metrics) -> None:
        self._writer = writer
        self._metrics = metrics
        self._wanted: dict[Key, dict[str, StatusPatch]] = {}
        self._due: dict[str, StatusPatch] = {}
        self._wake = asyncio.Event()
        self._running = False

    def update(self, changed: Mapping[str, StatusPatch | None], gone: AbstractSet[Key] = frozenset()) -> None:
        """Take over what should be written; None takes a status back. Of objects that are `gone` there is nothing to
        take back while another istiod leads: it has done so.
        """
        for title, patch in changed.items():
            if patch is not None:
                self._wanted.setdefault(patch[:3], {})[title] = self._due[title] = patch
            elif (before := self._drop(title)) is not None:
                self._due[title] = before._replace(status={})
            if not self._running and object_of(title) in gone:
                self._due.pop(title, None)
        if self._due:
            self._wake.set()

    def forget(self, titles: Iterable[str]) -> None:
        """Others say what stands there: neither write it nor take it back."""
        for title in titles:
            self._drop(title)
            self._due.pop(title, None)

    def again(self, keys: Iterable[Key]) -> None:
        """Write what is wanted of these objects: they are there anew, without what was written before."""
        for key in keys:
            self._due.update(self._wanted.get(key, {}))
        if self._due:
            self._wake.set()

    def wants(self, title: str) -> bool:
        """Whether anything should stand there."""
        return title in self._wanted.get(object_of(title), {})

    @property
    def running(self) -> bool:
        return self._running

    def take_back(self, patches: Iterable[StatusPatch]) -> None:
        """Remove what nobody wants any more, although this process did not write it."""
        for patch in patches:
            self._due[patch.title] = patch._replace(status={})
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Nothing is waiting to be written."""
        return not self._due

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop`. At the start everything is looked at again: another replica may have led before."""
        for patches in self._wanted.values():
            for title, patch in patches.items():
                self._due.setdefault(title, patch)
        self._wake.set()
        self._running = True
        try:
            await until_stopped(stop, self._work())
        finally:
            self._running = False

    def _drop(self, title: str) -> StatusPatch | None:
        key = object_of(title)
        patches = self._wanted.get(key, {})
        before = patches.pop(title, None)
        if not patches:
            self._wanted.pop(key, None)
        return before

    async def _work(self) -> None:
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                ready = (title for title in self._due if title not in running)  # never two writes of one title
                for title in list(islice(ready, PARALLEL - len(running))):
                    running[title] = asyncio.create_task(self._write(self._due.pop(title)))
                self._wake.clear()
                waiting = asyncio.create_task(self._wake.wait())
                try:
                    await asyncio.wait((waiting, *running.values()), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                running = {title: task for title, task in running.items() if not task.done()}
        finally:
            for task in running.values():
                task.cancel()

    async def _write(self, patch: StatusPatch) -> None:
        """A newer patch of the same title ends the attempts of an older one."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(RETRY_S * 2 ** (attempt - 1))
            if patch.title in self._due:
                return
            try:
                await self._writer.write(patch)
            except NotFound:
                return
            except MeshError as error:
                level = logging.WARNING if attempt == ATTEMPTS - 1 else logging.DEBUG
                log.log(level, "status of %s %s/%s: %s", patch.kind, patch.namespace, patch.name, error)
                if not error.retryable:
                    self._metrics.add("controller_sync_errors_total")
                    return
            else:
                return
        self._metrics.add("controller_sync_errors_total")


class KubernetesStatus:
    """Server-side apply to the status subresource; an apply that would change nothing is not sent."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._versions: dict[str, str] = {}
        """API version by kind, for kinds of which a server may have an older one only."""

    async def write(self, patch: StatusPatch) -> None:
        resource = BY_STORE_KIND[patch.kind]
        version = await self._version(patch.kind, resource)
        item = await self._client.get(resource, patch.namespace, patch.name, version=version)
        current = (msgspec.json.decode(item.raw, type=dict[str, Any]).get("status")) or {}
        timed = with_times(patch, current, datetime.now(UTC))
        if timed.status and _holds(current, timed.status):
            return
        body = {
            "apiVersion": f"{resource.group}/{version}" if resource.group else version,
            "kind": resource.kind,
            "metadata": {"name": patch.name, **({"namespace": patch.namespace} if resource.namespaced else {})},
            "status": timed.status,
        }
        await self._client.apply(
            resource,
            patch.namespace,
            patch.name,
            body,
            manager=patch.field_manager,
            force=True,
            subresource="status",
            version=version,
        )

    async def _version(self, kind: str, resource: Resource) -> str:
        """Raises NotFound if the server does not have the kind."""
        if len(resource.versions) == 1:
            return resource.version
        if kind not in self._versions:
            served = await self._client.served_version(resource)
            if served is None:
                raise NotFound(f"the API server does not serve {resource.plural} of {resource.group}")
            self._versions[kind] = served
        return self._versions[kind]


class _Note(msgspec.Struct, frozen=True):
    """What stands in the file of an object: its status, and the part of it that each field manager wants."""

    status: dict[str, Any] = {}
    managers: dict[str, dict[str, Any]] = {}


class DirectoryStatus:
    """One JSON file for each object, merged from what every field manager wants of it.

    The parts stand in the file too: after a restart one manager may write while another has nothing new to say, whose
    part (allocated addresses) must stay.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._notes: dict[Key, _Note] = {}

    async def write(self, patch: StatusPatch) -> None:
        key = patch[:3]
        note = self._notes.get(key) or self._earlier(key)
        managers = dict(note.managers)
        if patch.status:
            managers[patch.field_manager] = with_times(patch, note.status, datetime.now(UTC)).status
        else:
            managers.pop(patch.field_manager, None)
        wanted = _Note(_merged(managers.values()), managers)
        if wanted == note:
            self._notes[key] = note
        elif managers:
            self._write(key, wanted)
            self._notes[key] = wanted
        else:
            remove_status(self._folder, *key)
            self._notes.pop(key, None)

    def _write(self, key: Key, note: _Note) -> None:
        kind, namespace, name = key
        resource = BY_STORE_KIND[kind]
        content = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": namespace},
            **msgspec.to_builtins(note),
        }
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        write_atomic(status_file(self._folder, *key), msgspec.json.format(msgspec.json.encode(content), indent=1))

    def _earlier(self, key: Key) -> _Note:
        """What an earlier run noted; nothing if it cannot be read."""
        try:
            return msgspec.json.decode(status_file(self._folder, *key).read_bytes(), type=_Note)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return _Note()


def _merged(statuses: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Lists of several managers one after the other, everything else as the last one says."""
    merged: dict[str, Any] = {}
    for status in statuses:
        for key, value in status.items():
            merged[key] = [*merged.get(key, ()), *value] if isinstance(value, list) else value
    return merged


def _holds(current: Any, wanted: Any) -> bool:
    """Whether everything in `wanted` stands in `current`; list items are compared by what names them."""
    if isinstance(wanted, Mapping):
        return isinstance(current, Mapping) and all(
            key in current and _holds(current[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        if not isinstance(current, list | tuple):
            return False
        if wanted and isinstance(wanted[0], Mapping) and "type" in wanted[0] and "status" in wanted[0]:
            found = {item.get("type"): item for item in current if isinstance(item, Mapping)}
            return all(_holds(found.get(item["type"]), item) for item in wanted)
        return len(current) == len(wanted) and all(map(_holds, current, wanted))
    return bool(current == wanted)
