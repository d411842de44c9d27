"""The pods of a gateway, as far as policies look at them: by namespace and labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from istiod.objects import IstioGateway, Pod
from istiod.translate.common import selects
from istiod.translate.graph import View
from istiod.translate.indexes import GATEWAY_NAME, PODS_BY_GATEWAY
from istiod.translate.l7.indexes import PODS_BY_ROLE, ROLE

Pods: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Namespace and labels that some pods have in common."""

_DIFFERING: Final = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
    }
)
"""Labels that differ from pod to pod, or from one revision of a deployment to the next."""


def pods_of_istio_gateway(view: View, namespace: str, name: str) -> tuple[Pods, ...]:
    """The pods that an Istio Gateway selects, in any namespace: at least one entry, of differing ones in their order.

    They are found by the label `istio`, which gateways are selected by. Where the selector does without it, or no pod
    is there yet, the selector is what is known of the labels, and the Gateway's namespace is taken for theirs.
    """
    gateway = view.get(IstioGateway, namespace, name)
    selector = gateway.spec.selector if gateway is not None else {}
    role = selector.get(ROLE)
    found = view.find(PODS_BY_ROLE, (role,)) if role else ()
    chosen = _grouped(pod for pod in found if selects(selector, pod.metadata.labels))
    return chosen or ((namespace, tuple(sorted(selector.items()))),)


def pods_of_api_gateway(view: View, namespace: str, name: str) -> tuple[Pods, ...]:
    """The pods that bear the name of a Gateway of the Gateway API; without any, the name is what is known."""
    return _grouped(view.find(PODS_BY_GATEWAY, (namespace, name))) or ((namespace, ((GATEWAY_NAME, name),)),)


def _grouped(pods: Iterable[Pod]) -> tuple[Pods, ...]:
    found = set()
    for pod in pods:
        if not pod.finished:
            labels = sorted((key, value) for key, value in pod.metadata.labels.items() if key not in _DIFFERING)
            found.add((pod.metadata.namespace, tuple(labels)))
    return tuple(sorted(found))
