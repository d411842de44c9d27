"""Where objects come from: a directory of YAML, or a Kubernetes API server. Both feed one intake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from istiod.intake import Intake
from istiod.kube.changes import RawChange
from istiod.kube.client import KubeClient
from istiod.kube.reflector import Reflector
from istiod.resources import RESOURCES, Resource
from istiod.store import Change
from meshcore.manifests import ManifestDirectory, ManifestError

log = logging.getLogger("istiod.sources")

OnChanges = Callable[[list[Change], tuple[ManifestError, ...]], None]
"""Told after the store has taken a batch: what changed, and what is wrong with the files as a whole."""

SLOW_S: Final = 10.0
"""After this long the log says which kinds the start is waiting for, and says it again."""
SELECTORS: Final = {"Secret": "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"}
"""What is left out at the server: Secrets that are large, many, or none of our business."""


class Source(Protocol):
    """`start` returns when everything was read once; `run` follows until `stop` is set."""

    async def start(self) -> None: ...

    async def run(self, stop: asyncio.Event) -> None: ...

    async def close(self) -> None: ...


class DirectorySource:
    """The YAML files of a directory, and of a second one with what agents note as status."""

    def __init__(self, directory: ManifestDirectory, intake: Intake, on_changes: OnChanges) -> None:
        self._directory = directory
        self._intake = intake
        self._on_changes = on_changes

    async def start(self) -> None:
        """Raises ConfigError if the directory cannot be read."""
        scan = await asyncio.to_thread(self._directory.scan)
        self._on_changes(self._intake.scan(scan), scan.errors)

    async def run(self, stop: asyncio.Event) -> None:
        async for scan in self._directory.watch(stop):
            self._on_changes(self._intake.scan(scan), scan.errors)

    async def close(self) -> None:
        pass


class KubernetesSource:
    """One reflector for each kind. The start waits for the first list of all of them, however long that takes."""

    def __init__(
        self, client: KubeClient, intake: Intake, on_changes: OnChanges, resources: Sequence[Resource] = RESOURCES
    ) -> None:
        self.reflectors = [
            Reflector(client, resource, self._sink(resource), field_selector=SELECTORS.get(resource.kind, ""))
            for resource in resources
            if resource.used
        ]
        self._intake = intake
        self._on_changes = on_changes
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(reflector.run(self._stop)) for reflector in self.reflectors]
        waiting = {asyncio.create_task(reflector.synced.wait()): reflector for reflector in self.reflectors}
        try:
            pending = set(waiting)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=SLOW_S)
                self._raise_failures()
                if pending:
                    missing = ", ".join(sorted(waiting[task].resource.plural for task in pending))
                    causes = {waiting[task].stats.last_error for task in pending} - {""}
                    log.warning(
                        "waiting for the API server to list %s%s", missing, f": {'; '.join(causes)}" * bool(causes)
                    )
        finally:
            for task in waiting:
                task.cancel()

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((stopping, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
            self._raise_failures()
        finally:
            stopping.cancel()

    async def close(self) -> None:
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _sink(self, resource: Resource) -> Callable[[Sequence[RawChange]], None]:
        def sink(batch: Sequence[RawChange]) -> None:
            self._on_changes(self._intake.raw(resource, batch), ())

        return sink

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
