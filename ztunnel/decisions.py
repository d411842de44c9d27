"""Between workers and decisions: answers upcalls, sends what changed, and tells a worker a number before it is used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final

from meshcore.records import (
    Protocol,
    Upcall,
    Verdict,
    decode_evict,
    decode_upcall,
    encode_endpoint_gone,
    encode_flush,
    encode_label,
    encode_label_del,
    encode_sans,
    encode_sans_del,
    encode_verdict,
)
from ztunnel import labels
from ztunnel.decide import decide, timed_out
from ztunnel.decision import Decision, LocalPod, Pending, Settings
from ztunnel.ids import IdSource, needed
from ztunnel.keys import Key, certificate_key
from ztunnel.revalidate import Action, EndpointGone, Flush, Update, VerdictCache
from ztunnel.state import ClusterState, Resource
from ztunnel.workerlink import WorkerLink

log = logging.getLogger("ztunnel.decisions")

REVALIDATE_PER_TURN: Final = 200  # verdicts; then upcalls have their turn
SWEEP_S: Final = 10.0
UPCALL_SHARE: Final = 0.9
"""We give up on an upcall this much before the worker does, so that the client learns why."""


class _Waiting:
    """An upcall that cannot be answered before the pod's own record, or its first certificate, is there."""

    __slots__ = ("deps", "link", "timer", "upcall")

    def __init__(self, link: WorkerLink, upcall: Upcall, deps: frozenset[Key], timer: asyncio.TimerHandle) -> None:
        self.link = link
        self.upcall = upcall
        self.deps = deps
        self.timer = timer


