"""What istiod tells a proxy: workloads, services and L4 authorization policies.

Field meanings follow Istio's `workload.proto` and `authorization.proto`. The native encoding is
MessagePack arrays in field order, so fields are only ever appended. Enum members carry the
protobuf numbers, which makes the xDS encoding of the same object a renaming, not a translation.
"""

from __future__ import annotations

import enum

import msgspec

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"

HBONE_PORT = 15008


class TunnelProtocol(enum.IntEnum):
    NONE = 0
    HBONE = 1


class WorkloadType(enum.IntEnum):
    DEPLOYMENT = 0
    CRONJOB = 1
    POD = 2
    JOB = 3


class WorkloadStatus(enum.IntEnum):
    HEALTHY = 0
    UNHEALTHY = 1


class NetworkMode(enum.IntEnum):
    STANDARD = 0
    HOST_NETWORK = 1


class IPFamilies(enum.IntEnum):
    AUTOMATIC = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2
    DUAL = 3


class AppProtocol(enum.IntEnum):
    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5


class LbScope(enum.IntEnum):
    UNSPECIFIED = 0
    REGION = 1
    ZONE = 2
    SUBZONE = 3
    NODE = 4
    CLUSTER = 5
    NETWORK = 6


class LbMode(enum.IntEnum):
    UNSPECIFIED = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


class HealthPolicy(enum.IntEnum):
    ONLY_HEALTHY = 0
    ALLOW_ALL = 1


class Visibility(enum.IntEnum):
    PUBLIC = 0
    NAMESPACE = 1


class TunnelTarget(enum.IntEnum):
    """How an application behind a terminated tunnel wants to learn the original address."""

    NONE = 0
    PROXY = 1


class PolicyScope(enum.IntEnum):
    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


class PolicyAction(enum.IntEnum):
    ALLOW = 0
    DENY = 1


class _Wire(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    pass


class NamespacedHostname(_Wire, frozen=True):
    namespace: str
    hostname: str


class NetworkAddress(_Wire, frozen=True):
    """`address` is 4 or 16 bytes; `length` is a CIDR prefix length, or None for one host."""

    network: str
    address: bytes
    length: int | None = None


class GatewayAddress(_Wire, frozen=True):
    """A waypoint or network gateway: exactly one of `hostname` and `address` is set."""

    hostname: NamespacedHostname | None = None
    address: NetworkAddress | None = None
    hbone_mtls_port: int = HBONE_PORT


class WeightedWaypoint(_Wire, frozen=True):
    destination: GatewayAddress
    weight: int


class Port(_Wire, frozen=True):
    """`target_port` 0 on a service means a named port: look at the endpoint."""

    service_port: int
    target_port: int
    app_protocol: AppProtocol = AppProtocol.UNKNOWN


class LoadBalancing(_Wire, frozen=True):
    routing_preference: tuple[LbScope, ...] = ()
    mode: LbMode = LbMode.UNSPECIFIED
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


class Locality(_Wire, frozen=True):
    region: str = ""
    zone: str = ""
    subzone: str = ""


class ApplicationTunnel(_Wire, frozen=True):
    """`port` 0 means that the port asked for is kept."""

    protocol: TunnelTarget = TunnelTarget.NONE
    port: int = 0


class Workload(_Wire, frozen=True):
    """One pod, VM or other endpoint. The resource name is `uid`."""

    uid: str
    name: str
    namespace: str
    addresses: tuple[bytes, ...] = ()
    network: str = ""
    tunnel_protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = ""
    service_account: str = ""
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_name: str = ""
    workload_type: WorkloadType = WorkloadType.POD
    status: WorkloadStatus = WorkloadStatus.HEALTHY
    cluster_id: str = ""
    services: dict[str, tuple[Port, ...]] = {}
    authorization_policies: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    native_tunnel: bool = False
    application_tunnel: ApplicationTunnel | None = None
    locality: Locality | None = None
    network_mode: NetworkMode = NetworkMode.STANDARD
    hostname: str = ""
    capacity: int = 1


class Service(_Wire, frozen=True):
    """One hostname. The resource name is `namespace/hostname`; no addresses means headless."""

    name: str
    namespace: str
    hostname: str
    addresses: tuple[NetworkAddress, ...] = ()
    ports: tuple[Port, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    load_balancing: LoadBalancing | None = None
    ip_families: IPFamilies = IPFamilies.AUTOMATIC
    canonical: bool = False
    ingress_use_waypoint: bool = False
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    visibility: Visibility = Visibility.PUBLIC


class Address(_Wire, frozen=True):
    """The oneof of the Address type: exactly one branch is set."""

    workload: Workload | None = None
    service: Service | None = None


class StringMatch(_Wire, frozen=True):
    """Exactly one of the four is set; `presence` means any non-empty value."""

    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    presence: bool = False


class IpMatch(_Wire, frozen=True):
    """A CIDR: 4 or 16 bytes and a prefix length."""

    address: bytes
    length: int


class ServiceAccountMatch(_Wire, frozen=True):
    namespace: str
    service_account: str


class Match(_Wire, frozen=True):
    """All attributes set here must hold (AND); values of one attribute are alternatives (OR).

    A match in which nothing is set never matches.
    """

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[IpMatch, ...] = ()
    not_source_ips: tuple[IpMatch, ...] = ()
    destination_ips: tuple[IpMatch, ...] = ()
    not_destination_ips: tuple[IpMatch, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


class Clause(_Wire, frozen=True):
    """Any match suffices; an empty clause matches everything."""

    matches: tuple[Match, ...] = ()


class Rule(_Wire, frozen=True):
    """All clauses must hold; a rule without clauses matches everything."""

    clauses: tuple[Clause, ...] = ()


class Authorization(_Wire, frozen=True):
    """An L4 policy. The resource name is `namespace/name`; no rules means it never matches."""

    name: str
    namespace: str
    scope: PolicyScope
    action: PolicyAction
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False
