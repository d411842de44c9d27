"""WorkloadEntry, ServiceEntry endpoints and EndpointSlice addresses without a pod to `meshcore.model.Workload`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from istiod import objects
from istiod.objects import ServiceEntry, WorkloadEntry
from istiod.objects.service_entry import WorkloadEntrySpec
from istiod.translate.common import (
    MeshConfig,
    app_protocol,
    canonical_name,
    canonical_revision,
    labels_of,
    packed,
    selects,
)
from istiod.translate.graph import View
from istiod.translate.indexes import DEFAULT_ACCOUNT, ENTRIES_BY_LABEL, SERVICE_NAME, SERVICES_BY_LABEL
from istiod.translate.meshconfig import mesh_config
from istiod.translate.services import BY_NAME, entry_keys, entry_ports, published, tcp_ports
from istiod.translate.waypoints import WORKLOAD_TRAFFIC, bind
from istiod.translate.workloads import TUNNEL_LABEL, policies_of, slice_ports
from meshcore.model import Address, Locality, NetworkMode, Port, TunnelProtocol, Workload, WorkloadStatus

AUTO_REGISTRATION_GROUP: Final = "istio.io/autoRegistrationGroup"
WORKLOAD_NAME: Final = "service.istio.io/workload-name"
_UNIX: Final = "unix://"


def workload_entry_addresses(view: View, namespace: str, name: str) -> Mapping[str, Address]:
    """The resource of a WorkloadEntry."""
    entry = view.get(WorkloadEntry, namespace, name)
    if entry is None or entry.spec.address.startswith(_UNIX):
        return {}
    meta, spec = entry.metadata, entry.spec
    labels = labels_of(entry)
    mesh = view.ask(mesh_config)
    owner = meta.annotations.get(AUTO_REGISTRATION_GROUP) or labels.get(WORKLOAD_NAME) or name
    workload = _workload(
        view,
        mesh,
        uid=f"{mesh.cluster_id}/networking.istio.io/WorkloadEntry/{namespace}/{name}",
        name=name,
        namespace=namespace,
        spec=spec,
        labels=labels,
        owner=owner,
        services=_services_of_entry(view, namespace, labels, spec.ports),
    )
    return {workload.uid: Address(workload=workload)}


def service_entry_workloads(view: View, namespace: str, name: str) -> Mapping[str, Address]:
    """The inline endpoints of a ServiceEntry, or one implicit endpoint a host where DNS gives the addresses."""
    entry = view.get(ServiceEntry, namespace, name)
    if entry is None:
        return {}
    keys = entry_keys(view, entry)
    if not keys:
        return {}
    mesh = view.ask(mesh_config)
    prefix = f"{mesh.cluster_id}/networking.istio.io/ServiceEntry/{namespace}/{name}/"
    spec = entry.spec
    found: dict[str, Address] = {}
    for endpoint in spec.endpoints:
        if endpoint.address.startswith(_UNIX):
            continue
        labels = {**entry.metadata.labels, **endpoint.labels}
        workload = _workload(
            view,
            mesh,
            uid=prefix + endpoint.address,
            name=name,
            namespace=namespace,
            spec=endpoint,
            labels=labels,
            owner=labels.get(WORKLOAD_NAME) or name,
            services=dict.fromkeys(keys, entry_ports(entry, endpoint.ports)),
        )
        found[workload.uid] = Address(workload=workload)
    if not spec.endpoints and spec.workload_selector is None and spec.resolution in BY_NAME:
        for key in keys:
            host = key.partition("/")[2]
            workload = Workload(
                uid=prefix + host,
                name=name,
                namespace=namespace,
                hostname=host,
                network=mesh.network,
                trust_domain=mesh.wire_trust_domain,
                canonical_name=canonical_name(entry.metadata.labels, name),
                canonical_revision=canonical_revision(entry.metadata.labels),
                workload_name=name,
                cluster_id=mesh.cluster_id,
                services={key: entry_ports(entry)},
            )
            found[workload.uid] = Address(workload=workload)
    return found


def slice_workloads(view: View, namespace: str, name: str) -> Mapping[str, Address]:
    """One workload per address that no pod stands behind: reachable through its service only, without identity."""
    entry = view.get(objects.EndpointSlice, namespace, name)
    if entry is None or entry.address_type == "FQDN":
        return {}
    loose = [
        endpoint for endpoint in entry.endpoints if endpoint.target_ref is None or endpoint.target_ref.kind != "Pod"
    ]
    service = view.get(objects.Service, namespace, entry.metadata.labels.get(SERVICE_NAME, "")) if loose else None
    if service is None or not published(service):
        return {}
    mesh = view.ask(mesh_config)
    services = {mesh.service_key(namespace, service.metadata.name): slice_ports(service, entry)}
    found: dict[str, Address] = {}
    for endpoint in loose:
        for text in endpoint.addresses:
            raw = packed(text)
            if raw is None:
                continue
            workload = Workload(
                uid=f"{mesh.cluster_id}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{text}",
                name=name,
                namespace=namespace,
                addresses=(raw,),
                network=mesh.network,
                status=WorkloadStatus.HEALTHY if endpoint.conditions.ready else WorkloadStatus.UNHEALTHY,
                cluster_id=mesh.cluster_id,
                services=services,
                network_mode=NetworkMode.HOST_NETWORK,
            )
            found[workload.uid] = Address(workload=workload)
    return found


def _workload(
    view: View,
    mesh: MeshConfig,
    *,
    uid: str,
    name: str,
    namespace: str,
    spec: WorkloadEntrySpec,
    labels: Mapping[str, str],
    owner: str,
    services: dict[str, tuple[Port, ...]],
) -> Workload:
    """What WorkloadEntry and inline endpoints have in common. They count as healthy: nobody watches them."""
    raw = packed(spec.address)
    native = labels.get(TUNNEL_LABEL) == "http"
    waypoint = bind(view, namespace, labels, {}, WORKLOAD_TRAFFIC).waypoint
    locality = Locality(*spec.locality.split("/")[:3])
    return Workload(
        uid=uid,
        name=name,
        namespace=namespace,
        addresses=(raw,) if raw is not None else (),
        hostname="" if raw is not None else spec.address,
        network=spec.network or mesh.network,
        tunnel_protocol=TunnelProtocol.HBONE if native else TunnelProtocol.NONE,
        native_tunnel=native,
        trust_domain=mesh.wire_trust_domain,
        service_account=spec.service_account or DEFAULT_ACCOUNT,
        canonical_name=canonical_name(labels, owner),
        canonical_revision=canonical_revision(labels),
        workload_name=owner,
        cluster_id=mesh.cluster_id,
        services=services,
        authorization_policies=policies_of(view, namespace, labels, waypoint, services),
        waypoint=waypoint.address if waypoint is not None else None,
        locality=locality if locality != Locality() else None,
        capacity=spec.weight or 1,
    )


def _services_of_entry(
    view: View, namespace: str, labels: Mapping[str, str], ports: Mapping[str, int]
) -> dict[str, tuple[Port, ...]]:
    found: dict[str, tuple[Port, ...]] = {}
    for label in labels.items():
        for service in view.find(SERVICES_BY_LABEL, (namespace, *label)):
            if published(service) and selects(service.spec.selector, labels):
                key = view.settings.service_key(namespace, service.metadata.name)
                found[key] = _service_ports(service, ports)
        for entry in view.find(ENTRIES_BY_LABEL, (namespace, *label)):
            selector = entry.spec.workload_selector
            if selector is not None and selects(selector.labels, labels):
                found.update((key, entry_ports(entry, ports)) for key in entry_keys(view, entry))
    return dict(sorted(found.items()))


def _service_ports(service: objects.Service, ports: Mapping[str, int]) -> tuple[Port, ...]:
    """A port that the entry names wins over the service's own number."""
    found = []
    for port in tcp_ports(service):
        target = port.target_port
        named = ports.get(target) if isinstance(target, str) else None
        number = ports.get(port.name) or named or (target if isinstance(target, int) else 0)
        if number or not isinstance(target, str):
            found.append(Port(port.port, number or port.port, app_protocol(port.name, port.app_protocol)))
    return tuple(found)
