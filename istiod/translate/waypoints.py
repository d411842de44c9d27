"""Which waypoint stands in front of a service or a workload.

The labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace` bind an object, or every object of a namespace.
A waypoint counts once its Gateway has addresses; the status writer never takes them back, so that a restart of the
waypoint does not open a way around it. A name that means nothing binds nothing: traffic goes directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from istiod.objects import Gateway, GatewayClass, Namespace, Service, ServiceEntry
from istiod.objects.gateway_api import Listener
from istiod.translate.common import matches, packed, small_number
from istiod.translate.graph import View
from istiod.translate.indexes import ENTRIES_BY_HOST, GATEWAY_NAME
from istiod.translate.meshconfig import entry_visibility, mesh_config
from meshcore.model import (
    ApplicationTunnel,
    GatewayAddress,
    NamespacedHostname,
    NetworkAddress,
    TunnelTarget,
    WeightedWaypoint,
)

USE_WAYPOINT: Final = "istio.io/use-waypoint"
USE_WAYPOINT_NAMESPACE: Final = "istio.io/use-waypoint-namespace"
USE_CANARY: Final = "istio.io/use-waypoint-canary"
USE_CANARY_NAMESPACE: Final = "istio.io/use-waypoint-canary-namespace"
CANARY_WEIGHT: Final = "istio.io/use-waypoint-canary-weight"
WAYPOINT_FOR: Final = "istio.io/waypoint-for"
INBOUND_BINDING: Final = "ambient.istio.io/waypoint-inbound-binding"
MANAGED: Final = "gateway.istio.io/managed"
SERVICE_ACCOUNT: Final = "gateway.istio.io/service-account"
NETWORK: Final = "topology.istio.io/network"
NONE: Final = "none"

GATEWAY_CLASS: Final = "istio"
GATEWAY_CONTROLLER: Final = "istio.io/gateway-controller"
WAYPOINT_CLASS: Final = "istio-waypoint"
WAYPOINT_CONTROLLER: Final = "istio.io/mesh-controller"
EAST_WEST_CLASS: Final = "istio-east-west"
EAST_WEST_CONTROLLER: Final = "istio.io/eastwest-controller"
REMOTE_CLASS: Final = "istio-remote"
REMOTE_CONTROLLER: Final = "istio.io/unmanaged-gateway"
_DEFAULT_CONTROLLERS: Final = {
    GATEWAY_CLASS: GATEWAY_CONTROLLER,
    WAYPOINT_CLASS: WAYPOINT_CONTROLLER,
    EAST_WEST_CLASS: EAST_WEST_CONTROLLER,
    REMOTE_CLASS: REMOTE_CONTROLLER,
}
"""Classes that exist without a GatewayClass object: a directory need not hold them."""

SERVICE_TRAFFIC: Final = "service"
WORKLOAD_TRAFFIC: Final = "workload"
_TRAFFIC: Final = {
    "service": frozenset({SERVICE_TRAFFIC}),
    "workload": frozenset({WORKLOAD_TRAFFIC}),
    "all": frozenset({SERVICE_TRAFFIC, WORKLOAD_TRAFFIC}),
    "none": frozenset[str](),
}
HBONE_PROTOCOL: Final = "HBONE"
PROXY_PROTOCOL: Final = "istio.io/PROXY"


class Waypoint(msgspec.Struct, frozen=True):
    """A gateway of a waypoint class. `address` is None until it was ready once."""

    namespace: str
    name: str
    address: GatewayAddress | None
    traffic: frozenset[str]
    service_account: str
    tunnel: ApplicationTunnel | None = None

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"


class Binding(msgspec.Struct, frozen=True):
    """What the labels of an object come to. `reason` is empty when nothing asks for a waypoint.

    Reasons and conditions are upstream's (`istio.io/WaypointBound`).
    """

    waypoint: Waypoint | None = None
    reason: str = ""
    message: str = ""
    canary: WeightedWaypoint | None = None
    canary_waypoint: Waypoint | None = None
    canary_problem: str = ""

    @property
    def address(self) -> GatewayAddress | None:
        return self.waypoint.address if self.waypoint is not None else None

    @property
    def weighted(self) -> tuple[WeightedWaypoint, ...]:
        """The split between waypoint and canary; empty without a canary."""
        if self.canary is None or self.address is None:
            return ()
        return (WeightedWaypoint(self.address, 100 - self.canary.weight), self.canary)


class NamespaceDefaults(msgspec.Struct, frozen=True):
    """What a namespace's labels and annotations say for the objects in it; the rest of a Namespace is not read."""

    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


