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

    config_dir: str
    """Kubernetes YAML, watched."""

    state_dir: str
    """CA key and certificate, key of the bootstrap tokens. Private to istiod."""

    status_dir: str | None = None
    """Where agents note what they did to a pod."""

    ca_dir: str | None = None
    """A plugged-in CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem. Env ROOT_CA_DIR."""

    address: str = "0.0.0.0"
    """Address of port 15012; when it is one address, it also stands in the serving certificate."""

    port: Port = 15012
    """Configuration and certificates. 0 = any free port."""

    http_port: Port = 8080
    """/ready, and /debug for callers on this host. 0 = off."""

    monitoring_port: Port = 15014
    """/metrics. 0 = off."""

    sans: tuple[str, ...] = ()
    """Further DNS names and addresses of the serving certificate."""

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    """Env TRUST_DOMAIN."""

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

    shutdown: Seconds = 10.0
    """How long running requests may take at the end."""


_ENVIRONMENT: Final = {
    "ROOT_CA_DIR": "ca_dir",
    "TRUST_DOMAIN": "trust_domain",
    "CLUSTER_ID": "cluster_id",
    "CLUSTER_DOMAIN": "cluster_domain",
    "POD_NAMESPACE": "root_namespace",
    "CA_TRUSTED_NODE_ACCOUNTS": "trusted_node_accounts",
    "PILOT_DEBOUNCE_AFTER": "debounce_after",
    "PILOT_DEBOUNCE_MAX": "debounce_max",
    "DEFAULT_WORKLOAD_CERT_TTL": "default_cert_ttl",
    "MAX_WORKLOAD_CERT_TTL": "max_cert_ttl",
    "CITADEL_SELF_SIGNED_CA_CERT_TTL": "ca_cert_ttl",
}
_TIMES: Final = {"debounce_after", "debounce_max", "default_cert_ttl", "max_cert_ttl", "ca_cert_ttl", "shutdown"}
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
    accounts = values.get("trusted_node_accounts")
    if isinstance(accounts, str):
        values["trusted_node_accounts"] = tuple(part.strip() for part in accounts.split(",") if part.strip())
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as exc:
        text = str(exc)
        field = text.partition("$.")[2].rstrip("`").partition("[")[0]
        raise ConfigError(f"{origin.get(field, field)}: {text.partition(' - at')[0]}") from None
    for account in settings.trusted_node_accounts:
        if account.count("/") != 1 or account.startswith("/") or account.endswith("/"):
            where = origin.get("trusted_node_accounts", "trusted_node_accounts")
            raise ConfigError(f"{where}: {account!r} is not of the form NAMESPACE/SERVICEACCOUNT")
    if settings.default_cert_ttl > settings.max_cert_ttl:
        raise ConfigError("DEFAULT_WORKLOAD_CERT_TTL is longer than MAX_WORKLOAD_CERT_TTL")
    return settings
