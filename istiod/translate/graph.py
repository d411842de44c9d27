"""Derived values that are computed again only when something they read has changed.

A *derivation* is a plain function `f(view, *args)` that reads objects, index buckets and other derivations through its
`View`; what it read is remembered. After a change only the derivations that read what changed run again, and if one of
them gives an equal value, those that read it do not (early cutoff). *Families* name the derivations whose results leave
the graph: one unit for each object of some kinds or each bucket of some indexes, each giving resources by name.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from istiod import objects
from istiod.store import Bucket, Change, Index, Store, Token
from istiod.translate.common import MeshConfig

log = logging.getLogger("istiod.translate")

T = TypeVar("T")
P = ParamSpec("P")

Resources = Mapping[str, Any]
"""Name to resource."""
_UNKNOWN: Final = object()


class View:
    """What one derivation may read; every call is remembered as a dependency of it."""

    __slots__ = ("_graph", "_read")

    def __init__(self, graph: Graph, read: dict[_Source, None]) -> None:
        self._graph = graph
        self._read = read

    @property
    def settings(self) -> MeshConfig:
        """What the process was started with; it never changes."""
        return self._graph.settings

    def get(self, kind: type[T], namespace: str, name: str) -> T | None:
        """One object by name."""
        self._read[self._graph.input((objects.NAMES[kind], namespace, name))] = None
        return self._graph.store.get(kind, namespace, name)

    def find(self, index: Index[T], bucket: Bucket) -> list[T]:
        """The objects in a bucket of an index, in the order of namespace and name."""
        self._read[self._graph.input((index, bucket))] = None
        found = self._graph.store.find(index, bucket)
        return [found[key] for key in sorted(found)] if len(found) > 1 else list(found.values())

    def ask(self, derivation: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The value of another derivation, kept for every reader that asks the same. Arguments are positional."""
        assert not kwargs  # noqa: S101 - the signature exists for the type checker
        node = self._graph.node(derivation, args)
        self._read[node] = None
        value: T = self._graph.value(node)
        return value


class Family(NamedTuple):
    """`compute(view, *bucket)` for every object of a kind, by (namespace, name), and every bucket of an index in
    `sources`; what it returns is published under `output`. No two units give the same name.
    """

    output: str
    sources: tuple[Index[Any] | type, ...]
    compute: Callable[..., Resources]


class Diff(NamedTuple):
    """What one batch of changes did to the resources of an output: name to the new value, None if it is gone."""

    output: str
    changed: dict[str, Any]


class _Source:
    """Something that can be read."""

    __slots__ = ("readers",)

    def __init__(self) -> None:
        self.readers: set[_Node] = set()


class _Input(_Source):
    __slots__ = ("token",)

    def __init__(self, token: Token) -> None:
        super().__init__()
        self.token = token


