"""Rules: which request or connection goes where, and what is done to it on the way."""

from __future__ import annotations

import enum

from meshcore.l7.match import PPM, HttpMatch, TextMatch, Wire
from meshcore.model import IpMatch


class HeaderOps(Wire, frozen=True):
    """Applied in the order remove, set, add. Names are lower case; values may hold Envoy's `%REQ(...)%` forms."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Backend(Wire, frozen=True):
    """One of several weighted destinations: the share is its weight over the sum of all.

    With `status` set the share cannot be sent anywhere and is answered with it: 500 for a reference that a route may
    not make, 503 for a host that does not exist. Otherwise `service` is the key of a `Destination`, and `port` one of
    its ports; a `subset` that the destination has not is answered with 503 too. A connection that would get a status is
    closed. `authority` overrides that of the rule.
    """

    service: str = ""
    port: int = 0
    subset: str = ""
    weight: int = 1
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    authority: str = ""
    status: int = 0


class RewriteKind(enum.IntEnum):
    """FULL replaces the path; PREFIX what the rule's path match covers of it (the first slash, if it has none); REGEX
    every match of `pattern`.
    """

    FULL = 0
    PREFIX = 1
    REGEX = 2


class PathRewrite(Wire, frozen=True):
    """The query stays. `value` is the new text, with `\\1` for the groups of a REGEX."""

    kind: RewriteKind
    value: str
    pattern: str = ""


class Forward(Wire, frozen=True, tag=1):
    """Send the request on. Without backends it is answered with 500."""

    backends: tuple[Backend, ...] = ()
    path: PathRewrite | None = None
    authority: str = ""


class Redirect(Wire, frozen=True, tag=2):
    """Answer with a Location. What is empty (`port`: 0) is kept from the request.

    A kept authority loses the port that is the default of the request's scheme if the scheme changes. A `port` that is
    the default of the answer's scheme is not written.
    """

    status: int = 301
    scheme: str = ""
    authority: str = ""
    port: int = 0
    path: PathRewrite | None = None


class DirectResponse(Wire, frozen=True, tag=3):
    status: int
    body: bytes = b""


class RetryOn(enum.IntFlag):
    """Causes of a retry, with Envoy's meanings."""

    HTTP_5XX = 1 << 0
    GATEWAY_ERROR = 1 << 1
    RESET = 1 << 2
    RESET_BEFORE_REQUEST = 1 << 3
    CONNECT_FAILURE = 1 << 4
    RETRIABLE_4XX = 1 << 5
    REFUSED_STREAM = 1 << 6
    RETRIABLE_STATUS_CODES = 1 << 7
    RETRIABLE_HEADERS = 1 << 8
    ENVOY_RATELIMITED = 1 << 9
    HTTP3_POST_CONNECT_FAILURE = 1 << 10
    GRPC_CANCELLED = 1 << 11
    GRPC_DEADLINE_EXCEEDED = 1 << 12
    GRPC_INTERNAL = 1 << 13
    GRPC_RESOURCE_EXHAUSTED = 1 << 14
    GRPC_UNAVAILABLE = 1 << 15


class Retry(Wire, frozen=True):
    """Up to `attempts` tries after the first. `try_timeout_ms` 0: what is left of the rule's timeout.

    The wait before try n is random below `backoff_base_ms * (2**n - 1)`, and at most `backoff_max_ms`.
    `other_hosts`: avoid hosts already tried, unless the destination hashes. `other_localities`: prefer another priority
    level as well.
    """

    attempts: int
    on: RetryOn
    statuses: tuple[int, ...] = ()
    try_timeout_ms: int = 0
    backoff_base_ms: int = 25
    backoff_max_ms: int = 250
    other_hosts: bool = True
    other_localities: bool = False


class Fault(Wire, frozen=True):
    """Shares are parts per million. The delay comes first. `grpc_status` -1: the abort is the HTTP `status`."""

    delay_ms: int = 0
    delay_share: int = 0
    abort_share: int = 0
    status: int = 0
    grpc_status: int = -1


class Mirror(Wire, frozen=True):
    """A copy of `share` parts per million of the requests; its answer is thrown away."""

    backend: Backend
    share: int = PPM


class Cors(Wire, frozen=True):
    """`max_age_s` -1: no Access-Control-Max-Age. `forward_unmatched`: a preflight of an unknown origin is forwarded.

    `*` in `methods`, `headers` or `expose` is any: written as it is, or with `credentials`, where that means nothing to
    browsers, as what the preflight asks for.
    """

    origins: tuple[TextMatch, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age_s: int = -1
    credentials: bool = False
    forward_unmatched: bool = True


class HttpRule(Wire, frozen=True):
    """The first rule that matches decides; `match` None is every request. If none matches, the answer is 404.

    `name` stands in access logs; `origin` is the object behind it, as `Kind/namespace/name`, empty for a default.
    `timeout_ms` is for the whole request with its retries; 0 is none. Without `retry` nothing is tried again.
    """

    name: str
    action: Forward | Redirect | DirectResponse
    match: HttpMatch | None = None
    origin: str = ""
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    timeout_ms: int = 0
    retry: Retry | None = None
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None


class StreamRule(Wire, frozen=True):
    """A TCP or TLS route: the first that matches decides; if none does, or without backends, the connection is closed.

    `sni` are names or `*.suffix` (any: matches without); `subnets` are of the address the client asked for.
    """

    name: str
    backends: tuple[Backend, ...]
    sni: tuple[str, ...] = ()
    subnets: tuple[IpMatch, ...] = ()
    origin: str = ""
