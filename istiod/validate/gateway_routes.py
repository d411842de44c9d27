"""Checks of the routes of the Gateway API: the rules its definitions state in CEL. See `gateway_api`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import is_ip, required, unique
from istiod.validate.field import Field
from istiod.validate.texts import milliseconds, regex

_FIELDS: Final = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
    "ExtensionRef": "extensionRef",
}
"""The field of a filter by its type."""
_REPEATABLE: Final = ("RequestMirror", "ExtensionRef")
_MODIFIED: Final = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}
_PATH: Final = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+")
_NOT_IN_PATH: Final = ("//", "/./", "/../", "%2f", "%2F", "#")
_NOT_AT_END: Final = ("/..", "/.")
_PARENT: Final = (("group", "gateway.networking.k8s.io"), ("kind", "Gateway"), ("namespace", ""), ("name", ""))
"""What names a parent, and what is meant where it is left out."""
_WHOLE: Final = ("", 0)
"""No section and no port of a parent."""
_GRPC_SERVICE: Final = re.compile(r"(?i)\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*")
_GRPC_METHOD: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def http_route(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from _attached(spec)
    for rule in spec["rules"]:
        for match in rule["matches"]:
            yield from _path(match["path"])
            yield from _values(match)
        yield from _filters(rule["filters"], rule["matches"])
        yield from _backends(rule["backendRefs"], rule["matches"])
        yield from _redirect_alone(rule)
        yield from _timeouts(rule["timeouts"])
        yield from _session(rule["sessionPersistence"])


def grpc_route(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from _attached(spec)
    for rule in spec["rules"]:
        for match in rule["matches"]:
            yield from _method(match["method"])
            yield from _values(match)
        yield from _filters(rule["filters"], rule["matches"])
        yield from _backends(rule["backendRefs"], rule["matches"])
        yield from _session(rule["sessionPersistence"])


def tcp_route(obj: Field) -> Iterator[Problem]:
    yield from _attached(obj["spec"])
    for rule in obj["spec"]["rules"]:
        yield from _backends(rule["backendRefs"], Field(None))


def tls_route(obj: Field) -> Iterator[Problem]:
    yield from tcp_route(obj)


def _attached(spec: Field) -> Iterator[Problem]:
    """Hosts and parents, and the names of rules."""
    for hostname in spec["hostnames"].texts():
        if is_ip(hostname.text):
            yield hostname.error(f"{hostname} is an IP address; a route has host names only")
    yield from unique((rule["name"] for rule in spec["rules"]), "the rule")
    seen: dict[tuple[str, ...], set[tuple[str, float]]] = {}
    for ref in spec["parentRefs"]:
        key = tuple(ref[name].text or default for name, default in _PARENT)
        part = (ref["sectionName"].text, ref["port"].number or 0)
        parts = seen.setdefault(key, set())
        if parts and (part == _WHOLE or _WHOLE in parts):
            yield ref.error("names the same parent as an entry before it: both need sectionName or port then")
        elif part in parts:
            yield ref.error("names the same part of the same parent as an entry before it")
        parts.add(part)


def _path(path: Field) -> Iterator[Problem]:
    value, kind = path["value"], path["type"].text or "PathPrefix"
    if kind == "RegularExpression":
        yield from regex(value)
    elif isinstance(value.value, str) and kind in ("Exact", "PathPrefix"):
        yield from _plain_path(value, kind)


def _plain_path(value: Field, kind: str) -> Iterator[Problem]:
    text = value.text
    if not text.startswith("/"):
        yield value.error(f"{value}: a path starts with /")
    for part in _NOT_IN_PATH:
        if part in text:
            yield value.error(f"{value} holds {part!r}, which no path has after it is made plain")
    for end in _NOT_AT_END:
        if text.endswith(end):
            yield value.error(f"{value} ends with {end!r}, which no path has after it is made plain")
    if text and "#" not in text and not _PATH.fullmatch(text):
        hint = "; for a pattern the type is RegularExpression" if set(text) & set("[]{}^|\\?") else ""
        yield value.error(f"{value} holds characters that a path of type {kind} cannot{hint}")


def _values(match: Field) -> Iterator[Problem]:
    """Headers and query parameters."""
    for field in ("headers", "queryParams"):
        for entry in match[field]:
            if entry["type"].text == "RegularExpression":
                yield from regex(entry["value"])
    yield from _headers(header["name"] for header in match["headers"])


def _headers(names: Iterable[Field]) -> Iterator[Problem]:
    """Names that differ in upper and lower case alone are one header."""
    seen: set[str] = set()
    for name in names:
        if name.text and name.text.lower() in seen:
            yield name.warn(f"{name} is the header of an entry before it; only that is used")
        seen.add(name.text.lower())


def _method(method: Field) -> Iterator[Problem]:
    if not method.given:
        return
    if not method.filled_of("service", "method"):
        yield method.error("is empty; it needs service or method")
    for name, shape in (("service", _GRPC_SERVICE), ("method", _GRPC_METHOD)):
        field = method[name]
        if method["type"].text == "RegularExpression":
            yield from regex(field)
        elif field.text and not shape.fullmatch(field.text):
            yield field.error(f"{field} is not the name of a gRPC {name}")


def _filters(filters: Field, matches: Field) -> Iterator[Problem]:
    seen: set[str] = set()
    for entry in filters:
        kind = entry["type"].text
        if kind in seen and kind not in _REPEATABLE:
            yield entry["type"].error(f"a second {kind}: one filter of a type is possible")
        if {"RequestRedirect", "URLRewrite"} <= seen | {kind} and kind not in seen:
            yield entry["type"].error("RequestRedirect and URLRewrite cannot stand beside each other")
        seen.add(kind)
        for other, field in _FIELDS.items():
            if other == kind:
                yield from _given(entry[field], f"type {kind} needs it")
            elif kind in _FIELDS and entry[field].given:
                yield entry[field].error(f"type {kind} does not take it; for it the type is {other}")
        for name in ("requestHeaderModifier", "responseHeaderModifier"):
            yield from _modifier(entry[name])
        yield from _mirror(entry["requestMirror"])
        for name in ("requestRedirect", "urlRewrite"):
            yield from _replacement(entry[name]["path"], matches)


def _given(field: Field, why: str) -> Iterator[Problem]:
    if not field.given:
        yield field.error(f"missing: {why}")


def _modifier(modifier: Field) -> Iterator[Problem]:
    for name in ("set", "add"):
        yield from _headers(entry["name"] for entry in modifier[name])
    yield from _headers(modifier["remove"].texts())


def _mirror(mirror: Field) -> Iterator[Problem]:
    fraction = mirror["fraction"]
    part, of = fraction["numerator"].number, fraction["denominator"].number
    if part is not None and part > (of if of is not None else 100):
        yield fraction["numerator"].error("is more than the denominator")
    if mirror.given:
        yield from _port_of_service(mirror["backendRef"])


def _replacement(path: Field, matches: Field) -> Iterator[Problem]:
    """What a path is replaced by."""
    kind = path["type"].text
    for other, field in _MODIFIED.items():
        if other == kind:
            yield from _given(path[field], f"type {kind} needs it")
        elif kind in _MODIFIED and path[field].given:
            yield path[field].error(f"type {kind} does not take it")
    if kind != "ReplacePrefixMatch":
        return
    first = next(iter(matches), Field(None))
    if len(matches) > 1 or (first["path"]["type"].text or "PathPrefix") != "PathPrefix":
        text = "replaces the prefix that was matched: the rule needs exactly one match, and that of type PathPrefix"
        yield path["replacePrefixMatch"].error(text)


def _backends(backends: Field, matches: Field) -> Iterator[Problem]:
    for backend in backends:
        yield from _port_of_service(backend)
        yield from _filters(backend["filters"], matches)


def _port_of_service(ref: Field) -> Iterator[Problem]:
    if ref.given and not ref["group"].text and ref["kind"].text in ("", "Service"):
        yield from required(ref["port"], "a Service is reached at one of its ports")


def _redirect_alone(rule: Field) -> Iterator[Problem]:
    kinds = {entry["type"].text for entry in rule["filters"]}
    if "RequestRedirect" in kinds and rule["backendRefs"]:
        yield rule["backendRefs"].error("cannot stand beside a RequestRedirect, after which nothing is forwarded")


def _timeouts(timeouts: Field) -> Iterator[Problem]:
    whole, single = (milliseconds(timeouts[name].text) for name in ("request", "backendRequest"))
    if whole and single and single > whole:
        yield timeouts["backendRequest"].error("is longer than timeouts.request, of which it is a part")


def _session(session: Field) -> Iterator[Problem]:
    if session["cookieConfig"]["lifetimeType"].text == "Permanent":
        yield from required(session["absoluteTimeout"], "a permanent cookie needs it")
