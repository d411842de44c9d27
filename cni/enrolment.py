"""The steps that put one pod into the mesh and take it out again, and the order that keeps it safe.

In: know the pod, program its namespace, tell ztunnel and wait for its ack, let probes through, and only then say
`enabled`, which makes other proxies send to it over HBONE. Out: the other way round.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from cni.eligibility import ENABLED, PENDING, REDIRECTION, Pod
from cni.probes import HostProbes
from cni.redirect import PodRules, Redirector
from cni.zds_server import SnapshotItem, ZdsServer
from meshcore.errors import ConfigError, MeshError, NamespaceError
from meshcore.manifests import remove_status, write_status
from meshcore.netns import netns_id, open_netns
from meshcore.zds import AddWorkload, KeepWorkload, encode_request

log = logging.getLogger(__name__)

NODE_NOTE = "cni.ambient.mesh/node"
"""Annotation beside `redirection` that names the agent which wrote it."""

Key = tuple[str, str]
"""namespace, name."""

Result = TypeVar("Result")


class Enrolled(msgspec.Struct):
    """A pod that was told, or is about to be told, to ztunnel. Owns `netns`."""

    pod: Pod
    netns: int | None = None
    state: str = ""
    verified: bool = False
    """False for a pod taken over from an earlier agent, until its rules have been compared."""


class Enrolment:
    """All pods of the node that are in the mesh. One owner; never two calls at once for the same pod."""

    def __init__(
        self,
        redirector: Redirector,
        probes: HostProbes,
        status_dir: str,
        node: str,
        rules_of: Callable[[Pod], PodRules],
        executor: ThreadPoolExecutor,
    ) -> None:
        self.pods: dict[Key, Enrolled] = {}
        self.zds: ZdsServer | None = None
        self._redirector = redirector
        self._probes = probes
        self._probes_lock = asyncio.Lock()
        self._status_dir = status_dir
        self._node = node
        self._rules_of = rules_of
        self._executor = executor

    def snapshot(self) -> Iterator[SnapshotItem]:
        """Every pod that ztunnel should serve, with its namespace or, if that is not at hand, without."""
        for entry in self.pods.values():
            if entry.netns is None:
                yield KeepWorkload(entry.pod.uid), None
            else:
                yield AddWorkload(entry.pod.uid, entry.pod.info), entry.netns

    def adopt(self, key: Key, pod: Pod) -> None:
        """Take over a pod that an earlier agent enrolled: ztunnel has it and keeps it."""
        try:
            netns = open_netns(pod.netns)
        except NamespaceError as error:
            log.warning("%s was enrolled before, but %s", pod.title, error)
            netns = None
        self.pods[key] = Enrolled(pod, netns, ENABLED)

    async def enrol(self, key: Key, pod: Pod) -> None:
        """Bring a pod in, or bring up to date one that is.

        Raises NamespaceError or ConfigError when nothing can be done before the pod changes, and a retryable
        MeshError when ztunnel has not taken it yet; the pod is `pending` then.
        """
        entry = self.pods.get(key)
        if entry is None or self._moved(entry, pod):
            entry = await self._program(key, pod)
        elif not entry.verified:
            await self._verify(key, entry)
        entry.pod = pod
        try:
            if entry.state != ENABLED:
                await self._tell(entry)
            await self._allow_probes(pod)
        except MeshError:
            if entry.state != ENABLED:
                await self._note(entry, PENDING)
            raise
        await self._note(entry, ENABLED)

    async def unenrol(self, key: Key, *, alive: bool) -> None:
        """Take a pod out. `alive`: it goes on running, so its namespace must work without us.

        Raises MeshError when rules could not be removed; the pod is still enrolled then and this can be repeated.
        """
        entry = self.pods[key]
        async with self._probes_lock:
            await self._blocking(self._probes.remove, entry.pod.uid)
        if alive and entry.netns is not None:
            await self._in_netns(self._redirector.remove, entry.netns)
        # Out of the snapshot before the Del: a ztunnel that connects in between must not get the pod again.
        del self.pods[key]
        try:
            if self.zds is not None:
                await self.zds.delete(entry.pod.uid)
        finally:
            if entry.netns is not None:
                os.close(entry.netns)
        await self._blocking(remove_status, self._status_dir, "Pod", *key)
        log.info("%s left the mesh", entry.pod.title)

    async def prune_probes(self) -> None:
        """Drop probe entries of pods we do not know, unless a pod has no address yet and so may own one."""
        if all(entry.pod.ips for entry in self.pods.values()):
            async with self._probes_lock:
                await self._blocking(self._probes.prune, [entry.pod.uid for entry in self.pods.values()])

    def stale(self) -> list[Key]:
        """Pods whose namespace path leads elsewhere than it did."""
        return [key for key, entry in self.pods.items() if self._moved(entry, entry.pod)]

    def close(self) -> None:
        """Let go of all namespaces; rules stay."""
        for entry in self.pods.values():
            if entry.netns is not None:
                os.close(entry.netns)
        self.pods.clear()

    @staticmethod
    def _moved(entry: Enrolled, pod: Pod) -> bool:
        """Whether the pod has a namespace other than the one that was programmed."""
        if entry.netns is None:
            return True
        try:
            status = os.stat(pod.netns)  # noqa: PTH116 - called for every pod every few seconds
        except OSError:
            return False  # it is gone for now; what we hold is all there is
        return (status.st_dev, status.st_ino) != netns_id(entry.netns)

    async def _program(self, key: Key, pod: Pod) -> Enrolled:
        if not pod.netns:
            raise ConfigError(
                f"{pod.title}: annotation cni.ambient.mesh/netns is missing: it names the network namespace"
            )
        if not pod.netns.startswith("/"):
            raise ConfigError(f"{pod.title}: annotation cni.ambient.mesh/netns: {pod.netns!r} is not an absolute path")
        encode_request(AddWorkload(pod.uid, pod.info))  # names too long for ZDS are refused before anything is done
        entry = Enrolled(pod, open_netns(pod.netns))
        self._replace(key, entry)
        try:
            await self._verify(key, entry)
        except BaseException:
            if self.pods.get(key) is entry:
                self._replace(key, None)
            raise
        return entry

    async def _verify(self, key: Key, entry: Enrolled) -> None:
        if entry.netns is None:
            raise NamespaceError(f"{entry.pod.title} has no network namespace at {entry.pod.netns}")
        try:
            changed = await self._in_netns(self._redirector.apply, entry.netns, self._rules_of(entry.pod))
        except NamespaceError as error:
            raise type(error)(f"{entry.pod.title}: {error}") from error
        entry.verified = True
        log.info("%s: rules %s", entry.pod.title, "programmed" if changed else "already in place")

    def _replace(self, key: Key, entry: Enrolled | None) -> None:
        before = self.pods.pop(key, None)
        if entry is not None:
            self.pods[key] = entry
        if before is not None and before.netns is not None:
            os.close(before.netns)

    async def _tell(self, entry: Enrolled) -> None:
        if self.zds is None or entry.netns is None:
            raise NamespaceError(f"{entry.pod.title}: its namespace is not at hand")
        await self.zds.add(AddWorkload(entry.pod.uid, entry.pod.info), entry.netns)

    async def _allow_probes(self, pod: Pod) -> None:
        async with self._probes_lock:
            await self._blocking(self._probes.add, pod.ips, pod.uid)
            await self._blocking(self._probes.remove, pod.uid, pod.ips)

    async def _note(self, entry: Enrolled, state: str) -> None:
        if entry.state == state:
            return
        notes = {REDIRECTION: state, NODE_NOTE: self._node}
        info = entry.pod.info
        patch = {"metadata": {"annotations": notes}}
        await self._blocking(write_status, self._status_dir, "Pod", info.namespace, info.name, patch)
        entry.state = state
        log.info("%s: redirection %s", entry.pod.title, state)

    async def _in_netns(self, call: Callable[..., Result], netns: int, *arguments: object) -> Result:
        # The thread gets its own descriptor: a task that is cancelled may close ours while the thread is at work.
        return await self._blocking(_and_close, call, os.dup(netns), *arguments)

    async def _blocking(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


def _and_close(call: Callable[..., Result], netns: int, *arguments: object) -> Result:
    try:
        return call(netns, *arguments)
    finally:
        os.close(netns)
