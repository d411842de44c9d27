"""Both ends of a delta subscription to one type, without I/O.

Rules (those of delta xDS and of Istio's WDS delivery): one response of a type is in flight, what changes meanwhile is
merged into the next; a NACKed resource is not sent again until it changes; the client repeats what it holds when it
reconnects, and gets only the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from meshcore.errors import ProtocolError
from meshcore.stream.messages import WILDCARD, DeltaRequest, DeltaResponse, Node, Resource

PART_BYTES: Final = 256 * 2**10
"""Bodies in one response; a larger push goes out in parts, so that neither side holds it whole: when everybody comes
back at once, the server has a part and its encoding for each.
"""
PART_NAMES: Final = 4096
ERROR_CHARS_MAX: Final = 4096


class ClientType:
    """What one client subscribes to and holds of a type. `versions` outlives connections, the rest does not."""

    def __init__(self, type_url: str, *, wildcard: bool = True) -> None:
        self.type_url = type_url
        self.wildcard = wildcard
        self.names: set[str] = set()
        self.versions: dict[str, str] = {}
        self.synced = False

    def first_request(self, node: Node | None) -> DeltaRequest:
        """The message that opens the subscription on a new stream."""
        names = sorted(self.names)
        unsubscribe: tuple[str, ...] = ()
        if self.wildcard:
            names.insert(0, WILDCARD)
        elif not names:  # without names a first request would mean everything
            names, unsubscribe = [WILDCARD], (WILDCARD,)
        return DeltaRequest(self.type_url, node, tuple(names), unsubscribe, dict(self.versions))

    def change(self, subscribe: Iterable[str] = (), unsubscribe: Iterable[str] = ()) -> DeltaRequest | None:
        """Change the names subscribed by name; None if nothing is new. Dropped names are forgotten at once."""
        add = sorted(set(subscribe) - self.names)
        drop = sorted(set(unsubscribe) & self.names)
        self.names.update(add)
        self.names.difference_update(drop)
        if not self.wildcard:
            for name in drop:
                self.versions.pop(name, None)
        if not add and not drop:
            return None
        return DeltaRequest(self.type_url, subscribe=tuple(add), unsubscribe=tuple(drop))

    def wanted(self, response: DeltaResponse) -> tuple[list[Resource], list[str]]:
        """What of a response to apply: names dropped while it was under way are left out."""
        if self.wildcard:
            return list(response.resources), list(response.removed)
        names = self.names
        return [r for r in response.resources if r.name in names], [n for n in response.removed if n in names]

    def answer(self, response: DeltaResponse, refused: Mapping[str, str]) -> DeltaRequest:
        """Record what was applied; returns the ACK, or the NACK that names what was refused and why."""
        for resource in self.wanted(response)[0]:
            if resource.name not in refused:
                self.versions[resource.name] = resource.version
        for name in response.removed:
            self.versions.pop(name, None)
        if not refused:
            self.synced = self.synced or not response.more
            return DeltaRequest(self.type_url, nonce=response.nonce)
        text = "; ".join(f"{name}: {why}" for name, why in refused.items())
        return DeltaRequest(self.type_url, nonce=response.nonce, error=text[:ERROR_CHARS_MAX] or "refused")


class ServerType:
    """What istiod knows of one client's subscription to a type, on one stream.

    `store` maps names to resources; it belongs to the caller and may change between calls, each change followed by
    `changed`. Memory is bounded by the number of names: there is no queue of responses.
    """

    def __init__(
        self,
        type_url: str,
        *,
        part_bytes: int = PART_BYTES,
        part_names: int = PART_NAMES,
        names_max: int = 10 * PART_NAMES,
    ) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        self.held: dict[str, str] = {}
        self.rejected = ""
        self.sent = 0
        self.acked = 0
        self.stale = 0
        self._part_bytes = part_bytes
        self._part_names = part_names
        self._names_max = names_max
        self._dirty: set[str] = set()
        self._missing: set[str] = set()
        self._open = False
        self._owed = False
        self._nonce = ""
        self._more = False

    @property
    def opened(self) -> bool:
        """The first request has come."""
        return self._open

    @property
    def nonce(self) -> str:
        """Of the response in flight; empty if none is."""
        return self._nonce

    @property
    def waiting(self) -> bool:
        """A response is in flight and its ACK or NACK is awaited."""
        return bool(self._nonce)

    @property
    def behind(self) -> bool:
        """Something is still to be sent."""
        return bool(self._dirty or self._missing or self._owed or self._more)

    def request(self, message: DeltaRequest, store: Mapping[str, Resource]) -> bool:
        """Take one request; True if it was an ACK or NACK of the response in flight."""
        if not self._open:
            self._first(message, store)
            return False
        answered = bool(message.nonce) and message.nonce == self._nonce
        if answered:
            self._nonce = ""
            self.rejected = message.error
            if not message.error:
                self.acked = self.sent
        elif message.nonce:
            self.stale += 1
        self._subscribe(message, store)
        return answered

    def changed(self, names: Iterable[str]) -> None:
        """Tell that these names of the store were added, replaced or removed."""
        if self.wildcard:
            self._dirty.update(names)
        elif self.names:
            self._dirty.update(self.names.intersection(names))

    def follow(self, names: AbstractSet[str]) -> None:
        """Subscribe on the client's behalf; unlike names it asked for, these are not missed when they do not exist."""
        new = names - self.names
        self.names |= new
        self._dirty |= new

    def next(self, store: Mapping[str, Resource]) -> DeltaResponse | None:
        """The next response to send; None if there is nothing to say or the last one is unanswered."""
        if self._nonce or not (self._open and self.behind):
            return None
        resources: list[Resource] = []
        removed: list[str] = []
        size, dirty, held, part_bytes, part_names = 0, self._dirty, self.held, self._part_bytes, self._part_names
        while dirty and size < part_bytes and len(resources) + len(removed) < part_names:
            name = dirty.pop()
            resource = store.get(name)
            if resource is None:
                if held.pop(name, None) is not None:
                    removed.append(name)
                    self._missing.discard(name)
                continue
            before = held.get(name)
            if before != resource.version:
                held[name] = resource.version
                resources.append(resource)
                size += len(resource.body)
            elif before is not resource.version:
                # Said by a client that came back: its strings are copies, which for each client would add up.
                del held[name]
                held[resource.name] = resource.version
        if not dirty:
            # A set that was large stays so, and `pop` walks through its empty places.
            self._dirty = set()
            removed += (name for name in self._missing if name not in store)
            self._missing = set()
        more = bool(self._dirty)
        if not (resources or removed or self._owed or (self._more and not more)):
            return self.next(store) if more else None
        self._owed, self._more = False, more
        self.sent += 1
        self._nonce = f"{self.sent:x}"
        return DeltaResponse(self.type_url, self._nonce, tuple(resources), tuple(removed), more)

    def _first(self, message: DeltaRequest, store: Mapping[str, Resource]) -> None:
        self._open = self._owed = True
        self.held = dict(message.initial_versions)
        self._dirty.update(self.held)
        if not message.subscribe and not message.unsubscribe:
            self.wildcard = True
            self._dirty.update(store)
        self._subscribe(message, store)
        if not self.wildcard:
            self._forget(self.held.keys() - self.names)

    def _subscribe(self, message: DeltaRequest, store: Mapping[str, Resource]) -> None:
        add, drop = set(message.subscribe), set(message.unsubscribe)
        if len(self.names) + len(add) > self._names_max:
            raise ProtocolError(f"more than {self._names_max} names subscribed one by one: use {WILDCARD}")
        if WILDCARD in add and WILDCARD not in drop and not self.wildcard:
            self.wildcard = True
            self._dirty.update(store)
        elif WILDCARD in drop and self.wildcard:
            self.wildcard = False
            self._forget(self.held.keys() - self.names - add)
        add.discard(WILDCARD)
        drop.discard(WILDCARD)
        self.names |= add
        self._dirty |= add
        self._missing |= add
        if drop:
            self.names -= drop
            if not self.wildcard:
                self._forget(drop - add)

    def _forget(self, names: AbstractSet[str]) -> None:
        for name in names:
            self.held.pop(name, None)
        self._dirty -= names
        self._missing -= names
