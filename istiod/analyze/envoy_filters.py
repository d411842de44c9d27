"""Patches of EnvoyFilters that do nothing, or not everywhere the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from istiod.validate.field import Field

_FILTERS: Final = ("HTTP_FILTER", "NETWORK_FILTER", "LISTENER_FILTER")
_FIXED: Final = ("ROUTE_CONFIGURATION", "HTTP_ROUTE")
"""Parts that are generated as a whole: nothing is added to them or taken away."""
_RELATIVE: Final = ("INSERT_BEFORE", "INSERT_AFTER")


def patches(world: World) -> Iterator[Message]:
    for one in world.of("EnvoyFilter"):
        prioritised = bool(one.spec["priority"])
        for patch in one.spec["configPatches"]:
            for code, operation in _faults(patch, prioritised=prioritised):
                target = patch["applyTo"].text
                yield message(code, one.key, operation.path, target=target, operation=operation.text)


def _faults(patch: Field, *, prioritised: bool) -> Iterator[tuple[str, Field]]:
    target, operation = patch["applyTo"].text, patch["patch"]["operation"]
    match operation.text:
        case "REPLACE" if target and target not in _FILTERS:
            yield "IST0152", operation
        case "ADD" if target in _FIXED:
            yield "IST0153", operation
        case "REMOVE" if target in _FIXED:
            yield "IST0154", operation
        case text if text in _RELATIVE and not prioritised and patch["match"]["proxy"]["proxyVersion"]:
            yield "IST0155", operation
        case _:
            pass
