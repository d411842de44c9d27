"""Destinations: the services that rules name, and how the proxy uses them."""

from __future__ import annotations

import enum

import msgspec

from meshcore.l7.match import PPM, Wire

UNLIMITED = 2**32 - 1
"""Istio's default of a connection pool's counters."""


class Protocol(enum.IntEnum):
    """AUTO is found out from the first bytes: HTTP/1, HTTP/2, else TCP."""

    AUTO = 0
    HTTP = 1
    HTTP2 = 2
    GRPC = 3
    GRPC_WEB = 4
    TCP = 5
    TLS = 6
    HTTPS = 7
    HBONE = 8

    @property
    def http(self) -> bool:
        """Requests can be seen (for HTTPS after its termination)."""
        return self not in (Protocol.TCP, Protocol.TLS, Protocol.HBONE)


class LbAlgorithm(enum.IntEnum):
    """LEAST_REQUEST takes the better of two random hosts; PASSTHROUGH is the address the client asked for."""

    LEAST_REQUEST = 0
    ROUND_ROBIN = 1
    RANDOM = 2
    PASSTHROUGH = 3
    RING_HASH = 4
    MAGLEV = 5


class HashSource(enum.IntEnum):
    HEADER = 0
    COOKIE = 1
    SOURCE_IP = 2
    QUERY = 3


class HashKey(Wire, frozen=True):
    """`ttl_ms` of a cookie: -1 it is used only if the client sends it, 0 a session cookie is made, else its age."""

    source: HashSource
    name: str = ""
    path: str = ""
    ttl_ms: int = -1
    attributes: tuple[tuple[str, str], ...] = ()


class LocalityShare(Wire, frozen=True):
    """Clients in `source` (`region/zone/subzone`, `*` at the end) send so many percent to each locality."""

    source: str
    to: tuple[tuple[str, int], ...]


