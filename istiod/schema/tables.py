"""The table of every kind that a CustomResourceDefinition defines."""

from __future__ import annotations

from typing import Final

from istiod.resources import ISTIO_GATEWAY, Resource, store_kind
from istiod.schema import extensions, gateways, networking, routes, security
from istiod.schema.destination_rule import DESTINATION_RULE
from istiod.schema.fields import Table
from istiod.schema.telemetry import TELEMETRY
from istiod.schema.virtual_service import VIRTUAL_SERVICE

TABLES: Final[dict[str, Table]] = {
    "VirtualService": VIRTUAL_SERVICE,
    "DestinationRule": DESTINATION_RULE,
    ISTIO_GATEWAY: networking.GATEWAY,
    "ServiceEntry": networking.SERVICE_ENTRY,
    "WorkloadEntry": networking.WORKLOAD_ENTRY,
    "WorkloadGroup": networking.WORKLOAD_GROUP,
    "Sidecar": networking.SIDECAR,
    "ProxyConfig": extensions.PROXY_CONFIG,
    "EnvoyFilter": extensions.ENVOY_FILTER,
    "AuthorizationPolicy": security.AUTHORIZATION_POLICY,
    "PeerAuthentication": security.PEER_AUTHENTICATION,
    "RequestAuthentication": security.REQUEST_AUTHENTICATION,
    "Telemetry": TELEMETRY,
    "WasmPlugin": extensions.WASM_PLUGIN,
    "TrafficExtension": extensions.TRAFFIC_EXTENSION,
    "GatewayClass": gateways.GATEWAY_CLASS,
    "Gateway": gateways.GATEWAY,
    "HTTPRoute": routes.HTTP_ROUTE,
    "GRPCRoute": routes.GRPC_ROUTE,
    "TCPRoute": routes.TCP_ROUTE,
    "TLSRoute": routes.TLS_ROUTE,
    "ReferenceGrant": gateways.REFERENCE_GRANT,
    "BackendTLSPolicy": gateways.BACKEND_TLS_POLICY,
    "ListenerSet": gateways.LISTENER_SET,
}
"""Table by the kind's name in the store."""


def table(resource: Resource) -> Table | None:
    """None for Kubernetes' own kinds: the API server checks those itself."""
    return TABLES.get(store_kind(resource))
