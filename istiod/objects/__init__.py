"""The Kubernetes, Istio and Gateway API objects istiod reads, as types."""

from __future__ import annotations

from typing import Any, Final

from istiod.objects.base import Condition, Meta, Object, Selector, TargetRef, convert
from istiod.objects.core import ConfigMap, EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount, ServicePort
from istiod.objects.gateway_api import Gateway, GatewayClass
from istiod.objects.security import (
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    PeerAuthentication,
    RuleWhen,
    Source,
)
from istiod.objects.service_entry import ServiceEntry, WorkloadEntry, WorkloadGroup

__all__ = [
    "KINDS",
    "AuthorizationPolicy",
    "AuthorizationRule",
    "Condition",
    "ConfigMap",
    "EndpointSlice",
    "Gateway",
    "GatewayClass",
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
    "ServiceEntry",
    "ServicePort",
    "Source",
    "TargetRef",
    "WorkloadEntry",
    "WorkloadGroup",
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
        ConfigMap,
        AuthorizationPolicy,
        PeerAuthentication,
        ServiceEntry,
        WorkloadEntry,
        WorkloadGroup,
        Gateway,
        GatewayClass,
    )
}
"""Type by the kind's name in the store (`istiod.resources.store_kind`)."""

NAMES: Final[dict[type, str]] = {python_type: kind for kind, python_type in KINDS.items()}
