"""Objects of gateway.networking.k8s.io: classes, gateways, listener sets, grants and backend TLS policies.

The routes are in `istiod.objects.routes`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object
from istiod.resources import GATEWAY_API


class LabelRequirement(Object, frozen=True):
    key: str
    operator: str = "In"
    values: tuple[str, ...] = ()


class LabelSelector(Object, frozen=True):
    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[LabelRequirement, ...] = ()


class GatewayClassSpec(Object, frozen=True):
    controller_name: str = ""


class GatewayClass(Object, frozen=True):
    metadata: Meta
    spec: GatewayClassSpec = GatewayClassSpec()
    status: ConditionedStatus = ConditionedStatus()


class RouteNamespaces(Object, frozen=True):
    """`from_` is Same, All or Selector."""

    from_: str = msgspec.field(name="from", default="Same")
    selector: LabelSelector | None = None


class RouteGroupKind(Object, frozen=True):
    kind: str
    group: str = GATEWAY_API


class AllowedRoutes(Object, frozen=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class ObjectRef(Object, frozen=True):
    """An object that holds a certificate; an empty namespace is that of whoever refers."""

    name: str
    kind: str = "Secret"
    group: str = ""
    namespace: str = ""


class ListenerTls(Object, frozen=True):
    mode: str = "Terminate"
    certificate_refs: tuple[ObjectRef, ...] = ()
    options: dict[str, str] = msgspec.field(default_factory=dict)


class Listener(Object, frozen=True):
    name: str
    port: int
    protocol: str
    hostname: str = ""
    allowed_routes: AllowedRoutes = AllowedRoutes()
    tls: ListenerTls | None = None


class GatewayAddressSpec(Object, frozen=True):
    value: str = ""
    type: str = "IPAddress"


class ParametersRef(Object, frozen=True):
    name: str
    kind: str = "ConfigMap"
    group: str = ""


class GatewayInfrastructure(Object, frozen=True):
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    parameters_ref: ParametersRef | None = None


class FrontendValidation(Object, frozen=True):
    """`mode` is AllowValidOnly or AllowInsecureFallback."""

    ca_certificate_refs: tuple[ObjectRef, ...] = ()
    mode: str = "AllowValidOnly"


class FrontendTls(Object, frozen=True):
    validation: FrontendValidation | None = None


class FrontendPortTls(Object, frozen=True):
    port: int
    tls: FrontendTls = FrontendTls()


class GatewayFrontendTls(Object, frozen=True):
    default: FrontendTls = FrontendTls()
    per_port: tuple[FrontendPortTls, ...] = ()


class GatewayBackendTls(Object, frozen=True):
    client_certificate_ref: ObjectRef | None = None


class GatewayTls(Object, frozen=True):
    frontend: GatewayFrontendTls | None = None
    backend: GatewayBackendTls | None = None


class ListenerNamespaces(Object, frozen=True):
    """`from_` is None, Same, All or Selector."""

    from_: str = msgspec.field(name="from", default="None")
    selector: LabelSelector | None = None


class AllowedListeners(Object, frozen=True):
    namespaces: ListenerNamespaces = ListenerNamespaces()


class GatewaySpec(Object, frozen=True):
    gateway_class_name: str = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddressSpec, ...] = ()
    infrastructure: GatewayInfrastructure | None = None
    allowed_listeners: AllowedListeners = AllowedListeners()
    tls: GatewayTls | None = None


class GatewayStatus(ConditionedStatus, frozen=True):
    """What is known of the listeners is only written."""

    addresses: tuple[GatewayAddressSpec, ...] = ()


class Gateway(Object, frozen=True):
    metadata: Meta
    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()


class ListenerSetParent(Object, frozen=True):
    name: str = ""
    kind: str = "Gateway"
    group: str = GATEWAY_API
    namespace: str = ""


class ListenerSetSpec(Object, frozen=True):
    parent_ref: ListenerSetParent = ListenerSetParent()
    listeners: tuple[Listener, ...] = ()


class ListenerSet(Object, frozen=True):
    metadata: Meta
    spec: ListenerSetSpec = ListenerSetSpec()
    status: ConditionedStatus = ConditionedStatus()


class GrantFrom(Object, frozen=True):
    kind: str = ""
    group: str = ""
    namespace: str = ""


class GrantTo(Object, frozen=True):
    """Without a name every object of the kind is meant."""

    kind: str = ""
    group: str = ""
    name: str = ""


class ReferenceGrantSpec(Object, frozen=True):
    from_: tuple[GrantFrom, ...] = msgspec.field(name="from", default=())
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(Object, frozen=True):
    metadata: Meta
    spec: ReferenceGrantSpec = ReferenceGrantSpec()


class PolicyTarget(Object, frozen=True):
    """`section_name` is the name of a port."""

    name: str = ""
    kind: str = "Service"
    group: str = ""
    section_name: str = ""


class SubjectAltName(Object, frozen=True):
    """`type` is Hostname or URI."""

    type: str = "Hostname"
    hostname: str = ""
    uri: str = ""


class BackendTLSValidation(Object, frozen=True):
    hostname: str = ""
    ca_certificate_refs: tuple[ObjectRef, ...] = ()
    well_known_ca_certificates: str = msgspec.field(name="wellKnownCACertificates", default="")
    subject_alt_names: tuple[SubjectAltName, ...] = ()


class BackendTLSPolicySpec(Object, frozen=True):
    target_refs: tuple[PolicyTarget, ...] = ()
    validation: BackendTLSValidation = BackendTLSValidation()


class PolicyStatus(Object, frozen=True):
    """`ancestors` is as it was written: entries of other controllers are kept whole."""

    ancestors: tuple[dict[str, Any], ...] = ()


class BackendTLSPolicy(Object, frozen=True):
    metadata: Meta
    spec: BackendTLSPolicySpec = BackendTLSPolicySpec()
    status: PolicyStatus = PolicyStatus()
