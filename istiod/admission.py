"""The validating webhook of a running istiod, and what the API server is told about it."""

from __future__ import annotations

import logging
from typing import Final

from istiod.ca import CertificateAuthority
from istiod.kube.client import KubeClient
from istiod.kube.errors import KubeError
from istiod.metrics import Metrics
from istiod.resources import BY_STORE_KIND, ISTIO_GATEWAY
from istiod.webhook import Webhook
from istiod.webhook_configuration import DEFAULT_NAME, ClusterConfigurations, Reconciler, revision_name
from meshcore.stream.tls import ServerContext, https_context

log = logging.getLogger("istiod.webhook")

PROBE: Final = "ambient-istiod-webhook-probe"
_DENIED: Final = "admission webhook"


class Admission:
    """`start` serves; `reconciler` is for the istiod that writes."""

    def __init__(
        self, authority: CertificateAuthority, names: list[str], metrics: Metrics, *, namespace: str, revision: str
    ) -> None:
        self.webhook = Webhook(metrics)
        self._authority = authority
        self._names = names
        self._metrics = metrics
        self._namespace = namespace
        self._configurations = (revision_name(revision, namespace), DEFAULT_NAME)
        self._tls: ServerContext | None = None

    async def start(self, host: str, port: int) -> None:
        """Raises Unavailable if the address cannot be bound."""
        self._tls = ServerContext(https_context(*self._authority.serving(self._names)))
        await self.webhook.start(host, port, self._tls)

    def renew(self) -> None:
        """A new certificate for new connections."""
        if self._tls is not None:
            self._tls.use(https_context(*self._authority.serving(self._names)))

    async def stop(self, timeout: float) -> None:
        await self.webhook.stop(timeout)

    def reconciler(self, client: KubeClient) -> Reconciler:
        """Keeps the bundle in the configurations of a cluster right, and makes them refuse once we are reached."""

        async def reached() -> bool:
            return self.webhook.serving and await probe(client, self._namespace)

        return Reconciler(
            ClusterConfigurations(client),
            self._configurations,
            self._bundle,
            reached,
            self._metrics,
        )

    def _bundle(self) -> bytes:
        return self._authority.current.root_pem.encode()


async def probe(client: KubeClient, namespace: str) -> bool:
    """Whether the API server asks a webhook: about a Gateway without servers, which would not be stored anyway."""
    gateway = BY_STORE_KIND[ISTIO_GATEWAY]
    body = {
        "apiVersion": gateway.api_version,
        "kind": gateway.kind,
        "metadata": {"name": PROBE, "namespace": namespace},
        "spec": {},
    }
    try:
        await client.create(gateway, namespace, body, dry_run=True)
    except KubeError as error:
        return _DENIED in str(error)
    return False
