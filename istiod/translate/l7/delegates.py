"""Delegation: an HTTP rule of one VirtualService that hands over to the rules of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from istiod.objects import VirtualService
from istiod.objects.virtual_service import (
    Destination,
    HeaderOperations,
    Headers,
    HttpMatchRequest,
    HttpRoute,
    StringMatch,
)
from istiod.translate.graph import View
from istiod.translate.l7.catalog import full_hostname
from istiod.translate.l7.indexes import MESH
from istiod.translate.l7.mesh import exported, mesh_l7

_INHERITED: Final = (
    "rewrite",
    "retries",
    "fault",
    "mirror",
    "mirror_percentage",
    "mirror_percent",
    "cors_policy",
)
"""Fields the delegating rule gives where the delegate sets none."""


def http_routes(view: View, namespace: str, name: str) -> tuple[tuple[str, str, HttpRoute], ...]:
    """The HTTP rules of a VirtualService with delegates put in place, each with the namespace and name it stands in."""
    root = view.get(VirtualService, namespace, name)
    if root is None:
        return ()
    found: list[tuple[str, str, HttpRoute]] = []
    for route in root.spec.http:
        if route.delegate is None:
            found.append((namespace, name, route))
            continue
        place = route.delegate.namespace or namespace
        delegate = view.get(VirtualService, place, route.delegate.name)
        if delegate is None or delegate.spec.hosts or not _visible(view, delegate, namespace):
            continue
        outer = _qualified(view, route, namespace)
        for inner in delegate.spec.http:
            merged = merge(outer, _qualified(view, inner, place)) if inner.delegate is None else None
            if merged is not None:
                found.append((place, route.delegate.name, merged))
    return tuple(found)


def merge(root: HttpRoute, delegate: HttpRoute) -> HttpRoute | None:
    """The delegate's rule under the root's conditions; None if it asks for more than the root hands over."""
    matches = _merge_matches(root.match, delegate.match)
    if matches is None:
        return None
    merged = replace(
        delegate,
        match=matches,
        name=_joined(root.name, delegate.name),
        timeout=delegate.timeout or root.timeout,
        mirrors=delegate.mirrors or root.mirrors,
        headers=_merge_headers(root.headers, delegate.headers),
    )
    missing = {field: getattr(root, field) for field in _INHERITED if getattr(delegate, field) is None}
    return replace(merged, **missing)


def _visible(view: View, delegate: VirtualService, namespace: str) -> bool:
    default = view.ask(mesh_l7).default_virtual_service_export_to
    return exported(delegate.spec.export_to, default, delegate.metadata.namespace, namespace)


def _qualified(view: View, route: HttpRoute, namespace: str) -> HttpRoute:
    """The rule with those names completed that may move to a rule of another namespace."""

    def full(one: Destination) -> Destination:
        return replace(one, host=full_hostname(view, one.host, namespace))

    def named(gateways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one if one == MESH or "/" in one or "." in one else f"{namespace}/{one}" for one in gateways)

    return replace(
        route,
        match=tuple(replace(one, gateways=named(one.gateways)) for one in route.match),
        mirror=full(route.mirror) if route.mirror is not None else None,
        mirrors=tuple(replace(one, destination=full(one.destination)) for one in route.mirrors),
    )


def _joined(root: str, delegate: str) -> str:
    return f"{root}-{delegate}" if root and delegate else root or delegate


def _merge_matches(
    root: tuple[HttpMatchRequest, ...], delegate: tuple[HttpMatchRequest, ...]
) -> tuple[HttpMatchRequest, ...] | None:
    """Every match of the delegate must lie within one of the root's."""
    if not root or not delegate:
        return root or delegate
    found: list[HttpMatchRequest] = []
    for inner in delegate:
        merged = [_merge_match(outer, inner) for outer in root if not _conflict(outer, inner)]
        if not merged:
            return None
        found += merged
    return tuple(found)


def _merge_match(root: HttpMatchRequest, delegate: HttpMatchRequest) -> HttpMatchRequest:
    return replace(
        delegate,
        name=_joined(root.name, delegate.name),
        uri=delegate.uri or root.uri,
        scheme=delegate.scheme or root.scheme,
        method=delegate.method or root.method,
        authority=delegate.authority or root.authority,
        headers={**root.headers, **delegate.headers},
        without_headers={**root.without_headers, **delegate.without_headers},
        query_params={**root.query_params, **delegate.query_params},
        port=delegate.port or root.port,
        source_labels={**root.source_labels, **delegate.source_labels},
        source_namespace=delegate.source_namespace or root.source_namespace,
        gateways=delegate.gateways or root.gateways,
    )


def _conflict(root: HttpMatchRequest, delegate: HttpMatchRequest) -> bool:
    if root.ignore_uri_case != delegate.ignore_uri_case:
        return True
    for field in ("uri", "scheme", "method", "authority"):
        if _text_conflict(getattr(root, field), getattr(delegate, field)):
            return True
    for field in ("headers", "without_headers", "query_params"):
        inner = getattr(delegate, field)
        if any(_text_conflict(value, inner.get(name)) for name, value in getattr(root, field).items()):
            return True
    if root.port and delegate.port and root.port != delegate.port:
        return True
    if root.source_namespace and delegate.source_namespace and root.source_namespace != delegate.source_namespace:
        return True
    if any(delegate.source_labels.get(key, value) != value for key, value in root.source_labels.items()):
        return True
    return bool(root.gateways and delegate.gateways and not set(delegate.gateways) <= set(root.gateways))


def _text_conflict(root: StringMatch | None, delegate: StringMatch | None) -> bool:
    """A regex covers nothing that can be compared; a prefix covers what begins with it."""
    if root is None or delegate is None:
        return False
    if root.regex or delegate.regex:
        return any(_values(root)) and any(_values(delegate))
    if root.exact:
        return delegate.exact != root.exact
    if root.prefix:
        return not (delegate.prefix or delegate.exact or "").startswith(root.prefix)
    return True


def _values(match: StringMatch) -> Iterator[str | None]:
    yield from (match.exact, match.prefix, match.regex)


def _merge_headers(root: Headers | None, delegate: Headers | None) -> Headers | None:
    if root is None or delegate is None:
        return delegate or root
    return Headers(_merge_ops(root.request, delegate.request), _merge_ops(root.response, delegate.response))


def _merge_ops(root: HeaderOperations, delegate: HeaderOperations) -> HeaderOperations:
    return HeaderOperations(
        {**root.set, **delegate.set},
        {**root.add, **delegate.add},
        tuple(dict.fromkeys((*root.remove, *delegate.remove))),
    )
