"""The resources: a waypoint, a service behind one, a gateway."""

from __future__ import annotations

import enum

from meshcore.l7.destination import Destination, KeyPair, Protocol, Trust
from meshcore.l7.match import Wire
from meshcore.l7.policy import Authorization, Authorizer, JwtRule
from meshcore.l7.route import HttpRule, StreamRule
from meshcore.l7.telemetry import Telemetry

WAYPOINT_TYPE = "type.googleapis.com/ambient.l7.Waypoint"
SERVICE_TYPE = "type.googleapis.com/ambient.l7.Service"
GATEWAY_TYPE = "type.googleapis.com/ambient.l7.Gateway"


class PathNormalization(enum.IntEnum):
    """What is done to a path before rules and policies look at it; each does what those before it do.

    BASE resolves `.` and `..` and turns backslashes; DECODE_AND_MERGE_SLASHES decodes `%2F` and `%5C`, then merges.
    """

    NONE = 0
    BASE = 1
    MERGE_SLASHES = 2
    DECODE_AND_MERGE_SLASHES = 3


class ClientCertificateHeader(enum.IntEnum):
    """What a gateway does with X-Forwarded-Client-Cert, as Envoy's `forward_client_cert_details`."""

    SANITIZE = 0
    FORWARD_ONLY = 1
    APPEND_FORWARD = 2
    SANITIZE_SET = 3
    ALWAYS_FORWARD_ONLY = 4


class HttpOptions(Wire, frozen=True):
    """How requests are read. With `trusted_proxies` before a gateway the client (REMOTE_IP) is that entry of
    X-Forwarded-For, counted from its end; with none of them it is the direct peer.
    """

    normalization: PathNormalization = PathNormalization.BASE
    trusted_proxies: int = 0
    client_certificate: ClientCertificateHeader = ClientCertificateHeader.SANITIZE_SET


class Policies(Wire, frozen=True):
    """What is checked before a request is routed. `authorizers` are those the CUSTOM policies name.

    Policies from several places are one set: any DENY denies, any ALLOW suffices, and a token that satisfies one rule
    may come from any. A request without token passes `jwt`; one with a token that no rule verifies is answered with
    401. A preflight of CORS bypasses `jwt`.
    """

    authorization: tuple[Authorization, ...] = ()
    jwt: tuple[JwtRule, ...] = ()
    authorizers: tuple[Authorizer, ...] = ()


class Waypoint(Wire, frozen=True):
    """One waypoint. The resource name is `namespace/name` of its Gateway.

    `services` are the keys of the services it serves, bound to it or as their canary (each has a `Service`);
    `for_services` and `for_workloads` say which traffic it takes. `policies` (of the Gateway or its class) hold
    for all of it: together with those of the service, as one set. `telemetry` is for traffic to workloads; services
    bring their own.
    `client_header`: add the client's identity to X-Forwarded-Client-Cert. `destinations` are those of authorizers and
    of telemetry.
    """

    name: str
    namespace: str
    for_services: bool = True
    for_workloads: bool = False
    services: tuple[str, ...] = ()
    policies: Policies = Policies()
    telemetry: Telemetry = Telemetry()
    client_header: bool = False
    destinations: tuple[Destination, ...] = ()
    http: HttpOptions = HttpOptions()


class ServicePort(Wire, frozen=True):
    """`http` rules where the protocol has requests, `streams` where it may have none; AUTO has both."""

    number: int
    protocol: Protocol
    http: tuple[HttpRule, ...] = ()
    streams: tuple[StreamRule, ...] = ()


class Service(Wire, frozen=True):
    """What a waypoint does with traffic to one service. The resource name is `namespace/hostname`.

    `waypoint` is the resource name of the `Waypoint` it is bound to; `destinations` holds every service that a rule,
    mirror or provider names, itself included. The authority of a request chooses nothing: its address already said
    which service is meant. Only where that is a wildcard (`DYNAMIC_DNS`) the authority or SNI must be one that the
    hostname covers: another is answered with 404, or closed, and never resolved.
    """

    namespace: str
    hostname: str
    waypoint: str
    ports: tuple[ServicePort, ...] = ()
    destinations: tuple[Destination, ...] = ()
    policies: Policies = Policies()
    telemetry: Telemetry = Telemetry()


class ClientAuth(enum.IntEnum):
    """Of a TLS listener: no client certificate, a valid one if any, a valid one, or any at all (not verified)."""

    NONE = 0
    OPTIONAL = 1
    REQUIRED = 2
    INSECURE_FALLBACK = 3


class ListenerTls(Wire, frozen=True):
    """How a listener ends TLS. `mesh`: with the mesh's own certificate and authorities, `keys` and `trust` are unused.
    Otherwise without usable `keys` no handshake succeeds, and without `trust` no client certificate is valid.

    `names` and hashes: a client's certificate must have one of each that is given. Versions are 10 to 13; 0 is the
    default. `ciphers` by their OpenSSL names; unknown ones are passed over.
    """

    keys: tuple[KeyPair, ...] = ()
    client: ClientAuth = ClientAuth.NONE
    trust: Trust | None = None
    names: tuple[str, ...] = ()
    spki_hashes: tuple[str, ...] = ()
    certificate_hashes: tuple[str, ...] = ()
    min_version: int = 12
    max_version: int = 0
    ciphers: tuple[str, ...] = ()
    mesh: bool = False


class VirtualHost(Wire, frozen=True):
    """Rules for some hosts: a name, `*.suffix` or `*`; the longest match wins, a port in the request is ignored.

    `https_redirect`: requests without TLS are answered with 301 to https.
    """

    hosts: tuple[str, ...]
    rules: tuple[HttpRule, ...] = ()
    https_redirect: bool = False


class Listener(Wire, frozen=True):
    """One port, or that part of it whose SNI is among `hosts`. HTTP without TLS: one listener holds the whole port.

    TLS without `tls` is passed through by SNI; HTTPS always has it. `bind` empty is every address. `auto_passthrough`:
    the SNI names the service (`outbound_.PORT_.SUBSET_.HOST`). A host that no `VirtualHost` covers is answered with
    404. `proxy_protocol`: connections begin with the PROXY protocol, which says who the client is.
    """

    name: str
    port: int
    protocol: Protocol
    hosts: tuple[str, ...] = ("*",)
    tls: ListenerTls | None = None
    http: tuple[VirtualHost, ...] = ()
    streams: tuple[StreamRule, ...] = ()
    bind: str = ""
    proxy_protocol: bool = False
    auto_passthrough: bool = False


class Gateway(Wire, frozen=True):
    """One gateway. The resource name is `namespace/name`; that of an Istio Gateway is `gateway_key`.

    A proxy serves an Istio Gateway if its own labels hold all of `selector`; a Gateway API one if it bears its name.
    """

    name: str
    namespace: str
    listeners: tuple[Listener, ...] = ()
    destinations: tuple[Destination, ...] = ()
    policies: Policies = Policies()
    telemetry: Telemetry = Telemetry()
    selector: dict[str, str] | None = None
    http: HttpOptions = HttpOptions()


def gateway_key(namespace: str, name: str) -> str:
    """The resource name of an Istio Gateway; a Gateway of the Gateway API may have the same name beside it."""
    return f"networking.istio.io/{namespace}/{name}"
