"""A service as destination: the policies of its DestinationRules with every default filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from msgspec.structs import replace

from istiod.objects.destination_rule import ClientTls, ConnectionPoolSettings, Outliers, TcpKeepalive, TrafficPolicy
from istiod.objects.mesh_l7 import MeshL7File
from istiod.translate.graph import View
from istiod.translate.l7.catalog import ServiceInfo, service_info
from istiod.translate.l7.destination_rule import at_port, merge, rules_for
from istiod.translate.l7.load_balancer import load_balancer
from istiod.translate.l7.mesh import mesh_l7
from istiod.translate.l7.routes import Client
from istiod.translate.l7.server_tls import own_secret
from istiod.translate.l7.units import milliseconds, percent_share
from meshcore import l7
from meshcore.l7 import UNLIMITED, TlsKind

BackendTls: TypeAlias = Callable[[View, str, str, int], l7.UpstreamTls | None]
"""What a BackendTLSPolicy asks for a port of a service (namespace, hostname, port); it goes before DestinationRules."""

CONFIG_MAP: Final = "configmap://"
_STREAMS_MAX: Final = 2**31 - 1
_CONNECT_TIMEOUT_MS: Final = 10_000
_IDLE_MS: Final = 3_600_000
_UPGRADES: Final = {"DO_NOT_UPGRADE": l7.H2Upgrade.NEVER, "UPGRADE": l7.H2Upgrade.ALWAYS}


def no_backend_tls(_view: View, _namespace: str, _hostname: str, _port: int) -> l7.UpstreamTls | None:
    """For a mesh without the Gateway API."""
    return None


def destination(
    view: View, client: Client, namespace: str, hostname: str, backend_tls: BackendTls
) -> l7.Destination | None:
    """A service as one client uses it; None if it does not exist."""
    info = view.ask(service_info, namespace, hostname)
    if info is None:
        return None
    rules = view.ask(rules_for, client, namespace, hostname)
    mesh = view.ask(mesh_l7)
    top = merge(rules.policy, None)
    overrides = {number: view.ask(backend_tls, namespace, hostname, number) for number, _ in info.ports}

    def differing(general: l7.TrafficPolicy, over: TrafficPolicy | None) -> tuple[tuple[int, l7.TrafficPolicy], ...]:
        found = []
        for number, tls in overrides.items():
            sections = at_port(top, rules.policy, number)
            if over is not None:
                sections = at_port(merge(sections, over), over, number)
            policy = traffic_policy(sections, info, client, mesh)
            if tls is not None:
                policy = replace(policy, tls=tls)
            if policy != general:
                found.append((number, policy))
        return tuple(found)

    subsets = []
    for subset in rules.subsets:
        general = traffic_policy(merge(top, subset.traffic_policy), info, client, mesh)
        ports = differing(general, subset.traffic_policy or TrafficPolicy())
        subsets.append(l7.Subset(subset.name, subset.labels, general, ports))
    policy = traffic_policy(top, info, client, mesh)
    return l7.Destination(
        service=info.key,
        ports=info.ports,
        policy=policy,
        port_policies=differing(policy, None),
        subsets=tuple(subsets),
        resolution=info.resolution,
        race=info.race,
    )


def destinations(
    view: View, client: Client, keys: Iterable[str], backend_tls: BackendTls
) -> tuple[l7.Destination, ...]:
    """The destinations behind service keys, in their order; keys of services that do not exist give nothing."""
    found = []
    for key in sorted(set(keys)):
        namespace, _, hostname = key.partition("/")
        one = view.ask(destination, client, namespace, hostname, backend_tls)
        if one is not None:
            found.append(one)
    return tuple(found)


def traffic_policy(policy: TrafficPolicy, info: ServiceInfo, client: Client, mesh: MeshL7File) -> l7.TrafficPolicy:
    """Sections with the mesh's and Istio's defaults below them."""
    general = mesh.default_traffic_policy
    outliers = policy.outlier_detection or general.outlier_detection
    budget, tunnel, proxy = policy.retry_budget, policy.tunnel, policy.proxy_protocol
    return l7.TrafficPolicy(
        lb=load_balancer(policy.load_balancer, mesh, failover=outliers is not None),
        pool=_pool(policy.connection_pool or general.connection_pool or ConnectionPoolSettings(), mesh),
        outliers=_outliers(outliers) if outliers is not None else None,
        tls=upstream_tls(policy.tls, info, client) if policy.tls is not None else None,
        proxy_protocol=l7.ProxyProtocol.NONE if proxy is None else l7.ProxyProtocol(2 if proxy.version == "V2" else 1),
        retry_budget=None
        if budget is None
        else l7.RetryBudget(
            percent_share(20.0 if budget.percent is None else budget.percent),
            3 if budget.min_retry_concurrency is None else budget.min_retry_concurrency,
            milliseconds(budget.budget_interval),
        ),
        tunnel=None
        if tunnel is None
        else l7.Tunnel(tunnel.target_host, tunnel.target_port, post=tunnel.protocol == "POST"),
    )


def upstream_tls(tls: ClientTls, info: ServiceInfo, client: Client) -> l7.UpstreamTls | None:
    """TLS to a destination. At a waypoint the mesh's own modes mean nothing: there the tunnel is the mesh's TLS."""
    if tls.mode in ("DISABLE", "ISTIO_MUTUAL"):
        if client.waypoint:
            return None
        mesh = tls.mode == "ISTIO_MUTUAL"
        return l7.UpstreamTls(sni=tls.sni, kind=TlsKind.MESH) if mesh else l7.UpstreamTls(kind=TlsKind.PLAINTEXT)
    trust = None if tls.insecure_skip_verify else _trust(tls, client)
    names = (tls.subject_alt_names or info.subject_alt_names) if trust is not None else ()
    return l7.UpstreamTls(
        key=_key(tls, client) if tls.mode == "MUTUAL" else None,
        trust=trust,
        names=names,
        sni=tls.sni,
    )


def _key(tls: ClientTls, client: Client) -> l7.KeyPair:
    if tls.credential_name:
        return l7.KeyPair(own_secret(tls.credential_name, client.namespace))
    return l7.KeyPair(certificate_file=tls.client_certificate, key_file=tls.private_key)


def _trust(tls: ClientTls, client: Client) -> l7.Trust:
    """Without authorities named, those of the system (VERIFY_CERTIFICATE_AT_CLIENT, on by default)."""
    name = tls.credential_name
    if name.startswith(CONFIG_MAP):
        name = name.removeprefix(CONFIG_MAP)
        return l7.Trust(config_maps=(name if "/" in name else f"{client.namespace}/{name}",))
    if name:
        secret = own_secret(name, client.namespace)
        return l7.Trust((secret,) if secret else ())
    if tls.ca_certificates and tls.ca_certificates != "system":
        return l7.Trust(file=tls.ca_certificates, crl_file=tls.ca_crl)
    return l7.Trust(system=True, crl_file=tls.ca_crl)


def _pool(pool: ConnectionPoolSettings, mesh: MeshL7File) -> l7.ConnectionPool:
    tcp, http = pool.tcp, pool.http
    keepalive = tcp.tcp_keepalive or mesh.tcp_keepalive
    pings = http.http2_keep_alive
    upgrade = l7.H2Upgrade.CLIENT if http.use_client_protocol else _UPGRADES.get(http.h2_upgrade_policy)
    return l7.ConnectionPool(
        max_connections=tcp.max_connections or UNLIMITED,
        connect_timeout_ms=milliseconds(tcp.connect_timeout)
        or milliseconds(mesh.connect_timeout)
        or _CONNECT_TIMEOUT_MS,
        keepalive=_keepalive(keepalive) if keepalive is not None else None,
        max_age_ms=milliseconds(tcp.max_connection_duration),
        idle_timeout_ms=milliseconds(tcp.idle_timeout, _IDLE_MS),
        max_pending_requests=http.http1_max_pending_requests or UNLIMITED,
        max_requests=http.http2_max_requests or UNLIMITED,
        requests_per_connection=http.max_requests_per_connection,
        max_retries=http.max_retries or UNLIMITED,
        http_idle_timeout_ms=milliseconds(http.idle_timeout, _IDLE_MS),
        h2_upgrade=upgrade or l7.H2Upgrade.DEFAULT,
        max_streams=http.max_concurrent_streams or _STREAMS_MAX,
        h2_ping_interval_ms=milliseconds(pings.interval) if pings is not None else 0,
        h2_ping_timeout_ms=milliseconds(pings.timeout) if pings is not None else 0,
    )


def _keepalive(keepalive: TcpKeepalive) -> l7.Keepalive:
    return l7.Keepalive(keepalive.probes, milliseconds(keepalive.time), milliseconds(keepalive.interval))


def _outliers(outliers: Outliers) -> l7.OutlierDetection:
    """`consecutiveErrors`, the old name, counts gateway errors."""
    gateway = outliers.consecutive_gateway_errors
    gateway = outliers.consecutive_errors if gateway is None else gateway
    default = l7.OutlierDetection()
    server, local = outliers.consecutive_5xx_errors, outliers.consecutive_local_origin_failures
    return l7.OutlierDetection(
        consecutive_5xx=default.consecutive_5xx if server is None else server,
        consecutive_gateway=gateway or 0,
        split_local=outliers.split_external_local_origin_errors,
        consecutive_local=default.consecutive_local if local is None else local,
        interval_ms=milliseconds(outliers.interval) or default.interval_ms,
        ejection_ms=milliseconds(outliers.base_ejection_time) or default.ejection_ms,
        max_ejected_percent=outliers.max_ejection_percent or default.max_ejected_percent,
        min_health_percent=outliers.min_health_percent,
        statuses=outliers.outlier_detection_http_error_codes,
    )
