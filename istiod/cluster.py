"""istiod's side of the Kubernetes cluster it runs in or is pointed at."""

from __future__ import annotations

import secrets
import socket
from datetime import timedelta
from typing import Any, Final, Self

import msgspec

from istiod import ca
from istiod.adapters import KubernetesConfigMaps, KubernetesReviewer, KubernetesSecrets
from istiod.config import Settings
from istiod.kube import credentials
from istiod.kube.client import KubeClient
from istiod.kube.errors import NotFound
from istiod.kube.lease import LeaderElection
from istiod.meshfile import CONFIG_KEY, CONFIG_MAP, read_mesh_config
from istiod.resources import BY_STORE_KIND
from istiod.status import KubernetesStatus
from meshcore.errors import ConfigError

LEASE: Final = "ambient-istiod-leader"


class Cluster:
    """The API client and what is built on it. `settings` are those given, completed by the cluster's MeshConfig."""

    def __init__(self, client: KubeClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.reviewer = KubernetesReviewer(client)
        self.config_maps = KubernetesConfigMaps(client)
        self.status = KubernetesStatus(client)
        self.election = LeaderElection(
            client,
            namespace=settings.root_namespace,
            name=LEASE if settings.revision == "default" else f"{LEASE}-{settings.revision}",
            identity=f"{socket.gethostname()}_{secrets.token_hex(4)}",
        )

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect and read MeshConfig: the trust domain must be known before anything is signed. Raises a MeshError."""
        client = KubeClient(_credentials(settings), qps=settings.api_qps, burst=settings.api_burst)
        try:
            return cls(client, await _with_mesh_config(client, settings))
        except BaseException:
            await client.close()
            raise

    async def authority(self, lifetimes: ca.Lifetimes) -> ca.CertificateAuthority:
        """The CA that every istiod of the cluster shares, in a Secret that the first of them creates."""
        settings = self.settings
        rules = ca.SelfSigned(
            settings.trust_domain, timedelta(seconds=settings.ca_cert_ttl), settings.ca_cert_grace_percent / 100
        )
        source = ca.SecretSource(
            KubernetesSecrets(self.client, settings.root_namespace),
            rules,
            name=ca.CACERTS_NAME if settings.ca_in_cacerts else ca.SELF_SIGNED_NAME,
            check_interval=settings.ca_check_interval,
        )
        return await ca.CertificateAuthority.open(source, lifetimes)

    async def close(self) -> None:
        await self.client.close()


def _credentials(settings: Settings) -> credentials.Credentials:
    try:
        return credentials.load(settings.kubeconfig, settings.context)
    except ConfigError as exc:
        if settings.kubeconfig:
            raise
        raise ConfigError(f"{exc}; outside a pod, name a source: --config-dir DIR or --kubeconfig FILE") from None


async def _with_mesh_config(client: KubeClient, settings: Settings) -> Settings:
    try:
        item = await client.get(BY_STORE_KIND["ConfigMap"], settings.root_namespace, CONFIG_MAP)
    except NotFound:
        return settings
    data = msgspec.json.decode(item.raw, type=dict[str, Any]).get("data") or {}
    mesh = read_mesh_config(data.get(CONFIG_KEY, "{}"))
    return msgspec.structs.replace(
        settings,
        trust_domain=mesh.trust_domain or settings.trust_domain,
        trust_domain_aliases=mesh.trust_domain_aliases or settings.trust_domain_aliases,
    )
