"""Settings of ztunnel: upstream's environment variables and defaults, and our own where upstream has none.

Only this module reads the environment. A value that cannot be parsed, or that asks for something this version does
not do, ends the start with one line that names the variable: nothing is ignored silently.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from meshcore.errors import ConfigError
from meshcore.identity import DEFAULT_TRUST_DOMAIN
from meshcore.zds import DEFAULT_SOCKET

ROOT_CERT: Final = "./var/run/secrets/istio/root-cert.pem"
TOKEN_FILE: Final = "./var/run/secrets/tokens/istio-token"  # noqa: S105 - where the token is, not what it is
IN_CLUSTER_ISTIOD: Final = "https://istiod.istio-system.svc:15012"
LOCAL_ISTIOD: Final = "https://localhost:15012"
DRAIN_DEFAULT: Final = 5.0  # seconds
WORKERS_MAX: Final = 256

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|s|m|h|d)")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CPU: Final = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_PERCENT: Final = re.compile(r"(\d+)%")

T = TypeVar("T")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One ztunnel. Times are seconds, sizes bytes. A comment names the variable where it is not obvious."""

    node: str
    workers: int  # ZTUNNEL_WORKER_THREADS and the rules of `_worker_count`
    network: str
    cluster_id: str
    trust_domain: str
    pod_name: str
    pod_namespace: str
    service_account: str
    instance_ip: str
    istio_version: str

    xds_address: str
    ca_address: str
    xds_root_ca: str
    ca_root_ca: str
    alt_xds_hostname: str
    alt_ca_hostname: str
    auth_token: str
    secret_ttl: float

    inpod_uds: str
    orig_src: bool | None  # ENABLE_ORIG_SRC; None = try and remember
    ipv6: bool  # IPV6_ENABLED
    packet_mark: int
    response_baggage: bool  # ENABLE_RESPONSE_BAGGAGE
    localhost_app_tunnel: bool
    tls12: bool  # TLS12_ENABLED

    keepalive: bool
    keepalive_time: float
    keepalive_interval: float
    keepalive_retries: int
    user_timeout: bool  # USER_TIMEOUT_ENABLED
    pool_max_streams: int
    pool_unused_release_timeout: float
    http2_stream_window_size: int
    http2_connection_window_size: int
    http2_frame_size: int
    termination_deadline: float

    log_filter: str  # RUST_LOG
    log_json: bool  # LOG_FORMAT

    connect_timeout: float
    tls_handshake_timeout: float
    connect_response_timeout: float
    upcall_timeout: float
    half_close_timeout: float  # 0 = a half-closed connection may stay so for ever
    ping_interval: float
    ping_timeout: float
    max_streams: int
    header_list_max: int
    flow_table_max: int
    buffer_max: int
    worker_hung_timeout: float
    admin_port: int
    stats_port: int
    readiness_port: int

    def worker_config(self, *, log_access: bool) -> dict[str, int]:
        """What `records.encode_config` takes."""
        user_timeout = self.keepalive_time + self.keepalive_retries * self.keepalive_interval
        return {
            "connect_timeout_ms": _ms(self.connect_timeout),
            "tls_timeout_ms": _ms(self.tls_handshake_timeout),
            "response_timeout_ms": _ms(self.connect_response_timeout),
            "upcall_timeout_ms": _ms(self.upcall_timeout),
            "ping_interval_ms": _ms(self.ping_interval),
            "ping_timeout_ms": _ms(self.ping_timeout),
            "pool_idle_ms": _ms(self.pool_unused_release_timeout),
            "pool_max_streams": self.pool_max_streams,
            "server_max_streams": self.max_streams,
            "stream_window": self.http2_stream_window_size,
            "connection_window": self.http2_connection_window_size,
            "frame_size": self.http2_frame_size,
            "header_list_max": self.header_list_max,
            "keepalive_idle_s": math.ceil(self.keepalive_time) if self.keepalive else 0,
            "keepalive_interval_s": math.ceil(self.keepalive_interval),
            "keepalive_retries": self.keepalive_retries,
            "user_timeout_ms": _ms(user_timeout) if self.user_timeout else 0,
            "packet_mark": self.packet_mark,
            "flow_table_max": self.flow_table_max,
            "buffer_max": self.buffer_max,
            "log_json": int(self.log_json),
            "log_access": int(log_access),
            "half_close_ms": _ms(self.half_close_timeout),
            "tls12": int(self.tls12),
        }

    def dump(self) -> dict[str, Any]:
        """For `config_dump`: camelCase, durations as seconds and nanoseconds, no token."""
        found: dict[str, Any] = {}
        for name in self.__struct_fields__:
            if name == "auth_token":
                continue
            value = getattr(self, name)
            if isinstance(value, float):
                value = {"secs": int(value), "nanos": round(value % 1 * 1e9)}
            head, *rest = name.split("_")
            found[head + "".join(word.capitalize() for word in rest)] = value
        return found


