"""What every translation needs to know about the mesh."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

import msgspec

from meshcore.identity import DEFAULT_TRUST_DOMAIN
from meshcore.model import AppProtocol

NETWORK_LABEL: Final = "topology.istio.io/network"
_PROTOCOLS: Final = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "h2c": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}


class MeshConfig(msgspec.Struct, frozen=True):
    """Mesh-wide facts. `network` is that of the cluster."""

    cluster_id: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    root_namespace: str = "istio-system"
    network: str = ""

    @property
    def wire_trust_domain(self) -> str:
        """Proxies take an absent trust domain for the default one."""
        return "" if self.trust_domain == DEFAULT_TRUST_DOMAIN else self.trust_domain

    def hostname(self, namespace: str, name: str) -> str:
        return f"{name}.{namespace}.svc.{self.cluster_domain}"

    def service_key(self, namespace: str, name: str) -> str:
        return f"{namespace}/{self.hostname(namespace, name)}"


def packed(address: str) -> bytes | None:
    """4 or 16 bytes; None if it is no IP address."""
    try:
        return ipaddress.ip_address(address).packed
    except ValueError:
        return None


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Every label of the selector stands in `labels`; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def app_protocol(name: str, declared: str) -> AppProtocol:
    """`appProtocol` wins over the prefix of the port's name (`http-web`)."""
    word = (declared or name).lower()
    if not declared and word.startswith("grpc-web"):
        return AppProtocol.UNKNOWN
    return _PROTOCOLS.get(word) or _PROTOCOLS.get(word.partition("-")[0], AppProtocol.UNKNOWN)
