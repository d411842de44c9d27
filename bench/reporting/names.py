"""The loads of a document in words and in order. A document holds only their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_RATED: Final = re.compile(r"rate-(\d+)-c(\d+)")
_NUMBERED: Final = re.compile(r"(closed|upload|download|idle)-(\d+)")
_ORDER: Final = ("rate", "locust", "closed", "fresh", "upload", "download", "idle", "soak")

PUBLISHED_RATE: Final = 1000
"""Requests/s at which Istio publishes its figures: of a sweep this load stands for the rest."""


class Rated(NamedTuple):
    """An open-loop load: requests per second, and the connections they come over."""

    rate: int
    connections: int


def rated(load: str) -> Rated | None:
    """What an open-loop load's name says; None for other loads."""
    found = _RATED.fullmatch(load)
    return Rated(int(found[1]), int(found[2])) if found else None


def title(load: str) -> str:
    """ "1,000 requests/s over 4 connections"; a name that says nothing to us stands for itself."""
    if one := rated(load):
        return f"{one.rate:,} requests/s over {_count(one.connections, 'connection')}"
    if found := _NUMBERED.fullmatch(load):
        kind, number = found[1], int(found[2])
        return {
            "closed": f"closed loop, {_count(number, 'connection')}",
            "upload": f"bulk up, {_count(number, 'stream')}",
            "download": f"bulk down, {_count(number, 'stream')}",
            "idle": f"{number:,} connections that carry nothing",
        }[kind]
    return {
        "fresh": "a new connection for every request",
        "locust": "locust users",
        "soak": "the soak: one long slice, looking for growth",
    }.get(load, load)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def ordered(loads: Iterable[str]) -> list[str]:
    """Each once: rates first, then closed loops, connections, bulk, idle, soak; others after them by name."""
    return sorted(set(loads), key=_key)


def _key(load: str) -> tuple[int, int, int, str]:
    if one := rated(load):
        return 0, one.connections, one.rate, load
    found = _NUMBERED.fullmatch(load)
    kind, number = (found[1], int(found[2])) if found else (load, 0)
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), number, 0, load


def sweeps(loads: Iterable[str]) -> dict[int, list[str]]:
    """Connections -> the open-loop loads over as many, by rising rate."""
    found: dict[int, list[str]] = {}
    for load in ordered(loads):
        if one := rated(load):
            found.setdefault(one.connections, []).append(load)
    return found


def without_sweeps(loads: Iterable[str]) -> list[str]:
    """The loads in order; of a sweep only the one nearest the published rate: a plot of its own shows the rest."""
    names = ordered(loads)
    kept = {
        min(sweep, key=lambda load: abs(int(load.split("-")[1]) - PUBLISHED_RATE)) for sweep in sweeps(names).values()
    }
    return [load for load in names if rated(load) is None or load in kept]
