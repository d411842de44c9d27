"""Checks of what extends a proxy: WasmPlugin, TrafficExtension, EnvoyFilter; and of ProxyConfig."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from istiod.problem import RELATIVE_PATCH, Problem
from istiod.validate.common import (
    attachment,
    choice,
    each,
    needs_one,
    port_number,
    required,
    selected_labels,
    selector,
    unique,
)
from istiod.validate.field import Field
from istiod.validate.texts import regex

_SCHEMES: Final = ("oci", "http", "https", "file")
_SCHEME: Final = re.compile(r"(?P<scheme>[^:/]*)://")
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
SECRET_CHARS_MAX: Final = 253
PLUGIN_CHARS_MAX: Final = 255
LUA_BYTES_MAX: Final = 65_536


def wasm_plugin(obj: Field) -> Iterator[Problem]:
    yield from attachment(obj["spec"])
    yield from selector(obj["spec"])
    yield from _wasm(obj["spec"])
    yield from _traffic(obj["spec"])


def traffic_extension(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from attachment(spec)
    yield from selector(spec)
    yield from needs_one(spec, "wasm", "lua")
    if spec["wasm"].given and spec["lua"].given:
        yield spec["lua"].error("cannot stand beside wasm: choose one of them")
    yield from _traffic(spec)
    if spec["wasm"].given:
        yield from _wasm(spec["wasm"])
    code = spec["lua"]["inlineCode"]
    if spec["lua"].given:
        yield from required(code)
        if (size := len(code.text.encode(errors="replace"))) > LUA_BYTES_MAX:
            yield code.error(f"has {size} bytes, more than {LUA_BYTES_MAX}")


def _traffic(spec: Field) -> Iterator[Problem]:
    for match in spec["match"]:
        for port in match["ports"]:
            yield from required(port["number"])
            yield from port_number(Field(port["number"].value or None, port["number"].path))


def _wasm(wasm: Field) -> Iterator[Problem]:
    url, digest, secret, name = (wasm[field] for field in ("url", "sha256", "imagePullSecret", "pluginName"))
    yield from required(url)
    scheme = _SCHEME.match(url.text)
    if scheme is not None and scheme["scheme"] not in _SCHEMES:
        yield url.error(f"{url}: the scheme is not one of {', '.join(_SCHEMES)}")
    if digest.text and not _SHA256.fullmatch(digest.text):
        yield digest.error(f"{digest} is not a SHA-256 checksum: 64 hexadecimal digits")
    if len(secret.text) > SECRET_CHARS_MAX:
        yield secret.error(f"longer than {SECRET_CHARS_MAX} characters, so no Secret has this name")
    if len(name.text) > PLUGIN_CHARS_MAX:
        yield name.error(f"longer than {PLUGIN_CHARS_MAX} characters")
    variables = wasm["vmConfig"]["env"]
    for variable in variables:
        yield from required(variable["name"])
        if variable["valueFrom"].text == "HOST" and variable["value"]:
            yield variable["value"].error("valueFrom HOST takes the value of the proxy: leave value out")
    yield from unique((variable["name"] for variable in variables), "the variable")


_INSERTS: Final = ("INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST")
_FILTERS: Final = ("LISTENER_FILTER", "NETWORK_FILTER", "HTTP_FILTER")
_EXTENDED: Final = {
    "LISTENER": ("MERGE", "ADD", "REMOVE"),
    "FILTER_CHAIN": ("MERGE", "ADD", "REMOVE"),
    **dict.fromkeys(_FILTERS, ("MERGE", "ADD", "REMOVE", "REPLACE", *_INSERTS)),
    "ROUTE_CONFIGURATION": ("MERGE", "ADD", "REMOVE"),
    "VIRTUAL_HOST": ("MERGE", "ADD", "REMOVE"),
    "HTTP_ROUTE": ("MERGE", "ADD", "REMOVE", *_INSERTS),
    "CLUSTER": ("MERGE", "ADD", "REMOVE"),
    "EXTENSION_CONFIG": ("ADD",),
    "BOOTSTRAP": ("MERGE",),
}
"""What a patch can do to each part of the proxy's configuration."""
_MATCHES: Final = {
    **dict.fromkeys(("LISTENER", "FILTER_CHAIN", *_FILTERS), "listener"),
    **dict.fromkeys(("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"), "routeConfiguration"),
    "CLUSTER": "cluster",
}
_LIST_MERGE: Final = "MERGE_AND_REPLACE_LIST"


def envoy_filter(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from attachment(spec, selector_field="workloadSelector")
    yield from selected_labels(spec["workloadSelector"]["labels"])
    yield from each(spec["configPatches"], lambda patch: _patch(patch, prioritised=bool(spec["priority"])))


def _patch(entry: Field, *, prioritised: bool) -> Iterator[Problem]:
    target, patch, match = entry["applyTo"], entry["patch"], entry["match"]
    yield from required(Field(target.text.replace("INVALID", ""), target.path), "it says what the patch changes")
    yield from regex(match["proxy"]["proxyVersion"])
    if not patch.given:
        yield patch.error("missing")
        return
    operation = patch["operation"]
    yield from required(Field(operation.text.replace("INVALID", ""), operation.path))
    if operation.text not in ("", "INVALID", "REMOVE") and not patch["value"].given:
        yield patch["value"].error(f"missing: operation {operation.text} needs what to put there")
    if target.text not in _EXTENDED:
        return
    plain = "MERGE" if operation.text == _LIST_MERGE else operation.text
    yield from choice(Field(plain or None, operation.path), (*_EXTENDED[target.text], "INVALID"))
    own = _MATCHES.get(target.text)
    for field in match.given_of("listener", "routeConfiguration", "cluster"):
        if own is not None and field.name != own:
            yield field.error(f"applyTo {target.text} is matched by {own}")
    if target.text in ("NETWORK_FILTER", "HTTP_FILTER"):
        yield from _filter_match(match["listener"]["filterChain"]["filter"], match["waypoint"]["filter"], operation)
    if operation.text in ("INSERT_BEFORE", "INSERT_AFTER") and not prioritised:
        text = "is relative to a filter that another EnvoyFilter may add; set priority, so that the order is certain"
        yield operation.warn(text, code=RELATIVE_PATCH)


def _filter_match(listener: Field, waypoint: Field, operation: Field) -> Iterator[Problem]:
    if not listener.given and not waypoint.given and operation.text in ("REPLACE", "REMOVE"):
        yield listener.error(f"missing: operation {operation.text} needs to know at which filter")
    for match in (listener, waypoint):
        if match.given:
            yield from required(match["name"], "it says which filter is meant")
        if match["subFilter"].given:
            yield from required(match["subFilter"]["name"], "it says which filter is meant")


def proxy_config(obj: Field) -> Iterator[Problem]:
    yield from selector(obj["spec"])