UNBOUND: Final = Binding()
_LABELS: Final = (
    USE_WAYPOINT,
    USE_WAYPOINT_NAMESPACE,
    USE_CANARY,
    USE_CANARY_NAMESPACE,
    "istio.io/ingress-use-waypoint",
)
_ANNOTATIONS: Final = (CANARY_WEIGHT, "networking.istio.io/traffic-distribution")


def namespace_defaults(view: View, name: str) -> NamespaceDefaults:
    namespace = view.get(Namespace, "", name)
    if namespace is None:
        return NamespaceDefaults()
    meta = namespace.metadata
    return NamespaceDefaults(
        tuple((key, meta.labels[key]) for key in _LABELS if key in meta.labels),
        tuple((key, meta.annotations[key]) for key in _ANNOTATIONS if key in meta.annotations),
    )


def controller_of(view: View, class_name: str) -> str:
    """The controller of a GatewayClass; istiod's own classes need no object. Empty if unknown."""
    found = view.get(GatewayClass, "", class_name)
    return found.spec.controller_name if found is not None else _DEFAULT_CONTROLLERS.get(class_name, "")


def waypoint(view: View, namespace: str, name: str) -> Waypoint | None:
    """The gateway of that name, if it is one of a waypoint class."""
    gateway = view.get(Gateway, namespace, name)
    if gateway is None:
        return None
    meta, spec = gateway.metadata, gateway.spec
    gateway_class = view.get(GatewayClass, "", spec.gateway_class_name)
    class_meta = gateway_class.metadata if gateway_class is not None else None
    binding = meta.annotations.get(INBOUND_BINDING) or (
        class_meta.annotations.get(INBOUND_BINDING) if class_meta else ""
    )
    controller = controller_of(view, spec.gateway_class_name)
    remote = controller == REMOTE_CONTROLLER and _hbone(gateway) is not None and NETWORK not in meta.labels
    if controller != WAYPOINT_CONTROLLER and not remote and not binding:
        return None
    traffic = meta.labels.get(WAYPOINT_FOR) or (class_meta.labels.get(WAYPOINT_FOR) if class_meta else "")
    account = meta.annotations.get(SERVICE_ACCOUNT) or name
    network = view.ask(mesh_config).network
    tunnel = _tunnel(binding) if binding else None
    accepted = _TRAFFIC.get(traffic or SERVICE_TRAFFIC, _TRAFFIC[SERVICE_TRAFFIC])
    return Waypoint(namespace, name, _address(gateway, network), accepted, account, tunnel)


def admits(view: View, namespace: str, name: str, consumer: str) -> bool:
    """Whether the listener that takes the traffic of a waypoint accepts objects of the namespace `consumer`."""
    if namespace == consumer:
        return True
    gateway = view.get(Gateway, namespace, name)
    target = view.ask(waypoint, namespace, name)
    listener = _inbound(gateway, target.tunnel) if gateway is not None and target is not None else None
    if listener is None:
        return False
    rule = listener.allowed_routes.namespaces
    if rule.from_ == "All":
        return True
    if rule.from_ != "Selector" or rule.selector is None:
        return False
    found = view.get(Namespace, "", consumer)
    return found is not None and matches(rule.selector, found.metadata.labels)


