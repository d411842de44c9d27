"""Which types are served over xDS, and where their resources come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from istiod.push import Published
from istiod.xds.index import Index
from istiod.xds.store import WORKLOAD_TYPE, Encoded
from istiod.xds.subscription import OnDemand, XdsType
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream.delta import ServerType
from meshcore.stream.grpc import Unimplemented
from meshcore.stream.messages import Node, Resource

ZTUNNEL_ROLE: Final = "ztunnel~"


class Subscription(Protocol):
    """One type on one stream."""

    @property
    def state(self) -> ServerType: ...

    @property
    def store(self) -> Mapping[str, Resource]:
        """What may be sent; bodies are those of `istiod.xds.discovery.entry`."""

    def changed(self, source: str, names: frozenset[str], aliases: frozenset[str]) -> bool:
        """Published objects of `source` changed; True if that may concern this proxy."""

    async def prepare(self) -> None:
        """Called before a response is made, to do slowly what would hold up others."""


Generator = Callable[[Node], Subscription]
Listener = Callable[[str, frozenset[str], frozenset[str]], None]


class Shared:
    """A subscription to resources that are the same for every proxy."""

    def __init__(self, store: Encoded, state: XdsType) -> None:
        self.store = store
        self.state = state

    def changed(self, source: str, names: frozenset[str], aliases: frozenset[str]) -> bool:
        if source != self.store.source:
            return False
        self.state.changed(names)
        if aliases and isinstance(self.state, OnDemand):
            self.state.touched(aliases)
        return True

    async def prepare(self) -> None:
        if self.state.wildcard:
            await self.store.warm()


class Generators:
    """The registry: a type url and how a subscription to it begins, in the order in which types are pushed.

    It listens to what is published for as long as it lives, ahead of its own listeners, so that they find stores and
    index up to date.
    """

    def __init__(self, published: Published) -> None:
        index = Index(published)
        addresses = Encoded(published, ADDRESS_TYPE, ADDRESS_TYPE, index)
        workloads = Encoded(published, ADDRESS_TYPE, WORKLOAD_TYPE, index)
        policies = Encoded(published, AUTHORIZATION_TYPE, AUTHORIZATION_TYPE)
        self.by_type: dict[str, Generator] = {
            ADDRESS_TYPE: lambda node: Shared(addresses, OnDemand(ADDRESS_TYPE, index, _own_node(node))),
            WORKLOAD_TYPE: lambda node: Shared(workloads, OnDemand(WORKLOAD_TYPE, index, _own_node(node))),
            AUTHORIZATION_TYPE: lambda _: Shared(policies, XdsType(AUTHORIZATION_TYPE)),
        }
        self._index = index
        self._stores = (addresses, workloads, policies)
        self._listeners: set[Listener] = set()
        published.listen(self._changed)

    def open(self, type_url: str, node: Node) -> Subscription:
        """Begin a subscription; raises Unimplemented if the type is not served."""
        generator = self.by_type.get(type_url)
        if generator is None:
            raise Unimplemented(f"resources of type {type_url[:200]!r} are not served here")
        return generator(node)

    def listen(self, listener: Listener) -> None:
        """`listener(source, names, aliases)` is called after each change, and must not block."""
        self._listeners.add(listener)

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def _changed(self, source: str, names: frozenset[str]) -> None:
        aliases = self._index.update(names) if source == ADDRESS_TYPE else frozenset[str]()
        for store in self._stores:
            if store.source == source:
                store.drop(names)
        for listener in tuple(self._listeners):
            listener(source, names, aliases)


def _own_node(node: Node) -> str:
    """The node whose workloads a node proxy always has."""
    return node.node if node.id.startswith(ZTUNNEL_ROLE) else ""
