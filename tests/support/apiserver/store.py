"""Objects, one counter of versions, and a bounded history from which watches are fed."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from tests.support.apiserver.kinds import Kind
from tests.support.apiserver.status import expired

Obj = dict[str, Any]
"""An object in the store is never changed in place."""
Key = tuple[str, str]

HISTORY: Final = 4096
SNAPSHOTS: Final = 32
"""Lists that are being read page by page; the oldest is forgotten."""


class Change(NamedTuple):
    version: int
    kind: tuple[str, str]
    key: Key
    old: Obj | None
    new: Obj | None


class Store:
    """What etcd and the watch cache are to a real server. Lives in one event loop."""

    def __init__(self, kinds: Iterable[Kind], *, history: int = HISTORY) -> None:
        self.kinds: dict[tuple[str, str], Kind] = {kind.id: kind for kind in kinds}
        self.version = 1
        self.compacted = 0
        """Changes up to this version are forgotten."""

        self.bookmarks = 0
        """How many bookmarks were asked for; a watch sends one when this has grown."""

        self.news = asyncio.Event()
        """Set, and replaced, when a watch should look again."""

        self._objects: dict[tuple[str, str], dict[Key, Obj]] = {}
        self._history: deque[Change] = deque()
        self._history_max = history
        self._snapshots: OrderedDict[int, tuple[int, list[Obj]]] = OrderedDict()
        self._ids = itertools.count(1)

    def get(self, kind: Kind, key: Key) -> Obj | None:
        return self._objects.get(kind.id, {}).get(key)

    def select(self, kind: Kind, namespace: str = "") -> list[Obj]:
        """Ordered as etcd orders its keys."""
        held = self._objects.get(kind.id, {})
        return [held[key] for key in sorted(held) if not namespace or key[0] == namespace]

    def next_version(self) -> str:
        """For the object that `put` or `remove` is called with next."""
        return str(self.version + 1)

    def put(self, kind: Kind, key: Key, obj: Obj) -> None:
        old = self.get(kind, key)
        self._objects.setdefault(kind.id, {})[key] = obj
        self._note(kind, key, old, obj)

    def remove(self, kind: Kind, key: Key) -> Obj:
        """-> its last state, with the version of the removal."""
        old = self._objects[kind.id].pop(key)
        last = old | {"metadata": old["metadata"] | {"resourceVersion": self.next_version()}}
        self._note(kind, key, last, None)
        return last

    def _note(self, kind: Kind, key: Key, old: Obj | None, new: Obj | None) -> None:
        self.version += 1
        self._history.append(Change(self.version, kind.id, key, old, new))
        while len(self._history) > self._history_max:
            self.compacted = self._history.popleft().version
        self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def compact(self) -> None:
        """Forget every change and every list that is half read."""
        self._history.clear()
        self._snapshots.clear()
        self.compacted = self.version

    def since(self, version: int) -> list[Change]:
        """Raises Refusal 410 if some of it is forgotten. Looks from the young end: a watch is a few changes behind."""
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted + 1})")
        young = itertools.takewhile(lambda change: change.version > version, reversed(self._history))
        return [*young][::-1]

    def keep(self, items: list[Obj]) -> int:
        """Hold a list still while it is read page by page; -> its id."""
        number = next(self._ids)
        self._snapshots[number] = (self.version, items)
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return number

    def kept(self, number: int) -> tuple[int, list[Obj]]:
        """-> (version, items)."""
        if number not in self._snapshots:
            raise expired("The provided continue parameter is too old to display a consistent list result.")
        return self._snapshots[number]
