"""The Kubernetes and Istio objects istiod reads: only the fields it uses; every other field is ignored."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")


class _Object(msgspec.Struct, frozen=True, rename="camel", gc=False):
    pass


class OwnerReference(_Object, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(_Object, frozen=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()


class Namespace(_Object, frozen=True):
    metadata: Meta


class Node(_Object, frozen=True):
    metadata: Meta


class ServiceAccount(_Object, frozen=True):
    metadata: Meta


class ContainerPort(_Object, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(_Object, frozen=True):
    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""


class PodSpec(_Object, frozen=True):
    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(_Object, frozen=True):
    ip: str


class Condition(_Object, frozen=True):
    type: str
    status: str


class PodStatus(_Object, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    conditions: tuple[Condition, ...] = ()


class Pod(_Object, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        return self.status.phase in {"Succeeded", "Failed"}


class ServicePort(_Object, frozen=True):
    port: int
    name: str = ""
    target_port: int | str = 0
    protocol: str = "TCP"
    app_protocol: str = ""


class ServiceSpec(_Object, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = "Cluster"
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class Service(_Object, frozen=True):
    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(_Object, frozen=True):
    ready: bool = True


class ObjectReference(_Object, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class Endpoint(_Object, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference | None = None
    node_name: str = ""


class EndpointPort(_Object, frozen=True):
    port: int = 0
    name: str = ""
    protocol: str = "TCP"


class EndpointSlice(_Object, frozen=True):
    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Selector(_Object, frozen=True):
    match_labels: dict[str, str] = {}


class Source(_Object, frozen=True):
    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()


class Operation(_Object, frozen=True):
    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class RuleFrom(_Object, frozen=True):
    source: Source = Source()


class RuleTo(_Object, frozen=True):
    operation: Operation = Operation()


class RuleWhen(_Object, frozen=True):
    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class AuthorizationRule(_Object, frozen=True):
    from_: tuple[RuleFrom, ...] = msgspec.field(name="from", default=())
    to: tuple[RuleTo, ...] = ()
    when: tuple[RuleWhen, ...] = ()


class TargetRef(_Object, frozen=True):
    kind: str = ""
    name: str = ""
    group: str = ""
    namespace: str = ""


class Provider(_Object, frozen=True):
    name: str = ""


class AuthorizationPolicySpec(_Object, frozen=True):
    selector: Selector | None = None
    target_ref: TargetRef | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[AuthorizationRule, ...] = ()
    action: str = "ALLOW"
    provider: Provider | None = None


class AuthorizationPolicy(_Object, frozen=True):
    metadata: Meta
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()


class MutualTls(_Object, frozen=True):
    mode: str = "UNSET"


class PeerAuthenticationSpec(_Object, frozen=True):
    selector: Selector | None = None
    mtls: MutualTls = MutualTls()
    port_level_mtls: dict[str, MutualTls] = {}


class PeerAuthentication(_Object, frozen=True):
    metadata: Meta
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()


KINDS: Final[dict[str, tuple[str, Any]]] = {
    "Namespace": ("", Namespace),
    "Node": ("", Node),
    "ServiceAccount": ("", ServiceAccount),
    "Pod": ("", Pod),
    "Service": ("", Service),
    "EndpointSlice": ("discovery.k8s.io", EndpointSlice),
    "AuthorizationPolicy": ("security.istio.io", AuthorizationPolicy),
    "PeerAuthentication": ("security.istio.io", PeerAuthentication),
}
"""Kind to API group and type."""


def without_nulls(value: Any) -> Any:
    """In Kubernetes a field that is null is a field that is not set."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value


def convert(obj: dict[str, Any], kind: type[T]) -> T:
    """Raises msgspec.ValidationError naming the path of the first field that has the wrong type."""
    return msgspec.convert(without_nulls(obj), kind)
