"""What only one istiod of a cluster does: everything that writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

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
from istiod.translate.statuses import OUTPUT, StatusPatch
from istiod.validate import messages
from meshcore.manifests import Key

CONDITIONED: Final = ("Service", "ServiceEntry", "WorkloadEntry", "AuthorizationPolicy")
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

    def changed(self, changes: Sequence[Change], diffs: Iterable[Diff]) -> None:
        """Take over what a push computed, and what else the objects ask for."""
        for diff in diffs:
            if diff.output == OUTPUT:
                self.statuses.update(diff.changed)
        entries = [change for change in changes if change.key[0] == "ServiceEntry"]
        if self._auto_allocate and entries:
            gone = (StatusPatch(*change.key, MANAGER, {}).title for change in entries if change.new is None)
            self.statuses.update(dict.fromkeys(gone))
            self.statuses.update({patch.title: patch for patch in allocate(self._store.of(ServiceEntry).values())})
        kinds = {change.key[0] for change in changes}
        if self.distributor is not None and kinds & {"Namespace", "ConfigMap"}:
            self.distributor.trigger()

    def findings(self) -> None:
        """Take over what the checks newly say about objects."""
        touched, self._intake.touched = self._intake.touched, set()
        self.statuses.update(dict(self._messages(key) for key in touched if _has_messages(key)))

    def _stale(self) -> Iterable[StatusPatch]:
        """Conditions of ours in the statuses of objects that nothing asks for any more: written before this process
        was there to see why they should go.
        """
        for kind in CONDITIONED:
            for (namespace, name), value in self._store.by_kind(kind).items():
                for manager in {conditions.manager_of(kind, one.type) for one in value.status.conditions} - {""}:
                    patch = StatusPatch(kind, namespace, name, manager, {})
                    if not self.statuses.wants(patch.title):
                        yield patch

    def _messages(self, key: Key) -> tuple[str, StatusPatch | None]:
        finding = self._intake.findings.get(key)
        if finding is None:
            return StatusPatch(*key, messages.MANAGER, {}).title, None
        patch = messages.status_messages(key, finding.problems, kept=finding.kept)
        return patch.title, patch


def _has_messages(key: Key) -> bool:
    """Istio's own kinds have a place for messages in their status."""
    return BY_STORE_KIND[key[0]].group.endswith(".istio.io")
