"""What a gateway is told: its listeners with the rules of every route at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from istiod.objects import Gateway
from istiod.translate.gateway_api.attachment import AttachedRoute, attached_routes
from istiod.translate.gateway_api.backend_tls import backend_tls
from istiod.translate.gateway_api.classes import controller
from istiod.translate.gateway_api.filters import at_port
from istiod.translate.gateway_api.hostnames import owner, specificity
from istiod.translate.gateway_api.listeners import AUTO_PASSTHROUGH, LISTENER_PROTOCOL, ListenerInfo, listeners
from istiod.translate.gateway_api.references import Referrer, key_pairs
from istiod.translate.gateway_api.rules import RankedRule, route_rules
from istiod.translate.graph import View
from istiod.translate.l7.destination import destinations
from istiod.translate.l7.policies import gateway_client
from istiod.translate.l7.routes import named_services
from istiod.translate.statuses import Verdict
from istiod.translate.waypoints import EAST_WEST_CONTROLLER, GATEWAY_CONTROLLER
from meshcore import l7

CLIENT_CERTIFICATE: Final = "InvalidClientCertificateRef"
_HTTP_KINDS: Final = frozenset({"HTTPRoute", "GRPCRoute"})
_PROTOCOLS: Final = {
    "HTTP": l7.Protocol.HTTP,
    "HTTPS": l7.Protocol.HTTPS,
    "TLS": l7.Protocol.TLS,
    "TCP": l7.Protocol.TCP,
    "HBONE": l7.Protocol.HBONE,
}
_Routes: TypeAlias = dict[tuple[str, str, str, str], list[AttachedRoute]]
"""By owner, namespace, parent and listener."""


def gateway_config(view: View, namespace: str, name: str) -> l7.Gateway | None:
    """A gateway of the classes that are proxies of ours; None for others, and for waypoints.

    Listeners that are not programmed are left out. Policies and telemetry are those of another derivation.
    """
    if view.ask(controller, namespace, name) not in (GATEWAY_CONTROLLER, EAST_WEST_CONTROLLER):
        return None
    infos = [info for info in view.ask(listeners, namespace, name) if info.programmed.ok]
    routes: _Routes = {}
    for route in view.ask(attached_routes, namespace, name):
        one = route.attachment
        routes.setdefault((one.owner, one.namespace, one.parent, one.listener), []).append(route)
    found = []
    plain: dict[int, list[ListenerInfo]] = {}
    for info in infos:
        if info.spec.protocol == "HTTP":
            plain.setdefault(info.spec.port, []).append(info)
        elif info.spec.protocol in _PROTOCOLS:
            found.append(_listener(view, info, routes))
    for port, sharing in plain.items():
        hosts = _virtual_hosts(view, sharing, routes)
        found.append(l7.Listener(_title(sharing[0]), port, l7.Protocol.HTTP, http=hosts))
    found.sort(key=lambda one: (one.port, one.name))
    return l7.Gateway(name, namespace, tuple(found), _destinations(view, namespace, name, found))


def client_certificate(view: View, namespace: str, name: str) -> tuple[str, Verdict | None]:
    """The Secret (`namespace/name`) that a gateway shows to backends with TLS, and what is wrong with it."""
    gateway = view.get(Gateway, namespace, name)
    backend = gateway.spec.tls.backend if gateway is not None and gateway.spec.tls is not None else None
    if backend is None or backend.client_certificate_ref is None:
        return "", None
    found = key_pairs(view, Referrer("Gateway", namespace), (backend.client_certificate_ref,), CLIENT_CERTIFICATE)
    return (found.secrets[0] if found.secrets else ""), found.verdict


def _destinations(view: View, namespace: str, name: str, found: Iterable[l7.Listener]) -> tuple[l7.Destination, ...]:
    """Every service that the rules name, as the pods of the gateway use it."""
    keys: set[str] = set()
    for one in found:
        keys |= named_services(tuple(rule for host in one.http for rule in host.rules), one.streams)
    chosen = destinations(view, gateway_client(view, namespace, name), keys, backend_tls)
    secret, _ = view.ask(client_certificate, namespace, name)
    return tuple(_with_certificate(view, one, secret) for one in chosen) if secret else chosen


def _with_certificate(view: View, one: l7.Destination, secret: str) -> l7.Destination:
    """TLS that a BackendTLSPolicy asks for becomes mutual."""
    namespace, _, hostname = one.service.partition("/")
    policies = dict(one.port_policies)
    for number, _protocol in one.ports:
        tls = view.ask(backend_tls, namespace, hostname, number)
        if tls is not None:
            policy = policies.get(number, one.policy)
            policies[number] = replace(policy, tls=replace(tls, key=l7.KeyPair(secret)))
    return replace(one, port_policies=tuple(sorted(policies.items())))


def _listener(view: View, info: ListenerInfo, routes: _Routes) -> l7.Listener:
    """A listener that has a port, or a range of server names, for itself."""
    spec = info.spec
    common = l7.Listener(_title(info), spec.port, _PROTOCOLS[spec.protocol], hosts=(info.host,), tls=info.tls)
    if spec.protocol == "HTTPS":
        return replace(common, http=_virtual_hosts(view, [info], routes))
    if spec.protocol == "HBONE":
        tls = l7.ListenerTls(client=l7.ClientAuth.REQUIRED, mesh=True)
        return replace(common, tls=tls)
    options = spec.tls.options if spec.tls is not None else {}
    return replace(
        common,
        streams=tuple(_streams(view, info, routes)),
        auto_passthrough=options.get(LISTENER_PROTOCOL) == AUTO_PASSTHROUGH,
    )


def _title(info: ListenerInfo) -> str:
    """A set's listener may have the name of one of the gateway."""
    return info.spec.name if info.owner == "Gateway" else f"{info.namespace}/{info.parent}/{info.spec.name}"


