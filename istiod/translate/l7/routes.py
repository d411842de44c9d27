"""What the translations of VirtualService and of the Gateway API have in common: for whom, and with what result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from istiod.translate.graph import View
from istiod.translate.l7.catalog import ServiceInfo, full_hostname, locate
from meshcore.l7 import Backend, Forward, HttpRule, StreamRule

UNKNOWN_SERVICE: Final = 503
"""Istio's answer for the share of a destination that does not exist."""


class PortRoutes(NamedTuple):
    """The rules for one port of a service, in the order in which they are tried."""

    http: tuple[HttpRule, ...] = ()
    streams: tuple[StreamRule, ...] = ()


RouteTables: TypeAlias = Mapping[int, PortRoutes]
"""By port of the service. A port that is not there has no routes; one with routes answers 404 if none matches."""


class Client(msgspec.Struct, frozen=True):
    """The proxy that is to follow the rules, as far as rules and policies look at it.

    `gateway` is (namespace, name) of an Istio Gateway, None at a waypoint; `labels` are what is known of its pods'.
    """

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    gateway: tuple[str, str] | None = None

    @property
    def waypoint(self) -> bool:
        return self.gateway is None


def backend(
    view: View, host: str, subset: str, port: int, written_in: str, client: Client, listener_port: int
) -> Backend:
    """A destination by the name it is written with; its share is answered with 503 if there is no such service."""
    return backend_of(
        view.ask(locate, full_hostname(view, host, written_in), client.namespace), subset, port, listener_port
    )


def backend_of(found: ServiceInfo | None, subset: str, port: int, listener_port: int) -> Backend:
    """A service that was found or not."""
    number = found.port(port, listener_port) if found is not None else 0
    if found is None or not number:
        return Backend(status=UNKNOWN_SERVICE)
    return Backend(found.key, number, subset)


def named_services(http: tuple[HttpRule, ...], streams: tuple[StreamRule, ...]) -> set[str]:
    """The keys of the services that rules send to."""
    found: set[str] = set()
    for rule in http:
        if isinstance(rule.action, Forward):
            found.update(one.service for one in rule.action.backends)
        found.update(mirror.backend.service for mirror in rule.mirrors)
    for stream in streams:
        found.update(one.service for one in stream.backends)
    found.discard("")
    return found
