"""The part of MeshConfig that waypoints and gateways follow (ConfigMap `istio`, key `mesh`)."""

from __future__ import annotations

import msgspec

from istiod.objects.base import Object
from istiod.objects.destination_rule import ConnectionPoolSettings, LocalityLb, Outliers, TcpKeepalive
from istiod.objects.virtual_service import HttpRetry


class DefaultTrafficPolicy(Object, frozen=True):
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: Outliers | None = None


class DefaultProviders(Object, frozen=True):
    metrics: tuple[str, ...] | None = None
    access_logging: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()


class ServiceProvider(Object, frozen=True):
    """What every provider that is a service has."""

    service: str = ""
    port: int = 0


class BodyCheck(Object, frozen=True):
    max_request_bytes: int = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class HttpAuthorizer(ServiceProvider, frozen=True):
    timeout: str = ""
    path_prefix: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: dict[str, str] = msgspec.field(default_factory=dict)
    include_request_body_in_check: BodyCheck | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class GrpcAuthorizer(ServiceProvider, frozen=True):
    timeout: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_request_body_in_check: BodyCheck | None = None


class LogFormat(Object, frozen=True):
    text: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class FileLog(Object, frozen=True):
    path: str = "/dev/stdout"
    log_format: LogFormat = LogFormat()


class HttpExport(Object, frozen=True):
    path: str = ""
    timeout: str = ""


class TraceProvider(ServiceProvider, frozen=True):
    """Zipkin, OpenTelemetry, Datadog or SkyWalking."""

    path: str = ""
    timeout: str = ""
    http: HttpExport | None = None
    max_tag_length: int = 256


class LogService(ServiceProvider, frozen=True):
    log_name: str = ""
    log_format: LogFormat = LogFormat()


class ExtensionProvider(Object, frozen=True):
    """Exactly one of the kinds is set."""

    name: str = ""
    envoy_ext_authz_http: HttpAuthorizer | None = None
    envoy_ext_authz_grpc: GrpcAuthorizer | None = None
    prometheus: Object | None = None
    envoy_file_access_log: FileLog | None = None
    envoy_http_als: LogService | None = None
    envoy_tcp_als: LogService | None = None
    envoy_otel_als: LogService | None = None
    zipkin: TraceProvider | None = None
    opentelemetry: TraceProvider | None = None
    datadog: TraceProvider | None = None
    skywalking: TraceProvider | None = None


class PathNormalizing(Object, frozen=True):
    normalization: str = "DEFAULT"


class GatewayTopology(Object, frozen=True):
    """What stands in front of gateways. `proxy_protocol` counts by being there."""

    num_trusted_proxies: int = 0
    forward_client_cert_details: str = "UNDEFINED"
    proxy_protocol: Object | None = None


class DefaultProxyConfig(Object, frozen=True):
    gateway_topology: GatewayTopology = GatewayTopology()


class MeshL7File(Object, frozen=True):
    default_http_retry_policy: HttpRetry | None = None
    default_inbound_http_retry_policy: HttpRetry | None = None
    default_traffic_policy: DefaultTrafficPolicy = DefaultTrafficPolicy()
    connect_timeout: str = ""
    tcp_keepalive: TcpKeepalive | None = None
    locality_lb_setting: LocalityLb | None = None
    default_virtual_service_export_to: tuple[str, ...] = ()
    default_destination_rule_export_to: tuple[str, ...] = ()
    extension_providers: tuple[ExtensionProvider, ...] = ()
    default_providers: DefaultProviders = DefaultProviders()
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: str = "TEXT"
    path_normalization: PathNormalizing = PathNormalizing()
    default_config: DefaultProxyConfig = DefaultProxyConfig()
