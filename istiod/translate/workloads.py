"""Pods to `meshcore.model.Workload`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from istiod import objects
from istiod.translate.authorization import selecting_policies
from istiod.translate.common import app_protocol, canonical_name, canonical_revision, packed, selects, small_number
from istiod.translate.graph import View
from istiod.translate.indexes import DEFAULT_ACCOUNT, ENTRIES_BY_LABEL, SERVICE_NAME, SERVICES_BY_LABEL, SLICES_BY_POD
from istiod.translate.meshconfig import mesh_config
from istiod.translate.peer_authentication import mtls_policies
from istiod.translate.services import PORT_MAX, entry_keys, entry_ports, published, tcp_ports
from istiod.translate.waypoints import WORKLOAD_TRAFFIC, Waypoint, application_tunnel, bind, hostname_binding
from meshcore.model import Address, Locality, NetworkMode, Port, TunnelProtocol, Workload, WorkloadStatus

REDIRECTION: Final = "ambient.istio.io/redirection"
TUNNEL_LABEL: Final = "networking.istio.io/tunnel"
_CRON_JOB: Final = re.compile(r"(.+)-\d{8,10}")


def pod_addresses(view: View, namespace: str, name: str) -> Mapping[str, Address]:
    """The resource of a pod; none for a pod that has finished or has no address."""
    pod = view.get(objects.Pod, namespace, name)
    if pod is None or pod.finished:
        return {}
    addresses = _addresses(pod)
    if not addresses:
        return {}
    mesh = view.ask(mesh_config)
    meta, spec, labels = pod.metadata, pod.spec, pod.metadata.labels
    native = labels.get(TUNNEL_LABEL) == "http"
    hbone = native or meta.annotations.get(REDIRECTION) == "enabled"
    owner = workload_name(meta)
    waypoint = bind(view, namespace, labels, meta.annotations, WORKLOAD_TRAFFIC).waypoint
    services = _services(view, pod)
    workload = Workload(
        uid=f"{mesh.cluster_id}//Pod/{namespace}/{name}",
        name=name,
        namespace=namespace,
        addresses=addresses,
        network=mesh.network,
        tunnel_protocol=TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE,
        trust_domain=mesh.wire_trust_domain,
        service_account=spec.service_account_name or DEFAULT_ACCOUNT,
        node=spec.node_name,
        canonical_name=canonical_name(labels, owner),
        canonical_revision=canonical_revision(labels),
        workload_name=owner,
        status=WorkloadStatus.HEALTHY if ready(pod) else WorkloadStatus.UNHEALTHY,
        cluster_id=mesh.cluster_id,
        services=services,
        authorization_policies=policies_of(view, namespace, labels, waypoint, services),
        waypoint=waypoint.address if waypoint is not None else None,
        native_tunnel=native,
        application_tunnel=application_tunnel(view, namespace, labels),
        locality=view.ask(node_locality, spec.node_name) if spec.node_name else None,
        network_mode=NetworkMode.HOST_NETWORK if spec.host_network else NetworkMode.STANDARD,
    )
    return {workload.uid: Address(workload=workload)}


def policies_of(
    view: View, namespace: str, labels: Mapping[str, str], waypoint: Waypoint | None, services: Iterable[str]
) -> tuple[str, ...]:
    """The policies that hold for one workload in particular, in the order ztunnel is told; `services` are the keys of
    those it serves.
    """
    allowed = _waypoints_let_in(view, waypoint, services) if view.settings.allow_waypoints else ()
    return (*selecting_policies(view, namespace, labels), *allowed, *mtls_policies(view, namespace, labels))


def _waypoints_let_in(view: View, waypoint: Waypoint | None, services: Iterable[str]) -> Iterable[str]:
    """The keys of the policies that let in the workload's waypoint, and those of its services."""
    bindings = (view.ask(hostname_binding, *key.split("/", 1)) for key in services)
    found = (waypoint, *(one for binding in bindings for one in (binding.waypoint, binding.canary_waypoint)))
    return dict.fromkeys(f"{one.namespace}/{waypoint_policy_name(one)}" for one in found if one is not None)


def waypoint_policy_name(waypoint: Waypoint) -> str:
    return f"istio_allow_waypoint_{waypoint.namespace}_{waypoint.name}"