def bind(
    view: View,
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    traffic: str,
    *,
    hidden: bool = False,
) -> Binding:
    """The binding of an object by its labels, else by those of its namespace. What is `hidden` from other namespaces
    gets no waypoint of theirs.
    """
    if labels.get(MANAGED) in _GATEWAYS_OF_THE_MESH or _of_waypoint(view, namespace, labels):
        return UNBOUND
    direct = USE_WAYPOINT in labels
    notes = annotations
    if not direct:
        defaults = view.ask(namespace_defaults, namespace)
        labels, notes = dict(defaults.labels), dict(defaults.annotations)
    name = labels.get(USE_WAYPOINT, "")
    if not name or name == NONE:
        return UNBOUND
    place = labels.get(USE_WAYPOINT_NAMESPACE) or namespace
    found, reason, message = _usable(view, place, name, namespace, traffic, hidden=hidden)
    if found is None:
        ignored = reason == "UnsupportedTrafficType" and traffic == WORKLOAD_TRAFFIC and not direct
        return UNBOUND if ignored else Binding(reason=reason, message=message)
    message = f"bound to {found.title}"
    if traffic != SERVICE_TRAFFIC or labels.get(USE_CANARY, "") in ("", NONE):
        return Binding(found, "WaypointAccepted", message)
    canary, weight, problem = _canary(view, labels, notes, found, namespace, hidden=hidden)
    weighted = WeightedWaypoint(canary.address, weight) if canary is not None and canary.address is not None else None
    return Binding(found, "WaypointAccepted", message, weighted, canary, problem)


def service_binding(view: View, kind: str, namespace: str, name: str) -> Binding:
    """The binding of a Service or a ServiceEntry."""
    found: Service | ServiceEntry | None = (
        view.get(Service, namespace, name) if kind == "Service" else view.get(ServiceEntry, namespace, name)
    )
    if found is None:
        return UNBOUND
    meta = found.metadata
    hidden = kind == "ServiceEntry" and view.ask(entry_visibility, namespace) == "NAMESPACE"
    return bind(view, namespace, meta.labels, meta.annotations, SERVICE_TRAFFIC, hidden=hidden)


def hostname_binding(view: View, namespace: str, hostname: str) -> Binding:
    """The binding of the service that has a hostname: a Kubernetes Service, else the oldest ServiceEntry."""
    name = view.settings.service_name(namespace, hostname)
    service = view.get(Service, namespace, name) if name else None
    if service is not None and not service.external_name:
        return view.ask(service_binding, "Service", namespace, name)
    entries = view.find(ENTRIES_BY_HOST, (namespace, hostname))
    if not entries:
        return UNBOUND
    oldest = min(entries, key=lambda entry: (entry.metadata.creation_timestamp, entry.metadata.name))
    return view.ask(service_binding, "ServiceEntry", namespace, oldest.metadata.name)


def service_waypoint(view: View, namespace: str, hostname: str) -> tuple[str, str] | None:
    """Namespace and name of the waypoint of a service, given by its hostname; None if it has none."""
    binding = view.ask(hostname_binding, namespace, hostname)
    return (binding.waypoint.namespace, binding.waypoint.name) if binding.waypoint is not None else None


def application_tunnel(view: View, namespace: str, labels: Mapping[str, str]) -> ApplicationTunnel | None:
    """How a pod that belongs to a third party's waypoint wants its traffic."""
    name = labels.get(GATEWAY_NAME)
    found = view.ask(waypoint, namespace, name) if name else None
    return found.tunnel if found is not None else None


_GATEWAYS_OF_THE_MESH: Final = frozenset(
    controller.replace("/", "-") for controller in (WAYPOINT_CONTROLLER, EAST_WEST_CONTROLLER)
)


def _of_waypoint(view: View, namespace: str, labels: Mapping[str, str]) -> bool:
    """Services and pods of a waypoint or an east-west gateway never get a waypoint themselves."""
    name = labels.get(GATEWAY_NAME)
    if not name:
        return False
    gateway = view.get(Gateway, namespace, name)
    if gateway is None:
        return False
    east_west = controller_of(view, gateway.spec.gateway_class_name) == EAST_WEST_CONTROLLER
    return east_west or view.ask(waypoint, namespace, name) is not None


