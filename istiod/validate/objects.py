"""What is wrong with one object, and its typed form if nothing is.

The checks are those of Istio's validation webhook and of the API server. Every problem names a field, so that the
caller can add file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from istiod import objects, schema
from istiod.problem import Problem
from istiod.resources import BY_STORE_KIND, RESOURCES, Resource, resource_of, store_kind
from istiod.validate import core, extensions, gateway_api, gateway_routes, workload
from istiod.validate.authorization import authorization_policy
from istiod.validate.common import Check
from istiod.validate.destination_rule import destination_rule
from istiod.validate.field import Field
from istiod.validate.gateway import istio_gateway
from istiod.validate.peer_authentication import peer_authentication
from istiod.validate.request_authentication import request_authentication
from istiod.validate.service_entry import service_entry
from istiod.validate.sidecar import sidecar
from istiod.validate.telemetry import telemetry
from istiod.validate.virtual_service import virtual_service
from meshcore.manifests import key_kind
from meshcore.yamldoc import MAX_DEPTH, Path

__all__ = ["CHECKS", "Checked", "Problem", "check", "problems"]

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
PROBLEMS_MAX: Final = 100
"""Errors, and warnings, that one pass over an object tells: each costs the search for a likely correction."""
_GROUPS: Final = frozenset(resource.group for resource in RESOURCES)

CHECKS: Final[Mapping[str, Check]] = {
    "Pod": core.pod,
    "Service": core.service,
    "EndpointSlice": core.endpoint_slice,
    "VirtualService": virtual_service,
    "DestinationRule": destination_rule,
    "Gateway.networking.istio.io": istio_gateway,
    "ServiceEntry": service_entry,
    "WorkloadEntry": workload.workload_entry,
    "WorkloadGroup": workload.workload_group,
    "Sidecar": sidecar,
    "ProxyConfig": extensions.proxy_config,
    "EnvoyFilter": extensions.envoy_filter,
    "AuthorizationPolicy": authorization_policy,
    "PeerAuthentication": peer_authentication,
    "RequestAuthentication": request_authentication,
    "Telemetry": telemetry,
    "WasmPlugin": extensions.wasm_plugin,
    "TrafficExtension": extensions.traffic_extension,
    "Gateway": gateway_api.gateway,
    "ListenerSet": gateway_api.listener_set,
    "BackendTLSPolicy": gateway_api.backend_tls_policy,
    "HTTPRoute": gateway_routes.http_route,
    "GRPCRoute": gateway_routes.grpc_route,
    "TCPRoute": gateway_routes.tcp_route,
    "TLSRoute": gateway_routes.tls_route,
}
"""What a kind means beyond the shape of its fields, by its name in the store."""


class Checked(NamedTuple):
    """`value` is None when there is an error, or no type for the kind; warnings leave it usable."""

    value: Any
    problems: list[Problem]


def problems(resource: Resource, obj: Any, *, strict: bool = True) -> list[Problem]:
    """All that is wrong with an object as written: its shape (`istiod.schema.faults`, also for `strict`) and its sense.

    A field of the wrong shape is told once. Any JSON value gives an answer, none raises.
    """
    if _too_deep(obj):
        return [Problem((), f"nested deeper than {MAX_DEPTH} levels")]
    found = _first(schema.faults(resource, obj, strict=strict))
    root = Field(obj)
    found += _first(_new(core.metadata(root), found))
    check_of_kind = CHECKS.get(store_kind(resource))
    if check_of_kind is not None:
        found += _first(_new(check_of_kind(root), found))
    return found


def check(kind: str, api_version: str, obj: dict[str, Any], *, strict: bool = True) -> Checked | None:
    """Check and convert one object; None if istiod does not know this kind. `strict` is that of `problems`."""
    resource = resource_of(kind, api_version)
    if resource is None:
        return _of_another_group(kind, api_version)
    found = problems(resource, obj, strict=strict)
    python_type = objects.KINDS.get(store_kind(resource))
    if python_type is None or any(not problem.warning for problem in found):
        return Checked(None, found)
    try:
        return Checked(objects.convert(obj, python_type), found)
    except msgspec.ValidationError as exc:
        return Checked(None, [*found, _conversion_problem(exc)])


def _of_another_group(kind: str, api_version: str) -> Checked | None:
    """A kind of ours under another of our groups is a mistake; under a stranger's group it is a stranger's kind."""
    group = api_version.rpartition("/")[0]
    resource = BY_STORE_KIND.get(key_kind(kind, group))
    if resource is None or group not in _GROUPS:
        return None
    text = f"{api_version!r} is not that of a {kind}: use {resource.api_version}"
    return Checked(None, [Problem(("apiVersion",), text)])


def _first(candidates: Iterable[Problem]) -> list[Problem]:
    """As many errors and as many warnings as somebody may want to read; after the errors the search ends."""
    kept: dict[bool, list[Problem]] = {False: [], True: []}
    for problem in candidates:
        same = kept[problem.warning]
        if len(same) < PROBLEMS_MAX:
            same.append(problem)
        elif not problem.warning:
            break
    return [*kept[False], *kept[True]]


def _new(candidates: Iterable[Problem], known: Iterable[Problem]) -> Iterator[Problem]:
    """Leaves out what concerns a field of which an error is known already."""
    told = {problem.path for problem in known if not problem.warning}
    return (problem for problem in candidates if problem.path not in told)


def _too_deep(obj: Any) -> bool:
    """Whether walking through it could exhaust the stack; found without walking deeper."""
    level = [obj]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _conversion_problem(exc: msgspec.ValidationError) -> Problem:
    match = _EXPECTED.match(str(exc))
    what, where = (match["what"], match["path"] or "") if match else (str(exc), "")
    parts = _PATH_PART.findall(where)  # a key of a mapping is not told: it stands there as [...]
    path: Path = tuple(int(index) if index else name for name, index in parts if name or index.isdigit())
    for word, plain in _NAMES.items():
        what = what.replace(f"`{word}`", plain)
    hint = "; use quotes" if "expected text" in what.lower() and "got a number" in what else ""
    if what.startswith("Object missing required field"):
        what = f"the field {what.rpartition('field ')[2]} is missing"
    return Problem(path, what[0].lower() + what[1:] + hint)
