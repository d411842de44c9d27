"""One istiod: its parts, wired, from start to a graceful end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from istiod import ca, hostaddresses
from istiod.adapters import StorePods
from istiod.admin import AdminServer, Answer, Request, text
from istiod.auth import Authenticator, Authorizer, BootstrapTokens, KubernetesTokens, TokenKey, TokenMethod
from istiod.ca.distribution import Distributor
from istiod.cluster import Cluster
from istiod.config import Settings
from istiod.debug import Debug
from istiod.discovery import Discovery
from istiod.duties import Duties
from istiod.intake import Intake
from istiod.kube.lease import LeaderElection
from istiod.kube.reflector import Reflector
from istiod.metrics import Metrics
from istiod.monitoring import MetricsPage, version_page
from istiod.proxy import Proxy
from istiod.push import Published, Pusher, update_type
from istiod.serve import Service
from istiod.sources import DirectorySource, KubernetesSource, Source
from istiod.status import DirectoryStatus
from istiod.store import Change, Store
from istiod.translate.common import MeshConfig
from istiod.translate.graph import Diff
from istiod.translate.mesh import INDEXES, Translator
from meshcore.manifests import ManifestDirectory, ManifestError, write_atomic
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.tls import ServerContext, server_context

if TYPE_CHECKING:
    from istiod.admission import Admission

log = logging.getLogger("istiod")

ROOT_FILE: Final = "root-cert.pem"
MOUNTED_CA: Final = "/etc/cacerts"
"""Where a pod of istiod finds the Secret `cacerts`, if the cluster has one."""
WEBHOOK_PORT: Final = 15017
CLUSTER_DRAIN_S: Final = 5.0
"""How long kube-proxies may take to hear that this istiod is not ready."""


async def open_istiod(settings: Settings) -> Istiod:
    """An istiod over the directory, or over the cluster, that `settings` name. Raises a MeshError with the cause."""
    if settings.config_dir:
        return local_istiod(settings)
    cluster = await Cluster.open(settings)
    try:
        settings = _with_mounted_ca(cluster.settings)
        mounted = settings.ca_dir is not None
        authority = _local_authority(settings) if mounted else await cluster.authority(_lifetimes(settings))
    except BaseException:
        await cluster.close()
        raise
    return Istiod(settings, authority, cluster)


def local_istiod(settings: Settings) -> Istiod:
    """An istiod over a directory."""
    return Istiod(settings, _local_authority(settings))


class Istiod:
    """The control plane. `start`, then `run` until `stop` is set; `close` in any case."""

    def __init__(self, settings: Settings, authority: ca.CertificateAuthority, cluster: Cluster | None = None) -> None:
        self.settings = settings
        self.authority = authority
        self.metrics = Metrics()
        self.store = Store(INDEXES, revision=settings.revision)
        self.intake = Intake(self.store, settings.root_namespace)
        self.published = Published()
        self.mesh = MeshConfig(
            settings.cluster_id,
            settings.cluster_domain,
            settings.trust_domain,
            settings.root_namespace,
            trust_domain_aliases=settings.trust_domain_aliases,
            dry_run_policies=settings.dry_run_policies,
            allow_waypoints=settings.allow_waypoints,
        )
        self.translator: Translator | None = None
        self._cluster = cluster
        self._begun = time.monotonic()
        self._synced = False
        self._draining = False
        self._hurried = asyncio.Event()
        self._said: frozenset[ManifestError] = frozenset()
        self._file_errors: tuple[ManifestError, ...] = ()
        self._tls: ServerContext | None = None
        self._pending: list[Change] = []
        self._discovery = Discovery(self.store, settings.root_namespace, settings.exclude_namespaces)
        self._source = self._make_source()
        self.admission = self._make_admission()
        self.duties = self._make_duties()
        pods = StorePods(self.store)
        authenticator = Authenticator(
            settings.trust_domain,
            settings.trusted_node_accounts,
            self._token_methods(pods),
            aliases=settings.trust_domain_aliases,
        )
        authorizer = Authorizer({"": pods}, authenticator, settings.trust_domain)
        self.service = Service(
            self.authority,
            authenticator,
            authorizer,
            self.published,
            self.metrics,
            grpc_bytes=settings.grpc_receive_bytes,
        )
        self.pusher = Pusher(
            self.published,
            self._compute,
            self.metrics,
            after=settings.debounce_after,
            longest=settings.debounce_max,
        )
        debug = Debug(self).routes()
        self.http = AdminServer({"/ready": self._ready}, debug)
        self.monitoring = AdminServer({"/metrics": MetricsPage(self), "/version": version_page}, debug)
        self._publish_ca(self.authority.current)

    @property
    def election(self) -> LeaderElection | None:
        """Who writes in a cluster; over a directory there is no election."""
        return self._cluster.election if self._cluster is not None else None

    @property
    def proxies(self) -> Mapping[int, Proxy]:
        """Those that are connected, by number."""
        return self.service.proxies

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """What reads the API server; none over a directory."""
        return self._source.reflectors if isinstance(self._source, KubernetesSource) else ()

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._begun

    @property
    def waiting_for(self) -> str:
        """Why istiod is not ready; empty when it is."""
        if self._draining:
            return "shutting down"
        if self._synced:
            return ""
        missing = ", ".join(one.resource.plural for one in self.reflectors if not one.synced.is_set())
        return f"waiting for the first list of {missing}" if missing else "starting"

    async def start(self) -> None:
        """Read everything once, publish, listen. Raises a MeshError with the cause if something cannot be used."""
        settings = self.settings
        if settings.http_port:
            await self.http.start(settings.address, settings.http_port)
        if settings.monitoring_port:
            await self.monitoring.start(settings.address, settings.monitoring_port)
        await self._source.start()
        self.pusher.push()
        self._tls = ServerContext(self._context(), self.authority.current.revoked)
        self.authority.on_change(self._publish_ca)
        await self.service.server.start(settings.address, settings.port, self._tls)
        if self.admission is not None:
            await self.admission.start(settings.address, _webhook_port(settings))
        self._synced = True
        log.info(
            "serving on %s:%d: %d objects, %d addresses, %d policies",
            settings.address,
            self.service.server.port,
            self.store.size,
            len(self.published.resources[ADDRESS_TYPE]),
            len(self.published.resources[AUTHORIZATION_TYPE]),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the source, push, renew certificates, and write if elected, until `stop` is set; then hand over."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._source.run(ended))
            tasks.create_task(self.pusher.run(ended))
            tasks.create_task(self._renew(ended))
            tasks.create_task(self.authority.run(ended))
            if self.duties is not None:
                tasks.create_task(self._lead(self.duties, stop))
            await stop.wait()
            await self._hand_over()
            ended.set()

    def hurry(self) -> None:
        """Hand over without waiting: somebody asked to stop a second time."""
        self._hurried.set()

    async def close(self) -> None:
        """Not ready any more, subscriptions ended in order, running requests finished, everything closed."""
        self._draining = True
        self._synced = False
        self.hurry()
        await self.service.stop(self.settings.shutdown)
        if self.admission is not None:
            await self.admission.stop(self.settings.shutdown)
        await self.http.stop()
        await self.monitoring.stop()
        await self._source.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def _hand_over(self) -> None:
        """Stop being ready, let that become known, then send the proxies to the istiods that stay. Until a proxy has
        gone it is told of every change.
        """
        self._draining = True
        drain = self.settings.drain
        if drain is None:
            drain = CLUSTER_DRAIN_S if self._cluster is not None else 0.0
        if not self.service.proxies:
            return
        log.info("shutting down: %d proxies, to be handed over in %g s", len(self.service.proxies), drain)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._hurried.wait()
        await self.service.hand_over(0.0 if self._hurried.is_set() else self.settings.handover)

    def _make_source(self) -> Source:
        if self._cluster is not None:
            return KubernetesSource(self._cluster.client, self.intake, self._took)
        directory = ManifestDirectory(self.settings.config_dir, self.settings.status_dir)
        return DirectorySource(directory, self.intake, self._took)

    def _make_admission(self) -> Admission | None:
        settings = self.settings
        if not _webhook_port(settings):
            return None
        from istiod.admission import Admission  # with all of `analyze`: not for an istiod without a webhook

        return Admission(
            self.authority,
            self._names(),
            self.metrics,
            namespace=settings.root_namespace,
            revision=settings.revision,
        )

    def _make_duties(self) -> Duties | None:
        settings = self.settings
        if not settings.write_status:
            return None
        if self._cluster is not None:
            distributor = Distributor(
                self._cluster.config_maps,
                self._discovery.namespaces,
                lambda: self.authority.current,
            )
            return Duties(
                self.store,
                self.intake,
                self._cluster.status,
                self.metrics,
                distributor=distributor,
                reconciler=self.admission.reconciler(self._cluster.client) if self.admission is not None else None,
                auto_allocate=settings.auto_allocate,
            )
        if settings.status_dir is None:
            return None
        writer = DirectoryStatus(settings.status_dir)
        return Duties(self.store, self.intake, writer, self.metrics, auto_allocate=settings.auto_allocate)

    def _token_methods(self, pods: StorePods) -> tuple[TokenMethod, ...]:
        settings = self.settings
        if self._cluster is None:
            return (BootstrapTokens(TokenKey.load(settings.state_dir), settings.trust_domain),)
        return (
            KubernetesTokens(
                {"": self._cluster.reviewer},
                {"": pods},
                trust_domain=settings.trust_domain,
                cluster_id=settings.cluster_id,
                audiences=settings.token_audiences,
            ),
        )

    async def _lead(self, duties: Duties, stop: asyncio.Event) -> None:
        if self._cluster is None:
            await duties.run(stop)
            return

        async def started() -> None:
            await duties.run(stop)

        async def stopped() -> None:
            pass

        await self._cluster.election.run(stop, started, stopped)

    def _names(self) -> list[str]:
        address = self.settings.address
        own = hostaddresses.local_addresses() if address in ("0.0.0.0", "::") else [address, "127.0.0.1"]
        return [*service_names(self.settings), *own, *self.settings.sans]

    async def _renew(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.default_cert_ttl / 2):
                    await stop.wait()
            if not stop.is_set():
                self._serve_anew()

    def _serve_anew(self) -> None:
        """A new serving certificate, and the trust bundle and revocations of the moment, for new connections."""
        if self._tls is not None:
            self._tls.use(self._context(), self.authority.current.revoked)
            log.info("serving certificate renewed")
        if self.admission is not None:
            self.admission.renew()

    def _context(self) -> ssl.SSLContext:
        chain, key = self.authority.serving(self._names())
        return server_context(self.authority.current.root_pem, chain, key)

    def _publish_ca(self, authority: ca.Authority) -> None:
        self.metrics.set("citadel_server_root_cert_expiry_timestamp", authority.root_expiry.timestamp())
        self.metrics.set("citadel_server_cert_chain_expiry_timestamp", authority.chain_expiry.timestamp())
        self._serve_anew()
        if self.settings.state_dir:
            write_atomic(Path(self.settings.state_dir) / ROOT_FILE, authority.root_pem.encode())
        if self.duties is not None:
            self.duties.renewed()

    def _took(self, changes: list[Change], errors: tuple[ManifestError, ...]) -> None:
        """Keep changes for the next push; say what is newly wrong, once, and what is right again."""
        changes += self._discovery.follow(changes)
        self._pending += changes
        for update, number in Counter(map(update_type, changes)).items():
            self.metrics.add("pilot_inbound_updates", number, type=update)
        if self.intake.touched or errors != self._file_errors:
            self._file_errors = errors
            self._tell(errors)
        if self.duties is not None and self.intake.touched:
            self.duties.findings()
        self.intake.touched.clear()
        if changes and self._synced:
            self.pusher.trigger({change.key[0] for change in changes})

    def _tell(self, errors: tuple[ManifestError, ...]) -> None:
        failures = {*errors, *self.intake.errors()}
        now = frozenset((*failures, *self.intake.warnings()))
        for problem in sorted(now - self._said, key=lambda p: (p.file, p.line)):
            log.log(logging.ERROR if problem in failures else logging.WARNING, "%s", problem)
        for place in sorted({p.file or p.object for p in self._said} - {p.file or p.object for p in now}):
            log.info("%s: in order again", place)
        self.metrics.set("pilot_total_rejected_configs", len(failures))
        self._said = now

    def _compute(self) -> list[Diff]:
        changes, self._pending = self._pending, []
        if self.translator is None:
            self.translator = Translator(self.store, self.mesh)
            held = self.translator.graph.outputs
            diffs = [Diff(output, dict(resources)) for output, resources in held.items()]
        else:
            diffs = self.translator.apply(changes)
        if self.duties is not None:
            self.duties.changed(changes, diffs)
        return diffs

    def _ready(self, request: Request) -> Answer:
        del request
        why = self.waiting_for
        return text(f"not ready: {why}\n", 503) if why else text("ready\n")


def _webhook_port(settings: Settings) -> int:
    if settings.webhook_port is not None:
        return settings.webhook_port
    return 0 if settings.config_dir else WEBHOOK_PORT


def service_names(settings: Settings) -> list[str]:
    """The DNS names by which istiod's Service is dialled; a revision has a Service of its own."""
    names = ["istiod"] if settings.revision == "default" else [f"istiod-{settings.revision}", "istiod"]
    suffix = f"{settings.root_namespace}.svc"
    full = [f"{name}.{suffix}{domain}" for name in names for domain in ("", f".{settings.cluster_domain}")]
    return [*full, *names, "localhost"]


def _with_mounted_ca(settings: Settings) -> Settings:
    if settings.ca_dir is None and Path(MOUNTED_CA).is_dir():
        return msgspec.structs.replace(settings, ca_dir=MOUNTED_CA)
    return settings


def _lifetimes(settings: Settings) -> ca.Lifetimes:
    return ca.Lifetimes(timedelta(seconds=settings.default_cert_ttl), timedelta(seconds=settings.max_cert_ttl))


def _local_authority(settings: Settings) -> ca.CertificateAuthority:
    """The CA of the mounted directory, else of the state directory."""
    if settings.ca_dir is not None:
        mounted = ca.PluggedIn(settings.ca_dir, multiroot=settings.multiroot)
        return ca.CertificateAuthority(mounted, mounted.read(), _lifetimes(settings))
    Path(settings.state_dir).mkdir(parents=True, exist_ok=True)
    rules = ca.SelfSigned(
        settings.trust_domain, timedelta(seconds=settings.ca_cert_ttl), settings.ca_cert_grace_percent / 100
    )
    own = ca.StateDirectory(settings.state_dir, rules, check_interval=settings.ca_check_interval)
    return ca.CertificateAuthority(own, own.read(), _lifetimes(settings))