def _ms(seconds: float) -> int:
    return min(math.ceil(seconds * 1000), 2**32 - 1)


def duration(text: str) -> float:
    """`10s`, `5m`, `1h30m`, `250ms` -> seconds. Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("is not a duration like 10s, 5m or 1h30m")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("is neither true nor false")
    return text == "true"


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal():
            raise ValueError("is not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"is outside of {low} to {high}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    seconds = duration(text)
    if not seconds:
        raise ValueError("is zero, and every wait needs a limit")
    return seconds


def _cpus(text: str) -> int:
    """A Kubernetes CPU quantity -> whole CPUs, rounded up."""
    found = _CPU.fullmatch(text)
    if found is None:
        raise ValueError("is not a CPU quantity like 2, 1.5 or 500m")
    return math.ceil(float(found[1]) / (1000 if found[2] else 1))


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of: {', '.join(allowed)}")
        return text

    return parse


def _address(text: str) -> str:
    if text:
        host_port(text)
    return text


def host_port(address: str) -> tuple[str, int]:
    """`https://host:port`, `https://host` or `host:port` -> (host, port), 15012 if absent. Raises ValueError."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    if parts.scheme != "https":
        raise ValueError(f"has the scheme {parts.scheme}: istiod is only spoken to over TLS (https)")
    if not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError("is not of the form https://HOST:PORT")
    return parts.hostname, parts.port or 15012


