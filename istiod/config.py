"""Settings of istiod: an option wins over the environment, the environment over the default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from meshcore.errors import ConfigError
from meshcore.identity import DEFAULT_TRUST_DOMAIN

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of environment variables, and defaults, are upstream's where upstream has one. Times are seconds."""

    config_dir: str = ""
    """Kubernetes YAML, watched. Empty: the objects are those of a Kubernetes API server."""

    state_dir: str = ""
    """CA key and certificate, key of the bootstrap tokens. Private to istiod. Not used with Kubernetes."""

    kubeconfig: str = ""
    """Where the API server is; empty: the service account of the pod. Env KUBECONFIG."""

    context: str = ""
    """A context of the kubeconfig; empty: its current one."""

    api_qps: Annotated[float, msgspec.Meta(gt=0)] = 80.0
    """Requests a second to the API server (--kubernetesApiQPS)."""

    api_burst: Annotated[int, msgspec.Meta(ge=1)] = 160
    """Requests at once to the API server (--kubernetesApiBurst)."""

    revision: str = "default"
    """Objects with the label istio.io/rev of another revision are left alone. Env REVISION."""

    exclude_namespaces: tuple[str, ...] = ()
    """Namespaces that are not read at all."""

    auto_allocate: bool = True
    """Give ServiceEntries without addresses virtual ones. Env PILOT_ENABLE_IP_AUTOALLOCATE."""

    write_status: bool = True
    """Write status conditions. Env AMBIENT_ENABLE_STATUS."""

    dry_run_policies: bool = False
    """Send dry-run policies to ztunnel. Env AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY."""

    allow_waypoints: bool = False
    """Policies let the identity of a workload's waypoint in. Env PILOT_AUTO_ALLOW_WAYPOINT_POLICY."""

    status_dir: str | None = None
    """Where agents note what they did to a pod."""

    ca_dir: str | None = None
    """A plugged-in CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem, ca-crl.pem, or cert-manager's names.
    Watched. Env ROOT_CA_DIR."""

    multiroot: bool = False
    """A plugged-in CA may change its roots while istiod runs, one after the other. Env ISTIO_MULTIROOT_MESH."""

    address: str = "0.0.0.0"
    """Address of port 15012; when it is one address, it also stands in the serving certificate."""

    port: Port = 15012
    """Configuration and certificates. 0 = any free port."""

    http_port: Port = 8080
    """/ready, and /debug for callers on this host. 0 = off."""

    monitoring_port: Port = 15014
    """/metrics. 0 = off."""

    webhook_port: Port | None = None
    """The validating webhook, HTTPS. 0 = off. Default: 15017 with Kubernetes, off with a directory."""

    sans: tuple[str, ...] = ()
    """Further DNS names and addresses of the serving certificate."""

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    """Env TRUST_DOMAIN."""

    trust_domain_aliases: tuple[str, ...] = ()
    """Callers of these trust domains are accepted, as if of the local one. Env TRUST_DOMAIN_ALIASES, with commas."""

    token_audiences: tuple[str, ...] = ("istio-ca",)
    """What a Kubernetes token must have been made for. Env TOKEN_AUDIENCES, separated by commas."""

    cluster_id: str = "Kubernetes"
    """Env CLUSTER_ID."""

    cluster_domain: str = "cluster.local"
    """Suffix of service names. Env CLUSTER_DOMAIN."""

    root_namespace: str = "istio-system"
    """Policies here hold for the whole mesh. Env POD_NAMESPACE."""

    trusted_node_accounts: tuple[str, ...] = ("istio-system/ztunnel",)
    """NAMESPACE/SERVICEACCOUNT of node proxies. Env CA_TRUSTED_NODE_ACCOUNTS, separated by commas."""

    debounce_after: Seconds = 0.1
    """Quiet time before a push. Env PILOT_DEBOUNCE_AFTER."""

    debounce_max: Seconds = 10.0
    """Longest delay of a push. Env PILOT_DEBOUNCE_MAX."""

    default_cert_ttl: Annotated[float, msgspec.Meta(ge=60)] = 24 * 3600.0
    """Env DEFAULT_WORKLOAD_CERT_TTL."""

    max_cert_ttl: Annotated[float, msgspec.Meta(ge=60)] = 90 * 24 * 3600.0
    """A request for more is refused. Env MAX_WORKLOAD_CERT_TTL."""

    ca_cert_ttl: Annotated[float, msgspec.Meta(ge=3600)] = 3650 * 24 * 3600.0
    """Env CITADEL_SELF_SIGNED_CA_CERT_TTL."""

    ca_cert_grace_percent: Annotated[float, msgspec.Meta(ge=1, le=99)] = 20
    """A self-signed root with less of its life left is renewed, with the same key.
    Env CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE."""

    ca_check_interval: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """How often that is looked at. Env CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL."""

    ca_in_cacerts: bool = False
    """A self-signed CA in Kubernetes is kept in the Secret cacerts. Env USE_CACERTS_FOR_SELF_SIGNED_CA."""

    grpc_receive_bytes: Annotated[int, msgspec.Meta(ge=2**16)] = 4 * 2**20
    """The largest message of a gRPC peer: a foreign ztunnel that comes back repeats what it holds.
    Env ISTIO_GPRC_MAXRECVMSGSIZE."""

    drain: Seconds | None = None
    """How long istiod serves on after it stopped being ready, so that this becomes known. Default: 5 s with Kubernetes,
    none with a directory. Env ISTIOD_DRAIN_DURATION."""

    handover: Seconds = 5.0
    """Over how long the streams of proxies are ended, so that another istiod is not stormed.
    Env ISTIOD_HANDOVER_DURATION."""

    shutdown: Seconds = 10.0
    """How long running requests may take at the end."""


