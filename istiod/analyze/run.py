"""All analyzers over a world: what they say, with its place, without what is suppressed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from istiod.analyze.analyzers import ANALYZERS, Analyzer
from istiod.analyze.message import Message, message
from istiod.analyze.suppress import Suppression, annotated
from istiod.analyze.world import World

log = logging.getLogger("istiod.analyze")

PER_CODE_AND_OBJECT_MAX: Final = 100
"""Messages of one code about one object: a generated object may repeat one mistake ten thousand times."""


class Options(NamedTuple):
    """`namespace` limits what is told, not what is read: empty for all."""

    namespace: str = ""
    suppressions: tuple[Suppression, ...] = ()


def analyze(world: World, options: Options | None = None, analyzers: Sequence[Analyzer] = ANALYZERS) -> list[Message]:
    """What there is to say, the gravest first, then by place."""
    options = options or Options()
    wanted = {one: None for one in _all(world, analyzers) if _wanted(world, options, one)}
    located = [_located(world, one) for one in _limited(wanted)]
    return sorted(located, key=_order)


def _all(world: World, analyzers: Sequence[Analyzer]) -> Iterator[Message]:
    yield from world.faults
    for analyzer in analyzers:
        try:
            yield from analyzer(world)
        except Exception as exc:
            log.exception("BUG: %s failed", analyzer.__name__)
            yield message("IST0001", None, analyzer=analyzer.__name__, error=repr(exc))


def _wanted(world: World, options: Options, one: Message) -> bool:
    if one.key is not None and options.namespace and one.key[1] not in ("", options.namespace):
        return False
    if any(suppression.covers(one) for suppression in options.suppressions):
        return False
    return one.key is None or not annotated(one, world.written.get(one.key))


def _limited(messages: Iterable[Message]) -> Iterator[Message]:
    counts: dict[tuple[str, object], int] = {}
    for one in messages:
        count = counts[one.code.id, one.key] = counts.get((one.code.id, one.key), 0) + 1
        if count <= PER_CODE_AND_OBJECT_MAX:
            yield one


def _located(world: World, one: Message) -> Message:
    written = world.written.get(one.key) if one.key is not None else None
    if one.file or written is None or written.manifest is None:
        return one
    return one.at(written.manifest.file, written.manifest.line_of(one.path))


def _order(one: Message) -> tuple[object, ...]:
    return (-one.code.level, one.file, one.line, one.key or ("", "", ""), one.code.id, one.text)
