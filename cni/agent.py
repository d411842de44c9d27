"""The node agent over a directory of Kubernetes YAML: namespaces stand for pods.

It watches Pods and Namespaces, compares who should be in the mesh with who is, and works off the difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from cni import eligibility, http
from cni.config import Settings
from cni.eligibility import ENABLED, REDIRECTION, Pod, Scope
from cni.enrolment import NODE_NOTE, Enrolment, Key
from cni.probes import HostProbes, kubelet_uid
from cni.redirect import PodRules, Redirector
from cni.rules_nft import NftBackend
from cni.workqueue import WorkQueue
from cni.zds_server import ZdsServer
from meshcore.errors import MeshError
from meshcore.manifests import ManifestDirectory, ManifestError, Scan, remove_status

log = logging.getLogger(__name__)

WORKERS: Final = 4  # pods that are worked on at a time
RESYNC_S: Final = 5.0  # how often failed and moved pods are looked at again


class Agent:
    """One node. `run` returns when `stop` is set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scope = Scope(settings.excluded_namespaces, settings.system_namespace)
        self._directory = ManifestDirectory(settings.config_dir, settings.status_dir)
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="rules")
        uid = settings.probe_uid if settings.probe_uid is not None else (kubelet_uid() or 0)
        self._probes = HostProbes(uid, ipv6=settings.ipv6, probe_v4=settings.probe_v4, probe_v6=settings.probe_v6)
        redirector = Redirector(NftBackend())
        self._enrolment = Enrolment(
            redirector, self._probes, settings.status_dir, settings.node, self._rules_of, self._executor
        )
        self._zds = ZdsServer(settings.zds_path, self._enrolment.snapshot, on_change=self._on_ztunnel)
        self._enrolment.zds = self._zds
        self._queue: WorkQueue[Key] = WorkQueue(self._reconcile, WORKERS)
        self._metrics = http.Metrics(lambda: self._zds.connected)
        self._pods: dict[Key, Pod] = {}
        self._refusals: dict[Key, str] = {}
        self._failed: dict[Key, str] = {}
        self._errors: tuple[ManifestError, ...] = ()
        self._ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`. Raises MeshError for what makes starting pointless."""
        servers: list[asyncio.Server] = []
        loop = asyncio.get_running_loop()
        try:
            scan = await loop.run_in_executor(self._executor, self._directory.scan)
            await self._adopt(scan)
            await loop.run_in_executor(self._executor, self._probes.setup)
            await self._zds.start()
            servers += await self._serve_http()
            log.info("node %s: serving ZDS on %s", self._settings.node, self._settings.zds_path)
            self._on_scan(scan)
            await self._work(stop)
            if self._settings.uninstall_on_exit:
                await self._uninstall()
        finally:
            for server in servers:
                server.close()
            await self._zds.close()
            self._executor.shutdown()
            self._enrolment.close()

    async def _work(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in (self._queue.run(), self._resync(), self._first_pass())]
                async for scan in self._directory.watch(stop):
                    self._on_scan(scan)
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as failures:
            expected = failures.subgroup(MeshError)
            if expected is None:
                raise
            raise _first(expected) from None

    def _rules_of(self, pod: Pod) -> PodRules:
        settings = self._settings
        return PodRules(
            ipv6=settings.ipv6,
            dns_capture=settings.dns_capture if pod.dns_capture is None else pod.dns_capture,
            bypass_inbound=pod.bypass_inbound,
            virtual_interfaces=pod.virtual_interfaces,
            probe_v4=settings.probe_v4,
            probe_v6=settings.probe_v6,
        )

    async def _serve_http(self) -> list[asyncio.Server]:
        servers = []
        if self._settings.metrics_port:
            servers.append(
                await http.serve(self._settings.metrics_port, {"/metrics": lambda: (200, self._metrics.render())})
            )
        if self._settings.health_port:
            handlers: Mapping[str, http.Handler] = {"/healthz": lambda: (200, "ok\n"), "/readyz": self._readiness}
            servers.append(await http.serve(self._settings.health_port, handlers))
        return servers

    def _readiness(self) -> tuple[int, str]:
        return (200, "ok\n") if self._ready else (503, "the first look at all pods has not ended\n")

    async def _adopt(self, scan: Scan) -> None:
        """Start from what an earlier agent left: its notes, not the labels, say which pods ztunnel serves."""
        for key, obj in self._objects(scan).items():
            if (obj["metadata"].get("annotations") or {}).get(REDIRECTION) == ENABLED:
                self._enrolment.adopt(key, eligibility.describe(obj))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            self._executor, self._forget_gone, frozenset(k[1:] for k in scan.objects if k[0] == "Pod")
        )

    def _forget_gone(self, existing: frozenset[Key]) -> None:
        """Remove our notes on pods that went while no agent ran, or their successors would count as enrolled."""
        for path in Path(self._settings.status_dir).glob("Pod.*.json"):
            try:
                meta = msgspec.json.decode(path.read_bytes())["metadata"]
                key, note = (meta["namespace"], meta["name"]), meta["annotations"].get(NODE_NOTE)
            except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
                continue  # not a note of ours
            if note == self._settings.node and key not in existing:
                remove_status(self._settings.status_dir, "Pod", *key)

    def _objects(self, scan: Scan) -> dict[Key, dict[str, Any]]:
        """The pods of this node."""
        return {
            (namespace, name): manifest.obj
            for (kind, namespace, name), manifest in scan.objects.items()
            if kind == "Pod" and (manifest.obj.get("spec") or {}).get("nodeName") == self._settings.node
        }

    def _on_scan(self, scan: Scan) -> None:
        for error in scan.errors:
            if error not in self._errors:
                log.error("%s", error)
        self._errors = scan.errors
        pods, refusals = {}, {}
        for key, obj in self._objects(scan).items():
            pods[key] = eligibility.describe(obj)
            namespace = scan.objects.get(("Namespace", "", key[0]))
            reason = eligibility.refusal(obj, namespace.obj if namespace else None, self._scope)
            if reason is not None:
                refusals[key] = reason
        before, self._pods = self._pods, pods
        unwanted, self._refusals = self._refusals, refusals
        for key in before.keys() | pods.keys():
            if before.get(key) == pods.get(key) and unwanted.get(key) == refusals.get(key) and key in before:
                continue
            self._metrics.event("add" if key not in before else "delete" if key not in pods else "update")
            self._failed.pop(key, None)
            self._queue.hurry(key)

    def _on_ztunnel(self) -> None:
        for key, entry in self._enrolment.pods.items():
            if entry.state != ENABLED:
                self._queue.hurry(key)

    async def _first_pass(self) -> None:
        await self._queue.idle.wait()
        await self._enrolment.prune_probes()
        self._ready = True
        log.info("ready: %d of %d pods of this node are in the mesh", len(self._enrolment.pods), len(self._pods))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_S)
            for key in {*self._failed, *self._enrolment.stale()}:
                self._queue.add(key)

    async def _reconcile(self, key: Key) -> bool:
        """Bring one pod where it belongs -> False to try again soon.

        What fails for good (no namespace, rules refused) is tried again at the slow pace of `_resync`: in a directory
        nothing else would tell us that the cause has gone.
        """
        pod = self._pods.get(key)
        wanted = pod is not None and key not in self._refusals
        entry = self._enrolment.pods.get(key)
        try:
            if entry is not None and (not wanted or pod is None or entry.pod.uid != pod.uid):
                alive = pod is not None and pod.uid == entry.pod.uid and pod.ready_to_run
                await self._enrolment.unenrol(key, alive=alive)
            if wanted and pod is not None:
                await self._enrolment.enrol(key, pod)
        except (MeshError, OSError) as error:  # OSError: the status directory is full or away, descriptors ran out
            if self._failed.get(key) != str(error):
                log.warning("%s/%s: %s", *key, error)
            self._failed[key] = str(error)
            return isinstance(error, MeshError) and not error.retryable
        self._failed.pop(key, None)
        return True

    async def _uninstall(self) -> None:
        for key in list(self._enrolment.pods):
            try:
                await self._enrolment.unenrol(key, alive=True)
            except (MeshError, OSError) as error:
                log.warning("%s/%s stays programmed: %s", *key, error)
        await asyncio.get_running_loop().run_in_executor(self._executor, self._probes.teardown)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
