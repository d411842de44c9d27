"""What xDS adds to the delta subscriptions of `meshcore.stream.delta`, and what Istio adds to xDS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from istiod.xds.index import Index
from meshcore.stream.delta import ServerType
from meshcore.stream.messages import WILDCARD, DeltaRequest, DeltaResponse, Resource

RESPONSE_BYTES: Final = 128 * 2**20
"""Of resources in one response. A proxy is ready after its first response, so the first holds everything; upstream's
ztunnel accepts messages of 200 MiB. The bytes are shared by all proxies and sent in pieces."""
RESPONSE_NAMES: Final = 10**6
NAMES_MAX: Final = 200_000
"""Names that one proxy may subscribe to one by one, those found on its behalf included."""


class XdsType(ServerType):
    """A subscription by names or to everything.

    On a first request by names, the versions held count as subscribed too, as with upstream; a name subscribed again
    is sent again.
    """

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url, part_bytes=RESPONSE_BYTES, part_names=RESPONSE_NAMES, names_max=NAMES_MAX)

    def request(self, message: DeltaRequest, store: Mapping[str, Resource]) -> bool:
        if self.opened:
            for name in message.subscribe:
                self.held.pop(name, None)
        elif not _wants_all(message):
            subscribe = (*message.subscribe, *message.initial_versions)
            message = msgspec.structs.replace(message, subscribe=subscribe)
        return super().request(message, store)


class OnDemand(XdsType):
    """Addresses by name: what is subscribed brings what belongs to it.

    A service, by its name or by a virtual IP, brings its workloads; an IP also brings the address under its own name;
    a node proxy (`node` not empty) has the workloads of its node. What was brought stays subscribed until it is gone.
    """

    def __init__(self, type_url: str, index: Index, node: str) -> None:
        super().__init__(type_url)
        self._index = index
        self._node = node
        self._asked: set[str] = set()

    def request(self, message: DeltaRequest, store: Mapping[str, Resource]) -> bool:
        first = not self.opened
        answered = super().request(message, store)
        if self.wildcard:
            return answered
        self._index.build()
        if first:
            self._asked = set(self.names)
        else:
            self._asked.update(message.subscribe)
            self._asked.difference_update(message.unsubscribe)
        if first or WILDCARD in message.unsubscribe:
            self.follow(self._index.on_node(self._node))
        for name in tuple(self.names) if first else message.subscribe:
            self._bring(name)
        return answered

    def changed(self, names: Iterable[str]) -> None:
        if not self.wildcard:
            names = frozenset(names)
            for name in names:
                if name in self.names or self._covers(name):
                    self._bring(name)
        super().changed(names)

    def touched(self, aliases: Iterable[str]) -> None:
        """What these aliases stand for changed. A wildcard subscriber hears it under the real name."""
        if not self.wildcard:
            super().changed(aliases)

    def next(self, store: Mapping[str, Resource]) -> DeltaResponse | None:
        response = super().next(store)
        if response is not None:
            self.names.difference_update(name for name in response.removed if name not in self._asked)
        return response

    def _covers(self, name: str) -> bool:
        """Something that is subscribed brings this address."""
        keys = self._index.keys(name)
        if self._node and keys.node == self._node:
            return True
        return not self.names.isdisjoint(keys.aliases) or not self.names.isdisjoint(keys.services)

    def _bring(self, name: str) -> None:
        """Subscribe to a name and to what belongs to it."""
        found = self._index.named(name)
        self.follow(found or {name})
        for service in (name, *found):
            self.follow(self._index.workloads_of(service))


def _wants_all(first: DeltaRequest) -> bool:
    if not first.subscribe and not first.unsubscribe:
        return True
    return WILDCARD in first.subscribe and WILDCARD not in first.unsubscribe
