"""One istiod: its parts, wired, from start to a graceful end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from istiod import ca, hostaddresses
from istiod.admin import AdminServer, Answer, json, text
from istiod.auth import Authenticator, Authorizer, TokenKey
from istiod.config import Settings
from istiod.metrics import Metrics
from istiod.objects import Pod
from istiod.push import Published, Pusher
from istiod.serve import Service
from istiod.sources import Applied, Store
from istiod.translate.common import MeshConfig
from istiod.translate.mesh import Translator
from meshcore.manifests import ManifestDirectory, ManifestError, write_atomic
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.tls import load_identity, server_context

log = logging.getLogger("istiod")

SERVICE_NAMES: Final = ("istiod.istio-system.svc", "istiod.istio-system.svc.cluster.local", "istiod", "localhost")
ROOT_FILE: Final = "root-cert.pem"


class Istiod:
    """The control plane over a directory. `start`, then `run` until `stop` is set; `close` in any case."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.store = Store()
        self.published = Published()
        self._begun = time.monotonic()
        self._synced = False
        self._said: frozenset[ManifestError] = frozenset()
        Path(settings.state_dir).mkdir(parents=True, exist_ok=True)
        self.authority = self._authority()
        write_atomic(Path(settings.state_dir) / ROOT_FILE, self.authority.root_pem.encode())
        self.mesh = MeshConfig(
            settings.cluster_id, settings.cluster_domain, settings.trust_domain, settings.root_namespace
        )
        tokens = TokenKey.load(settings.state_dir)
        authenticator = Authenticator(tokens, settings.trust_domain, settings.trusted_node_accounts)
        authorizer = Authorizer(self.store.of("Pod", Pod), authenticator, settings.trust_domain)
        self.service = Service(self.authority, authenticator, authorizer, self.published, self.metrics)
        self._pusher = Pusher(
            self.published,
            self._compute,
            self.metrics,
            after=settings.debounce_after,
            longest=settings.debounce_max,
        )
        self._source = ManifestDirectory(settings.config_dir, settings.status_dir)
        routes = {"/ready": self._ready}
        debug = {"/debug/config_dump": self._config_dump, "/debug/syncz": self._syncz}
        self.http = AdminServer(routes, debug)
        self.monitoring = AdminServer({"/metrics": self._metrics_page})
        self._tls: ssl.SSLContext | None = None

    async def start(self) -> None:
        """Read the directory once, publish, listen. Raises a MeshError with the cause if something cannot be used."""
        settings = self.settings
        self._take(self.store.apply(await asyncio.to_thread(self._source.scan)), ())
        self._pusher.push()
        chain, key = self.authority.serving(self._names())
        self._tls = server_context(self.authority.root_pem, chain, key)
        await self.service.server.start(settings.address, settings.port, self._tls)
        if settings.http_port:
            await self.http.start(settings.address, settings.http_port)
        if settings.monitoring_port:
            await self.monitoring.start(settings.address, settings.monitoring_port)
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
        """Follow the directory, push, renew the serving certificate, until `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(stop))
            tasks.create_task(self._pusher.run(stop))
            tasks.create_task(self._renew(stop))

    async def close(self) -> None:
        """Not ready any more, subscriptions ended in order, running requests finished, everything closed."""
        self._synced = False
        await self.service.stop(self.settings.shutdown)
        await self.http.stop()
        await self.monitoring.stop()

    def _authority(self) -> ca.Authority:
        settings = self.settings
        default, longest = timedelta(seconds=settings.default_cert_ttl), timedelta(seconds=settings.max_cert_ttl)
        if settings.ca_dir is not None:
            authority = ca.plugged_in(settings.ca_dir, default, longest)
        else:
            ttl = timedelta(seconds=settings.ca_cert_ttl)
            authority = ca.self_signed(settings.state_dir, settings.trust_domain, ttl, default, longest)
        self.metrics.set("citadel_server_root_cert_expiry_timestamp", authority.root_expiry.timestamp())
        chain_end = authority.certificate.not_valid_after_utc.timestamp()
        self.metrics.set("citadel_server_cert_chain_expiry_timestamp", chain_end)
        return authority

    def _names(self) -> list[str]:
        address = self.settings.address
        own = hostaddresses.local_addresses() if address in ("0.0.0.0", "::") else [address, "127.0.0.1"]
        return [*SERVICE_NAMES, *own, *self.settings.sans]

    async def _renew(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.default_cert_ttl / 2):
                    await stop.wait()
            if not stop.is_set() and self._tls is not None:
                chain, key = self.authority.serving(self._names())
                load_identity(self._tls, chain, key)
                log.info("serving certificate renewed")

    async def _follow(self, stop: asyncio.Event) -> None:
        async for scan in self._source.watch(stop):
            applied = self.store.apply(scan)
            self._take(applied, scan.errors)
            if applied.changed:
                self._pusher.trigger({kind for kind, _, _ in applied.changed})

    def _take(self, applied: Applied, errors: tuple[ManifestError, ...]) -> None:
        """Say what is newly wrong, once, and what is right again."""
        self.metrics.add("pilot_inbound_updates", len(applied.changed))
        now = frozenset((*errors, *applied.errors, *applied.warnings))
        failures = {*errors, *applied.errors}
        for problem in sorted(now - self._said, key=lambda p: (p.file, p.line)):
            log.log(logging.ERROR if problem in failures else logging.WARNING, "%s", problem)
        for file in sorted({p.file for p in self._said} - {p.file for p in now}):
            log.info("%s: in order again", file)
        self.metrics.add("galley_validation_failed", len(failures - self._said))
        self.metrics.add("galley_validation_passed", len(applied.changed))
        self.metrics.set("pilot_total_rejected_configs", len(failures))
        self._said = now

    def _compute(self) -> Mapping[str, Mapping[str, Any]]:
        resources = Translator(self.store, self.mesh).translate()
        self.metrics.set("pilot_services", sum(a.service is not None for a in resources.addresses.values()))
        return {ADDRESS_TYPE: resources.addresses, AUTHORIZATION_TYPE: resources.authorizations}

    def _ready(self) -> Answer:
        return text("ready\n") if self._synced else text("not ready\n", 503)

    def _metrics_page(self) -> Answer:
        self.metrics.set("istiod_uptime_seconds", time.monotonic() - self._begun)
        return Answer(200, self.metrics.render().encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _config_dump(self) -> Answer:
        return json({url: dict(self.published.objects(url)) for url in self.published.resources})

    def _syncz(self) -> Answer:
        return json(
            [
                {
                    "proxy": proxy.node.id if proxy.node is not None else "",
                    "address": proxy.address,
                    "identity": str(proxy.caller.identity),
                    "node": proxy.caller.node,
                    "since": proxy.since,
                    "types": {
                        url: {
                            "sent": state.sent,
                            "held": len(state.held),
                            "synced": not (state.waiting or state.behind),
                            "rejected": state.rejected,
                        }
                        for url, state in proxy.types.items()
                    },
                }
                for proxy in self.service.proxies.values()
            ]
        )