class _Environment:
    """Typed access to variables; an error names the variable."""

    def __init__(self, source: Mapping[str, str]) -> None:
        self._source = source

    def text(self, name: str, default: str = "") -> str:
        return self._source.get(name, default)

    def get(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._source.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise ConfigError(f"{name}={text!r} {error}") from None

    def flag(self, name: str, default: bool) -> bool:
        return self.get(name, _flag, default)

    def only(self, name: str, value: str, why: str) -> None:
        """A variable of upstream's that has one legal value here."""
        text = self._source.get(name)
        if text not in (None, "", value):
            raise ConfigError(f"{name}={text!r} is not supported: {why}")


def _proxy_config(env: _Environment) -> dict[str, Any]:
    """PROXY_CONFIG, YAML or JSON (which is parsed without a YAML library)."""
    text = env.text("PROXY_CONFIG").strip()
    if not text:
        return {}
    if text.startswith("{"):
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ConfigError(f"PROXY_CONFIG is not valid JSON: {error}") from None
    else:
        found = _yaml(text)
    if not isinstance(found, dict):
        raise ConfigError("PROXY_CONFIG is not a mapping")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError("PROXY_CONFIG is YAML and PyYAML is not installed: write it as JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"PROXY_CONFIG is not valid YAML: {' '.join(str(error).split())}") from None


def _worker_count(env: _Environment, concurrency: object, cores: int) -> int:
    request = env.get("ZTUNNEL_RESOURCE_CPU_REQUEST", _cpus, 0)
    limit = env.get("ZTUNNEL_RESOURCE_CPU_LIMIT", _cpus, 0) or env.get("ZTUNNEL_CPU_LIMIT", _cpus, 0)
    cpus = limit or cores
    text = env.text("ZTUNNEL_WORKER_THREADS")
    if text:
        share = _PERCENT.fullmatch(text)
        if share is not None:
            return max(1, math.ceil(cpus * int(share[1]) / 100))
        return env.get("ZTUNNEL_WORKER_THREADS", _integer(0, WORKERS_MAX), 0) or cpus
    if concurrency is not None:
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 0 <= concurrency <= WORKERS_MAX:
            raise ConfigError(f"PROXY_CONFIG: concurrency {concurrency!r} is not a number from 0 to {WORKERS_MAX}")
        return concurrency or cpus
    if limit:
        return max(limit, request, 1)
    return max(math.ceil(cpus / 4), request, 2)


def _termination(env: _Environment) -> float:
    """How long connections may go on while we drain."""
    text = env.text("CONNECTION_TERMINATION_DEADLINE")
    if text:
        return env.get("CONNECTION_TERMINATION_DEADLINE", duration, DRAIN_DEFAULT)
    grace = env.get("TERMINATION_GRACE_PERIOD_SECONDS", _integer(0, 86400), -1)
    if grace < 0:
        return DRAIN_DEFAULT
    return float(max(1, grace - 5 if grace > 10 else grace - 1))


def _refuse_unsupported(env: _Environment) -> None:
    env.only("PROXY_MODE", "shared", "only shared mode (one proxy for the pods of a node) exists")
    env.only("ENABLE_PROXY", "true", "there is nothing to run without the proxy")
    env.only("INPOD_PORT_REUSE", "true", "workers share the ports of a pod by SO_REUSEPORT")
    env.only("XDS_ON_DEMAND", "false", "all workloads are subscribed to")
    env.only("UNSTABLE_ENABLE_SOCKS5", "false", "there is no SOCKS5 listener")
    env.only("FAKE_CA", "false", "certificates always come from istiod")
    env.only("LOCAL_XDS_PATH", "", "configuration always comes from istiod")
    env.only("LOCAL_XDS", "", "configuration always comes from istiod")
    env.only("CRL_PATH", "", "revocation lists are not checked, and starting without them would hide that")
    env.only("COMPLIANCE_POLICY", "", "the TLS policy cannot be chosen")


def load(environment: Mapping[str, str] | None = None, *, cores: int | None = None) -> Settings:
    """Read the settings. Raises ConfigError naming the variable. `cores`: CPUs this process may use."""
    env = _Environment(os.environ if environment is None else environment)
    _refuse_unsupported(env)
    proxy = _proxy_config(env)
    metadata = proxy.get("proxyMetadata") or {}
    in_cluster = bool(env.text("KUBERNETES_SERVICE_HOST"))
    istiod = IN_CLUSTER_ISTIOD if in_cluster else LOCAL_ISTIOD
    ca_address = env.get("CA_ADDRESS", _address, istiod)
    if not ca_address:
        raise ConfigError("CA_ADDRESS is empty: certificates always come from istiod")
    port = _integer(1, 65535)
    token = TOKEN_FILE if os.path.exists(TOKEN_FILE) else ""  # noqa: PTH110 - pathlib costs memory in this process
    return Settings(
        node=env.text("NODE_NAME"),
        workers=_worker_count(env, proxy.get("concurrency"), cores or len(os.sched_getaffinity(0))),
        network=env.text("NETWORK"),
        cluster_id=env.text("ISTIO_META_CLUSTER_ID")
        or str(metadata.get("ISTIO_META_CLUSTER_ID") or "")
        or env.text("CLUSTER_ID", "Kubernetes"),
        trust_domain=env.text("TRUST_DOMAIN", DEFAULT_TRUST_DOMAIN),
        pod_name=env.text("POD_NAME"),
        pod_namespace=env.text("POD_NAMESPACE"),
        service_account=env.text("SERVICE_ACCOUNT"),
        instance_ip=env.text("INSTANCE_IP", "1.1.1.1"),
        istio_version=env.text("ISTIO_META_ISTIO_VERSION", "unknown"),
        xds_address=env.get("XDS_ADDRESS", _address, str(proxy.get("discoveryAddress") or istiod)),
        ca_address=ca_address,
        xds_root_ca=env.text("XDS_ROOT_CA", ROOT_CERT),
        ca_root_ca=env.text("CA_ROOT_CA", ROOT_CERT),
        alt_xds_hostname=env.text("ALT_XDS_HOSTNAME"),
        alt_ca_hostname=env.text("ALT_CA_HOSTNAME"),
        auth_token=env.text("AUTH_TOKEN", token),
        secret_ttl=env.get("SECRET_TTL", _positive, 86400.0),
        inpod_uds=env.text("INPOD_UDS", DEFAULT_SOCKET),
        orig_src=env.get("ENABLE_ORIG_SRC", _flag, None),
        ipv6=env.flag("IPV6_ENABLED", True),
        packet_mark=env.get("PACKET_MARK", _integer(0, 2**32 - 1), 1337),
        response_baggage=env.flag("ENABLE_RESPONSE_BAGGAGE", True),
        localhost_app_tunnel=env.flag("LOCALHOST_APP_TUNNEL", True),
        tls12=env.flag("TLS12_ENABLED", False),
        keepalive=env.flag("KEEPALIVE_ENABLED", True),
        keepalive_time=env.get("KEEPALIVE_TIME", _positive, 180.0),
        keepalive_interval=env.get("KEEPALIVE_INTERVAL", _positive, 180.0),
        keepalive_retries=env.get("KEEPALIVE_RETRIES", _integer(1, 127), 9),
        user_timeout=env.flag("USER_TIMEOUT_ENABLED", False),
        pool_max_streams=env.get("POOL_MAX_STREAMS_PER_CONNECTION", _integer(1, 65535), 100),
        pool_unused_release_timeout=env.get("POOL_UNUSED_RELEASE_TIMEOUT", _positive, 300.0),
        http2_stream_window_size=env.get("HTTP2_STREAM_WINDOW_SIZE", _integer(65535, 2**31 - 1), 4 * 2**20),
        http2_connection_window_size=env.get("HTTP2_CONNECTION_WINDOW_SIZE", _integer(65535, 2**31 - 1), 16 * 2**20),
        http2_frame_size=env.get("HTTP2_FRAME_SIZE", _integer(2**14, 2**24 - 1), 2**20),
        termination_deadline=_termination(env),
        log_filter=env.text("RUST_LOG") or "info",
        log_json=env.get("LOG_FORMAT", _choice("plain", "json"), "plain") == "json",
        connect_timeout=env.get("AMBIENT_CONNECT_TIMEOUT", _positive, 10.0),
        tls_handshake_timeout=env.get("AMBIENT_TLS_HANDSHAKE_TIMEOUT", _positive, 10.0),
        connect_response_timeout=env.get("AMBIENT_CONNECT_RESPONSE_TIMEOUT", _positive, 15.0),
        upcall_timeout=env.get("AMBIENT_UPCALL_TIMEOUT", _positive, 5.0),
        half_close_timeout=env.get("AMBIENT_HALF_CLOSE_TIMEOUT", duration, 3600.0),
        ping_interval=env.get("AMBIENT_PING_INTERVAL", _positive, 10.0),
        ping_timeout=env.get("AMBIENT_PING_TIMEOUT", _positive, 20.0),
        max_streams=env.get("AMBIENT_MAX_STREAMS", _integer(1, 2**31 - 1), 200),
        header_list_max=env.get("AMBIENT_HEADER_LIST_MAX", _integer(4096, 2**20), 64 * 2**10),
        flow_table_max=env.get("AMBIENT_FLOW_TABLE_MAX", _integer(64, 2**24), 65536),
        buffer_max=env.get("AMBIENT_BUFFER_MAX", _integer(2**20, 2**32 - 1), 64 * 2**20),
        worker_hung_timeout=env.get("AMBIENT_WORKER_HUNG_TIMEOUT", _positive, 10.0),
        admin_port=env.get("AMBIENT_ADMIN_PORT", port, _port(proxy, "proxyAdminPort", 15000)),
        stats_port=env.get("AMBIENT_STATS_PORT", port, _port(proxy, "statsPort", 15020)),
        readiness_port=env.get("AMBIENT_READINESS_PORT", port, 15021),
    )


def _port(proxy: Mapping[str, Any], key: str, default: int) -> int:
    value = proxy.get(key, default)
    if not isinstance(value, int) or not 0 < value < 65536:
        raise ConfigError(f"PROXY_CONFIG: {key} {value!r} is not a port")
    return value


def child_environment() -> dict[str, str]:
    """What our child processes get: everything but the token."""
    return {name: value for name, value in os.environ.items() if name != "AUTH_TOKEN"}
