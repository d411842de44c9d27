"""The Kubernetes, Istio and Gateway API objects istiod reads, as types."""

from __future__ import annotations

from typing import Any, Final

from istiod.objects.base import Condition, Meta, Object, Selector, TargetRef, convert
from istiod.objects.core import EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount, ServicePort
from istiod.objects.security import (
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    PeerAuthentication,
    RuleWhen,
    Source,
)

__all__ = [
    "KINDS",
    "AuthorizationPolicy",
    "AuthorizationRule",
    "Condition",
    "EndpointSlice",
    "Meta",
    "Namespace",
    "Node",
    "Object",
    "Operation",
    "PeerAuthentication",
    "Pod",
    "RuleWhen",
    "Selector",
    "Service",
    "ServiceAccount",
    "ServicePort",
    "Source",
    "TargetRef",
    "convert",
]

KINDS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        Namespace,
        Node,
        ServiceAccount,
        Pod,
        Service,
        EndpointSlice,
        AuthorizationPolicy,
        PeerAuthentication,
    )
}
"""Type by the kind's name in the store (`istiod.resources.store_kind`)."""
