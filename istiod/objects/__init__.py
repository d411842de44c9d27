"""The Kubernetes, Istio and Gateway API objects istiod reads, as types."""

from __future__ import annotations

from typing import Any, Final

from istiod.objects.base import Condition, Meta, Object, Selector, TargetRef, convert
from istiod.objects.core import ConfigMap, EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount, ServicePort
from istiod.objects.destination_rule import DestinationRule
from istiod.objects.gateway_api import BackendTLSPolicy, Gateway, GatewayClass, ListenerSet, ReferenceGrant
from istiod.objects.istio_gateway import IstioGateway
from istiod.objects.request_authentication import RequestAuthentication
from istiod.objects.routes import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute
from istiod.objects.secrets import Secret
from istiod.objects.security import (
    AuthorizationPolicy,
    AuthorizationRule,
    Operation,
    PeerAuthentication,
    RuleWhen,
    Source,
)
from istiod.objects.service_entry import ServiceEntry, WorkloadEntry, WorkloadGroup
from istiod.objects.telemetry import Telemetry
from istiod.objects.virtual_service import VirtualService
from istiod.resources import ISTIO_GATEWAY

__all__ = [
    "KINDS",
    "AuthorizationPolicy",
    "AuthorizationRule",
    "BackendTLSPolicy",
    "Condition",
    "ConfigMap",
    "DestinationRule",
    "EndpointSlice",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "IstioGateway",
    "ListenerSet",
    "Meta",
    "Namespace",
    "Node",
    "Object",
    "Operation",
    "PeerAuthentication",
    "Pod",
    "ReferenceGrant",
    "RequestAuthentication",
    "RuleWhen",
    "Secret",
    "Selector",
    "Service",
    "ServiceAccount",
    "ServiceEntry",
    "ServicePort",
    "Source",
    "TCPRoute",
    "TLSRoute",
    "TargetRef",
    "Telemetry",
    "VirtualService",
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
        Secret,
        Gateway,
        GatewayClass,
        ListenerSet,
        HTTPRoute,
        GRPCRoute,
        TCPRoute,
        TLSRoute,
        ReferenceGrant,
        BackendTLSPolicy,
        VirtualService,
        DestinationRule,
        RequestAuthentication,
        Telemetry,
    )
}
KINDS[ISTIO_GATEWAY] = IstioGateway
"""Type by the kind's name in the store (`istiod.resources.store_kind`)."""

NAMES: Final[dict[type, str]] = {python_type: kind for kind, python_type in KINDS.items()}
