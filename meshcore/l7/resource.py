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


class Policies(Wire, frozen=True):
    """What is checked before a request is routed. `authorizers` are those the CUSTOM policies name."""

    authorization: tuple[Authorization, ...] = ()
    jwt: tuple[JwtRule, ...] = ()
    authorizers: tuple[Authorizer, ...] = ()


class Waypoint(Wire, frozen=True):
    """One waypoint. The resource name is `namespace/name` of its Gateway.

    `services` are the keys of the services it serves, bound to it or as their canary (each has a `Service`);
    `for_services` and `for_workloads` say which traffic it takes. `policies` (of the Gateway or its class) hold
    for all of it, before those of a service. `telemetry` is for traffic to workloads; services bring their own.
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
    which service is meant.
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
    """How a listener ends TLS. `mesh`: with the mesh's own certificate. Versions are 10 to 13; 0 is the default."""

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

    TLS without `tls` is passed through by SNI. `bind` empty is every address. `auto_passthrough`: the SNI names the
    service (`outbound_.PORT_.SUBSET_.HOST`).
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


def gateway_key(namespace: str, name: str) -> str:
    """The resource name of an Istio Gateway; a Gateway of the Gateway API may have the same name beside it."""
    return f"networking.istio.io/{namespace}/{name}"
