"""Settings of the node agent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from cni.redirect import PROBE_V4, PROBE_V6
from meshcore.errors import ConfigError
from meshcore.zds import DEFAULT_SOCKET

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One agent. Names of environment variables are upstream's; a command-line option wins over them."""

    config_dir: str
    """Kubernetes YAML: Pods and Namespaces."""

    status_dir: str
    """Where the agent notes which pods are enrolled, for istiod."""

    node: str
    """Pods with this spec.nodeName are ours. Env NODE_NAME."""

    zds_path: str = DEFAULT_SOCKET
    """Env ZTUNNEL_UDS_ADDRESS."""

    ipv6: bool = True
    """Env AMBIENT_IPV6."""

    dns_capture: bool = False
    """Send DNS of pods to ztunnel. Needs a ztunnel that serves port 15053. Env AMBIENT_DNS_CAPTURE."""

    probe_uid: int | None = None
    """User whose connections count as probes. None: the kubelet's, or 0 where none runs. -1: every user's."""

    probe_v4: str = PROBE_V4
    """Env HOST_PROBE_SNAT_IP."""

    probe_v6: str = PROBE_V6
    """Env HOST_PROBE_SNAT_IPV6."""

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    """Never enrolled. Env EXCLUDE_NAMESPACES, separated by commas."""

    system_namespace: str = "istio-system"
    """Where ztunnel itself runs. Env SYSTEM_NAMESPACE."""

    metrics_port: Port = 15014
    """0 = off. Env MONITORING_PORT."""

    health_port: Port = 8000
    """0 = off."""

    uninstall_on_exit: bool = False
    """Take all rules away at the end. The default leaves them, so that the agent can be replaced."""


_ENVIRONMENT: Final = {
    "NODE_NAME": "node",
    "ZTUNNEL_UDS_ADDRESS": "zds_path",
    "AMBIENT_IPV6": "ipv6",
    "AMBIENT_DNS_CAPTURE": "dns_capture",
    "HOST_PROBE_SNAT_IP": "probe_v4",
    "HOST_PROBE_SNAT_IPV6": "probe_v6",
    "EXCLUDE_NAMESPACES": "excluded_namespaces",
    "SYSTEM_NAMESPACE": "system_namespace",
    "MONITORING_PORT": "metrics_port",
}


def load(options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> Settings:
    """Options of the command line (None = not given), then the environment, then the defaults.

    Raises ConfigError naming the setting.
    """
    source = os.environ if environment is None else environment
    values: dict[str, object] = {}
    for variable, field in _ENVIRONMENT.items():
        text = source.get(variable)
        if text is not None:
            values[field] = text.split(",") if field == "excluded_namespaces" else text
    values |= {field: value for field, value in options.items() if value is not None}
    if not values.get("node"):
        raise ConfigError("the node has no name: give --node, or set NODE_NAME")
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the node agent: {error}") from None
