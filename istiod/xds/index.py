"""Finds published addresses by what an on-demand proxy knows of them: an IP, a service, its node."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from istiod.push import Published
from istiod.xds.encode import aliases_of
from meshcore.model import ADDRESS_TYPE, Address

_NOTHING: Final[frozenset[str]] = frozenset()


class Keys(NamedTuple):
    """Under what an address is found; `services` and `node` are a workload's."""

    aliases: tuple[str, ...]
    services: tuple[str, ...]
    node: str


_NO_KEYS: Final = Keys((), (), "")


class Index:
    """Costs nothing until the first on-demand proxy comes; from then on it follows the changes."""

    def __init__(self, published: Published) -> None:
        self._published = published
        self._built = False
        self._keys: dict[str, Keys] = {}
        self._by_alias: dict[str, set[str]] = {}
        self._by_service: dict[str, set[str]] = {}
        self._by_node: dict[str, set[str]] = {}

    def build(self) -> None:
        """Make it usable; does something the first time only."""
        if not self._built:
            self._built = True
            self.update(self._published.objects(ADDRESS_TYPE))

    def update(self, names: Iterable[str]) -> frozenset[str]:
        """Take over that these names changed; returns the aliases that they have or had."""
        if not self._built:
            return _NOTHING
        touched: set[str] = set()
        objects = self._published.objects(ADDRESS_TYPE)
        for name in names:
            old = self._keys.pop(name, _NO_KEYS)
            address = objects.get(name)
            new = _NO_KEYS if address is None else _keys(address)
            touched.update(old.aliases, new.aliases)
            if new != old:
                self._move(name, old, new)
            if address is not None:
                self._keys[name] = new
        return frozenset(touched)

    def keys(self, name: str) -> Keys:
        """Of one address; empty if it does not exist."""
        return self._keys.get(name, _NO_KEYS)

    def named(self, alias: str) -> AbstractSet[str]:
        """The addresses with an alias: several services may share a virtual IP."""
        return self._by_alias.get(alias, _NOTHING)

    def workloads_of(self, service: str) -> AbstractSet[str]:
        """The endpoints of a service, by its resource name."""
        return self._by_service.get(service, _NOTHING)

    def on_node(self, node: str) -> AbstractSet[str]:
        return self._by_node.get(node, _NOTHING) if node else _NOTHING

    def _move(self, name: str, old: Keys, new: Keys) -> None:
        for table, before, after in (
            (self._by_alias, old.aliases, new.aliases),
            (self._by_service, old.services, new.services),
            (self._by_node, (old.node,) if old.node else (), (new.node,) if new.node else ()),
        ):
            for key in before:
                members = table.get(key)
                if members is not None:
                    members.discard(name)
                    if not members:
                        del table[key]
            for key in after:
                table.setdefault(key, set()).add(name)


def _keys(address: Address) -> Keys:
    workload = address.workload
    if workload is None:
        return Keys(aliases_of(address), (), "")
    return Keys(aliases_of(address), tuple(workload.services), workload.node)
