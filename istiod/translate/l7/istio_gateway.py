"""Gateways: those of Istio's own API with the VirtualServices bound to them, and policies for those of either API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from istiod.objects import Gateway, IstioGateway, VirtualService
from istiod.objects.istio_gateway import Server
from istiod.translate.graph import Family, View
from istiod.translate.l7.catalog import full_hostname
from istiod.translate.l7.destination import BackendTls, destinations
from istiod.translate.l7.destination_rule import age
from istiod.translate.l7.http_match import is_catch_all
from istiod.translate.l7.indexes import RULES_BY_GATEWAY
from istiod.translate.l7.mesh import exported, http_options, mesh_l7, with_proxy_protocol
from istiod.translate.l7.pods import pods_of_istio_gateway
from istiod.translate.l7.policies import gateway_client, gateway_policies, policies, referred
from istiod.translate.l7.routes import Client, named_services
from istiod.translate.l7.server_tls import listener_tls
from istiod.translate.l7.targets import of_pods
from istiod.translate.l7.telemetry import telemetry
from istiod.translate.l7.virtual_service import covers, http_rules, stream_rules
from meshcore import l7

ApiGateway: TypeAlias = Callable[[View, str, str], l7.Gateway | None]
"""A gateway of the Gateway API without policies and telemetry, by namespace and name."""

_PROTOCOLS: Final = {
    "HTTP": l7.Protocol.HTTP,
    "HTTP2": l7.Protocol.HTTP2,
    "GRPC": l7.Protocol.GRPC,
    "GRPC-WEB": l7.Protocol.GRPC_WEB,
    "HTTPS": l7.Protocol.HTTPS,
    "TLS": l7.Protocol.TLS,
}
_PLAIN: Final = (l7.Protocol.HTTP, l7.Protocol.HTTP2, l7.Protocol.GRPC, l7.Protocol.GRPC_WEB)
_OPAQUE: Final = ("PASSTHROUGH", "AUTO_PASSTHROUGH")


def istio_gateway(view: View, namespace: str, name: str, backend_tls: BackendTls) -> l7.Gateway | None:
    """An Istio Gateway. Rules, policies and Secrets are looked for with its pods, which may be in another namespace."""
    gateway = view.get(IstioGateway, namespace, name)
    if gateway is None:
        return None
    pods = view.ask(pods_of_istio_gateway, namespace, name)
    client = Client(*pods[0], (namespace, name))
    rules = _bound(view, client)
    listeners = tuple(_listeners(view, client, gateway.spec.servers, rules))
    checked = policies(view, of_pods(view, pods), client)
    observed = telemetry(view, client, "")
    named = {key for one in listeners for key in _named(one)} | referred(checked, observed)
    return l7.Gateway(
        name=name,
        namespace=namespace,
        listeners=with_proxy_protocol(view, listeners),
        destinations=destinations(view, client, named, backend_tls),
        policies=checked,
        telemetry=observed,
        selector=gateway.spec.selector,
        http=http_options(view, gateway=True),
    )


def api_gateway(
    view: View, namespace: str, name: str, listeners: ApiGateway, backend_tls: BackendTls
) -> l7.Gateway | None:
    """A gateway of the Gateway API with its policies and telemetry."""
    found = view.ask(listeners, namespace, name)
    if found is None:
        return None
    client = gateway_client(view, namespace, name)
    checked = gateway_policies(view, namespace, name)
    observed = telemetry(view, client, name)
    known = {one.service for one in found.destinations}
    more = destinations(view, client, referred(checked, observed) - known, backend_tls)
    both = tuple(sorted((*found.destinations, *more), key=lambda one: one.service))
    return replace(
        found,
        listeners=with_proxy_protocol(view, found.listeners),
        destinations=both,
        policies=checked,
        telemetry=observed,
        http=http_options(view, gateway=True),
    )


def families(listeners: ApiGateway | None, backend_tls: BackendTls) -> tuple[Family, ...]:
    """The gateways of both APIs; `listeners` None: of Istio's only."""

    def l7_istio_gateway(view: View, namespace: str, name: str) -> Mapping[str, Any]:
        found = istio_gateway(view, namespace, name, backend_tls)
        return {l7.gateway_key(namespace, name): found} if found is not None else {}

    istio = Family(l7.GATEWAY_TYPE, (IstioGateway,), l7_istio_gateway)
    if listeners is None:
        return (istio,)
    known: ApiGateway = listeners

    def l7_api_gateway(view: View, namespace: str, name: str) -> Mapping[str, Any]:
        found = api_gateway(view, namespace, name, known, backend_tls)
        return {f"{namespace}/{name}": found} if found is not None else {}

    return (istio, Family(l7.GATEWAY_TYPE, (Gateway,), l7_api_gateway))


class _Bound(NamedTuple):
    """A VirtualService at a gateway, with its hosts in full."""

    rule: VirtualService
    hosts: tuple[str, ...]


class _Rules:
    """The VirtualServices of a gateway, the oldest first, found by host: a gateway may have a thousand of each."""

    def __init__(self, bound: Sequence[_Bound]) -> None:
        self._all = bound
        self._by_host: dict[str, list[int]] = {}
        self._wild: list[int] = []
        for number, one in enumerate(bound):
            for host in one.hosts:
                numbers = self._wild if host.startswith("*") else self._by_host.setdefault(host, [])
                numbers.append(number)

    def near(self, server: Server) -> Sequence[_Bound]:
        """All that may have a host in common with a server."""
        patterns = [_hostname(text) for text in server.hosts]
        if any(pattern.startswith("*") for pattern in patterns):
            return self._all
        numbers = {number for pattern in patterns for number in self._by_host.get(pattern, ())}
        return [self._all[number] for number in sorted(numbers.union(self._wild))]


