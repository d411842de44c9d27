"""Checks of a traffic policy: connection pool, outlier detection, TLS to the destination, tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import DEPRECATED, Problem
from istiod.validate.common import choice, is_ip, percent, port_number, required, whole
from istiod.validate.field import Field
from istiod.validate.load_balancer import load_balancer
from istiod.validate.names import host, is_label
from istiod.validate.texts import duration

_PORT_SECTIONS: Final = ("loadBalancer", "connectionPool", "outlierDetection", "tls")
_SECTIONS: Final = (*_PORT_SECTIONS, "portLevelSettings", "tunnel", "proxyProtocol", "retryBudget")
_FILES: Final = ("clientCertificate", "privateKey", "caCertificates", "caCrl")
_COUNTERS: Final = (
    "consecutiveErrors",
    "consecutive5xxErrors",
    "consecutiveGatewayErrors",
    "consecutiveLocalOriginFailures",
)
_CONFIG_MAP: Final = "configmap://"


def traffic_policy(policy: Field, namespace: str) -> Iterator[Problem]:
    """Everything but the settings of single ports."""
    if not policy.given_of(*_SECTIONS):
        yield policy.error(f"is empty; it needs one of {', '.join(_SECTIONS)}")
        return
    yield from _sections(policy, namespace)
    tunnel, proxy_protocol = policy["tunnel"], policy["proxyProtocol"]
    if tunnel.given:
        yield from choice(Field(tunnel["protocol"].text or None, tunnel["protocol"].path), ("CONNECT", "POST"))
        yield from required(tunnel["targetHost"])
        if tunnel["targetHost"] and not is_ip(tunnel["targetHost"].text):
            yield from host(tunnel["targetHost"], wildcard=False)
        yield from required(tunnel["targetPort"])
        if tunnel["targetPort"]:
            yield from port_number(tunnel["targetPort"])
    if proxy_protocol.given:
        if tunnel.given:
            yield proxy_protocol.error("cannot stand beside tunnel: choose one of them")
        yield from choice(proxy_protocol["version"], ("V1", "V2"))
    budget = policy["retryBudget"]
    yield from whole(budget["minRetryConcurrency"])
    yield from duration(budget["budgetInterval"])


def port_policy(settings: Field, namespace: str) -> Iterator[Problem]:
    """The settings of one port."""
    if not settings.given_of(*_PORT_SECTIONS):
        yield settings.error(f"is empty; it needs one of {', '.join(_PORT_SECTIONS)}")
    yield from _sections(settings, namespace)


def _sections(policy: Field, namespace: str) -> Iterator[Problem]:
    outliers = policy["outlierDetection"]
    if policy["connectionPool"].given:
        yield from connection_pool(policy["connectionPool"])
    if policy["loadBalancer"].given:
        yield from load_balancer(policy["loadBalancer"], ejecting=outliers.given)
    yield from _outlier_detection(outliers)
    yield from _tls(policy["tls"], namespace)


def connection_pool(pool: Field) -> Iterator[Problem]:
    """Limits of connections; those of an inbound pool too."""
    tcp, http = pool["tcp"], pool["http"]
    if not pool.given_of("tcp", "http"):
        yield pool.error("is empty; it needs tcp or http")
    for limit in (
        tcp["maxConnections"],
        tcp["tcpKeepalive"]["probes"],
        http["http1MaxPendingRequests"],
        http["http2MaxRequests"],
        http["maxRequestsPerConnection"],
        http["maxRetries"],
        http["maxConcurrentStreams"],
    ):
        yield from whole(limit)
    for time in (tcp["connectTimeout"], tcp["tcpKeepalive"]["time"], tcp["tcpKeepalive"]["interval"]):
        yield from duration(time)
    for time in (tcp["maxConnectionDuration"], tcp["idleTimeout"], http["idleTimeout"]):
        yield from duration(time, zero=True)
    if http["useClientProtocol"] and http["h2UpgradePolicy"].text == "UPGRADE":
        yield http["useClientProtocol"].error("cannot stand beside h2UpgradePolicy UPGRADE: choose one of them")
    keepalive = http["http2KeepAlive"]
    if keepalive.given:
        for part in (keepalive["interval"], keepalive["timeout"]):
            yield from required(part, "http2KeepAlive needs both interval and timeout")
            yield from duration(part)


def _outlier_detection(outliers: Field) -> Iterator[Problem]:
    old = outliers["consecutiveErrors"]
    if old.given:
        yield old.warn("is deprecated; use consecutiveGatewayErrors or consecutive5xxErrors", code=DEPRECATED)
    for name in _COUNTERS:
        yield from whole(outliers[name])
    local = outliers["consecutiveLocalOriginFailures"]
    if local and not outliers["splitExternalLocalOriginErrors"]:
        yield local.error("counts only with splitExternalLocalOriginErrors: true")
    yield from duration(outliers["interval"])
    yield from duration(outliers["baseEjectionTime"])
    yield from percent(outliers["maxEjectionPercent"])
    yield from percent(outliers["minHealthPercent"])


def _tls(tls: Field, namespace: str) -> Iterator[Problem]:
    mode, credential = tls["mode"].text, tls["credentialName"]
    if tls["insecureSkipVerify"]:
        for field in tls.filled_of("caCertificates", "subjectAltNames"):
            yield field.error("says what to verify, and insecureSkipVerify says not to")
    if mode == "ISTIO_MUTUAL":
        for field in tls.filled_of(*_FILES, "credentialName"):
            yield field.warn("ISTIO_MUTUAL uses the certificates of the mesh; for others the mode is MUTUAL")
    elif credential:
        for field in tls.filled_of(*_FILES):
            yield field.error("cannot stand beside credentialName, which brings the certificates")
        yield from _credential(credential, namespace)
    elif mode == "MUTUAL":
        for field in (tls["clientCertificate"], tls["privateKey"]):
            yield from required(field, "mode MUTUAL needs clientCertificate and privateKey, or credentialName")


def _credential(name: Field, namespace: str) -> Iterator[Problem]:
    if not name.text.startswith(_CONFIG_MAP):
        return
    owner, slash, rest = name.text.removeprefix(_CONFIG_MAP).partition("/")
    if not slash or not is_label(owner) or not rest:
        yield name.error(f"{name} is not of the form {_CONFIG_MAP}NAMESPACE/NAME")
    elif namespace and owner != namespace:
        yield name.error(f"the ConfigMap is in {owner}, and the rule in {namespace}; they must be in one namespace")
