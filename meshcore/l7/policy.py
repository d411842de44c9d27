"""Policies: who may do what, and which tokens prove who asks."""

from __future__ import annotations

import enum

from meshcore.l7.match import TextMatch, Wire
from meshcore.l7.route import Backend
from meshcore.model import IpMatch


class PolicyAction(enum.IntEnum):
    """Evaluated in the order CUSTOM, DENY, ALLOW; AUDIT only marks."""

    ALLOW = 0
    DENY = 1
    AUDIT = 2
    CUSTOM = 3


class Attribute(enum.IntEnum):
    """What a condition looks at. `path` of the condition names the header, the claim or the metadata.

    The source is who holds the client certificate of the tunnel. DESTINATION_IP and DESTINATION_PORT are what the
    client asked for: those of the service where it is reached by its address, those of the pod otherwise. SOURCE_IP is
    the direct peer, REMOTE_IP the client behind trusted proxies.
    """

    SOURCE_PRINCIPAL = 0
    SOURCE_NAMESPACE = 1
    SOURCE_SERVICE_ACCOUNT = 2
    SOURCE_TRUST_DOMAIN = 3
    SOURCE_IP = 4
    REMOTE_IP = 5
    DESTINATION_IP = 6
    DESTINATION_PORT = 7
    SNI = 8
    METADATA = 9
    HOST = 16
    METHOD = 17
    PATH = 18
    HEADER = 19
    REQUEST_PRINCIPAL = 20
    AUDIENCE = 21
    PRESENTER = 22
    CLAIM = 23

    @property
    def http(self) -> bool:
        """Only a request has it, a connection has not."""
        return self >= Attribute.HOST


class Condition(Wire, frozen=True):
    """Any value suffices; `negated`: none may match. At most one of `texts`, `ips` and `ports` is filled;
    without any value nothing matches.

    A principal is compared without `spiffe://`, a service account as `namespace/name`.
    """

    attribute: Attribute
    path: tuple[str, ...] = ()
    negated: bool = False
    texts: tuple[TextMatch, ...] = ()
    ips: tuple[IpMatch, ...] = ()
    ports: tuple[int, ...] = ()


class Clause(Wire, frozen=True):
    """Any alternative suffices; all conditions of an alternative must hold."""

    alternatives: tuple[tuple[Condition, ...], ...]


class Rule(Wire, frozen=True):
    """All clauses must hold; without clauses it matches everything."""

    clauses: tuple[Clause, ...] = ()


class Authorization(Wire, frozen=True):
    """An AuthorizationPolicy: it matches if any rule does. `name` is `namespace/name`.

    An ALLOW policy without rules still counts as one, and so denies. `stream_rules` replace `rules` for connections
    that are no HTTP, where they differ: attributes of requests are not there. `authorizer` names that of a CUSTOM one.
    """

    name: str
    action: PolicyAction
    rules: tuple[Rule, ...] = ()
    stream_rules: tuple[Rule, ...] | None = None
    authorizer: str = ""
    dry_run: bool = False


class AuthorizerKind(enum.IntEnum):
    """MISSING: no such provider; everything that its policies match is denied."""

    MISSING = 0
    HTTP = 1
    GRPC = 2


class Authorizer(Wire, frozen=True):
    """An external authorizer: Envoy's `ext_authz`. Header names are lower case, patterns exact, prefix or suffix."""

    name: str
    kind: AuthorizerKind = AuthorizerKind.MISSING
    backend: Backend = Backend()
    timeout_ms: int = 600_000
    fail_open: bool = False
    status_on_error: int = 403
    path_prefix: str = ""
    check_headers: tuple[TextMatch, ...] = ()
    add_headers: tuple[tuple[str, str], ...] = ()
    max_body: int = 0
    partial_body: bool = False
    body_as_bytes: bool = False
    upstream_headers: tuple[TextMatch, ...] = ()
    denied_headers: tuple[TextMatch, ...] = ()
    allowed_headers: tuple[TextMatch, ...] = ()
    clear_route: bool = False


class JwtRule(Wire, frozen=True):
    """One issuer of a RequestAuthentication; an empty one is any issuer whose tokens the keys verify. `keys` is a JWKS;
    if it is empty, it is fetched from `keys_url`, or else from where OpenID discovery at the issuer says. Without keys
    no token of the rule is valid.

    `from_headers` are (name, prefix). `space_delimited` are claims whose text is a list.
    """

    issuer: str
    audiences: tuple[str, ...] = ()
    keys: str = ""
    keys_url: str = ""
    from_headers: tuple[tuple[str, str], ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    payload_header: str = ""
    claim_headers: tuple[tuple[str, str], ...] = ()
    forward_token: bool = False
    timeout_ms: int = 5_000
    space_delimited: tuple[str, ...] = ("scope", "permission")
