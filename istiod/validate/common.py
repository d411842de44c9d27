"""Checks that several kinds share. Each yields problems with the path of the field."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from meshcore.yamldoc import Path


class Problem(NamedTuple):
    """One thing to say about one field; a warning leaves the object in use."""

    path: Path
    message: str
    warning: bool = False


def choice(value: Any, allowed: Sequence[str], path: Path) -> Iterator[Problem]:
    """`value` must be one of `allowed`, or absent."""
    if value is not None and value not in allowed:
        near = difflib.get_close_matches(str(value).upper(), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield Problem(path, f"{value!r} is not one of {', '.join(allowed)}{hint}")


def port_number(value: Any, path: Path) -> Iterator[Problem]:
    """A port from 1 to 65535, as a number or as text."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        yield Problem(path, f"{text!r} is not a port from 1 to 65535")


def ip_address(value: str, path: Path) -> Iterator[Problem]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield Problem(path, f"{value!r} is not an IP address")


def ip_block(value: str, path: Path) -> Iterator[Problem]:
    """An address or a CIDR."""
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        yield Problem(path, f"{value!r} is neither an IP address nor a CIDR such as 10.0.0.0/8")


def selector(spec: dict[str, Any], path: Path) -> Iterator[Problem]:
    """Labels must be plain: Istio knows no wildcards here."""
    chosen = spec.get("selector")
    if chosen is None:
        return
    labels = chosen.get("matchLabels") or {}
    if not labels:
        yield Problem(path, "has no labels, so it selects every pod of the namespace", warning=True)
    for key, value in labels.items():
        where = (*path, "matchLabels", key)
        if not key:
            yield Problem(where, "a label cannot have an empty name")
        if "*" in key or "*" in value:
            yield Problem(where, "wildcards are not supported in a selector; write the label out")
