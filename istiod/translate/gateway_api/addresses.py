"""The addresses of a gateway: those of the Service in front of its pods, once one of them has been ready."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from istiod.objects import Gateway, Service
from istiod.objects.gateway_api import GatewayAddressSpec
from istiod.translate.gateway_api.classes import class_controller
from istiod.translate.gateway_api.indexes import SLICES_BY_SERVICE
from istiod.translate.gateway_api.listeners import ACCEPTED
from istiod.translate.graph import View
from istiod.translate.indexes import PODS_BY_GATEWAY
from istiod.translate.statuses import Verdict
from istiod.translate.waypoints import GATEWAY_CONTROLLER, REMOTE_CONTROLLER, WAYPOINT_CONTROLLER
from istiod.translate.workloads import ready

NAME_OVERRIDE: Final = "gateway.istio.io/name-override"
IP: Final = "IPAddress"
HOSTNAME: Final = "Hostname"
NOT_ASSIGNED: Final = "AddressNotAssigned"
NOT_USABLE: Final = "AddressNotUsable"


class Addresses(msgspec.Struct, frozen=True):
    """The addresses that the status should hold, and what that means for Accepted and Programmed."""

    addresses: tuple[GatewayAddressSpec, ...]
    supported: Verdict
    assigned: Verdict


class _Service(NamedTuple):
    """A Service that stands for a gateway. `fault` is empty if it has addresses."""

    addresses: tuple[GatewayAddressSpec, ...] = ()
    fault: str = ""
    reason: str = NOT_ASSIGNED


def managed(gateway: Gateway) -> bool:
    """Whether istiod makes the deployment: no address is asked for, or one IP address for the load balancer."""
    wanted = [one for one in gateway.spec.addresses if one.value]
    return not wanted or (len(wanted) == 1 and wanted[0].type == IP)


def managed_name(gateway: Gateway, controller: str) -> str:
    """The name of the Service and Deployment of a managed gateway."""
    meta = gateway.metadata
    suffix = f"-{gateway.spec.gateway_class_name}" if controller == GATEWAY_CONTROLLER else ""
    return meta.annotations.get(NAME_OVERRIDE) or f"{meta.name}{suffix}"


def gateway_addresses(view: View, namespace: str, name: str) -> Addresses:
    """Addresses that are there stay until others take their place: bindings to a waypoint depend on them, and a
    restart of its pods must not open a way around it.
    """
    gateway = view.get(Gateway, namespace, name)
    controller = class_controller(view, gateway.spec.gateway_class_name) if gateway is not None else ""
    if gateway is None or not controller:
        return Addresses((), ACCEPTED, _unassigned(NOT_ASSIGNED, "there is no such gateway"))
    if controller == REMOTE_CONTROLLER:
        return _given(gateway)
    services, refused = _services(view, gateway, controller)
    supported = ACCEPTED
    if refused:
        text = f"only hostnames can be used as addresses, not {', '.join(refused)}"
        supported = Verdict(ok=False, reason="UnsupportedAddress", message=text)
    found = [_addresses(view, gateway, controller, *key) for key in services]
    addresses = tuple(dict.fromkeys(address for one in found for address in one.addresses))
    faults = [one for one in found if one.fault]
    if faults:
        reason = next((one.reason for one in faults if one.reason == NOT_USABLE), NOT_ASSIGNED)
        assigned = _unassigned(reason, "; ".join(one.fault for one in faults))
    elif not found:
        assigned = _unassigned(NOT_ASSIGNED, "no address can be used")
    else:
        titles = ", ".join(view.settings.hostname(*key) for key in services)
        assigned = Verdict(ok=True, reason="Programmed", message=f"the gateway is served by {titles}")
    return Addresses(addresses or gateway.status.addresses, supported, assigned)


def service_ready(view: View, namespace: str, name: str, gateway: str) -> bool:
    """Whether a pod behind a Service is ready: one of its endpoints, or a pod that bears the gateway's name."""
    for entry in view.find(SLICES_BY_SERVICE, (namespace, name)):
        if any(endpoint.conditions.ready for endpoint in entry.endpoints):
            return True
    return any(ready(pod) for pod in view.find(PODS_BY_GATEWAY, (namespace, gateway)))


def _given(gateway: Gateway) -> Addresses:
    """An unmanaged gateway has the addresses that its user writes."""
    wanted = tuple(one for one in gateway.spec.addresses if one.value)
    assigned = Verdict(ok=True, reason="Programmed", message="the addresses are those of the spec")
    if not wanted:
        assigned = _unassigned(NOT_ASSIGNED, "spec.addresses says nothing: istiod does not deploy this class")
    return Addresses(wanted or gateway.status.addresses, ACCEPTED, assigned)


def _services(view: View, gateway: Gateway, controller: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(namespace, name) of the Services that stand for a gateway, and the addresses that cannot."""
    namespace = gateway.metadata.namespace
    wanted = [one for one in gateway.spec.addresses if one.value]
    if managed(gateway):
        return [(namespace, managed_name(gateway, controller))], []
    suffix = f".svc.{view.settings.cluster_domain}"
    services, refused = [], []
    for one in wanted:
        if one.type != HOSTNAME:
            refused.append(f"{one.type} {one.value}")
            continue
        host = one.value.removesuffix(suffix)
        name, _, place = host.partition(".")
        services.append((place or namespace, name))
    return services, refused


def _addresses(view: View, gateway: Gateway, controller: str, namespace: str, name: str) -> _Service:
    service = view.get(Service, namespace, name)
    title = view.settings.hostname(namespace, name)
    if service is None:
        reason = NOT_ASSIGNED if managed(gateway) else NOT_USABLE
        return _Service(fault=f"the service {title} does not exist", reason=reason)
    if not view.ask(service_ready, namespace, name, gateway.metadata.name):
        return _Service(fault=f"no pod of {title} is ready")
    if service.spec.type != "LoadBalancer" or controller == WAYPOINT_CONTROLLER:
        return _Service((GatewayAddressSpec(title, HOSTNAME),))
    found = [
        GatewayAddressSpec(one.ip, IP) if one.ip else GatewayAddressSpec(one.hostname, HOSTNAME)
        for one in service.status.load_balancer.ingress
    ]
    if not found:
        return _Service(fault=f"the load balancer has given {title} no address yet")
    return _Service(tuple(found))


def _unassigned(reason: str, message: str) -> Verdict:
    return Verdict(ok=False, reason=reason, message=message)