def _at(info: ListenerInfo, routes: _Routes) -> Sequence[AttachedRoute]:
    return routes.get((info.owner, info.namespace, info.parent, info.spec.name), ())


def _virtual_hosts(view: View, infos: Sequence[ListenerInfo], routes: _Routes) -> tuple[l7.VirtualHost, ...]:
    """The hosts of listeners that share a port. A host belongs to the listener that names it most closely, even if
    that one has no route for it: then the answer is 404.
    """
    patterns = {info.host for info in infos}
    hosts: dict[str, dict[tuple[str, str, str], None]] = {info.host: {} for info in infos if len(infos) > 1}
    for info in infos:
        for kind, namespace, name, attachment in _at(info, routes):
            if kind not in _HTTP_KINDS:
                continue
            for host in attachment.hosts:
                if owner(patterns, host) == info.host:
                    hosts.setdefault(host, {})[kind, namespace, name] = None
    grouped: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for host, chosen in hosts.items():
        grouped.setdefault(tuple(sorted(chosen)), []).append(host)
    port = infos[0].spec.port
    return tuple(
        sorted(
            (l7.VirtualHost(tuple(sorted(names)), ordered(view, keys, port)) for keys, names in grouped.items()),
            key=lambda one: one.hosts,
        )
    )


def ordered(view: View, keys: Iterable[tuple[str, str, str]], port: int) -> tuple[l7.HttpRule, ...]:
    """The HTTP rules of some routes (kind, namespace, name) by their precedence, at a port."""
    ranked: list[RankedRule] = []
    for key in keys:
        ranked += view.ask(route_rules, *key).http
    ranked.sort(key=lambda one: one.rank)
    return tuple(at_port(one.rule, port) for one in ranked)


def _streams(view: View, info: ListenerInfo, routes: _Routes) -> Iterator[l7.StreamRule]:
    """Server names that are told more closely first, then the older route; routes without names last."""
    found = []
    for kind, namespace, name, attachment in _at(info, routes):
        for one in view.ask(route_rules, kind, namespace, name).streams:
            if kind == "TCPRoute":
                found.append(((2, 0, "", *one.rank), one.rule))
                continue
            for host in attachment.hosts:
                exact, length = specificity(host)
                rule = replace(one.rule, sni=(host,) if host != "*" else ())
                found.append(((1 - exact, -length, host, *one.rank), rule))
    return (rule for _, rule in sorted(found, key=lambda pair: pair[0]))
