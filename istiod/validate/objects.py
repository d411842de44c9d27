"""What is wrong with one object.

The checks are those of Istio's validation webhook for the kinds read here, and of the API server for the fields istiod
uses. Every problem names a field, so that the caller can add file and line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, get_args, get_origin

import msgspec

from istiod import objects
from istiod.resources import BY_STORE_KIND, resource_of
from istiod.validate.authorization import authorization_policy
from istiod.validate.common import Problem, choice, ip_address, port_number, selector
from meshcore.manifests import key_kind
from meshcore.yamldoc import Path

__all__ = ["Checked", "Problem", "check"]

_MODES: Final = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")
_EXPECTED: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$?(?P<path>.*?)`)?$", re.DOTALL)
_PATH_PART: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d*|\.\.\.)\]")
_NAMES: Final = {
    "str": "text",
    "int": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "float": "a number with a fraction",
    "null": "nothing",
}


class Checked(NamedTuple):
    """`value` is None when there is an error; warnings leave it usable."""

    value: Any
    problems: list[Problem]


def check(kind: str, api_version: str, obj: dict[str, Any]) -> Checked | None:
    """Check and convert one object; None if istiod does not read this kind."""
    group = api_version.rpartition("/")[0]
    python_type = objects.KINDS.get(key_kind(kind, group))
    if python_type is None:
        return None
    resource = resource_of(kind, api_version)
    if resource is None:
        wanted = BY_STORE_KIND[kind].api_version
        return Checked(None, [Problem(("apiVersion",), f"{api_version!r} is not that of a {kind}: use {wanted}")])
    problems: list[Problem] = []
    if group == "security.istio.io":
        problems += _unknown_fields(obj.get("spec"), python_type, ("spec",))
    value = None
    try:
        value = objects.convert(obj, python_type)
    except msgspec.ValidationError as exc:
        problems.append(_conversion_problem(exc))
    else:
        problems += _CHECKS[kind](obj) if kind in _CHECKS else ()
    if any(not problem.warning for problem in problems):
        value = None
    return Checked(value, problems)


def _conversion_problem(exc: msgspec.ValidationError) -> Problem:
    match = _EXPECTED.match(str(exc))
    what, where = (match["what"], match["path"] or "") if match else (str(exc), "")
    parts = _PATH_PART.findall(where)  # a key of a mapping is not told: it stands there as [...]
    path = tuple(int(index) if index else name for name, index in parts if name or index.isdigit())
    for word, plain in _NAMES.items():
        what = what.replace(f"`{word}`", plain)
    hint = "; use quotes" if "expected text" in what.lower() and "got a number" in what else ""
    if what.startswith("Object missing required field"):
        what = f"the field {what.rpartition('field ')[2]} is missing"
    return Problem(path, what[0].lower() + what[1:] + hint)


def _unknown_fields(value: Any, owner: Any, path: Path) -> Iterator[Problem]:
    """Fields no type knows: at the least a typing error, and in a policy a hole."""
    struct = next(field.type for field in msgspec.structs.fields(owner) if field.encode_name == path[-1])
    yield from _unknown(value, struct, path)


def _unknown(value: Any, expected: Any, path: Path) -> Iterator[Problem]:
    options = [arg for arg in get_args(expected) if arg is not type(None)]
    if get_origin(expected) is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, options[0], (*path, index))
    elif get_origin(expected) is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(item, options[1], (*path, key))
    elif isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        if isinstance(value, dict):
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(expected)}
            for key, item in value.items():
                if key in fields:
                    yield from _unknown(item, fields[key], (*path, key))
                else:
                    yield Problem((*path, key), f"unknown field{_near(key, fields)}")
    elif len(options) == 1 and get_origin(expected) not in (tuple, dict):
        yield from _unknown(value, options[0], path)


def _near(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _peer_authentication(obj: dict[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    yield from selector(spec, ("spec", "selector"))
    if (mtls := spec.get("mtls")) is not None:
        yield from choice(mtls.get("mode"), _MODES, ("spec", "mtls", "mode"))
    ports = spec.get("portLevelMtls")
    if ports is None:
        return
    path: Path = ("spec", "portLevelMtls")
    if not (spec.get("selector") or {}).get("matchLabels"):
        yield Problem(path, "needs a selector with labels: ports differ from pod to pod")
    if not ports:
        yield Problem(path, "must name at least one port")
    for port, mtls in ports.items():
        yield from port_number(port, (*path, port))
        yield from choice((mtls or {}).get("mode"), _MODES, (*path, port, "mode"))


def _pod(obj: dict[str, Any]) -> Iterator[Problem]:
    status = obj.get("status") or {}
    if status.get("podIP"):
        yield from ip_address(status["podIP"], ("status", "podIP"))
    for index, entry in enumerate(status.get("podIPs") or ()):
        yield from ip_address(entry.get("ip", ""), ("status", "podIPs", index, "ip"))
    spec = obj.get("spec") or {}
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            for number, port in enumerate(container.get("ports") or ()):
                yield from port_number(port["containerPort"], ("spec", field, index, "ports", number, "containerPort"))


def _service(obj: dict[str, Any]) -> Iterator[Problem]:
    spec = obj.get("spec") or {}
    for index, text in enumerate(spec.get("clusterIPs") or ()):
        if text not in ("", "None"):
            yield from ip_address(text, ("spec", "clusterIPs", index))
    if spec.get("clusterIP") not in (None, "", "None"):
        yield from ip_address(spec["clusterIP"], ("spec", "clusterIP"))
    seen: set[tuple[int, str]] = set()
    for index, port in enumerate(spec.get("ports") or ()):
        path: Path = ("spec", "ports", index)
        yield from port_number(port["port"], (*path, "port"))
        if isinstance(target := port.get("targetPort"), int):
            yield from port_number(target, (*path, "targetPort"))
        key = (port["port"], port.get("protocol") or "TCP")
        if key in seen:
            yield Problem((*path, "port"), f"port {key[0]}/{key[1]} stands twice")
        seen.add(key)
        if len(spec["ports"]) > 1 and not port.get("name"):
            yield Problem((*path, "name"), "missing: with several ports each needs a name")


def _endpoint_slice(obj: dict[str, Any]) -> Iterator[Problem]:
    family = obj.get("addressType", "IPv4")
    yield from choice(family, ("IPv4", "IPv6", "FQDN"), ("addressType",))
    if not ((obj.get("metadata") or {}).get("labels") or {}).get("kubernetes.io/service-name"):
        text = "the label kubernetes.io/service-name is missing: the slice belongs to no service"
        yield Problem(("metadata", "labels"), text, warning=True)
    if family != "FQDN":
        for index, endpoint in enumerate(obj.get("endpoints") or ()):
            for number, text in enumerate(endpoint.get("addresses") or ()):
                path: Path = ("endpoints", index, "addresses", number)
                yield from ip_address(text, path)
                if (":" in text) != (family == "IPv6"):
                    yield Problem(path, f"{text} is not an {family} address, which addressType asks for")
    for index, port in enumerate(obj.get("ports") or ()):
        if port.get("port") is not None:
            yield from port_number(port["port"], ("ports", index, "port"))


_CHECKS: Final = {
    "AuthorizationPolicy": authorization_policy,
    "PeerAuthentication": _peer_authentication,
    "Pod": _pod,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
}