class _Watched(Container[Key]):
    """What verdicts and waiting upcalls depend on: changes of anything else cost nothing."""

    def __init__(self) -> None:
        self.verdicts: Container[Key] = ()
        self.waiting: dict[Key, set[_Waiting]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self.verdicts or key in self.waiting


class Decisions:
    """State, verdicts and numbers of one ztunnel. `links` are those of the workers, by index."""

    def __init__(
        self,
        settings: Settings,
        links: Mapping[int, WorkerLink],
        *,
        network: str,
        upcall_timeout: float,
        log_json: bool,
        need_cert: Callable[[int], bool],
        read_slot: Callable[[int], Sequence[int]],
    ) -> None:
        self._watched = _Watched()
        self.ids = IdSource()
        self.state = ClusterState(network, self._watched)
        self.cache = VerdictCache(self._decide, self.ids)
        self._watched.verdicts = self.cache.watched
        self.pods: dict[int, LocalPod] = {}
        self._settings = settings
        self._links = links
        self._timeout = upcall_timeout * UPCALL_SHARE
        self._json = log_json
        self._need_cert = need_cert
        self._read_slot = read_slot
        self._loop = asyncio.get_running_loop()
        self._backlog: asyncio.Handle | None = None

    def _decide(self, upcall: Upcall, pod: LocalPod) -> Decision | Pending:
        return decide(upcall, pod, self.state, self.ids, self._settings)

    # What workers say

    def upcall(self, link: WorkerLink, record: bytes) -> None:
        self._answer(link, decode_upcall(record), None)

    def evict(self, link: WorkerLink, record: bytes) -> None:
        self._perform(self.cache.on_evict(link.index, decode_evict(record)))

    def worker_gone(self, index: int) -> None:
        """The worker of this index ended: forget what it held and what it waits for."""
        self.cache.on_worker_gone(index)
        for waiting in self._all_waiting():
            if waiting.link.index == index:
                self._forget(waiting)

    def _answer(self, link: WorkerLink, upcall: Upcall, waiting: _Waiting | None, *, patient: bool = True) -> None:
        pod = self.pods.get(upcall.pod_id)
        if pod is None:
            return  # the record that ends the pod is on its way
        if self._need_cert(pod.cert_id) and patient and self._goes_by_tunnel(upcall, pod):
            self._park(link, upcall, frozenset({certificate_key(pod.cert_id)}), waiting)
            return
        entry = self.cache.lookup(upcall, link.index)
        if entry is None:
            decision = self._decide(upcall, pod)
            if isinstance(decision, Pending):
                self._park(link, upcall, decision.deps, waiting)
                return
            for note in decision.notes:
                log.info("%s", note)
            entry = self.cache.insert(upcall, pod, decision, link.index)
        if waiting is not None:
            self._forget(waiting)
        self._send_verdict(link, entry.verdict, entry.verdict_id, upcall.cookie)

    def _goes_by_tunnel(self, upcall: Upcall, pod: LocalPod) -> bool:
        decision = self._decide(upcall, pod)
        return isinstance(decision, Decision) and any(
            each.protocol == Protocol.HBONE for each in decision.verdict.endpoints
        )

    def certificate_issued(self, cert_id: int) -> None:
        """Workers have been sent the certificate: answer what waited for it."""
        self._retry((certificate_key(cert_id),))

    # Upcalls that wait

    def _park(self, link: WorkerLink, upcall: Upcall, deps: frozenset[Key], waiting: _Waiting | None) -> None:
        if waiting is not None and waiting.deps == deps:
            return
        if waiting is None:
            timer = self._loop.call_later(self._timeout, self._give_up, link, upcall)
        else:
            timer = waiting.timer
            self._forget(waiting, keep_timer=True)
        parked = _Waiting(link, upcall, deps, timer)
        for key in deps:
            self._watched.waiting.setdefault(key, set()).add(parked)

    def _give_up(self, link: WorkerLink, upcall: Upcall) -> None:
        pod = self.pods.get(upcall.pod_id)
        lacks_certificate = False
        for waiting in self._all_waiting():
            if waiting.link is link and waiting.upcall.cookie == upcall.cookie:
                lacks_certificate = pod is not None and certificate_key(pod.cert_id) in waiting.deps
                self._forget(waiting)
        if pod is None or not link.ready:
            return
        if lacks_certificate:
            self._answer(link, upcall, None, patient=False)  # the worker says what it lacks
        else:
            log.warning("no record of pod %s/%s within %.1f s", pod.namespace, pod.name, self._timeout)
            self._send_verdict(link, timed_out(upcall), self.cache.new_id(), upcall.cookie)

    def _forget(self, waiting: _Waiting, *, keep_timer: bool = False) -> None:
        if not keep_timer:
            waiting.timer.cancel()
        for key in waiting.deps:
            parked = self._watched.waiting.get(key, set())
            parked.discard(waiting)
            if not parked:
                self._watched.waiting.pop(key, None)

    def _all_waiting(self) -> set[_Waiting]:
        return set().union(*self._watched.waiting.values())

    def _retry(self, moved: Iterable[Key]) -> None:
        for waiting in set().union(*(self._watched.waiting.get(key, ()) for key in moved)):
            self._answer(waiting.link, waiting.upcall, waiting)

    # What istiod and the node agent say

    def update(self, type_url: str, resources: Iterable[Resource], removed: Iterable[str]) -> dict[str, str]:
        """Apply one push -> what is refused, by name, with the reason."""
        change = self.state.apply(type_url, resources, removed)
        for name, reason in change.rejected.items():
            log.warning("refused %s from istiod: %s", name, reason)
        self._perform(self.cache.on_change(change, REVALIDATE_PER_TURN))
        self._retry(change.keys)
        self._work_off()
        return change.rejected

    def add_pod(self, pod: LocalPod) -> None:
        self.pods[pod.pod_id] = pod

    def remove_pod(self, pod_id: int) -> None:
        """Workers are told by POD_DEL."""
        del self.pods[pod_id]
        for waiting in self._all_waiting():
            if waiting.upcall.pod_id == pod_id:
                self._forget(waiting)
        self.cache.on_pod_gone(pod_id)

    def sweep(self) -> None:
        """End numbers that no verdict uses any more; every SWEEP_S seconds."""
        ended = self.ids.labels.sweep(self._read_slot)
        lists = self.ids.sans.sweep()
        for link in self._links.values():
            for number in ended:
                if number in link.labels:
                    link.labels.discard(number)
                    link.send(encode_label_del(number))
            for number in lists:
                if number in link.sans:
                    link.sans.discard(number)
                    link.send(encode_sans_del(number))

    def _work_off(self) -> None:
        """Revalidate in slices, so that a large change does not keep new flows waiting."""
        if self.cache.backlog and self._backlog is None:
            self._backlog = self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        self._backlog = None
        self._perform(self.cache.revalidate(REVALIDATE_PER_TURN))
        self._work_off()

    # Sending

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Update(verdict_id, verdict, workers):
                    for link in self._of(workers):
                        self._send_verdict(link, verdict, verdict_id, 0)
                case Flush(verdict_id, reevaluate, workers):
                    for link in self._of(workers):
                        link.send(encode_flush(verdict_id, reevaluate=reevaluate))
                case EndpointGone(ip):
                    for link in list(self._links.values()):
                        if link.ready:
                            link.send(encode_endpoint_gone(ip))

    def _of(self, workers: Iterable[int]) -> list[WorkerLink]:
        found = [self._links.get(index) for index in workers]
        return [link for link in found if link is not None and link.ready]

    def _send_verdict(self, link: WorkerLink, verdict: Verdict, verdict_id: int, cookie: int) -> None:
        label_ids, sans_ids = needed(verdict)
        for number in label_ids - link.labels:
            source, destination = labels.fragments(self.ids.labels[number], json=self._json)
            link.send(encode_label(number, source, destination))
        for number in sans_ids - link.sans:
            link.send(encode_sans(number, self.ids.sans[number]))
        link.labels |= label_ids
        link.sans |= sans_ids
        link.send(encode_verdict(verdict, verdict_id, cookie))
