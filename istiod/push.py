"""What is published, when it is computed, and who is told.

Every resource is encoded once per change; its version is a hash of the bytes, so that a restarted istiod, or another
replica, gives the same version to the same content.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from istiod.metrics import Metrics
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.messages import Resource

_VERSION_BYTES: Final = 8
Listener = Callable[[str, frozenset[str]], None]


class Published:
    """The resources in force by type url, and who listens to their changes."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Resource]] = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self._objects: dict[str, dict[str, Any]] = {url: {} for url in self.resources}
        self._listeners: set[Listener] = set()
        self._encode = msgspec.msgpack.Encoder().encode

    def listen(self, listener: Listener) -> None:
        """`listener(type_url, names)` is called after each change, and must not block."""
        self._listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def objects(self, type_url: str) -> Mapping[str, Any]:
        """The same resources before encoding."""
        return self._objects[type_url]

    def replace(self, type_url: str, objects: Mapping[str, Any]) -> frozenset[str]:
        """Take a new state of a type over; returns the names whose content changed, after telling the listeners."""
        held, resources = self._objects[type_url], self.resources[type_url]
        changed = {name for name in held.keys() - objects.keys() if resources.pop(name, None) is not None}
        for name, value in objects.items():
            if name not in held or held[name] != value:
                body = self._encode(value)
                version = blake2b(body, digest_size=_VERSION_BYTES).hexdigest()
                if name not in resources or resources[name].version != version:
                    resources[name] = Resource(name, version, body)
                    changed.add(name)
        self._objects[type_url] = dict(objects)
        names = frozenset(changed)
        if names:
            for listener in tuple(self._listeners):
                listener(type_url, names)
        return names


class Pusher:
    """Calls `compute` a quiet moment after changes, at the latest `longest` seconds after the first of them."""

    def __init__(
        self,
        published: Published,
        compute: Callable[[], Mapping[str, Mapping[str, Any]]],
        metrics: Metrics,
        *,
        after: float,
        longest: float,
    ) -> None:
        self._published = published
        self._compute = compute
        self._metrics = metrics
        self._after = after
        self._longest = longest
        self._wanted = asyncio.Event()
        self._first = 0.0
        self._last = 0.0

    def trigger(self, causes: Iterable[str]) -> None:
        """Something changed; `causes` are the kinds of the objects."""
        self._last = time.monotonic()
        if not self._wanted.is_set():
            self._first = self._last
            self._wanted.set()
        for cause in causes:
            self._metrics.add("pilot_push_triggers", type=cause)

    def push(self) -> int:
        """Compute and publish now; returns how many resources changed."""
        begun = time.monotonic()
        changed = 0
        for type_url, objects in self._compute().items():
            changed += len(self._published.replace(type_url, objects))
        self._metrics.set("pilot_pushcontext_init_seconds", time.monotonic() - begun)
        return changed

    async def run(self, stop: asyncio.Event) -> None:
        """Push until `stop` is set."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                wanted = asyncio.create_task(self._wanted.wait())
                await asyncio.wait((wanted, stopping), return_when=asyncio.FIRST_COMPLETED)
                wanted.cancel()
                while self._wanted.is_set() and not stop.is_set():
                    now = time.monotonic()
                    due = min(self._last + self._after, self._first + self._longest)
                    if now >= due:
                        self._wanted.clear()
                        self._metrics.set("pilot_debounce_time", now - self._first)
                        self.push()
                        break
                    await asyncio.wait((stopping,), timeout=due - now)
        finally:
            stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
