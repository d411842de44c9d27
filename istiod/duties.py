"""What only one istiod of a cluster does: everything that writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from istiod import status_messages as messages
from istiod.autoallocate import MANAGER, allocate
from istiod.ca.distribution import Distributor
from istiod.intake import Intake
from istiod.metrics import Metrics
from istiod.objects import ServiceEntry
from istiod.resources import BY_STORE_KIND
from istiod.status import StatusKeeper, StatusWriter
from istiod.store import Change, Store
from istiod.translate import conditions
from istiod.translate.graph import Diff
from istiod.translate.statuses import OUTPUT, StatusPatch, object_of
from meshcore.manifests import Key

CONDITIONED: Final = (
    "Service",
    *(kind for kind, resource in BY_STORE_KIND.items() if resource.used and resource.group.endswith(".istio.io")),
)
"""Kinds whose conditions are looked through when this process begins to lead."""


class Reconciler(Protocol):
    """Something that is kept right until `stop`, and looked at again after `trigger`."""

    def trigger(self) -> None: ...

    async def run(self, stop: asyncio.Event) -> None: ...


class Duties:
    """Statuses, allocated addresses and the distribution of roots. Fed always, carried out while `run` runs."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        writer: StatusWriter,
        metrics: Metrics,
        *,
        distributor: Distributor | None = None,
        reconciler: Reconciler | None = None,
        auto_allocate: bool = True,
    ) -> None:
        self.statuses = StatusKeeper(writer, metrics)
        self.distributor = distributor
        self.reconciler = reconciler
        self._store = store
        self._intake = intake
        self._auto_allocate = auto_allocate
        self._allocated: set[str] = set()
        """Titles of the patches that the last allocation asked for."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until cancelled because another istiod leads."""
        self.statuses.take_back(self._stale())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.statuses.run(stop))
            if self.distributor is not None:
                tasks.create_task(self.distributor.run(stop))
            if self.reconciler is not None:
                tasks.create_task(self.reconciler.run(stop))

    def renewed(self) -> None:
        """The CA has new material."""
        if self.distributor is not None:
            self.distributor.trigger()
        if self.reconciler is not None:
            self.reconciler.trigger()

    def changed(self, changes: Sequence[Change], diffs: Sequence[Diff]) -> None:
        """Take over what a push computed, and what else the objects ask for."""
        gone = {change.key for change in changes if change.new is None}
        for diff in diffs:
            if diff.output == OUTPUT:
                self.statuses.update(diff.changed, gone)
        away = set(filter(self._store.shelved, gone))
        if away:
            self.statuses.forget(
                t for diff in diffs if diff.output == OUTPUT for t in diff.changed if object_of(t) in away
            )
        kinds = {change.key[0] for change in changes}
        if self._auto_allocate and "ServiceEntry" in kinds:
            self._allocate(gone - away)
        self.statuses.again(change.key for change in changes if change.new is not None and _anew(change))
        if self.distributor is not None and kinds & {"Namespace", "ConfigMap"}:
            self.distributor.trigger()

    def findings(self) -> None:
        """Take over what the checks newly say about objects."""
        touched, self._intake.touched = self._intake.touched, set()
        for key in filter(_has_messages, touched):
            title, patch, ours = self._messages(key)
            if ours:
                self.statuses.update({title: patch})
            else:
                self.statuses.forget((title,))

    def _allocate(self, gone: AbstractSet[Key]) -> None:
        """What an earlier allocation asked for and this one does not is there, or another istiod has given another."""
        wanted = {patch.title: patch for patch in allocate(self._store.of(ServiceEntry).values())}
        self.statuses.forget(self._allocated - wanted.keys())
        if self.statuses.running:
            self.statuses.take_back(StatusPatch(*key, MANAGER, {}) for key in gone if key[0] == "ServiceEntry")
        self.statuses.update(wanted)
        self._allocated = set(wanted)

    def _stale(self) -> Iterable[StatusPatch]:
        """Conditions of ours in the statuses of objects that nothing asks for any more: written before this process
        was there to see why they should go.
        """
        for kind in CONDITIONED:
            for (namespace, name), value in self._store.by_kind(kind).items():
                for manager in {_manager(kind, one.type) for one in value.status.conditions} - {""}:
                    patch = StatusPatch(kind, namespace, name, manager, {})
                    if not self.statuses.wants(patch.title):
                        yield patch

    def _messages(self, key: Key) -> tuple[str, StatusPatch | None, bool]:
        """Title and patch for an object, and whether it is for this istiod to write."""
        finding = self._intake.findings.get(key)
        if finding is None:
            return StatusPatch(*key, messages.MANAGER, {}).title, None, not self._store.shelved(key)
        patch = messages.status_messages(key, finding.problems, kept=finding.kept)
        return patch.title, patch, finding.ours


def _anew(change: Change) -> bool:
    """The object was not there before, or the one that was there is gone and this one has its name."""
    return change.old is None or change.old.metadata.uid != change.new.metadata.uid


def _manager(kind: str, condition_type: str) -> str:
    """Which of our field managers writes a condition; empty if none does."""
    if condition_type == messages.VALID and kind != "Service":
        return messages.MANAGER
    return conditions.manager_of(kind, condition_type)


def _has_messages(key: Key) -> bool:
    """Istio's own kinds have a place for messages in their status."""
    return BY_STORE_KIND[key[0]].group.endswith(".istio.io")