class _Node(_Source):
    """A derivation with arguments. `stale`: 0 up to date, 1 something behind it changed, 2 what it read itself did."""

    __slots__ = ("args", "changed_at", "checked_at", "compute", "read", "stale", "value")

    def __init__(self, compute: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__()
        self.compute = compute
        self.args = args
        self.value: Any = _UNKNOWN
        self.read: tuple[_Source, ...] = ()
        self.stale = 2
        self.changed_at = 0
        self.checked_at = 0


class _Unit(_Node):
    """A node whose value leaves the graph."""

    __slots__ = ("number", "published")

    def __init__(self, number: int, compute: Callable[..., Any], bucket: tuple[Any, ...]) -> None:
        super().__init__(compute, bucket)
        self.number = number
        self.published: Resources = {}


class Graph:
    """The derived state of one store. `apply` after every batch of changes; it returns what differs."""

    def __init__(self, store: Store, families: Sequence[Family], settings: MeshConfig) -> None:
        self.store = store
        self.settings = settings
        self.outputs: dict[str, dict[str, Any]] = {family.output: {} for family in families}
        self.computed: Counter[str] = Counter()
        """How often each derivation ran, by name."""
        self.kept: Counter[str] = Counter()
        """How often one did not have to run although something behind it had changed."""
        self.failures = 0
        self._families = tuple(families)
        self._revision = 1
        self._inputs: dict[Token, _Input] = {}
        self._nodes: dict[tuple[Callable[..., Any], tuple[Any, ...]], _Node] = {}
        self._units: dict[tuple[int, tuple[Any, ...]], _Unit] = {}
        self._numbers: dict[Index[Any] | str, list[int]] = {}
        self._running: list[_Node] = []
        self._unread: set[_Source] = set()
        self._due: dict[_Unit, None] = {}
        for number, family in enumerate(self._families):
            for source in family.sources:
                place = source if isinstance(source, Index) else objects.NAMES[source]
                self._numbers.setdefault(place, []).append(number)
                for bucket in store.buckets(place) if isinstance(place, Index) else store.by_kind(place):
                    self._mark(number, bucket)
        self._settle()

    def apply(self, changes: Iterable[Change]) -> list[Diff]:
        """Bring every output up to date with changes that the store has already taken; returns the differences."""
        self._revision += 1
        for change in changes:
            for token in change.tokens:
                source = self._inputs.get(token)
                if source is not None:
                    self._spoil(source)
                place, bucket = (token[0], token[1]) if isinstance(token[0], Index) else (token[0], token[1:])
                for number in self._numbers.get(place, ()):
                    self._mark(number, bucket)
        return self._settle()

    @property
    def size(self) -> int:
        """Derivations kept."""
        return len(self._nodes) + len(self._units)

    def input(self, token: Token) -> _Source:
        """For View: the source that stands for a token."""
        source = self._inputs.get(token)
        if source is None:
            source = self._inputs[token] = _Input(token)
        return source

    def node(self, compute: Callable[..., Any], args: tuple[Any, ...]) -> _Node:
        """For View: the node of a derivation and its arguments."""
        key = (compute, args)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(compute, args)
        return node

    def value(self, node: _Node) -> Any:
        """For View: the up-to-date value of a node."""
        self._refresh(node)
        return node.value

    def _mark(self, number: int, bucket: tuple[Any, ...]) -> None:
        unit = self._units.get((number, bucket))
        if unit is None:
            unit = self._units[number, bucket] = _Unit(number, self._families[number].compute, bucket)
        self._due[unit] = None

    def _spoil(self, source: _Source) -> None:
        """Mark everything that may depend on `source`."""
        pending: list[tuple[_Source, int]] = [(source, 2)]
        while pending:
            changed, degree = pending.pop()
            for reader in changed.readers:
                if reader.stale < degree:
                    first = not reader.stale
                    reader.stale = degree
                    if first:
                        if isinstance(reader, _Unit):
                            self._due[reader] = None
                        pending.append((reader, 1))

    def _settle(self) -> list[Diff]:
        due, self._due = self._due, {}
        gone: dict[str, dict[str, Any]] = {}
        came: dict[str, dict[str, Any]] = {}
        for unit in due:
            output = self._families[unit.number].output
            before = unit.published
            if not self._alive(unit):
                unit.published = {}
                self._forget(unit)
                del self._units[unit.number, unit.args]
            elif self._refreshed(unit):
                unit.published = unit.value
            if unit.published is before:
                continue
            after = unit.published
            gone.setdefault(output, {}).update((name, None) for name in before if name not in after)
            came.setdefault(output, {}).update(
                (name, value) for name, value in after.items() if name not in before or before[name] != value
            )
        self._sweep()
        diffs = []
        for output, held in self.outputs.items():
            changed = {**gone.get(output, {}), **came.get(output, {})}  # a name may go from one unit to another
            for name, value in changed.items():
                if value is None:
                    held.pop(name, None)
                else:
                    held[name] = value
            if changed:
                diffs.append(Diff(output, changed))
        return diffs

    def _alive(self, unit: _Unit) -> bool:
        for source in self._families[unit.number].sources:
            if isinstance(source, Index):
                if self.store.find(source, unit.args):
                    return True
            elif unit.args in self.store.of(source):
                return True
        return False

    def _refreshed(self, unit: _Unit) -> bool:
        """Whether the unit could be computed; a fault in one leaves its last value in force and the others alone."""
        try:
            self._refresh(unit)
        except Exception:
            self.failures += 1
            log.exception("BUG: %s of %r failed; its last result stays", unit.compute.__name__, unit.args)
            self._due[unit] = None  # tried again after the next change
            return False
        return True

    def _refresh(self, node: _Node) -> None:
        if not node.stale:
            return
        if node in self._running:
            names = " -> ".join(one.compute.__name__ for one in (*self._running, node))
            raise RuntimeError(f"derivations read each other in a circle: {names}")
        if node.stale == 1 and not self._behind_changed(node):
            node.stale = 0
            node.checked_at = self._revision
            self.kept[node.compute.__name__] += 1
        else:
            self._compute(node)

    def _behind_changed(self, node: _Node) -> bool:
        for source in node.read:
            if isinstance(source, _Node):
                self._refresh(source)
                if source.changed_at > node.checked_at:
                    return True
        return False

    def _compute(self, node: _Node) -> None:
        read: dict[_Source, None] = {}
        self._running.append(node)
        try:
            value = node.compute(View(self, read), *node.args)
        finally:
            self._running.pop()
        self.computed[node.compute.__name__] += 1
        for source in node.read:
            if source not in read:
                self._unlink(source, node)
        node.read = tuple(read)
        for source in node.read:
            source.readers.add(node)
        node.stale = 0
        node.checked_at = self._revision
        if node.value is _UNKNOWN or node.value != value:
            node.value = value
            node.changed_at = self._revision

    def _forget(self, node: _Node) -> None:
        for source in node.read:
            self._unlink(source, node)
        node.read = ()

    def _unlink(self, source: _Source, node: _Node) -> None:
        source.readers.discard(node)
        if not source.readers:
            self._unread.add(source)

    def _sweep(self) -> None:
        """Let go of what nobody reads any more."""
        while self._unread:
            source = self._unread.pop()
            if source.readers:
                continue
            if isinstance(source, _Input):
                self._inputs.pop(source.token, None)
            elif isinstance(source, _Node) and not isinstance(source, _Unit):
                self._nodes.pop((source.compute, source.args), None)
                self._forget(source)
