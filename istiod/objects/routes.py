"""The routes of gateway.networking.k8s.io."""

from __future__ import annotations

from typing import Any, TypeAlias

from istiod.objects.base import Meta, Object
from istiod.resources import GATEWAY_API


class ParentRef(Object, frozen=True):
    """An empty namespace is the route's; port 0 is any."""

    name: str = ""
    kind: str = "Gateway"
    group: str = GATEWAY_API
    namespace: str = ""
    section_name: str = ""
    port: int = 0


class RouteStatus(Object, frozen=True):
    """`parents` is as it was written: entries of other controllers are kept whole."""

    parents: tuple[dict[str, Any], ...] = ()


class BackendObject(Object, frozen=True):
    name: str = ""
    kind: str = "Service"
    group: str = ""
    namespace: str = ""
    port: int = 0


class ValueMatch(Object, frozen=True):
    """A header or a query parameter; `type` is Exact or RegularExpression."""

    name: str
    value: str = ""
    type: str = "Exact"


class HeaderValue(Object, frozen=True):
    name: str
    value: str = ""


class HeaderModifier(Object, frozen=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Object, frozen=True):
    """`type` is ReplaceFullPath or ReplacePrefixMatch."""

    type: str = ""
    replace_full_path: str = ""
    replace_prefix_match: str = ""


class RequestRedirect(Object, frozen=True):
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status_code: int = 302


class UrlRewrite(Object, frozen=True):
    hostname: str = ""
    path: PathModifier | None = None


class Fraction(Object, frozen=True):
    numerator: int
    denominator: int = 100


class RequestMirror(Object, frozen=True):
    backend_ref: BackendObject = BackendObject()
    percent: int | None = None
    fraction: Fraction | None = None


class Cors(Object, frozen=True):
    """`max_age` in seconds."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5


class RouteFilter(Object, frozen=True):
    type: str
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    request_mirror: RequestMirror | None = None
    cors: Cors | None = None


class BackendRef(BackendObject, frozen=True):
    weight: int = 1
    filters: tuple[RouteFilter, ...] = ()


class HTTPPathMatch(Object, frozen=True):
    """`type` is Exact, PathPrefix or RegularExpression."""

    type: str = "PathPrefix"
    value: str = "/"


class HTTPMatch(Object, frozen=True):
    path: HTTPPathMatch = HTTPPathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    method: str = ""


class HTTPTimeouts(Object, frozen=True):
    """Durations such as `1h30m` or `500ms`; 0s is none."""

    request: str = ""
    backend_request: str = ""


class HTTPRetry(Object, frozen=True):
    codes: tuple[int, ...] = ()
    attempts: int | None = None
    backoff: str = ""


class HTTPRule(Object, frozen=True):
    name: str = ""
    matches: tuple[HTTPMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: HTTPTimeouts = HTTPTimeouts()
    retry: HTTPRetry | None = None


class HTTPRouteSpec(Object, frozen=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRule, ...] = (HTTPRule(),)


class HTTPRoute(Object, frozen=True):
    metadata: Meta
    spec: HTTPRouteSpec = HTTPRouteSpec()
    status: RouteStatus = RouteStatus()


class GRPCMethodMatch(Object, frozen=True):
    """`type` is Exact or RegularExpression; an empty service or method is any."""

    type: str = "Exact"
    service: str = ""
    method: str = ""


class GRPCMatch(Object, frozen=True):
    method: GRPCMethodMatch | None = None
    headers: tuple[ValueMatch, ...] = ()


class GRPCRule(Object, frozen=True):
    name: str = ""
    matches: tuple[GRPCMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()


class GRPCRouteSpec(Object, frozen=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRule, ...] = (GRPCRule(),)


class GRPCRoute(Object, frozen=True):
    metadata: Meta
    spec: GRPCRouteSpec = GRPCRouteSpec()
    status: RouteStatus = RouteStatus()


class L4Rule(Object, frozen=True):
    """A rule of a TCPRoute or a TLSRoute."""

    name: str = ""
    backend_refs: tuple[BackendRef, ...] = ()


class TCPRouteSpec(Object, frozen=True):
    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[L4Rule, ...] = ()


class TCPRoute(Object, frozen=True):
    metadata: Meta
    spec: TCPRouteSpec = TCPRouteSpec()
    status: RouteStatus = RouteStatus()


class TLSRouteSpec(Object, frozen=True):
    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[L4Rule, ...] = ()


class TLSRoute(Object, frozen=True):
    metadata: Meta
    spec: TLSRouteSpec = TLSRouteSpec()
    status: RouteStatus = RouteStatus()


Route: TypeAlias = HTTPRoute | GRPCRoute | TCPRoute | TLSRoute
