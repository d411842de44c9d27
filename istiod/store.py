"""The typed objects in force, found by name or through an index, and what each change of them touches.

Both sources (the Kubernetes API and a directory) end here, so that everything behind works with either. An object is in
force if its namespace is selected (discovery selectors) and its revision is ours; the others wait on a shelf until that
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from istiod import objects
from meshcore.manifests import CLUSTER_SCOPED, Key

T = TypeVar("T")

ObjectKey: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped kinds."""
Bucket: TypeAlias = tuple[Hashable, ...]
Token: TypeAlias = tuple[Any, ...]
"""What a reader depends on: the key of an object, or an index and one of its buckets."""

REVISION_LABEL: Final = "istio.io/rev"
DEFAULT_REVISION: Final = "default"
_REVISIONED: Final = frozenset(
    {
        "AuthorizationPolicy",
        "PeerAuthentication",
        "RequestAuthentication",
        "ServiceEntry",
        "WorkloadEntry",
        "WorkloadGroup",
        "VirtualService",
        "DestinationRule",
        "Gateway",
        "Gateway.networking.istio.io",
        "HTTPRoute",
        "GRPCRoute",
        "TCPRoute",
        "TLSRoute",
        "Telemetry",
        "ListenerSet",
        "BackendTLSPolicy",
    }
)
"""Kinds of which each revision of the control plane has its own."""

_NOTHING: Final[dict[ObjectKey, Any]] = {}


class Index(Generic[T]):
    """Where an object of one kind is found besides its name: `buckets(obj)` may give any number of places."""

    __slots__ = ("buckets", "kind", "name")

    def __init__(self, name: str, kind: type[T], buckets: Callable[[T], Iterable[Bucket]]) -> None:
        self.name = name
        self.kind = objects.NAMES[kind]
        self.buckets = buckets

    def __repr__(self) -> str:
        return f"Index({self.name!r})"


class Change(NamedTuple):
    """One object that came (`old` None), went (`new` None) or differs. `tokens` is all that readers may have seen."""

    key: Key
    old: Any
    new: Any
    tokens: frozenset[Token]


class Store:
    """Objects by kind. One owner writes; values are immutable and may be kept by readers."""

    def __init__(self, indexes: Iterable[Index[Any]] = (), *, revision: str = DEFAULT_REVISION) -> None:
        self._kinds: dict[str, dict[ObjectKey, Any]] = {kind: {} for kind in objects.KINDS}
        self._indexes: dict[str, list[Index[Any]]] = {kind: [] for kind in objects.KINDS}
        self._buckets: dict[Index[Any], dict[Bucket, dict[ObjectKey, Any]]] = {}
        for index in indexes:
            self._indexes[index.kind].append(index)
            self._buckets[index] = {}
        self._revision = revision
        self._selected: Callable[[str], bool] = lambda _: True
        self._shelf: dict[str, dict[Key, Any]] = {}

    def of(self, kind: type[T]) -> Mapping[ObjectKey, T]:
        """All objects of a kind in force; a live view that the caller only reads."""
        found: Mapping[ObjectKey, T] = self._kinds[objects.NAMES[kind]]
        return found

    def by_kind(self, kind: str) -> Mapping[ObjectKey, Any]:
        """The same by the kind's name in the store; empty for a kind that is not kept."""
        found: Mapping[ObjectKey, Any] = self._kinds.get(kind, _NOTHING)
        return found

    def get(self, kind: type[T], namespace: str, name: str) -> T | None:
        return self.of(kind).get((namespace, name))

    def find(self, index: Index[T], bucket: Bucket) -> Mapping[ObjectKey, T]:
        """The objects in a bucket; a live view that the caller only reads."""
        found: Mapping[ObjectKey, T] = self._buckets[index].get(bucket, _NOTHING)
        return found

    def buckets(self, index: Index[Any]) -> Iterable[Bucket]:
        """Every bucket that holds something."""
        return self._buckets[index].keys()

    @property
    def size(self) -> int:
        return sum(len(kind) for kind in self._kinds.values())

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        for kind, held in self._kinds.items():
            for (namespace, name), value in held.items():
                yield (kind, namespace, name), value

    def put(self, key: Key, value: Any) -> Change | None:
        """Set an object, or remove it (None); returns what that changed in force, None if nothing."""
        kind, namespace, _ = key
        shelved = value is not None and not self.in_force(kind, namespace, value.metadata.labels)
        shelf = self._shelf.get(namespace)
        if shelved:
            self._shelf.setdefault(namespace, {})[key] = value
        elif shelf is not None and shelf.pop(key, None) is not None and not shelf:
            del self._shelf[namespace]
        return self._set(key, None if shelved else value)

    def select(self, selected: Callable[[str], bool]) -> list[Change]:
        """Change which namespaces are read; objects outside them go to the shelf, or come back from it."""
        self._selected = selected
        changes: list[Change | None] = []
        for key, value in list(self):
            if not self.in_force(key[0], key[1], value.metadata.labels):
                changes.append(self.put(key, value))
        for shelf in list(self._shelf.values()):
            for key, value in list(shelf.items()):
                if self.in_force(key[0], key[1], value.metadata.labels):
                    changes.append(self.put(key, value))
        return [change for change in changes if change is not None]

    def shelved(self, key: Key) -> bool:
        """Whether an object is there and not in force."""
        return key in self._shelf.get(key[1], _NOTHING)

    def in_force(self, kind: str, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels counts: its namespace is selected and its revision is ours."""
        if kind not in CLUSTER_SCOPED and not self._selected(namespace):
            return False
        revision = labels.get(REVISION_LABEL, "") if kind in _REVISIONED else ""
        return not revision or revision == self._revision

    def _set(self, key: Key, value: Any) -> Change | None:
        """Conditions in a status are kept and are no change: we write them, and nothing that is computed reads them."""
        kind, place = key[0], key[1:]
        held = self._kinds[kind]
        old = held.get(place)
        if old == value:
            return None
        quiet = old is not None and value is not None and _without_conditions(old) == _without_conditions(value)
        tokens: set[Token] = {key}
        if value is None:
            del held[place]
        else:
            held[place] = value
        for index in self._indexes[kind]:
            buckets = self._buckets[index]
            before = frozenset(index.buckets(old)) if old is not None else frozenset()
            after = frozenset(index.buckets(value)) if value is not None else frozenset()
            for bucket in before - after:
                found = buckets[bucket]
                del found[place]
                if not found:
                    del buckets[bucket]
            for bucket in after:
                buckets.setdefault(bucket, {})[place] = value
            tokens.update((index, bucket) for bucket in before | after)
        return None if quiet else Change(key, old, value, frozenset(tokens))


def _without_conditions(value: Any) -> Any:
    """The object as it is computed with. The conditions of a pod say whether it is ready, and count."""
    status: Any = getattr(value, "status", None)
    if isinstance(value, objects.Pod) or not getattr(status, "conditions", ()):
        return value
    return msgspec.structs.replace(value, status=msgspec.structs.replace(status, conditions=()))
