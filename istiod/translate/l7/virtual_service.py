"""VirtualService to rules, for one port of a service or gateway."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from istiod.objects import VirtualService
from istiod.objects.virtual_service import (
    CorsPolicy,
    Destination,
    HeaderOperations,
    HttpDirectResponse,
    HttpFault,
    HttpMatchRequest,
    HttpRedirect,
    HttpRoute,
    StreamMatch,
    StreamRoute,
    WeightedDestination,
)
from istiod.translate.graph import View
from istiod.translate.l7.delegates import http_routes
from istiod.translate.l7.http_match import applies, is_catch_all, matches_of, text_match
from istiod.translate.l7.mesh import mesh_l7
from istiod.translate.l7.retry import outbound_retry
from istiod.translate.l7.routes import Client, backend
from istiod.translate.l7.units import milliseconds, percent_share, share
from istiod.validate.http_route import GRPC_STATUSES
from meshcore.l7 import (
    PPM,
    Backend,
    Cors,
    DirectResponse,
    Fault,
    Forward,
    HeaderOps,
    HttpMatch,
    HttpRule,
    Mirror,
    PathRewrite,
    Redirect,
    RewriteKind,
    StreamRule,
    TextKind,
    TextMatch,
)
from meshcore.model import IpMatch

_AUTHORITY: Final = frozenset(("host", ":authority"))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
GRPC_STATUS: Final = {name: number for number, name in enumerate(GRPC_STATUSES)}


class Place:
    """Where a rule is written, and for which proxy and port it is translated."""

    __slots__ = ("client", "name", "namespace", "port", "tls", "view")

    def __init__(self, view: View, client: Client, port: int, namespace: str, name: str, *, tls: bool = False) -> None:
        self.view = view
        self.client = client
        self.port = port
        self.namespace = namespace
        self.name = name
        self.tls = tls

    @property
    def origin(self) -> str:
        return f"VirtualService/{self.namespace}/{self.name}"

    def backend(self, to: Destination) -> Backend:
        return backend(self.view, to.host, to.subset, to.port.number, self.namespace, self.client, self.port)


def http_rules(view: View, rule: VirtualService, client: Client, port: int, *, tls: bool = False) -> Iterator[HttpRule]:
    """The HTTP rules of a VirtualService that can hold, up to the first that always does."""
    meta = rule.metadata
    for namespace, name, route in view.ask(http_routes, meta.namespace, meta.name):
        place = Place(view, client, port, namespace, name, tls=tls)
        for request, match in matches_of(route, namespace, client, port):
            yield _http_rule(place, route, request, match)
            if is_catch_all(match):
                return


def stream_rules(
    view: View, rule: VirtualService, client: Client, port: int, *, hosts: tuple[str, ...] = ()
) -> Iterator[StreamRule]:
    """The TCP rules of a VirtualService, and before them its TLS rules for `hosts`.

    A waypoint does not know the namespace of a connection's client in time, so such matches never hold there.
    """
    meta, spec = rule.metadata, rule.spec
    place = Place(view, client, port, meta.namespace, meta.name)
    for route in spec.tls:
        for match in route.match:
            sni = _sni(match.sni_hosts, hosts, client)
            if sni is not None and _stream_applies(match, place):
                yield _stream_rule(place, route, match, sni)
    for route in spec.tcp:
        for match in route.match or (StreamMatch(),):
            if _stream_applies(match, place):
                yield _stream_rule(place, route, match, ())


def _stream_applies(match: StreamMatch, place: Place) -> bool:
    if match.source_namespace and place.client.waypoint:
        return False
    return applies(match, place.namespace, place.client, place.port)


def _stream_rule(place: Place, route: StreamRoute, match: StreamMatch, sni: tuple[str, ...]) -> StreamRule:
    return StreamRule(
        name=place.name,
        backends=_backends(place, route.route),
        sni=sni,
        subnets=tuple(subnets(match.destination_subnets)),
        origin=place.origin,
    )


def subnets(texts: Iterable[str]) -> Iterator[IpMatch]:
    """CIDRs and addresses; others are left out."""
    for text in texts:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        yield IpMatch(network.network_address.packed, network.prefixlen)


def _sni(wanted: tuple[str, ...], hosts: tuple[str, ...], client: Client) -> tuple[str, ...] | None:
    """The names to compare; None if a rule is for other hosts.

    Behind a waypoint's address there is one service: if its name is covered, nothing is left to compare.
    """
    if client.waypoint and any(covers(name, host) for name in wanted for host in hosts):
        return ()
    return tuple(n for n in wanted if any(covers(host, n) or covers(n, host) for host in hosts)) or None


def covers(pattern: str, host: str) -> bool:
    """A pattern `*` covers all, `*.x` whatever ends in `.x`, another only itself."""
    if pattern.startswith("*"):
        return host.removeprefix("*").endswith(pattern[1:])
    return pattern == host


def _http_rule(place: Place, route: HttpRoute, request: HttpMatchRequest, match: HttpMatch | None) -> HttpRule:
    headers = route.headers
    request_headers, authority = _headers(headers.request) if headers is not None else (None, "")
    forwards = route.redirect is None and route.direct_response is None
    return HttpRule(
        name=".".join(name for name in (route.name, request.name) if name) or place.name,
        action=_action(place, route, match, authority),
        match=match,
        origin=place.origin,
        request_headers=request_headers,
        response_headers=_headers(headers.response)[0] if headers is not None else None,
        timeout_ms=milliseconds(route.timeout) if forwards else 0,
        retry=outbound_retry(route.retries, place.view.ask(mesh_l7).default_http_retry_policy) if forwards else None,
        fault=_fault(route.fault) if route.fault is not None else None,
        mirrors=tuple(_mirrors(place, route)) if forwards else (),
        cors=_cors(route.cors_policy) if route.cors_policy is not None else None,
    )


def _action(
    place: Place, route: HttpRoute, match: HttpMatch | None, authority: str
) -> Forward | Redirect | DirectResponse:
    path = match.path if match is not None else None
    if route.redirect is not None:
        return _redirect(place, route.redirect, path)
    if route.direct_response is not None:
        return DirectResponse(route.direct_response.status, _body(route.direct_response))
    rewrite = route.rewrite
    changed: PathRewrite | None = None
    if rewrite is not None:
        authority = rewrite.authority or authority
        if rewrite.uri_regex_rewrite is not None:
            regex = rewrite.uri_regex_rewrite
            changed = PathRewrite(RewriteKind.REGEX, regex.rewrite, regex.match)
        elif rewrite.uri:
            changed = _replaced(rewrite.uri, path)
    return Forward(_backends(place, route.route), changed, authority)


def _replaced(value: str, path: TextMatch | None) -> PathRewrite:
    """A prefix match has its prefix replaced, and so has a rule for every path (`/`); another match the whole path."""
    prefix = path is None or path.kind is TextKind.PREFIX
    return PathRewrite(RewriteKind.PREFIX if prefix else RewriteKind.FULL, value)


def _redirect(place: Place, redirect: HttpRedirect, path: TextMatch | None) -> Redirect:
    """A port that is the default of the scheme is not written."""
    port = place.port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port
    scheme = redirect.scheme or ("https" if place.tls else "http")
    changed: PathRewrite | None = None
    if redirect.prefix_rewrite:
        changed = _replaced(redirect.prefix_rewrite, path)
    elif redirect.uri:
        changed = PathRewrite(RewriteKind.FULL, redirect.uri)
    return Redirect(
        status=redirect.redirect_code or 301,
        scheme=redirect.scheme,
        authority=redirect.authority,
        port=0 if _DEFAULT_PORTS.get(scheme) == port else port,
        path=changed,
    )


def _body(response: HttpDirectResponse) -> bytes:
    if response.body.string:
        return response.body.string.encode()
    try:
        return base64.b64decode(response.body.bytes, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _backends(place: Place, routes: tuple[WeightedDestination, ...]) -> tuple[Backend, ...]:
    """A single destination gets everything; of several those without weight get nothing."""
    alone = len(routes) == 1
    found = []
    for route in routes:
        if not alone and route.weight <= 0:
            continue
        to = place.backend(route.destination)
        request_headers, authority = _headers(route.headers.request)
        found.append(
            Backend(
                to.service,
                to.port,
                to.subset,
                1 if alone else route.weight,
                request_headers,
                _headers(route.headers.response)[0],
                authority,
                to.status,
            )
        )
    return tuple(found)


def _headers(operations: HeaderOperations) -> tuple[HeaderOps | None, str]:
    """The changes, and the authority if one of them sets it."""
    authority = next((value for name, value in operations.set.items() if name.lower() in _AUTHORITY), "")
    found = HeaderOps(
        tuple(_lower(operations.set)), tuple(_lower(operations.add)), tuple(name.lower() for name in operations.remove)
    )
    return (found if found != HeaderOps() else None), authority


def _lower(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        if name.lower() not in _AUTHORITY:
            yield name.lower(), value


def _fault(fault: HttpFault) -> Fault | None:
    """Without a percentage a fault never happens; what never happens is left out."""
    delay_ms = delay = abort = status = 0
    grpc_status = -1
    if fault.delay is not None:
        delay_ms = milliseconds(fault.delay.fixed_delay)
        delay = share(fault.delay.percentage, percent_share(fault.delay.percent)) if delay_ms else 0
    if fault.abort is not None:
        abort = share(fault.abort.percentage)
        status = fault.abort.http_status
        grpc_status = GRPC_STATUS.get(fault.abort.grpc_status.upper(), -1)
        if not status and grpc_status < 0:
            abort = 0
    found = Fault(
        delay_ms if delay else 0,
        delay,
        abort,
        status if abort and grpc_status < 0 else 0,
        grpc_status if abort else -1,
    )
    return found if found != Fault() else None


def _mirrors(place: Place, route: HttpRoute) -> Iterator[Mirror]:
    """Mirrors of services that do not exist are left out: nobody waits for them."""
    wanted = [(one.destination, share(one.percentage, PPM)) for one in route.mirrors]
    if route.mirror is not None and not wanted:
        old = PPM if route.mirror_percent is None else percent_share(route.mirror_percent)
        wanted.append((route.mirror, share(route.mirror_percentage, old)))
    for destination, part in wanted:
        to = place.backend(destination)
        if part and not to.status:
            yield Mirror(to, part)


def _cors(policy: CorsPolicy) -> Cors:
    old = (TextMatch(TextKind.PRESENT) if one == "*" else TextMatch(TextKind.EXACT, one) for one in policy.allow_origin)
    origins = tuple(_origin(text_match(one)) for one in policy.allow_origins) or tuple(old)
    return Cors(
        origins=origins,
        methods=policy.allow_methods,
        headers=policy.allow_headers,
        expose=policy.expose_headers,
        max_age_s=milliseconds(policy.max_age) // 1000 if policy.max_age else -1,
        credentials=policy.allow_credentials,
        forward_unmatched=policy.unmatched_preflights != "IGNORE",
    )


def _origin(match: TextMatch) -> TextMatch:
    return TextMatch(TextKind.PRESENT) if match == TextMatch(TextKind.EXACT, "*") else match
