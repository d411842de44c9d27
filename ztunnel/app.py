"""One ztunnel: what it is made of, and how the parts hear of each other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Coroutine
from typing import Any, Final

from meshcore.identity import Identity
from meshcore.records import (
    Rec,
    decode_cert_error,
    encode_bundle,
    encode_cert,
    encode_cert_del,
    encode_config,
    encode_pod_add,
    encode_pod_del,
)
from ztunnel import admin, config, csrclient, dump, http, metrics, orphans
from ztunnel.admin import Admin, FlowDumps
from ztunnel.certs import Certificates, Entry
from ztunnel.config import Settings
from ztunnel.controlplane import OWN_NAMESPACE, ConfigStream, signing_client
from ztunnel.decision import LocalPod
from ztunnel.decision import Settings as DecisionSettings
from ztunnel.decisions import SWEEP_S, Decisions
from ztunnel.drain import Drain
from ztunnel.inpod import Listening, Pod, Pods, ZdsClient, ZdsViolation
from ztunnel.log import Filter
from ztunnel.metrics import Metrics
from ztunnel.pages import Pages
from ztunnel.readiness import PROXY, STATE, WORKLOADS, Readiness
from ztunnel.supervisor import WORKER_MODULE, Supervisor
from ztunnel.workerlink import WorkerLink

log = logging.getLogger("ztunnel.app")

OWN_ACCOUNT: Final = "ztunnel"


class App:
    """Build it inside a running loop, then `run`."""

    def __init__(self, settings: Settings, levels: Filter, worker_module: str = WORKER_MODULE) -> None:
        self.settings = settings
        self.readiness = Readiness(STATE, PROXY, WORKLOADS)
        self._levels = levels
        self._tasks: set[asyncio.Task[None]] = set()
        self._follow: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        environment = {**config.child_environment(), orphans.MARK: settings.inpod_uds}
        self.pages = Pages(settings.workers)
        self.supervisor = Supervisor(
            self.pages,
            environment=environment,
            on_start=self._worker_started,
            on_record=self._record,
            on_gone=self._worker_gone,
            hung_timeout=settings.worker_hung_timeout,
            worker_module=worker_module,
        )
        self._signer = signing_client(settings, lambda: self.certs.own_identity)
        self.certs = Certificates(
            self._signer,
            lambda identities: csrclient.generate(identities, environment),
            own_uri=str(_own_identity(settings)),
            ttl=settings.secret_ttl,
            on_issued=self._issued,
            on_forgotten=lambda entry: self.supervisor.broadcast(encode_cert_del(entry.cert_id)),
        )
        self._bundles_told: set[int] = set()
        self.decisions = Decisions(
            DecisionSettings(
                response_baggage=settings.response_baggage, localhost_app_tunnel=settings.localhost_app_tunnel
            ),
            self.supervisor.links,
            network=settings.network,
            upcall_timeout=settings.upcall_timeout,
            log_json=settings.log_json,
            need_cert=self.certs.need,
            read_slot=self.pages.read,
        )
        self.stream = (
            ConfigStream(settings, lambda: self.certs.own_identity, self.decisions.update)
            if settings.xds_address
            else None
        )
        listening = Listening(
            workers=settings.workers,
            mark=settings.packet_mark,
            transparent=settings.orig_src,
            ipv6=settings.ipv6,
        )
        self.pods = Pods(listening, self._pod_started, self._pod_stopped)
        self._dumps = FlowDumps()
        self._drain = Drain(self.supervisor, self.pods.close_listeners)
        self._servers: list[http.Server] = []

    # Life

    async def run(self) -> int:
        """Serve until told to stop -> exit status. Raises ConfigError when a port cannot be had."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await self._serve_http()
            self.supervisor.start()
            self._spawn(self.certs.run())
            self._follow = self._spawn(self._follow_istiod())
            self._spawn(self._sweep())
            await self._stopping.wait()
            await self._end()
        finally:
            self.supervisor.kill()
            for task in self._tasks:
                task.cancel()
            for server in self._servers:
                server.close()
        if self._failure is None:
            return 0
        if not isinstance(self._failure, ZdsViolation):
            log.error("BUG: ending because a part of ztunnel failed", exc_info=self._failure)
        return 1

    def shutdown(self) -> None:
        """Drain and end; a second time changes nothing."""
        self._stopping.set()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGINT and self._stopping.is_set():
            log.warning("interrupted again: ending without waiting for connections")
            self.supervisor.kill()
            for task in self._tasks:
                task.cancel()
            self._drain.abandon()
            return
        log.info("%s: draining", signal.Signals(number).name)
        self.shutdown()

    async def _end(self) -> None:
        """New pods are our successor's from now on. Policies are still followed, and certificates renewed."""
        if self._follow is not None:
            self._follow.cancel()
        for server in self._servers:
            server.close()
        await self._drain.run(self.settings.termination_deadline)
        await self._signer.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as we live; if it fails, so do we, after a drain."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
            log.error("%s; draining", self._failure)
            self.shutdown()

    # Long-lived work

    async def _follow_istiod(self) -> None:
        """Our certificate, then the configuration, then the pods: no pod is served by guesses."""
        if self.stream is not None:
            await self.certs.own_ready()
            self._spawn(self.stream.run())
            await self.stream.synced()
        self.readiness.set(STATE, ready=True)
        client = ZdsClient(self.settings.inpod_uds, self.pods, self._workloads_ready)
        await client.run()

    def _workloads_ready(self, ready: bool) -> None:
        self.readiness.set(WORKLOADS, ready=ready)
        if ready:
            # Our listeners are in every pod, so workers of a control process that died may leave.
            orphans.drain(self.settings.inpod_uds, {link.pid for link in self.supervisor.ready_links})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.decisions.sweep()

    # Workers

    def _worker_config(self) -> bytes:
        return encode_config(self.settings.worker_config(log_access=self._levels.access))

    def _worker_started(self, link: WorkerLink) -> None:
        """Tell a worker all that it must know before the first connection; numbers follow with verdicts."""
        link.send(self._worker_config())
        for bundle_id, pem in self.certs.bundles.items():
            link.send(encode_bundle(bundle_id, pem.encode()))
        for entry in self.certs.issued():
            link.send(_cert_record(entry))
        for pod in self.pods.running.values():
            self._send_pod(link, pod)
        if len(self.supervisor.ready_links) == self.settings.workers:
            self.readiness.set(PROXY, ready=True)

    def _worker_gone(self, index: int) -> None:
        self.decisions.worker_gone(index)
        self._dumps.worker_gone(index)
        self._drain.lost(index)

    def _record(self, link: WorkerLink, kind: Rec, record: bytes) -> None:
        match kind:
            case Rec.UPCALL:
                self.decisions.upcall(link, record)
            case Rec.EVICT:
                self.decisions.evict(link, record)
            case Rec.DUMP_FLOW | Rec.DUMP_END:
                self._dumps.record(link, kind, record)
            case Rec.DRAINED:
                self._drain.drained(link)
            case Rec.CERT_ERROR:
                cert_id, text = decode_cert_error(record)
                log.error("worker %d cannot use certificate %d: %s", link.index, cert_id, text)
            case _:
                log.debug("worker %d: %s", link.index, kind.name)

    # Pods and certificates

    def _pod_started(self, pod: Pod) -> None:
        info = pod.info
        workload = self.decisions.state.local(info.namespace, info.name, info.service_account)
        trust_domain = workload.trust_domain if workload is not None else self.settings.trust_domain
        cert_id = self.certs.acquire(Identity(trust_domain, info.namespace, info.service_account))
        spoof = pod.listeners.spoof
        local = LocalPod(pod.pod_id, pod.uid, info.name, info.namespace, info.service_account, spoof, cert_id)
        self.decisions.add_pod(local)
        for link in self.supervisor.ready_links:
            self._send_pod(link, pod)

    def _send_pod(self, link: WorkerLink, pod: Pod) -> None:
        cert_id = self.decisions.pods[pod.pod_id].cert_id
        record = encode_pod_add(pod.pod_id, cert_id, spoof=pod.listeners.spoof)
        link.send(record, [pod.netns_fd, *pod.listeners.fds(link.index)])

    def _pod_stopped(self, pod: Pod) -> None:
        cert_id = self.decisions.pods[pod.pod_id].cert_id
        self.supervisor.broadcast(encode_pod_del(pod.pod_id))
        self.decisions.remove_pod(pod.pod_id)
        self.certs.release(cert_id)

    def _issued(self, entry: Entry) -> None:
        if entry is self.certs.own:
            self._signer.refresh()
            if self.stream is not None:
                self.stream.reconnect()
            return
        issued = entry.issued
        if issued is not None and issued.bundle_id not in self._bundles_told:
            self._bundles_told.add(issued.bundle_id)
            self.supervisor.broadcast(encode_bundle(issued.bundle_id, self.certs.bundles[issued.bundle_id].encode()))
        self.supervisor.broadcast(_cert_record(entry))
        self.decisions.certificate_issued(entry.cert_id)

    # Ports

    async def _serve_http(self) -> None:
        settings = self.settings
        panel = Admin(self._levels, self._dump, lambda: self.supervisor.broadcast(self._worker_config()), self.shutdown)
        scrape = Metrics(self.pages, self.decisions.ids.labels, self._own_metrics).serve
        for server, sockets in (
            (
                http.Server("readiness", {"/healthz/ready": self.readiness.serve}),
                [http.wildcard(settings.readiness_port, ipv6=settings.ipv6)],
            ),
            (
                http.Server("metrics", {"/metrics": scrape, "/stats/prometheus": scrape}),
                [http.wildcard(settings.stats_port, ipv6=settings.ipv6)],
            ),
            (http.Server("admin", panel.routes()), http.loopback(settings.admin_port, ipv6=settings.ipv6)),
        ):
            self._servers.append(server)
            await server.listen(*sockets)

    async def _dump(self) -> dict[str, Any]:
        flows = await self._dumps.collect(self.supervisor.ready_links)
        return {
            **dump.cluster(self.decisions.state),
            "staticConfig": {},
            "version": admin.version(self.settings.istio_version),
            "config": self.settings.dump(),
            "certificates": self.certs.dump(),
            "workloadState": admin.workload_state(self.pods, flows),
        }

    def _own_metrics(self, page: metrics.Page) -> None:
        if self.stream is not None:
            stats = self.stream.client.stats
            ended = metrics.labelled("reason", stats.terminations)
            page.family("istio_xds_connection_terminations", "counter", "Config streams that ended", ended)
            messages = metrics.labelled("url", stats.messages)
            page.family("istio_xds_message", "counter", "Messages received from istiod", messages)
            size = metrics.labelled("url", stats.bytes)
            page.family("istio_xds_message_bytes", "counter", "Bytes received from istiod", size)
        pods = self.pods
        gauges = {"active": len(pods.running), "pending": len(pods.pending)}
        for state, count in gauges.items():
            name = f"workload_manager_{state}_proxy_count"
            page.family(name, "gauge", f"The number of pods that are {state}", [("", count)])
        for event, count in {"started": pods.started, "stopped": pods.stopped}.items():
            name = f"workload_manager_proxies_{event}"
            page.family(name, "counter", f"The number of pods that were {event}", [("", count)])
        tag = [(f'component="ztunnel",tag="{self.settings.istio_version}"', 1.0)]
        page.family("istio_build", "gauge", "Istio component build info", tag, core=True)
        restarts = [("", float(self.supervisor.restarts))]
        page.family("ambient_ztunnel_worker_restarts", "counter", "Workers that were replaced", restarts)


def _cert_record(entry: Entry) -> bytes:
    issued = entry.issued
    assert issued is not None  # noqa: S101 - only issued entries are sent
    return encode_cert(entry.cert_id, issued.bundle_id, issued.chain_pem.encode(), issued.key_pem)


def _own_identity(settings: Settings) -> Identity:
    namespace = settings.pod_namespace or OWN_NAMESPACE
    return Identity(settings.trust_domain, namespace, settings.service_account or OWN_ACCOUNT)


def raise_descriptor_limit() -> None:
    """A pod takes one descriptor and three a worker; connections to istiod and scrapers a few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
