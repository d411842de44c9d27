"""Checks of Sidecar. Ambient proxies ignore it; the checks are for meshes that have sidecars beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import each, port_number, required, selected_labels, unique
from istiod.validate.common import is_ip as _is_ip
from istiod.validate.field import Field
from istiod.validate.gateway import server_tls
from istiod.validate.names import host, namespaced_host
from istiod.validate.protocols import TLS, protocol
from istiod.validate.traffic_policy import connection_pool

ROOT_NAMESPACE: Final = "istio-system"
_NAMESPACES: Final = ("*", ".", "~")
_LOCAL: Final = re.compile(r"(?:127\.0\.0\.1|0\.0\.0\.0|\[::1\]|\[::\]):(?P<port>[0-9]{1,5})")
_SECTIONS: Final = ("egress", "ingress", "outboundTrafficPolicy", "inboundConnectionPool")


def sidecar(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    chosen = spec["workloadSelector"]
    if chosen.given:
        yield from selected_labels(chosen["labels"])
        if obj["metadata"]["namespace"].text == ROOT_NAMESPACE:
            yield chosen.warn("has no effect in the root namespace, whose Sidecar is the default of the whole mesh")
    if not spec.filled_of("egress", "ingress") and not spec.given_of(*_SECTIONS[2:]):
        yield spec.error(f"is empty; it needs one of {', '.join(_SECTIONS)}")
    yield from each(spec["ingress"], _ingress)
    yield from unique((listener["port"]["number"] for listener in spec["ingress"]), "port")
    yield from each(spec["egress"], _egress)
    yield from unique((listener["port"]["number"] for listener in spec["egress"]), "port")
    yield from _catch_all(spec["egress"])
    if spec["inboundConnectionPool"].given:
        yield from connection_pool(spec["inboundConnectionPool"])
    proxy = spec["outboundTrafficPolicy"]["egressProxy"]
    if proxy.given:
        yield from required(proxy["host"])
        yield from host(proxy["host"], wildcard=False)
        yield from required(proxy["port"]["number"])
        yield from port_number(proxy["port"]["number"])


def _on_socket(listener: Field) -> bool:
    return listener["bind"].text.startswith("unix://")


def _listener(listener: Field) -> Iterator[Problem]:
    bind, mode = listener["bind"], listener["captureMode"]
    if bind and not _on_socket(listener) and not _is_ip(bind.text):
        yield bind.error(f"{bind} is neither an IP address nor unix:///PATH")
    if _on_socket(listener) and mode.text not in ("", "DEFAULT", "NONE"):
        yield mode.error("traffic cannot be captured into a Unix socket; the mode is DEFAULT or NONE")
    yield from protocol(listener["port"]["protocol"])


def _ingress(listener: Field) -> Iterator[Problem]:
    port, endpoint, tls = listener["port"], listener["defaultEndpoint"], listener["tls"]
    yield from required(port["number"])
    yield from port_number(Field(port["number"].value or None, port["number"].path))
    yield from _listener(listener)
    if endpoint and not endpoint.text.startswith("unix:///"):
        match = _LOCAL.fullmatch(endpoint.text)
        if match is None:
            text = "127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT and unix:///PATH"
            yield endpoint.error(f"{endpoint} is not of this workload; possible are {text}")
        else:
            yield from port_number(Field(match["port"], endpoint.path))
    if not tls.given:
        return
    for name in ("credentialName", "credentialNames", "subjectAltNames", "httpsRedirect"):
        if tls[name]:
            yield tls[name].error("is for gateways; a sidecar cannot use it")
    if port["protocol"].text.upper() not in TLS:
        yield tls.error("needs a port with protocol HTTPS or TLS")
    elif not tls["credentialName"]:
        yield from server_tls(tls)


def _egress(listener: Field) -> Iterator[Problem]:
    yield from required(listener["hosts"], "name the services to reach, as NAMESPACE/HOST")
    seen: set[str] = set()
    for entry in listener["hosts"].texts():
        if "/" not in entry.text:
            yield entry.error(f"{entry} is not of the form NAMESPACE/HOST, such as ./* or */api.example.com")
        else:
            yield from namespaced_host(entry, _NAMESPACES)
        if entry.text in seen:
            yield entry.warn(f"{entry} stands twice")
        seen.add(entry.text)
    if "*/*" in seen and len(seen) > 1:
        yield listener["hosts"].warn("*/* is every host: the others have no effect")
    port = listener["port"]
    if port.given and not _on_socket(listener):
        yield from required(port["number"])
        yield from port_number(Field(port["number"].value or None, port["number"].path))
    elif not port.given and listener["bind"]:
        yield port.error("missing: a listener with bind needs a port")
    yield from _listener(listener)


def _catch_all(listeners: Field) -> Iterator[Problem]:
    """A listener without a port takes what the others leave."""
    entries = [listener for listener in listeners if listener.given]
    without = [listener for listener in entries if not listener["port"].given and not listener["bind"]]
    for listener in without[1:]:
        yield listener["port"].error(f"missing: only one listener can be without, and {without[0].path[-1]} is")
    if without and without[0] is not entries[-1] and len(without) == 1:
        yield without[0]["port"].error("missing: the listener without a port must be the last, it takes what is left")
