"""VirtualService of networking.istio.io."""

from __future__ import annotations

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object


class StringMatch(Object, frozen=True):
    """One of the three, or none of them: any value."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class PortSelector(Object, frozen=True):
    number: int = 0


class Destination(Object, frozen=True):
    host: str = ""
    subset: str = ""
    port: PortSelector = PortSelector()


class HeaderOperations(Object, frozen=True):
    set: dict[str, str] = msgspec.field(default_factory=dict)
    add: dict[str, str] = msgspec.field(default_factory=dict)
    remove: tuple[str, ...] = ()


class Headers(Object, frozen=True):
    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class WeightedDestination(Object, frozen=True):
    """Of an HTTP, TCP or TLS route; only HTTP has headers."""

    destination: Destination = Destination()
    weight: int = 0
    headers: Headers = Headers()


class HttpMatchRequest(Object, frozen=True):
    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = msgspec.field(default_factory=dict)
    without_headers: dict[str, StringMatch] = msgspec.field(default_factory=dict)
    query_params: dict[str, StringMatch] = msgspec.field(default_factory=dict)
    ignore_uri_case: bool = False
    port: int = 0
    source_labels: dict[str, str] = msgspec.field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class RegexRewrite(Object, frozen=True):
    match: str = ""
    rewrite: str = ""


class HttpRewrite(Object, frozen=True):
    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HttpRedirect(Object, frozen=True):
    uri: str = ""
    prefix_rewrite: str = ""
    authority: str = ""
    scheme: str = ""
    port: int = 0
    derive_port: str = ""
    redirect_code: int = 301


class Body(Object, frozen=True):
    """`bytes` is base64."""

    string: str = ""
    bytes: str = ""


class HttpDirectResponse(Object, frozen=True):
    status: int = 200
    body: Body = Body()


class Delegate(Object, frozen=True):
    name: str = ""
    namespace: str = ""


class HttpRetry(Object, frozen=True):
    attempts: int = 0
    per_try_timeout: str = ""
    retry_on: str = ""
    backoff: str = ""
    retry_remote_localities: bool = False
    retry_ignore_previous_hosts: bool = True


class Percent(Object, frozen=True):
    value: float = 0.0


class FaultDelay(Object, frozen=True):
    fixed_delay: str = ""
    percentage: Percent | None = None
    percent: int = 0


class FaultAbort(Object, frozen=True):
    http_status: int = 0
    grpc_status: str = ""
    percentage: Percent | None = None


class HttpFault(Object, frozen=True):
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class MirrorDestination(Object, frozen=True):
    destination: Destination = Destination()
    percentage: Percent | None = None


class CorsPolicy(Object, frozen=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: str = ""
    allow_credentials: bool = False
    unmatched_preflights: str = "UNSPECIFIED"


class HttpRoute(Object, frozen=True):
    name: str = ""
    match: tuple[HttpMatchRequest, ...] = ()
    route: tuple[WeightedDestination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_response: HttpDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HttpRewrite | None = None
    timeout: str = ""
    retries: HttpRetry | None = None
    fault: HttpFault | None = None
    mirror: Destination | None = None
    mirror_percentage: Percent | None = None
    mirror_percent: int | None = None
    mirrors: tuple[MirrorDestination, ...] = ()
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class StreamMatch(Object, frozen=True):
    """Of a TCP route, or of a TLS route (which has `sni_hosts`)."""

    sni_hosts: tuple[str, ...] = ()
    destination_subnets: tuple[str, ...] = ()
    port: int = 0
    source_labels: dict[str, str] = msgspec.field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class StreamRoute(Object, frozen=True):
    match: tuple[StreamMatch, ...] = ()
    route: tuple[WeightedDestination, ...] = ()


class VirtualServiceSpec(Object, frozen=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HttpRoute, ...] = ()
    tls: tuple[StreamRoute, ...] = ()
    tcp: tuple[StreamRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class VirtualService(Object, frozen=True):
    metadata: Meta
    spec: VirtualServiceSpec = VirtualServiceSpec()
    status: ConditionedStatus = ConditionedStatus()