def _bound(view: View, client: Client) -> _Rules:
    """The VirtualServices that name the gateway."""
    default = view.ask(mesh_l7).default_virtual_service_export_to
    found = view.find(RULES_BY_GATEWAY, client.gateway or ("", ""))
    seen = [one for one in found if exported(one.spec.export_to, default, one.metadata.namespace, client.namespace)]
    return _Rules(
        [
            _Bound(one, tuple(full_hostname(view, host, one.metadata.namespace) for host in one.spec.hosts))
            for one in sorted(seen, key=lambda one: age(one.metadata))
        ]
    )


def _listeners(view: View, client: Client, servers: tuple[Server, ...], rules: _Rules) -> Iterator[l7.Listener]:
    """Servers without TLS that share a port and address are one listener; the others have a range of SNI each. One that
    should have TLS and does not say how is left out.
    """
    plain: dict[tuple[int, str], list[Server]] = {}
    for server in servers:
        protocol = _protocol(server)
        if protocol in _PLAIN:
            plain.setdefault((server.port.number, server.bind), []).append(server)
        elif server.tls is not None or protocol is l7.Protocol.TCP:
            yield _own_listener(view, client, server, protocol, rules)
    for (port, bind), sharing in plain.items():
        hosts = _virtual_hosts(view, client, sharing, rules)
        first = sharing[0]
        yield l7.Listener(_title(first), port, _protocol(first), http=hosts, bind=bind)


def _own_listener(view: View, client: Client, server: Server, protocol: l7.Protocol, rules: _Rules) -> l7.Listener:
    tls = server.tls if protocol is not l7.Protocol.TCP else None
    opaque = tls is not None and tls.mode in _OPAQUE
    if opaque:
        protocol = l7.Protocol.TLS
    hosts = tuple(dict.fromkeys(_hostname(text) for text in server.hosts))
    streams: tuple[l7.StreamRule, ...] = ()
    if protocol is not l7.Protocol.HTTPS and not (tls is not None and tls.mode == "AUTO_PASSTHROUGH"):
        streams = tuple(
            rule
            for one in rules.near(server)
            if any(_joint(client, server, one))
            for rule in stream_rules(view, one.rule, client, server.port.number, hosts=hosts if opaque else ())
        )
    http = _virtual_hosts(view, client, [server], rules, tls=True) if protocol is l7.Protocol.HTTPS else ()
    return l7.Listener(
        name=_title(server),
        port=server.port.number,
        protocol=protocol,
        hosts=hosts or ("*",),
        tls=listener_tls(tls, client.namespace) if tls is not None and not opaque else None,
        http=http,
        streams=streams,
        bind=server.bind,
        auto_passthrough=tls is not None and tls.mode == "AUTO_PASSTHROUGH",
    )


def _virtual_hosts(
    view: View, client: Client, servers: list[Server], rules: _Rules, *, tls: bool = False
) -> tuple[l7.VirtualHost, ...]:
    """The rules of each host, from all VirtualServices that have it; those that always hold come last."""
    chosen: dict[str, dict[tuple[str, str], VirtualService]] = {}
    redirected: set[str] = set()
    for server in servers:
        redirects = server.tls is not None and server.tls.https_redirect
        for one in rules.near(server):
            meta = one.rule.metadata
            for host in _joint(client, server, one):
                chosen.setdefault(host, {})[meta.namespace, meta.name] = one.rule
                if redirects:
                    redirected.add(host)
        if redirects:
            for host in map(_hostname, server.hosts):
                chosen.setdefault(host, {})
                redirected.add(host)
    port = servers[0].port.number
    found = []
    for host, bound in sorted(chosen.items()):
        every = [rule for one in bound.values() for rule in http_rules(view, one, client, port, tls=tls)]
        every.sort(key=lambda rule: is_catch_all(rule.match))
        last = next((place for place, rule in enumerate(every) if is_catch_all(rule.match)), len(every))
        if every or host in redirected:
            found.append(l7.VirtualHost((host,), tuple(every[: last + 1]), host in redirected))
    return tuple(found)


def _joint(client: Client, server: Server, bound: _Bound) -> Iterator[str]:
    """The hosts that a server and a VirtualService have in common: the narrower of each pair."""
    home = client.gateway[0] if client.gateway is not None else client.namespace
    for text in server.hosts:
        space, pattern = text.rpartition("/")[0], _hostname(text)
        space = home if space == "." else space
        if space not in ("", "*", bound.rule.metadata.namespace):
            continue
        for host in bound.hosts:
            if covers(pattern, host):
                yield host
            elif covers(host, pattern):
                yield pattern


def _hostname(text: str) -> str:
    return text.rpartition("/")[2].lower()


def _title(server: Server) -> str:
    return server.name or server.port.name or str(server.port.number)


def _protocol(server: Server) -> l7.Protocol:
    return _PROTOCOLS.get(server.port.protocol.upper(), l7.Protocol.TCP)


def _named(listener: l7.Listener) -> set[str]:
    return named_services(tuple(rule for host in listener.http for rule in host.rules), listener.streams)
