"""Short names of the types that proxies subscribe to: in metrics, on debug pages, in `proxy-status`."""

from __future__ import annotations

from typing import Final

_PREFIX: Final = "type.googleapis.com/"
_SHORT: Final = {
    "envoy.config.cluster.v3.Cluster": "CDS",
    "envoy.config.listener.v3.Listener": "LDS",
    "envoy.config.endpoint.v3.ClusterLoadAssignment": "EDS",
    "envoy.config.route.v3.RouteConfiguration": "RDS",
    "envoy.extensions.transport_sockets.tls.v3.Secret": "SDS",
    "envoy.config.core.v3.TypedExtensionConfig": "ECDS",
    "istio.networking.nds.v1.NameTable": "NDS",
    "istio.mesh.v1alpha1.ProxyConfig": "PCDS",
    "istio.workload.Address": "WDS",
    "istio.workload.Workload": "WDS",
    "istio.security.Authorization": "WADS",
}
"""Upstream's (pilot/pkg/xds/v3); it has one name for both forms of a workload."""


def short_name(type_url: str) -> str:
    """`WDS` for `type.googleapis.com/istio.workload.Address`; the last word of a type that has no short name."""
    return _SHORT.get(type_url.removeprefix(_PREFIX)) or type_url.rpartition(".")[2]


def metric_type(type_url: str) -> str:
    """The label `type` of a metric: `wds`."""
    return short_name(type_url).lower()
