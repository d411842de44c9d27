"""The Gateway API: which routes are attached where, what they mean for proxies, and what their status says."""

from __future__ import annotations

from typing import Final

from istiod.objects import (
    BackendTLSPolicy,
    Gateway,
    GatewayClass,
    GRPCRoute,
    HTTPRoute,
    ListenerSet,
    TCPRoute,
    TLSRoute,
)
from istiod.translate.gateway_api.backend_tls import backend_tls
from istiod.translate.gateway_api.gateway_status import class_status, gateway_status, listener_set_status
from istiod.translate.gateway_api.gateways import gateway_config
from istiod.translate.gateway_api.indexes import INDEXES
from istiod.translate.gateway_api.mesh import mesh_routes
from istiod.translate.gateway_api.policy_status import backend_tls_status
from istiod.translate.gateway_api.route_status import (
    grpc_route_status,
    http_route_status,
    tcp_route_status,
    tls_route_status,
)
from istiod.translate.graph import Family
from istiod.translate.statuses import OUTPUT

__all__ = ["FAMILIES", "INDEXES", "backend_tls", "gateway_config", "mesh_routes"]

FAMILIES: Final = (
    Family(OUTPUT, (GatewayClass,), class_status),
    Family(OUTPUT, (Gateway,), gateway_status),
    Family(OUTPUT, (ListenerSet,), listener_set_status),
    Family(OUTPUT, (HTTPRoute,), http_route_status),
    Family(OUTPUT, (GRPCRoute,), grpc_route_status),
    Family(OUTPUT, (TLSRoute,), tls_route_status),
    Family(OUTPUT, (TCPRoute,), tcp_route_status),
    Family(OUTPUT, (BackendTLSPolicy,), backend_tls_status),
)
"""The statuses, under `istiod.translate.statuses.OUTPUT`."""
