"""Checks of gateways, listener sets and backend TLS of the Gateway API.

They are the rules its definitions state in CEL, which an API server with those definitions applies, and a directory of
files does not. What one field may hold by itself is in the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import exactly_one, ip_address, required, unique
from istiod.validate.field import Field
from istiod.validate.names import host

_WITHOUT_TLS: Final = ("HTTP", "TCP", "UDP")
_WITHOUT_HOST: Final = ("TCP", "UDP")


def gateway(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from _listeners(spec["listeners"])
    for kind in ("IPAddress", "Hostname"):
        yield from unique(
            (entry["value"] for entry in spec["addresses"] if (entry["type"].text or "IPAddress") == kind), kind
        )
    for entry in spec["addresses"]:
        value = entry["value"]
        if value and (entry["type"].text or "IPAddress") == "IPAddress":
            yield from ip_address(value)
        elif value and entry["type"].text == "Hostname":
            yield from host(value)
    yield from unique((entry["port"] for entry in spec["tls"]["frontend"]["perPort"]), "port")


def listener_set(obj: Field) -> Iterator[Problem]:
    yield from _listeners(obj["spec"]["listeners"])


def _listeners(listeners: Field) -> Iterator[Problem]:
    seen: dict[tuple[float, str, str], Field] = {}
    for listener in listeners:
        yield from _listener(listener)
        port = listener["port"].number
        key = (port or 0, listener["protocol"].text, listener["hostname"].text)
        if port is not None and key in seen:
            text = f"listener {seen[key]['name'].text!r} has the same port, protocol and hostname"
            yield listener["port"].error(text)
        seen.setdefault(key, listener)


def _listener(listener: Field) -> Iterator[Problem]:
    protocol, tls = listener["protocol"].text, listener["tls"]
    if protocol in _WITHOUT_TLS and tls.given:
        yield tls.error(f"protocol {protocol} has no TLS; the protocol is HTTPS or TLS then")
    if protocol in _WITHOUT_HOST and listener["hostname"]:
        yield listener["hostname"].error(f"protocol {protocol} knows no host names; leave it out")
    mode = tls["mode"]
    if protocol == "HTTPS" and mode.text not in ("", "Terminate"):
        yield mode.error("protocol HTTPS needs mode Terminate; to pass connections on, the protocol is TLS")
    if protocol in ("HTTPS", "TLS"):
        if not tls.given:
            yield tls.warn(f"missing: without certificates the listener of protocol {protocol} cannot be programmed")
        elif mode.text in ("", "Terminate") and not tls.filled_of("certificateRefs", "options"):
            yield tls["certificateRefs"].error("missing: mode Terminate needs certificateRefs or options")
    namespaces = listener["allowedRoutes"]["namespaces"]
    if namespaces["from"].text == "Selector":
        yield from required(namespaces["selector"], "from Selector needs it")


def backend_tls_policy(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    seen: dict[tuple[str, ...], Field] = {}
    for ref in spec["targetRefs"]:
        key = tuple(ref[name].text for name in ("group", "kind", "name", "sectionName"))
        if key in seen:
            yield ref.error("names the same target as an entry before it")
        seen[key] = ref
    for ref in spec["targetRefs"]:
        whole = (*(ref[name].text for name in ("group", "kind", "name")), "")
        if ref["sectionName"] and whole in seen:
            yield ref["sectionName"].error("another entry names the whole target; one of them must go")
    validation = spec["validation"]
    if validation.given:
        yield from _validation(validation)


def _validation(validation: Field) -> Iterator[Problem]:
    yield from exactly_one(validation, "caCertificateRefs", "wellKnownCACertificates")
    for name in validation["subjectAltNames"]:
        forms = {"Hostname": "hostname", "URI": "uri"}
        for kind, form in forms.items():
            if name["type"].text == kind:
                yield from required(name[form], f"type {kind} needs it")
            elif name["type"].text in forms and name[form]:
                yield name[form].error(f"type {name['type'].text} does not take it")