def _usable(
    view: View, namespace: str, name: str, consumer: str, traffic: str, *, hidden: bool
) -> tuple[Waypoint | None, str, str]:
    found = view.ask(waypoint, namespace, name)
    title = f"{namespace}/{name}"
    if hidden and namespace != consumer:
        text = f"waypoint {title} is in another namespace, and nothing outside {consumer} may see this ServiceEntry"
        return None, "CrossNamespaceWaypointForbidden", text
    if found is None or found.address is None:
        what = "does not exist" if found is None else "has not been ready yet"
        return None, "WaypointIsNotReady", f"waypoint {title} {what}"
    if not view.ask(admits, namespace, name, consumer):
        text = f"waypoint {title} does not admit the namespace {consumer} (allowedRoutes of its listener)"
        return None, "AttachmentDenied", text
    if traffic not in found.traffic:
        text = f"waypoint {title} does not accept {traffic} traffic (label {WAYPOINT_FOR})"
        return None, "UnsupportedTrafficType", text
    return found, "", ""


def _canary(
    view: View,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    primary: Waypoint,
    namespace: str,
    *,
    hidden: bool,
) -> tuple[Waypoint | None, int, str]:
    """The canary and its weight, or why the one that is asked for is not used; it stands where the primary stands."""
    name, place = labels[USE_CANARY], labels.get(USE_CANARY_NAMESPACE) or namespace
    text = annotations.get(CANARY_WEIGHT, "")
    weight = small_number(text, 100)
    if weight is None:
        return None, 0, f"CanaryInvalidWeight: {CANARY_WEIGHT} {text!r} is not a number from 0 to 100"
    if (place, name) == (primary.namespace, primary.name):
        return None, 0, f"CanarySameAsPrimary: {primary.title} is both waypoint and canary"
    found, reason, message = _usable(view, place, name, namespace, SERVICE_TRAFFIC, hidden=hidden)
    return found, weight, "" if found is not None else f"Canary{reason}: {message}"


def _inbound(gateway: Gateway, tunnel: ApplicationTunnel | None) -> Listener | None:
    """The listener that takes the traffic: where ztunnel ends the tunnel, that of the binding, else that of HBONE."""
    found = None
    if tunnel is not None and tunnel.port:
        found = next((one for one in gateway.spec.listeners if one.port == tunnel.port), None)
    elif tunnel is not None and tunnel.protocol is TunnelTarget.PROXY:
        found = next((one for one in gateway.spec.listeners if one.protocol == PROXY_PROTOCOL), None)
    return found or _hbone(gateway)


def _hbone(gateway: Gateway) -> Listener | None:
    return next((one for one in gateway.spec.listeners if one.protocol == HBONE_PROTOCOL), None)


def _address(gateway: Gateway, network: str) -> GatewayAddress | None:
    """A hostname is preferred: ztunnel finds the endpoints behind it by itself."""
    addresses = gateway.status.addresses
    for one in addresses:
        if one.type == "Hostname" and one.value:
            namespace = _namespace_of(one.value) or gateway.metadata.namespace
            return GatewayAddress(hostname=NamespacedHostname(namespace, one.value))
    for one in addresses:
        raw = packed(one.value)
        if raw is not None:
            return GatewayAddress(address=NetworkAddress(network, raw))
    return None


def _namespace_of(hostname: str) -> str:
    """The namespace in NAME.NAMESPACE.svc.DOMAIN."""
    parts = hostname.split(".")
    return parts[1] if len(parts) > 3 and parts[2] == "svc" else ""


def _tunnel(binding: str) -> ApplicationTunnel | None:
    """`PROTOCOL` or `PROTOCOL/PORT`; a text that is neither is no binding."""
    protocol, _, text = binding.partition("/")
    port = small_number(text, 65535) if text else 0
    if protocol not in TunnelTarget.__members__ or port is None:
        return None
    return ApplicationTunnel(TunnelTarget[protocol], port)
