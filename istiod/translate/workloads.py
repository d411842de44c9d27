"""Pods, and EndpointSlice addresses without a pod, to `meshcore.model.Workload`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from istiod import objects
from istiod.translate.common import MeshConfig, app_protocol, packed, selects
from istiod.translate.services import published, tcp_ports
from meshcore.model import Locality, NetworkMode, Port, TunnelProtocol, Workload, WorkloadStatus

REDIRECTION: Final = "ambient.istio.io/redirection"
TUNNEL_LABEL: Final = "networking.istio.io/tunnel"
SERVICE_NAME: Final = "kubernetes.io/service-name"
_CRON_JOB: Final = re.compile(r"(.+)-\d{8,10}")

Key = tuple[str, str]


class ServiceIndex:
    """Which services a pod belongs to: by selector, or because an EndpointSlice names it."""

    def __init__(self, services: Mapping[Key, objects.Service], slices: Iterable[objects.EndpointSlice]) -> None:
        self.services = {key: service for key, service in services.items() if published(service)}
        self._by_label: dict[tuple[str, str, str], list[objects.Service]] = {}
        self._by_pod: dict[Key, list[tuple[objects.Service, objects.EndpointSlice]]] = {}
        for (namespace, _), service in self.services.items():
            for label in list(service.spec.selector.items())[:1]:
                self._by_label.setdefault((namespace, *label), []).append(service)
        for entry in slices:
            meta = entry.metadata
            owner = self.services.get((meta.namespace, meta.labels.get(SERVICE_NAME, "")))
            if owner is None:
                continue
            for endpoint in entry.endpoints:
                ref = endpoint.target_ref
                if ref is not None and ref.kind == "Pod":
                    key = (ref.namespace or meta.namespace, ref.name)
                    self._by_pod.setdefault(key, []).append((owner, entry))

    def ports(self, pod: objects.Pod, mesh: MeshConfig) -> dict[str, tuple[Port, ...]]:
        """Service key to the ports this pod serves, for every service it belongs to."""
        meta = pod.metadata
        found: dict[str, tuple[Port, ...]] = {}
        for label in meta.labels.items():
            for service in self._by_label.get((meta.namespace, *label), ()):
                if selects(service.spec.selector, meta.labels):
                    key = mesh.service_key(meta.namespace, service.metadata.name)
                    found[key] = _selected_ports(service, pod)
        for service, entry in self._by_pod.get((meta.namespace, meta.name), ()):
            key = mesh.service_key(service.metadata.namespace, service.metadata.name)
            if key not in found:
                found[key] = slice_ports(service, entry)
        return dict(sorted(found.items()))


def pod_uid(mesh: MeshConfig, namespace: str, name: str) -> str:
    return f"{mesh.cluster_id}//Pod/{namespace}/{name}"


def addresses(pod: objects.Pod) -> tuple[bytes, ...]:
    """The pod's addresses; status.podIP counts when podIPs is absent."""
    texts = [entry.ip for entry in pod.status.pod_ips] or [pod.status.pod_ip]
    return tuple(raw for text in texts if text and (raw := packed(text)) is not None)


def exists(pod: objects.Pod) -> bool:
    """A pending pod with an address counts, a finished one does not."""
    return not pod.finished and bool(addresses(pod))


def ready(pod: objects.Pod) -> bool:
    """Condition Ready, and not on its way out.

    A directory has no kubelet: a pod written without any condition counts as ready.
    """
    if pod.metadata.deletion_timestamp:
        return False
    conditions = pod.status.conditions
    return not conditions or any(c.type == "Ready" and c.status == "True" for c in conditions)


def translate(
    pod: objects.Pod,
    node: objects.Node | None,
    services: dict[str, tuple[Port, ...]],
    policies: tuple[str, ...],
    mesh: MeshConfig,
) -> Workload:
    meta, spec, labels = pod.metadata, pod.spec, pod.metadata.labels
    native = labels.get(TUNNEL_LABEL) == "http"
    hbone = native or meta.annotations.get(REDIRECTION) == "enabled"
    name = workload_name(meta)
    return Workload(
        uid=pod_uid(mesh, meta.namespace, meta.name),
        name=meta.name,
        namespace=meta.namespace,
        addresses=addresses(pod),
        network=mesh.network,
        tunnel_protocol=TunnelProtocol.HBONE if hbone else TunnelProtocol.NONE,
        trust_domain=mesh.wire_trust_domain,
        service_account=spec.service_account_name or "default",
        node=spec.node_name,
        canonical_name=_first(labels, ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")) or name,
        canonical_revision=_first(
            labels, ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
        )
        or "latest",
        workload_name=name,
        status=WorkloadStatus.HEALTHY if ready(pod) else WorkloadStatus.UNHEALTHY,
        cluster_id=mesh.cluster_id,
        services=services,
        authorization_policies=policies,
        native_tunnel=native,
        locality=_locality(node),
        network_mode=NetworkMode.HOST_NETWORK if spec.host_network else NetworkMode.STANDARD,
    )


def without_pod(entry: objects.EndpointSlice, service: objects.Service, mesh: MeshConfig) -> list[Workload]:
    """One workload per address that no pod stands behind: reachable through its service only, without identity."""
    meta = entry.metadata
    if entry.address_type == "FQDN":
        return []
    ports = slice_ports(service, entry)
    key = mesh.service_key(service.metadata.namespace, service.metadata.name)
    found: list[Workload] = []
    for endpoint in entry.endpoints:
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
            continue
        for text in endpoint.addresses:
            raw = packed(text)
            if raw is None:
                continue
            found.append(
                Workload(
                    uid=f"{mesh.cluster_id}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{text}",
                    name=meta.name,
                    namespace=meta.namespace,
                    addresses=(raw,),
                    network=mesh.network,
                    status=WorkloadStatus.HEALTHY if endpoint.conditions.ready else WorkloadStatus.UNHEALTHY,
                    cluster_id=mesh.cluster_id,
                    services={key: ports},
                    network_mode=NetworkMode.HOST_NETWORK,
                )
            )
    return found


def slice_ports(service: objects.Service, entry: objects.EndpointSlice) -> tuple[Port, ...]:
    """The service's TCP ports that the slice has a number for; they are matched by name."""
    numbers = {port.name: port.port for port in entry.ports if port.protocol == "TCP" and port.port}
    return tuple(
        Port(port.port, numbers[port.name], app_protocol(port.name, port.app_protocol))
        for port in tcp_ports(service)
        if port.name in numbers
    )


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
    return int(port.target_port) if port.target_port.isdigit() else 0


def _locality(node: objects.Node | None) -> Locality | None:
    if node is None:
        return None
    labels = node.metadata.labels
    locality = Locality(
        labels.get("topology.kubernetes.io/region", ""),
        labels.get("topology.kubernetes.io/zone", ""),
        labels.get("topology.istio.io/subzone", ""),
    )
    return locality if locality != Locality() else None


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
