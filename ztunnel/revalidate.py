"""Which verdicts workers hold, and how they are kept true while the cluster changes.

A worker with a stale table is a bug: every change marks the verdicts that depended on it, and a
marked verdict is decided anew before it answers anybody. Only differences are sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Final, NamedTuple, TypeAlias

from meshcore.records import Mask, Upcall, Verdict
from ztunnel.decision import Decision, LocalPod, Pending
from ztunnel.ids import IdSource
from ztunnel.keys import Key, pod_key
from ztunnel.state import Change

_FIELDS: Final[tuple[tuple[Mask, Callable[[Upcall], str | bytes | int]], ...]] = (
    (Mask.SRC_IP, lambda u: u.src_ip),
    (Mask.DST_IP, lambda u: u.dst_ip),
    (Mask.DST_PORT, lambda u: u.dst_port),
    (Mask.PEER, lambda u: u.peer),
    (Mask.HOST, lambda u: u.host),
    (Mask.FORWARDED, lambda u: u.forwarded),
    (Mask.LOCAL_IP, lambda u: u.local_ip),
    (Mask.BAGGAGE, lambda u: u.baggage),
)

FlowKey: TypeAlias = tuple[str | bytes | int, ...]
Decide: TypeAlias = Callable[[Upcall, LocalPod], Decision | Pending]


class Update(NamedTuple):
    """Send the new content of a verdict; its mask is the same. Live connections it denies are closed."""

    verdict_id: int
    verdict: Verdict
    workers: frozenset[int]


class Flush(NamedTuple):
    """Send FLUSH: the entry is gone, and with `reevaluate` its live connections ask again."""

    verdict_id: int
    reevaluate: bool
    workers: frozenset[int]


class EndpointGone(NamedTuple):
    """Send ENDPOINT_GONE to every worker: connections to this address are closed."""

    ip: bytes


Action: TypeAlias = Update | Flush | EndpointGone


class Entry:
    """One verdict that at least one worker holds. `upcall` is a sample of the flows it answers."""

    __slots__ = ("deps", "grants", "key", "pod", "stale", "upcall", "verdict", "verdict_id")

    def __init__(self, verdict_id: int, key: FlowKey, upcall: Upcall, pod: LocalPod, decision: Decision) -> None:
        self.verdict_id = verdict_id
        self.key = key
        self.upcall = upcall
        self.pod = pod
        self.verdict = decision.verdict
        self.deps = decision.deps
        self.grants: dict[int, int] = {}
        """Worker -> how often it was given this verdict as an answer."""
        self.stale = False


class _Watched(Container[Key]):
    """What any verdict depends on; `ClusterState.watched` of the same state."""

    def __init__(self, dependents: dict[Key, set[int]]) -> None:
        self._dependents = dependents

    def __contains__(self, key: object) -> bool:
        return key in self._dependents


class VerdictCache:
    """Verdicts by the fields they consulted, with their dependencies and their holders.

    `decide` must be pure between two changes. Use: `answer` an upcall; send what `ids.needed` says,
    then the verdict with the entry's id. After a change `on_change`, and while `backlog` is not 0 `revalidate`.
    """

    def __init__(self, decide: Decide, ids: IdSource) -> None:
        self._decide = decide
        self._ids = ids
        self._next = 1
        self._entries: dict[int, Entry] = {}
        self._by_key: dict[FlowKey, Entry] = {}
        self._masks: dict[tuple[int, int], dict[Mask, int]] = {}  # of a pod and direction, with entry counts
        self._dependents: dict[Key, set[int]] = {}
        self._stale: deque[int] = deque()
        self._actions: list[Action] = []  # of entries that were needed before their turn
        self.watched: Container[Key] = _Watched(self._dependents)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def backlog(self) -> int:
        """Verdicts still to be looked at, and actions not yet handed out."""
        return len(self._stale) + len(self._actions)

    # Answers

    def new_id(self) -> int:
        """A verdict id for an answer that is not kept here, such as `decide.timed_out`."""
        self._next += 1
        return self._next - 1

    def answer(self, upcall: Upcall, pod: LocalPod, worker: int) -> Entry | Pending:
        """`lookup`, else decide and `insert`: all that an upcall takes."""
        entry = self.lookup(upcall, worker)
        if entry is not None:
            return entry
        decision = self._decide(upcall, pod)
        return decision if isinstance(decision, Pending) else self.insert(upcall, pod, decision, worker)

    def lookup(self, upcall: Upcall, worker: int) -> Entry | None:
        """The verdict for a flow, noted as held by the worker that asks; None: decide and `insert`."""
        for mask in tuple(self._masks.get((upcall.pod_id, upcall.direction), ())):
            entry = self._by_key.get(flow_key(upcall, mask))
            if entry is None:
                continue
            if entry.stale and not self._renew(entry, self._actions):
                continue
            entry.grants[worker] = entry.grants.get(worker, 0) + 1
            return entry
        return None

    def insert(self, upcall: Upcall, pod: LocalPod, decision: Decision, worker: int) -> Entry:
        """Keep a decision just made for a flow that `lookup` missed; the worker that asked holds it."""
        key = flow_key(upcall, decision.verdict.mask)
        if key in self._by_key:
            raise ValueError("this flow has a verdict: look it up before inserting")
        entry = Entry(self.new_id(), key, upcall, pod, decision)
        entry.grants[worker] = 1
        self._entries[entry.verdict_id] = entry
        self._by_key[key] = entry
        masks = self._masks.setdefault((upcall.pod_id, upcall.direction), {})
        masks[entry.verdict.mask] = masks.get(entry.verdict.mask, 0) + 1
        self._depend(entry)
        self._ids.retain(entry.verdict)
        return entry

    # Workers and pods that leave

    def on_evict(self, worker: int, verdict_ids: Iterable[int]) -> list[Action]:
        """A worker dropped verdicts. One that it was answered with more than once may have reached it again after
        it wrote that, so it is flushed there to make both sides agree."""
        actions: list[Action] = []
        for verdict_id in verdict_ids:
            entry = self._entries.get(verdict_id)
            if entry is None:
                continue
            if entry.grants.pop(worker, 0) > 1:
                actions.append(Flush(verdict_id, reevaluate=True, workers=frozenset({worker})))
            if not entry.grants:
                self._drop(entry)
        return actions

    def on_worker_gone(self, worker: int) -> None:
        for entry in tuple(self._entries.values()):
            if entry.grants.pop(worker, 0) and not entry.grants:
                self._drop(entry)

    def on_pod_gone(self, pod_id: int) -> None:
        """Workers forget a pod's verdicts with the pod."""
        for verdict_id in tuple(self._dependents.get(pod_key(pod_id), ())):
            self._drop(self._entries[verdict_id])

    # Changes

    def on_change(self, change: Change, limit: int | None = None) -> list[Action]:
        """Mark what depended on a change and revalidate up to `limit` verdicts; see `backlog` for the rest.

        Addresses that are gone come last: by then verdicts no longer lead there, so nobody dials them again.
        """
        return self.on_keys(change.keys, limit) + [EndpointGone(ip) for ip in sorted(change.gone)]

    def on_keys(self, moved: Iterable[Key], limit: int | None = None) -> list[Action]:
        """Like `on_change` for keys alone: a pod whose record changed moves `pod_key(pod_id)`."""
        for key in moved:
            for verdict_id in self._dependents.get(key, ()):
                entry = self._entries[verdict_id]
                if not entry.stale:
                    entry.stale = True
                    self._stale.append(verdict_id)
        return self.revalidate(limit)

    def revalidate(self, limit: int | None = None) -> list[Action]:
        """Decide marked verdicts anew, at most `limit` of them; returns what to send, in this order."""
        actions, self._actions = self._actions, []
        while self._stale and (limit is None or limit > 0):
            entry = self._entries.get(self._stale.popleft())
            if entry is not None and entry.stale:
                self._renew(entry, actions)
                limit = None if limit is None else limit - 1
        return actions

    def replace_pod(self, pod: LocalPod, limit: int | None = None) -> list[Action]:
        """The pod's own settings changed (its certificate, for one)."""
        for verdict_id in self._dependents.get(pod_key(pod.pod_id), ()):
            self._entries[verdict_id].pod = pod
        return self.on_keys((pod_key(pod.pod_id),), limit)

    def _renew(self, entry: Entry, actions: list[Action]) -> bool:
        """Decide an entry anew; False if it had to be dropped, because it answers other flows than before."""
        fresh = self._decide(entry.upcall, entry.pod)
        workers = frozenset(entry.grants)
        if isinstance(fresh, Pending) or fresh.verdict.mask != entry.verdict.mask:
            # Pending: the pod's record went away. Its connections ask, wait as new ones do, and get the same answer.
            actions.append(Flush(entry.verdict_id, reevaluate=True, workers=workers))
            self._drop(entry)
            return False
        entry.stale = False
        if fresh.deps != entry.deps:
            self._forget_deps(entry)
            entry.deps = fresh.deps
            self._depend(entry)
        if fresh.verdict != entry.verdict:
            self._ids.retain(fresh.verdict)
            self._ids.release(entry.verdict)
            entry.verdict = fresh.verdict
            actions.append(Update(entry.verdict_id, fresh.verdict, workers))
        return True

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.verdict_id]
        del self._by_key[entry.key]
        where = (entry.upcall.pod_id, entry.upcall.direction)
        masks = self._masks[where]
        masks[entry.verdict.mask] -= 1
        if not masks[entry.verdict.mask]:
            del masks[entry.verdict.mask]
            if not masks:
                del self._masks[where]
        self._forget_deps(entry)
        self._ids.release(entry.verdict)

    def _depend(self, entry: Entry) -> None:
        for key in entry.deps:
            self._dependents.setdefault(key, set()).add(entry.verdict_id)

    def _forget_deps(self, entry: Entry) -> None:
        for key in entry.deps:
            held = self._dependents[key]
            held.discard(entry.verdict_id)
            if not held:
                del self._dependents[key]


def flow_key(upcall: Upcall, mask: Mask) -> FlowKey:
    """What a worker's flow table uses too: pod, direction and flags always, then the fields in the mask."""
    fields = [read(upcall) for bit, read in _FIELDS if mask & bit]
    return (upcall.pod_id, upcall.direction, upcall.flags, mask, *fields)
