"""Objects of Kubernetes itself."""

from __future__ import annotations

import msgspec

from istiod.objects.base import Meta, Object
from istiod.objects.service_status import ServiceStatus


class Namespace(Object, frozen=True):
    metadata: Meta


class Node(Object, frozen=True):
    metadata: Meta


class ServiceAccount(Object, frozen=True):
    metadata: Meta


class ContainerPort(Object, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Object, frozen=True):
    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""


class PodSpec(Object, frozen=True):
    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Object, frozen=True):
    ip: str


class PodCondition(Object, frozen=True):
    type: str
    status: str


class PodStatus(Object, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    conditions: tuple[PodCondition, ...] = ()


class Pod(Object, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        return self.status.phase in {"Succeeded", "Failed"}


class ServicePort(Object, frozen=True):
    port: int
    name: str = ""
    target_port: int | str = 0
    protocol: str = "TCP"
    app_protocol: str = ""


class ServiceSpec(Object, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = "Cluster"
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class Service(Object, frozen=True):
    metadata: Meta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def external_name(self) -> bool:
        """Only another name for something: without addresses and endpoints."""
        return self.spec.type == "ExternalName"


class EndpointConditions(Object, frozen=True):
    ready: bool = True


class ObjectReference(Object, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class Endpoint(Object, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None
    node_name: str = ""


class EndpointPort(Object, frozen=True):
    port: int = 0
    name: str = ""
    protocol: str = "TCP"


class EndpointSlice(Object, frozen=True):
    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class ConfigMap(Object, frozen=True):
    metadata: Meta
    data: dict[str, str] = msgspec.field(default_factory=dict)