class LocalityPolicy(Wire, frozen=True):
    """Either `distribute`, or levels of priority: by locality, or by `priorities` (`label` or `label=value`).

    `failover` gives, for a region, the region that comes after the own one. `zone_aware` sends to the own zone as much
    as keeps the load of all hosts even, from `min_hosts` hosts on.
    """

    distribute: tuple[LocalityShare, ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    priorities: tuple[str, ...] = ()
    zone_aware: bool = False
    min_hosts: int = 0


class Warmup(Wire, frozen=True):
    """A new host's share grows from `minimum_percent` to full in `duration_ms`; aggression in parts per million."""

    duration_ms: int
    minimum_percent: int = 10
    aggression: int = PPM


class LoadBalancer(Wire, frozen=True):
    """`hash_key` goes with RING_HASH and MAGLEV only; `table_size` is the smallest ring, or Maglev's table.

    `locality` None: as the service itself prefers (`load_balancing` of its address).
    """

    algorithm: LbAlgorithm = LbAlgorithm.LEAST_REQUEST
    hash_key: HashKey | None = None
    table_size: int = 0
    locality: LocalityPolicy | None = None
    warmup: Warmup | None = None


class Keepalive(Wire, frozen=True):
    """TCP keepalive; 0 is the system's setting."""

    probes: int = 0
    time_ms: int = 0
    interval_ms: int = 0


class H2Upgrade(enum.IntEnum):
    """Whether requests are sent as HTTP/2. DEFAULT: as the port's protocol says; CLIENT: as the client did."""

    DEFAULT = 0
    NEVER = 1
    ALWAYS = 2
    CLIENT = 3


class ConnectionPool(Wire, frozen=True):
    """Limits of one destination port in one proxy. A time of 0 is no limit; `requests_per_connection` too."""

    max_connections: int = UNLIMITED
    connect_timeout_ms: int = 10_000
    keepalive: Keepalive | None = None
    max_age_ms: int = 0
    idle_timeout_ms: int = 3_600_000
    max_pending_requests: int = UNLIMITED
    max_requests: int = UNLIMITED
    requests_per_connection: int = 0
    max_retries: int = UNLIMITED
    http_idle_timeout_ms: int = 3_600_000
    h2_upgrade: H2Upgrade = H2Upgrade.DEFAULT
    max_streams: int = 2**31 - 1
    h2_ping_interval_ms: int = 0
    h2_ping_timeout_ms: int = 0


class OutlierDetection(Wire, frozen=True):
    """Hosts that fail are left out for a while. A counter of 0 is off. `statuses` replace 5xx as what an error is."""

    consecutive_5xx: int = 5
    consecutive_gateway: int = 0
    split_local: bool = False
    consecutive_local: int = 5
    interval_ms: int = 10_000
    ejection_ms: int = 30_000
    max_ejected_percent: int = 10
    min_health_percent: int = 0
    statuses: tuple[int, ...] = ()


class RetryBudget(Wire, frozen=True):
    """At most `share` parts per million of the active requests may be retries, but always `min_concurrent`."""

    share: int = 200_000
    min_concurrent: int = 3
    interval_ms: int = 0


class KeyPair(Wire, frozen=True):
    """A certificate with its key: the Secret `namespace/name`, or two files. With none of them no handshake succeeds.

    A Secret that is named here is one that the proxy may have: references that were not allowed are left out.
    """

    secret: str = ""
    certificate_file: str = ""
    key_file: str = ""


class Trust(Wire, frozen=True):
    """Certificate authorities: of Secrets and ConfigMaps (`namespace/name`), of a file, those of the system, together.

    Those of a Secret stand in the Secret `NAME-cacert` if there is one, else in itself (`ca.crt` or `cacert`). With no
    authority at all nobody is trusted: every handshake fails.
    """

    secrets: tuple[str, ...] = ()
    config_maps: tuple[str, ...] = ()
    file: str = ""
    crl_file: str = ""
    system: bool = False


class TlsKind(enum.IntEnum):
    """OWN is what the settings say. The others are a gateway's choice for endpoints that no tunnel leads to: no TLS at
    all, or the mesh's mutual TLS (of the settings only `sni` counts then).
    """

    OWN = 0
    PLAINTEXT = 1
    MESH = 2


class UpstreamTls(Wire, frozen=True):
    """TLS from the proxy to the destination, inside any tunnel. Mutual if `key` is set.

    `trust` None: the peer is not verified. Otherwise its certificate must be for one of `names`, or without any for the
    SNI. `sni` empty: the authority of the request.
    """

    key: KeyPair | None = None
    trust: Trust | None = None
    names: tuple[str, ...] = ()
    sni: str = ""
    kind: TlsKind = TlsKind.OWN


class ProxyProtocol(enum.IntEnum):
    NONE = 0
    V1 = 1
    V2 = 2


class Tunnel(Wire, frozen=True):
    """TCP through a forward proxy: `CONNECT target` (or POST) is sent to the destination first."""

    host: str
    port: int
    post: bool = False


class TrafficPolicy(Wire, frozen=True):
    """How a destination is used. `tls` None: as the mesh decides."""

    lb: LoadBalancer = LoadBalancer()
    pool: ConnectionPool = ConnectionPool()
    outliers: OutlierDetection | None = None
    tls: UpstreamTls | None = None
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    retry_budget: RetryBudget | None = None
    tunnel: Tunnel | None = None


class Subset(Wire, frozen=True):
    """The workloads that carry all the labels; `ports` where the policy of one differs."""

    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    policy: TrafficPolicy = TrafficPolicy()
    ports: tuple[tuple[int, TrafficPolicy], ...] = ()


class Resolution(enum.IntEnum):
    """Where a destination's addresses come from. DYNAMIC_DNS resolves the authority (or SNI) of each request, if the
    wildcard that is the destination's hostname covers it.
    """

    ENDPOINTS = 0
    ORIGINAL = 1
    DNS = 2
    DNS_ROUND_ROBIN = 3
    DYNAMIC_DNS = 4


class Destination(Wire, frozen=True):
    """A service that rules name. `ports` are (number, protocol); `port_policies` stand where one differs.

    `race`: dial every address of a name at once and keep the first connection.
    """

    service: str
    ports: tuple[tuple[int, Protocol], ...] = ()
    policy: TrafficPolicy = TrafficPolicy()
    port_policies: tuple[tuple[int, TrafficPolicy], ...] = ()
    subsets: tuple[Subset, ...] = ()
    resolution: Resolution = Resolution.ENDPOINTS
    race: bool = False
