"""Debug pages about connected proxies: what each subscribes to, and whether it has it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from istiod.admin import Answer, Request, Route, json, text
from istiod.parts import Parts
from istiod.proxy import REFUSAL_CHARS_MAX, Proxy
from istiod.readable import each, readable
from istiod.typenames import short_name
from meshcore.errors import ConfigError
from meshcore.model import ADDRESS_TYPE
from meshcore.stream.delta import ServerType

Json: TypeAlias = dict[str, Any]

PROXY_KEY: Final = "proxyID"
NAMES_MAX: Final = 1000
"""Names of one subscription that a page shows."""


def state_of(subscription: ServerType) -> str:
    """SYNCED, STALE, NOT SENT or ERROR, as `istioctl proxy-status` has them."""
    if subscription.rejected:
        return "ERROR"
    if subscription.waiting:
        return "STALE"
    if not subscription.sent:
        return "NOT SENT"
    return "STALE" if subscription.behind else "SYNCED"


def short_id(node_id: str) -> str:
    """`NAME.NAMESPACE` of `TYPE~IP~NAME.NAMESPACE~DOMAIN`."""
    parts = node_id.split("~")
    return parts[2] if len(parts) == 4 else node_id


def connection_id(proxy: Proxy) -> str:
    """One connection of a proxy, which may have several for a moment."""
    return f"{short_id(proxy.node.id) if proxy.node is not None else '?'}-{proxy.number}"


class Subscribers:
    """Routes by path. `proxyID` is a node id, its `NAME.NAMESPACE`, or the id of one connection."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._istiod = socket.gethostname()

    def routes(self) -> Mapping[str, Route]:
        return {
            "/debug/syncz": self._syncz,
            "/debug/connections": self._connections,
            "/debug/adsz": self._adsz,
            "/debug/resourcesz": self._resourcesz,
            "/debug/instancesz": self._instancesz,
            "/debug/force_disconnect": self._force_disconnect,
        }

    def chosen(self, request: Request) -> list[Proxy]:
        """The proxies that `proxyID` names, all of them without it; raises ConfigError if it names none."""
        wanted = request.query.get(PROXY_KEY)
        proxies = list(self._parts.proxies.values())
        if wanted is None:
            return proxies
        found = [proxy for proxy in proxies if wanted in _names(proxy)]
        if not found:
            raise ConfigError(f"{PROXY_KEY}: no proxy {wanted[:200]!r} is connected to this istiod")
        return found

    async def _syncz(self, request: Request) -> Answer:
        return json(await each(self.chosen(request), self._sync))

    def _sync(self, proxy: Proxy) -> Json:
        node = proxy.node
        return {
            **_summary(proxy),
            "proxy": node.id if node is not None else "",
            "cluster": (node.cluster_id if node is not None else "") or self._parts.settings.cluster_id,
            "istiod": self._istiod,
            "version": proxy.version,
            "types": {url: _type(proxy, url) for url in tuple(proxy.types)},
        }

    async def _connections(self, request: Request) -> Answer:
        found = await each(self.chosen(request), _summary)
        return json({"totalClients": len(found), "clients": found})

    async def _adsz(self, request: Request) -> Answer:
        def client(proxy: Proxy) -> Json:
            return {**_summary(proxy), "watches": {url: _watch(state) for url, state in tuple(proxy.types.items())}}

        found = await each(self.chosen(request), client)
        return json({"totalClients": len(found), "clients": found})

    async def _resourcesz(self, request: Request) -> Answer:
        def resources(proxy: Proxy) -> Json:
            types = tuple(proxy.types.items())
            return {connection_id(proxy): {url: sorted(state.held)[:NAMES_MAX] for url, state in types}}

        return json({key: value for one in await each(self.chosen(request), resources) for key, value in one.items()})

    def _instancesz(self, request: Request) -> Answer:
        addresses = self._parts.published.objects(ADDRESS_TYPE)
        found = {}
        for proxy in self.chosen(request):
            name, _, namespace = short_id(proxy.node.id if proxy.node is not None else "").rpartition(".")
            own = addresses.get(f"{self._parts.settings.cluster_id}//Pod/{namespace}/{name}")
            services = own.workload.services if own is not None and own.workload is not None else {}
            found[connection_id(proxy)] = readable(services)
        return json(found)

    def _force_disconnect(self, request: Request) -> Answer:
        if request.method != "GET":
            return text("only GET disconnects\n", 405)
        if PROXY_KEY not in request.query:
            raise ConfigError(f"say which one: /debug/force_disconnect?{PROXY_KEY}=NAME.NAMESPACE")
        found = self.chosen(request)
        for proxy in found:
            proxy.finish()
        return text("".join(f"disconnected {connection_id(proxy)}\n" for proxy in found))


def _names(proxy: Proxy) -> tuple[str, ...]:
    node_id = proxy.node.id if proxy.node is not None else ""
    return node_id, short_id(node_id), connection_id(proxy)


def _summary(proxy: Proxy) -> Json:
    return {
        "connectionId": connection_id(proxy),
        "connectedAt": proxy.since,
        "address": proxy.address,
        "identity": str(proxy.caller.identity),
        "node": proxy.caller.node,
    }


def _type(proxy: Proxy, url: str) -> Json:
    state = proxy.types[url]
    return {
        "name": short_name(url),
        "state": state_of(state),
        "sent": state.sent,
        "acked": state.acked,
        "held": len(state.held),
        "rejected": state.rejected[:REFUSAL_CHARS_MAX],
        "lastRejected": proxy.last_refusals.get(url, ""),
    }


def _watch(state: ServerType) -> list[str]:
    return (["*"] if state.wildcard else []) + sorted(state.names)[:NAMES_MAX]
