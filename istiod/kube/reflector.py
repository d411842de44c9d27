"""Keeps a sink equal to all objects of one kind: a list, then a watch, resumed for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import msgspec

from istiod.kube.changes import RawChange, Sink
from istiod.kube.client import PAGE, Item, KubeClient, Selection, WatchEvent
from istiod.kube.errors import Gone, KubeError, NotFound
from istiod.kube.ratelimit import Backoff, Clock, Sleep
from istiod.kube.tasks import until_stopped
from istiod.resources import Resource
from meshcore.errors import MeshError

log = logging.getLogger("istiod.kube")

__all__ = ["RawChange", "Reflector", "ReflectorStats", "Sink"]

ABSENT_RETRY_S: Final = 30.0
"""How often a kind that the server does not know is looked for."""
STEADY_S: Final = 1.0
"""A watch that ended sooner and brought nothing is a failure, whatever the server says (client-go)."""


Key = tuple[str, str]


class ReflectorStats(msgspec.Struct):
    """Counters. `relists` are lists after the first; `errors` are failed attempts of any kind."""

    lists: int = 0
    relists: int = 0
    watches: int = 0
    events: int = 0
    bookmarks: int = 0
    errors: int = 0
    last_error: str = ""


class Reflector:
    """Lists, then watches `resource`; what a new list shows to differ is told as changes, deletions too.

    A kind that the server does not know (its CRD is not installed) counts as a kind without objects. `clock` and
    `sleep` are those of the waits between attempts.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        sink: Sink,
        *,
        field_selector: str = "",
        label_selector: str = "",
        namespace: str = "",
        absent_retry: float = ABSENT_RETRY_S,
        backoff: Backoff | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.resource = resource
        self.stats = ReflectorStats()
        self.synced = asyncio.Event()
        """The sink has been told of a whole list, or that there is none."""

        self._client = client
        self._sink = sink
        self._selection = Selection(namespace, label_selector, field_selector)
        self._absent_retry = absent_retry
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._sleep = sleep
        self._versions: dict[Key, str] = {}
        self._api_version = ""
        self._resume = ""

    def __len__(self) -> int:
        """Objects that exist, as far as is known."""
        return len(self._versions)

    @property
    def present(self) -> bool:
        """The server knows the kind."""
        return bool(self._api_version)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. An error of the sink ends it; those of the server never do."""
        await until_stopped(stop, self._reflect())

    async def _reflect(self) -> None:
        while True:
            await self._sleep(await self._attempt())

    async def _attempt(self) -> float:
        """List if needed, and watch until that ends; -> seconds to wait before the next attempt."""
        try:
            if not self._api_version:
                self._api_version = await self._discover()
            if not self._resume:
                await self._list()
            return await self._watch()
        except NotFound:
            self._is_absent()
            return self._absent_retry
        except Gone as error:
            self._resume = ""
            return self._failed(error, logging.INFO)
        except MeshError as error:
            return self._failed(error, logging.WARNING)

    def _failed(self, error: MeshError, level: int) -> float:
        self.stats.errors += 1
        if str(error) == self.stats.last_error:
            level = logging.DEBUG  # said before; a server that is down would fill the log
        self.stats.last_error = str(error)
        log.log(level, "%s", error)
        asked = error.retry_after if isinstance(error, KubeError) else 0.0
        return max(asked, self._backoff.next())

    async def _discover(self) -> str:
        if len(self.resource.versions) == 1:
            return self.resource.version  # the list tells as well whether it is served
        version = await self._client.served_version(self.resource)
        if version is None:
            raise NotFound(f"the API server does not serve {self.resource.plural} of {self.resource.group}")
        return version

    async def _list(self) -> None:
        if self.stats.lists:
            self.stats.relists += 1
        self.stats.lists += 1
        present: set[Key] = set()
        resume = ""
        async for page in self._client.list_pages(self.resource, self._selection, version=self._api_version):
            present.update((item.namespace, item.name) for item in page.items)
            self._emit([change for item in page.items if (change := self._updated(item)) is not None])
            resume = page.resource_version
        self._remove(self._versions.keys() - present)
        self._resume = resume
        self.synced.set()

    async def _watch(self) -> float:
        self.stats.watches += 1
        started = self._clock()
        progress = False
        try:
            async with self._client.watch(
                self.resource, self._resume, self._selection, version=self._api_version
            ) as lots:
                async for events in lots:
                    progress = True
                    self._apply(events)
        finally:
            progress = progress or self._clock() - started >= STEADY_S
            if progress:
                self._backoff.reset()
                self.stats.last_error = ""
        return 0.0 if progress else self._backoff.next()

    def _apply(self, events: list[WatchEvent]) -> None:
        changes: list[RawChange] = []
        for kind, item in events:
            if kind == "BOOKMARK":
                self.stats.bookmarks += 1
            else:
                self.stats.events += 1
                change = self._deleted(item) if kind == "DELETED" else self._updated(item)
                if change is not None:
                    changes.append(change)
        self._emit(changes)
        self._resume = events[-1].item.resource_version or self._resume

    def _updated(self, item: Item) -> RawChange | None:
        key = (item.namespace, item.name)
        if self._versions.get(key) == item.resource_version:
            return None
        self._versions[key] = item.resource_version
        return RawChange(item.namespace, item.name, item.raw, item.resource_version)

    def _deleted(self, item: Item) -> RawChange | None:
        if self._versions.pop((item.namespace, item.name), None) is None:
            return None
        return RawChange(item.namespace, item.name, None, item.resource_version)

    def _remove(self, keys: set[Key]) -> None:
        gone = [RawChange(*key, None, self._versions.pop(key)) for key in sorted(keys)]
        self._emit(gone)

    def _emit(self, changes: list[RawChange]) -> None:
        for start in range(0, len(changes), PAGE):
            self._sink(changes[start : start + PAGE])

    def _is_absent(self) -> None:
        self._remove(set(self._versions))
        self._api_version = self._resume = ""
        self._backoff.reset()
        self.synced.set()
