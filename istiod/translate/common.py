"""What every translation needs to know about the mesh."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from istiod.objects import WorkloadEntry
from istiod.objects.gateway_api import LabelSelector
from meshcore.identity import DEFAULT_TRUST_DOMAIN
from meshcore.model import AppProtocol

_PROTOCOLS: Final = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "h2c": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "kubernetes.io/ws": AppProtocol.HTTP11,
    "kubernetes.io/wss": AppProtocol.HTTP11,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "tls": AppProtocol.TLS,
    "https": AppProtocol.TLS,
}
PORT_MAX: Final = 65_535
_IDENTITY_PARTS: Final = 5
"""Of TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT."""


class VisibilityPolicy(msgspec.Struct, frozen=True):
    """ServiceEntries of the selected namespaces are PUBLIC, NAMESPACE or NONE (MeshConfig.serviceEntryVisibility)."""

    selector: LabelSelector
    visibility: str


class MeshConfig(msgspec.Struct, frozen=True):
    """Mesh-wide facts: what istiod was started with, and what MeshConfig adds. `network` is that of the cluster."""

    cluster_id: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    root_namespace: str = "istio-system"
    network: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    discovery_selectors: tuple[LabelSelector, ...] = ()
    entry_visibility: str = "PUBLIC"
    entry_visibility_policies: tuple[VisibilityPolicy, ...] = ()
    dry_run_policies: bool = False
    """Send dry-run policies to ztunnel, marked (AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY)."""
    allow_waypoints: bool = False
    """Let the identity of a pod's waypoint in, whatever policies say (PILOT_AUTO_ALLOW_WAYPOINT_POLICY)."""

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """All names of the trust domain, its own first."""
        return tuple(dict.fromkeys((self.trust_domain, *self.trust_domain_aliases)))

    @property
    def wire_trust_domain(self) -> str:
        """Proxies take an absent trust domain for the default one."""
        return "" if self.trust_domain == DEFAULT_TRUST_DOMAIN else self.trust_domain

    def hostname(self, namespace: str, name: str) -> str:
        return f"{name}.{namespace}.svc.{self.cluster_domain}"

    def service_key(self, namespace: str, name: str) -> str:
        return f"{namespace}/{self.hostname(namespace, name)}"

    def service_name(self, namespace: str, hostname: str) -> str:
        """The Kubernetes Service of a namespace that a hostname means; empty if it is no such hostname."""
        suffix = f".{namespace}.svc.{self.cluster_domain}"
        name = hostname.removesuffix(suffix)
        return name if name != hostname and "." not in name else ""


def small_number(text: str, highest: int) -> int | None:
    """A number from 0 to `highest` in digits; None if the text is anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest))):
        return None
    return int(text) if int(text) <= highest else None


def ports(texts: Iterable[str]) -> tuple[int, ...]:
    """The numbers of ports; what is none is left out."""
    numbers = (small_number(text, PORT_MAX) for text in texts)
    return tuple(number for number in numbers if number is not None)


def labels_of(entry: WorkloadEntry) -> dict[str, str]:
    """A WorkloadEntry has labels in two places: those of the metadata win."""
    return {**entry.spec.labels, **entry.metadata.labels}


def principals(pattern: str, domains: Sequence[str]) -> Iterator[str]:
    """A principal of the mesh's trust domain under all names of it; any other pattern as it is. `cluster.local` is one
    of the names in a policy, whatever the mesh calls itself.
    """
    domain, _, rest = pattern.partition("/")
    whole = pattern.count("/") == _IDENTITY_PARTS - 1 and domain != "*"
    if not whole or (domain != DEFAULT_TRUST_DOMAIN and not any(_covers(domain, one) for one in domains)):
        yield pattern
        return
    renamed = (domain if _covers(domain, one) else one for one in domains)
    yield from (f"{name}/{rest}" for name in dict.fromkeys(renamed))


def packed(address: str) -> bytes | None:
    """4 or 16 bytes; None if it is no IP address."""
    try:
        return ipaddress.ip_address(address).packed
    except ValueError:
        return None


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Every label of the selector stands in `labels`; an empty selector selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """A Kubernetes label selector with its expressions (In, NotIn, Exists, DoesNotExist)."""
    if not selects(selector.match_labels, labels):
        return False
    for wanted in selector.match_expressions:
        value = labels.get(wanted.key)
        match wanted.operator:
            case "In":
                holds = value is not None and value in wanted.values
            case "NotIn":
                holds = value is None or value not in wanted.values
            case "Exists":
                holds = value is not None
            case "DoesNotExist":
                holds = value is None
            case _:
                holds = False
        if not holds:
            return False
    return True


def app_protocol(name: str, declared: str) -> AppProtocol:
    """`appProtocol` wins over the prefix of the port's name (`http-web`)."""
    word = (declared or name).lower()
    if word.startswith("grpc-web"):
        return AppProtocol.UNKNOWN
    return _PROTOCOLS.get(word) or _PROTOCOLS.get(word.partition("-")[0], AppProtocol.UNKNOWN)


def canonical_name(labels: Mapping[str, str], otherwise: str) -> str:
    return first(labels, ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")) or otherwise


def canonical_revision(labels: Mapping[str, str]) -> str:
    return first(labels, ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")) or "latest"


def first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value of the first of `names` that is there and not empty."""
    return next((labels[name] for name in names if labels.get(name)), "")


def _covers(pattern: str, domain: str) -> bool:
    if pattern.startswith("*"):
        return domain.endswith(pattern[1:])
    if pattern.endswith("*"):
        return domain.startswith(pattern[:-1])
    return pattern == domain
