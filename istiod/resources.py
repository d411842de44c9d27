"""Every kind of object istiod knows: where it lives in the Kubernetes API, and whether it belongs to a namespace."""

from __future__ import annotations

from typing import Final, NamedTuple

from meshcore.manifests import key_kind


class Resource(NamedTuple):
    """`versions` are those that are understood, the preferred one first. `used` is False for kinds that are only
    recognised: they are reported, never acted on.
    """

    kind: str
    plural: str
    group: str
    versions: tuple[str, ...]
    namespaced: bool = True
    used: bool = True

    @property
    def version(self) -> str:
        return self.versions[0]

    @property
    def api_version(self) -> str:
        """`group/version`, or the version alone in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def custom(self) -> bool:
        """Defined by a CustomResourceDefinition."""
        return self.group.endswith((".istio.io", "gateway.networking.k8s.io"))

    def path(self, namespace: str = "", name: str = "", *, version: str = "") -> str:
        """The URL path of the collection, of one namespace's part of it, or of one object."""
        version = version or self.version
        parts = ["/apis", self.group, version] if self.group else ["/api", version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        return "/".join(parts)


CORE: Final = ""
NETWORKING: Final = "networking.istio.io"
SECURITY: Final = "security.istio.io"
TELEMETRY: Final = "telemetry.istio.io"
EXTENSIONS: Final = "extensions.istio.io"
GATEWAY_API: Final = "gateway.networking.k8s.io"

_V1: Final = ("v1",)
_ISTIO: Final = ("v1", "v1beta1", "v1alpha3")
_V1_BETA: Final = ("v1", "v1beta1")

RESOURCES: Final = (
    Resource("Namespace", "namespaces", CORE, _V1, namespaced=False),
    Resource("Node", "nodes", CORE, _V1, namespaced=False),
    Resource("Pod", "pods", CORE, _V1),
    Resource("Service", "services", CORE, _V1),
    Resource("ServiceAccount", "serviceaccounts", CORE, _V1),
    Resource("ConfigMap", "configmaps", CORE, _V1),
    Resource("Secret", "secrets", CORE, _V1),
    Resource("EndpointSlice", "endpointslices", "discovery.k8s.io", _V1),
    Resource("VirtualService", "virtualservices", NETWORKING, _ISTIO),
    Resource("DestinationRule", "destinationrules", NETWORKING, _ISTIO),
    Resource("Gateway", "gateways", NETWORKING, _ISTIO),
    Resource("ServiceEntry", "serviceentries", NETWORKING, _ISTIO),
    Resource("WorkloadEntry", "workloadentries", NETWORKING, _ISTIO),
    Resource("WorkloadGroup", "workloadgroups", NETWORKING, _ISTIO),
    Resource("Sidecar", "sidecars", NETWORKING, _ISTIO, used=False),
    Resource("ProxyConfig", "proxyconfigs", NETWORKING, ("v1beta1",), used=False),
    Resource("EnvoyFilter", "envoyfilters", NETWORKING, ("v1alpha3",), used=False),
    Resource("AuthorizationPolicy", "authorizationpolicies", SECURITY, _V1_BETA),
    Resource("PeerAuthentication", "peerauthentications", SECURITY, _V1_BETA),
    Resource("RequestAuthentication", "requestauthentications", SECURITY, _V1_BETA),
    Resource("Telemetry", "telemetries", TELEMETRY, ("v1", "v1alpha1")),
    Resource("WasmPlugin", "wasmplugins", EXTENSIONS, ("v1alpha1",), used=False),
    Resource("TrafficExtension", "trafficextensions", EXTENSIONS, ("v1alpha1",), used=False),
    Resource("GatewayClass", "gatewayclasses", GATEWAY_API, _V1_BETA, namespaced=False),
    Resource("Gateway", "gateways", GATEWAY_API, _V1_BETA),
    Resource("HTTPRoute", "httproutes", GATEWAY_API, _V1_BETA),
    Resource("GRPCRoute", "grpcroutes", GATEWAY_API, _V1),
    Resource("TCPRoute", "tcproutes", GATEWAY_API, ("v1", "v1alpha2")),
    Resource("TLSRoute", "tlsroutes", GATEWAY_API, ("v1", "v1alpha3", "v1alpha2")),
    Resource("ReferenceGrant", "referencegrants", GATEWAY_API, _V1_BETA),
    Resource("BackendTLSPolicy", "backendtlspolicies", GATEWAY_API, ("v1", "v1alpha3")),
    Resource("ListenerSet", "listenersets", GATEWAY_API, _V1),
)


def store_kind(resource: Resource) -> str:
    """The name under which the store keeps a kind: two groups have a Gateway, Istio's is kept with its group."""
    return key_kind(resource.kind, resource.group)


BY_STORE_KIND: Final = {store_kind(resource): resource for resource in RESOURCES}
BY_KIND_AND_GROUP: Final = {(resource.kind, resource.group): resource for resource in RESOURCES}
ISTIO_GATEWAY: Final = key_kind("Gateway", NETWORKING)


def resource_of(kind: str, api_version: str) -> Resource | None:
    """The entry for an object's `kind` and `apiVersion`; None if istiod does not know it."""
    return BY_KIND_AND_GROUP.get((kind, api_version.rpartition("/")[0]))
