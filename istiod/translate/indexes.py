"""Where objects are found besides their name. Buckets are tuples; the namespace comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from istiod.objects import (
    AuthorizationPolicy,
    EndpointSlice,
    Namespace,
    PeerAuthentication,
    Pod,
    Service,
    ServiceEntry,
)
from istiod.store import Index

SERVICE_NAME: Final = "kubernetes.io/service-name"
GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"
DEFAULT_ACCOUNT: Final = "default"


def _any_of(namespace: str, selector: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """One label of a selector is enough to find it: whoever reads the bucket compares the others."""
    return [(namespace, key, value) for key, value in list(selector.items())[:1]]


def _account(pod: Pod) -> Iterable[tuple[str, str, str]]:
    if pod.status.phase == "Failed" or not pod.spec.node_name:
        return ()
    return ((pod.spec.node_name, pod.metadata.namespace, pod.spec.service_account_name or DEFAULT_ACCOUNT),)


def _pods_of_slice(entry: EndpointSlice) -> Iterable[tuple[str, str]]:
    refs = (endpoint.target_ref for endpoint in entry.endpoints)
    return [(ref.namespace or entry.metadata.namespace, ref.name) for ref in refs if ref and ref.kind == "Pod"]


def _entry_selector(entry: ServiceEntry) -> Iterable[tuple[str, str, str]]:
    selector = entry.spec.workload_selector
    return _any_of(entry.metadata.namespace, selector.labels) if selector is not None else ()


def _policy_selector(policy: AuthorizationPolicy | PeerAuthentication) -> Iterable[tuple[str, str, str]]:
    selector = policy.spec.selector
    return _any_of(policy.metadata.namespace, selector.match_labels) if selector is not None else ()


PODS_BY_ACCOUNT: Final = Index("pods by node, namespace and service account", Pod, _account)
PODS_BY_GATEWAY: Final = Index(
    "pods by gateway",
    Pod,
    lambda pod: [(pod.metadata.namespace, name)] if (name := pod.metadata.labels.get(GATEWAY_NAME)) else (),
)
SERVICES_BY_LABEL: Final = Index(
    "services by a label of their selector",
    Service,
    lambda service: _any_of(service.metadata.namespace, service.spec.selector),
)
SLICES_BY_POD: Final = Index("endpoint slices by pod", EndpointSlice, _pods_of_slice)
ENTRIES_BY_HOST: Final = Index(
    "service entries by namespace and host",
    ServiceEntry,
    lambda entry: [(entry.metadata.namespace, host) for host in entry.spec.hosts],
)
ENTRIES_BY_BARE_HOST: Final = Index(
    "service entries by host", ServiceEntry, lambda entry: [(host,) for host in entry.spec.hosts]
)
ENTRIES_BY_LABEL: Final = Index("service entries by a label of their selector", ServiceEntry, _entry_selector)
POLICIES_BY_LABEL: Final = Index(
    "authorization policies by a label of their selector", AuthorizationPolicy, _policy_selector
)
POLICIES_WITH_EMPTY_SELECTOR: Final = Index(
    "authorization policies that select every pod of their namespace",
    AuthorizationPolicy,
    lambda policy: (
        [(policy.metadata.namespace,)]
        if policy.spec.selector is not None and not policy.spec.selector.match_labels
        else ()
    ),
)
MTLS_BY_LABEL: Final = Index("peer authentications by a label of their selector", PeerAuthentication, _policy_selector)
MTLS_OF_NAMESPACE: Final = Index(
    "peer authentications without selector",
    PeerAuthentication,
    lambda setting: [] if list(_policy_selector(setting)) else [(setting.metadata.namespace,)],
)
MTLS_ANY: Final = Index("peer authentications", PeerAuthentication, lambda _: [()])
NAMESPACES: Final = Index("namespaces", Namespace, lambda _: [()])

INDEXES: Final = (
    PODS_BY_ACCOUNT,
    PODS_BY_GATEWAY,
    SERVICES_BY_LABEL,
    SLICES_BY_POD,
    ENTRIES_BY_HOST,
    ENTRIES_BY_BARE_HOST,
    ENTRIES_BY_LABEL,
    POLICIES_BY_LABEL,
    POLICIES_WITH_EMPTY_SELECTOR,
    MTLS_BY_LABEL,
    MTLS_OF_NAMESPACE,
    MTLS_ANY,
    NAMESPACES,
)
