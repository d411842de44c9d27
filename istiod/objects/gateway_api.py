"""Objects of gateway.networking.k8s.io."""

from __future__ import annotations

import msgspec

from istiod.objects.base import Condition, ConditionedStatus, Meta, Object


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
    from_: str = msgspec.field(name="from", default="Same")
    selector: LabelSelector | None = None


class RouteGroupKind(Object, frozen=True):
    kind: str
    group: str = "gateway.networking.k8s.io"


class AllowedRoutes(Object, frozen=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class Listener(Object, frozen=True):
    name: str
    port: int
    protocol: str
    hostname: str = ""
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewayAddressSpec(Object, frozen=True):
    value: str = ""
    type: str = "IPAddress"


class GatewaySpec(Object, frozen=True):
    gateway_class_name: str = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddressSpec, ...] = ()


class GatewayStatus(Object, frozen=True):
    addresses: tuple[GatewayAddressSpec, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Gateway(Object, frozen=True):
    metadata: Meta
    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()