_ENVIRONMENT: Final = {
    "ROOT_CA_DIR": "ca_dir",
    "ISTIO_MULTIROOT_MESH": "multiroot",
    "KUBECONFIG": "kubeconfig",
    "REVISION": "revision",
    "PILOT_ENABLE_IP_AUTOALLOCATE": "auto_allocate",
    "AMBIENT_ENABLE_STATUS": "write_status",
    "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY": "dry_run_policies",
    "PILOT_AUTO_ALLOW_WAYPOINT_POLICY": "allow_waypoints",
    "TRUST_DOMAIN": "trust_domain",
    "TRUST_DOMAIN_ALIASES": "trust_domain_aliases",
    "TOKEN_AUDIENCES": "token_audiences",
    "CLUSTER_ID": "cluster_id",
    "CLUSTER_DOMAIN": "cluster_domain",
    "POD_NAMESPACE": "root_namespace",
    "CA_TRUSTED_NODE_ACCOUNTS": "trusted_node_accounts",
    "PILOT_DEBOUNCE_AFTER": "debounce_after",
    "PILOT_DEBOUNCE_MAX": "debounce_max",
    "DEFAULT_WORKLOAD_CERT_TTL": "default_cert_ttl",
    "MAX_WORKLOAD_CERT_TTL": "max_cert_ttl",
    "CITADEL_SELF_SIGNED_CA_CERT_TTL": "ca_cert_ttl",
    "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE": "ca_cert_grace_percent",
    "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL": "ca_check_interval",
    "USE_CACERTS_FOR_SELF_SIGNED_CA": "ca_in_cacerts",
    "ISTIO_GPRC_MAXRECVMSGSIZE": "grpc_receive_bytes",
    "ISTIOD_DRAIN_DURATION": "drain",
    "ISTIOD_HANDOVER_DURATION": "handover",
}
_TIMES: Final = {
    "debounce_after",
    "debounce_max",
    "default_cert_ttl",
    "max_cert_ttl",
    "ca_cert_ttl",
    "ca_check_interval",
    "drain",
    "handover",
    "shutdown",
}
_LISTS: Final = ("trusted_node_accounts", "trust_domain_aliases", "token_audiences")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def duration(text: str, name: str) -> float:
    """Seconds of `90s`, `1h30m`, `100ms`; raises ConfigError naming the setting."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{name}: {text!r} is not a duration such as 90s, 1h30m or 100ms")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def load(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """`options` are those given on the command line (None: not given). Raises ConfigError naming the setting."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for variable, field in _ENVIRONMENT.items():
        if text := environment.get(variable):
            values[field], origin[field] = text, variable
    for field, value in options.items():
        if value is not None and value != ():
            values[field], origin[field] = value, "--" + field.replace("_", "-")
    for field in _TIMES & values.keys():
        if isinstance(values[field], str):
            values[field] = duration(values[field], origin[field])
    for field in _LISTS:
        if isinstance(text := values.get(field), str):
            values[field] = tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as exc:
        text = str(exc)
        field = text.partition("$.")[2].rstrip("`").partition("[")[0]
        raise ConfigError(f"{origin.get(field, field)}: {text.partition(' - at')[0]}") from None
    _check_source(settings)
    for account in settings.trusted_node_accounts:
        if account.count("/") != 1 or account.startswith("/") or account.endswith("/"):
            where = origin.get("trusted_node_accounts", "trusted_node_accounts")
            raise ConfigError(f"{where}: {account!r} is not of the form NAMESPACE/SERVICEACCOUNT")
    if settings.default_cert_ttl > settings.max_cert_ttl:
        raise ConfigError("DEFAULT_WORKLOAD_CERT_TTL is longer than MAX_WORKLOAD_CERT_TTL")
    return settings


def _check_source(settings: Settings) -> None:
    """A directory, or a cluster: never both, and never by accident."""
    if settings.config_dir:
        if not settings.state_dir:
            raise ConfigError("--state-dir: missing; over a directory istiod keeps its CA key there")
        return
    for name, value in (("--status-dir", settings.status_dir), ("--state-dir", settings.state_dir)):
        if value:
            raise ConfigError(f"{name}: goes with --config-dir only; a cluster keeps statuses and keys itself")
    if settings.context and not settings.kubeconfig:
        raise ConfigError("--context: goes with --kubeconfig only")
