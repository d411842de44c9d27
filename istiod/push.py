"""What is published, when it is computed, and who is told.

Every resource is encoded once per change; its version is a hash of the bytes, so that a restarted istiod, or another
replica, gives the same version to the same content.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from istiod.metrics import Metrics
from istiod.store import Change
from istiod.translate.graph import Diff
from meshcore.l7 import GATEWAY_TYPE, SERVICE_TYPE, WAYPOINT_TYPE
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.messages import Resource

TYPES: Final = (ADDRESS_TYPE, AUTHORIZATION_TYPE, WAYPOINT_TYPE, SERVICE_TYPE, GATEWAY_TYPE)
"""What a proxy may subscribe to."""
_VERSION_BYTES: Final = 8
_REASONS: Final = {
    "ConfigMap": "global",
    "EndpointSlice": "endpoint",
    "Namespace": "namespace",
    "Node": "proxy",
    "Pod": "endpoint",
    "Secret": "secret",
    "Service": "service",
    "WorkloadEntry": "endpoint",
}
"""Upstream's names (TriggerReason) for what a change of a kind sets off; everything else is "config"."""
Listener = Callable[[str, frozenset[str]], None]


class Push(NamedTuple):
    """One push: what caused it, how many resources of which type changed. Times in seconds."""

    at: datetime
    causes: dict[str, int]
    changed: dict[str, int]
    waited: float
    took: float


class Published:
    """The resources in force by type url, and who listens to their changes."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Resource]] = {url: {} for url in TYPES}
        self._objects: dict[str, dict[str, Any]] = {url: {} for url in self.resources}
        self._listeners: set[Listener] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self.changed_at = 0.0
        """When the first change of the push under way, or of the last one, came (monotonic)."""

    def listen(self, listener: Listener) -> None:
        """`listener(type_url, names)` is called after each change, and must not block."""
        self._listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def objects(self, type_url: str) -> Mapping[str, Any]:
        """The same resources before encoding."""
        return self._objects[type_url]

    def update(self, type_url: str, changed: Mapping[str, Any]) -> frozenset[str]:
        """Take over what differs of a type, None for what is gone; returns the names whose content changed, after
        telling the listeners.
        """
        held, resources = self._objects[type_url], self.resources[type_url]
        told = set()
        for name, value in changed.items():
            if value is None:
                held.pop(name, None)
                if resources.pop(name, None) is not None:
                    told.add(name)
                continue
            body = self._encode(value)
            version = blake2b(body, digest_size=_VERSION_BYTES).hexdigest()
            held[name] = value
            if name not in resources or resources[name].version != version:
                resources[name] = Resource(name, version, body)
                told.add(name)
        names = frozenset(told)
        if names:
            for listener in tuple(self._listeners):
                listener(type_url, names)
        return names


class Pusher:
    """Calls `compute` a quiet moment after changes, at the latest `longest` seconds after the first of them."""

    def __init__(
        self,
        published: Published,
        compute: Callable[[], Iterable[Diff]],
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
        self._causes: Counter[str] = Counter()
        self.last: Push | None = None
        """The last push that was made."""

    @property
    def pending(self) -> bool:
        """Changes wait for the next push."""
        return self._wanted.is_set()

    def trigger(self, causes: Iterable[str]) -> None:
        """Something changed; `causes` are the kinds of the objects."""
        self._last = time.monotonic()
        if not self._wanted.is_set():
            self._first = self._last
            self._wanted.set()
        for reason in {_REASONS.get(cause, "config") for cause in causes}:
            self._metrics.add("pilot_push_triggers", type=reason)
            self._causes[reason] += 1

    def push(self) -> int:
        """Compute and publish now; returns how many resources changed."""
        begun = time.monotonic()
        first = self._first if self._causes else begun
        causes, self._causes = dict(self._causes), Counter()
        self._published.changed_at = first
        diffs = [diff for diff in self._compute() if diff.output in self._published.resources]
        self._metrics.observe("pilot_pushcontext_init_seconds", time.monotonic() - begun)
        changed = {diff.output: len(self._published.update(diff.output, diff.changed)) for diff in diffs}
        self.last = Push(datetime.now(UTC), causes, changed, begun - first, time.monotonic() - begun)
        return sum(changed.values())

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
                        self._metrics.observe("pilot_debounce_time", now - self._first)
                        self.push()
                        break
                    await asyncio.wait((stopping,), timeout=due - now)
        finally:
            stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping


def update_type(change: Change) -> str:
    """Upstream's name for a change that a source reports, for the metric of them."""
    kind = change.key[0]
    if kind == "Service":
        return "svcdelete" if change.new is None else "svc"
    return "eds" if _REASONS.get(kind) == "endpoint" else "config"
