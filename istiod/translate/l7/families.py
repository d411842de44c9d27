"""All that leaves the graph about waypoints and gateways: Istio's own resources and the Gateway API's together."""

from __future__ import annotations

from typing import Final

from istiod.translate.gateway_api.backend_tls import backend_tls
from istiod.translate.gateway_api.gateways import gateway_config
from istiod.translate.gateway_api.mesh import mesh_routes
from istiod.translate.l7 import istio_gateway, waypoint
from istiod.translate.l7.service import Seams

FAMILIES: Final = (
    *waypoint.families(Seams(mesh_routes, backend_tls)),
    *istio_gateway.families(gateway_config, backend_tls),
)
