"""DestinationRule of networking.istio.io. A field is None where "not set" differs from every value."""

from __future__ import annotations

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object, Selector
from istiod.objects.virtual_service import PortSelector


class CookieAttribute(Object, frozen=True):
    name: str = ""
    value: str = ""


class HashCookie(Object, frozen=True):
    name: str = ""
    path: str = ""
    ttl: str | None = None
    attributes: tuple[CookieAttribute, ...] = ()


class RingHash(Object, frozen=True):
    minimum_ring_size: int = 0


class MagLev(Object, frozen=True):
    table_size: int = 0


class ConsistentHash(Object, frozen=True):
    http_header_name: str = ""
    http_cookie: HashCookie | None = None
    use_source_ip: bool = False
    http_query_parameter_name: str = ""
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: int = 0


class LocalityDistribute(Object, frozen=True):
    from_: str = msgspec.field(name="from", default="")
    to: dict[str, int] = msgspec.field(default_factory=dict)


class LocalityFailover(Object, frozen=True):
    from_: str = msgspec.field(name="from", default="")
    to: str = ""


class LocalityLb(Object, frozen=True):
    """`enabled` None: as the mesh says. Also the shape of zoneAwareLbSetting, which has `min_cluster_size`."""

    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None
    min_cluster_size: int = 0


class WarmupSetting(Object, frozen=True):
    duration: str = ""
    minimum_percent: float | None = None
    aggression: float | None = None


class LoadBalancerSettings(Object, frozen=True):
    simple: str = "UNSPECIFIED"
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLb | None = None
    zone_aware_lb_setting: LocalityLb | None = None
    warmup: WarmupSetting | None = None
    warmup_duration_secs: str = ""


class TcpKeepalive(Object, frozen=True):
    probes: int = 0
    time: str = ""
    interval: str = ""


class TcpPool(Object, frozen=True):
    max_connections: int = 0
    connect_timeout: str = ""
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: str = ""
    idle_timeout: str | None = None


class Http2KeepAlive(Object, frozen=True):
    interval: str = ""
    timeout: str = ""


class HttpPool(Object, frozen=True):
    http1_max_pending_requests: int = msgspec.field(name="http1MaxPendingRequests", default=0)
    http2_max_requests: int = msgspec.field(name="http2MaxRequests", default=0)
    max_requests_per_connection: int = 0
    max_retries: int = 0
    idle_timeout: str | None = None
    h2_upgrade_policy: str = msgspec.field(name="h2UpgradePolicy", default="DEFAULT")
    use_client_protocol: bool = False
    max_concurrent_streams: int = 0
    http2_keep_alive: Http2KeepAlive | None = msgspec.field(name="http2KeepAlive", default=None)


class ConnectionPoolSettings(Object, frozen=True):
    tcp: TcpPool = TcpPool()
    http: HttpPool = HttpPool()


class Outliers(Object, frozen=True):
    consecutive_errors: int | None = None
    consecutive_5xx_errors: int | None = msgspec.field(name="consecutive5xxErrors", default=None)
    consecutive_gateway_errors: int | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int | None = None
    interval: str = ""
    base_ejection_time: str = ""
    max_ejection_percent: int = 0
    min_health_percent: int = 0
    outlier_detection_http_error_codes: tuple[int, ...] = ()


class ClientTls(Object, frozen=True):
    mode: str = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool = False


class TunnelSettings(Object, frozen=True):
    protocol: str = "CONNECT"
    target_host: str = ""
    target_port: int = 0


class ProxyProtocolSettings(Object, frozen=True):
    version: str = "V1"


class RetryBudgetSettings(Object, frozen=True):
    percent: float | None = None
    min_retry_concurrency: int | None = None
    budget_interval: str = ""


class PortTrafficPolicy(Object, frozen=True):
    port: PortSelector = PortSelector()
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: Outliers | None = None
    tls: ClientTls | None = None


class TrafficPolicy(Object, frozen=True):
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: Outliers | None = None
    tls: ClientTls | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocolSettings | None = None
    retry_budget: RetryBudgetSettings | None = None


class RuleSubset(Object, frozen=True):
    name: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Object, frozen=True):
    host: str = ""
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[RuleSubset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: Selector | None = None


class DestinationRule(Object, frozen=True):
    metadata: Meta
    spec: DestinationRuleSpec = DestinationRuleSpec()
    status: ConditionedStatus = ConditionedStatus()