def node_locality(view: View, name: str) -> Locality | None:
    node = view.get(objects.Node, "", name)
    if node is None:
        return None
    labels = node.metadata.labels
    locality = Locality(
        labels.get("topology.kubernetes.io/region", ""),
        labels.get("topology.kubernetes.io/zone", ""),
        labels.get("topology.istio.io/subzone", ""),
    )
    return locality if locality != Locality() else None


def ready(pod: objects.Pod) -> bool:
    """Condition Ready, and not on its way out.

    A directory has no kubelet: a pod written without any condition counts as ready.
    """
    if pod.metadata.deletion_timestamp:
        return False
    conditions = pod.status.conditions
    return not conditions or any(c.type == "Ready" and c.status == "True" for c in conditions)


def workload_name(meta: objects.Meta) -> str:
    """The controller's name: a ReplicaSet's Deployment, a Job's CronJob, else the owner; the pod's own without one."""
    owner = next((ref for ref in meta.owner_references if ref.controller), None)
    if owner is None:
        return meta.name
    if owner.kind == "ReplicaSet":
        suffix = f"-{meta.labels.get('pod-template-hash', '')}"
        return owner.name.removesuffix(suffix) if len(suffix) > 1 else owner.name
    if owner.kind == "Job" and (match := _CRON_JOB.fullmatch(owner.name)):
        return match[1]
    return owner.name


def slice_ports(service: objects.Service, entry: objects.EndpointSlice) -> tuple[Port, ...]:
    """The service's TCP ports that the slice has a number for; they are matched by name."""
    numbers = {port.name: port.port for port in entry.ports if port.protocol == "TCP" and port.port}
    return tuple(
        Port(port.port, numbers[port.name], app_protocol(port.name, port.app_protocol))
        for port in tcp_ports(service)
        if port.name in numbers
    )


def _services(view: View, pod: objects.Pod) -> dict[str, tuple[Port, ...]]:
    """Service key to the ports the pod serves there: chosen by a selector, or named by an EndpointSlice."""
    namespace, labels = pod.metadata.namespace, pod.metadata.labels
    settings = view.settings
    found: dict[str, tuple[Port, ...]] = {}
    for label in labels.items():
        for service in view.find(SERVICES_BY_LABEL, (namespace, *label)):
            if published(service) and selects(service.spec.selector, labels):
                found[settings.service_key(namespace, service.metadata.name)] = _selected_ports(service, pod)
        for entry in view.find(ENTRIES_BY_LABEL, (namespace, *label)):
            selector = entry.spec.workload_selector
            if selector is not None and selects(selector.labels, labels):
                found.update((key, entry_ports(entry)) for key in entry_keys(view, entry))
    named: dict[str, dict[int, Port]] = {}
    for endpoints in view.find(SLICES_BY_POD, (namespace, pod.metadata.name)):
        name = endpoints.metadata.labels.get(SERVICE_NAME, "")
        key = settings.service_key(endpoints.metadata.namespace, name)
        if key not in found:
            owner = view.get(objects.Service, endpoints.metadata.namespace, name)
            if owner is not None and published(owner):
                named.setdefault(key, {}).update((port.service_port, port) for port in slice_ports(owner, endpoints))
    found.update((key, tuple(ports.values())) for key, ports in named.items())
    return dict(sorted(found.items()))


def _addresses(pod: objects.Pod) -> tuple[bytes, ...]:
    """status.podIP counts when podIPs is absent."""
    texts = [entry.ip for entry in pod.status.pod_ips] or [pod.status.pod_ip]
    return tuple(raw for text in texts if text and (raw := packed(text)) is not None)


def _selected_ports(service: objects.Service, pod: objects.Pod) -> tuple[Port, ...]:
    found = []
    for port in tcp_ports(service):
        target = _target(port, pod)
        if target:
            found.append(Port(port.port, target, app_protocol(port.name, port.app_protocol)))
    return tuple(found)


def _target(port: objects.ServicePort, pod: objects.Pod) -> int:
    """The number behind a target port; 0 if the pod has no port of that name."""
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    spec = pod.spec
    sidecars = [container for container in spec.init_containers if container.restart_policy == "Always"]
    for container in (*spec.containers, *sidecars):
        for candidate in container.ports:
            if candidate.name == port.target_port and candidate.protocol == "TCP":
                return candidate.container_port
    return small_number(port.target_port, PORT_MAX) or 0
