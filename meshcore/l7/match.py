"""What a request or connection is compared with."""

from __future__ import annotations

import enum

import msgspec

PPM = 1_000_000
"""A share of 1."""


class Wire(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    """Base of every struct here: an array in field order."""


class TextKind(enum.IntEnum):
    """How a text is compared. REGEX is RE2 and must match the whole text.

    SEGMENT_PREFIX and TEMPLATE are for paths: `/a` covers `/a` and `/a/b` but not `/ab`; in a template `{*}` is any
    one segment, and `{**}` any number of them.
    """

    EXACT = 0
    PREFIX = 1
    SUFFIX = 2
    REGEX = 3
    PRESENT = 4
    SEGMENT_PREFIX = 5
    TEMPLATE = 6


class TextMatch(Wire, frozen=True):
    """PRESENT has no value. `ignore_case` is ASCII only, and never set for REGEX."""

    kind: TextKind
    value: str = ""
    ignore_case: bool = False


class NamedMatch(Wire, frozen=True):
    """Compares what stands under a name: a header (the name is lower case; `:authority` and its like are parts of the
    request line) or a query parameter.

    `negated` holds when the value differs or is absent.
    """

    name: str
    value: TextMatch
    negated: bool = False


class ClaimMatch(Wire, frozen=True):
    """A claim of the verified JWT, by the path to it; of a list any element suffices."""

    path: tuple[str, ...]
    value: TextMatch
    negated: bool = False


class HttpMatch(Wire, frozen=True):
    """All that is set must hold. A path is compared without its query."""

    path: TextMatch | None = None
    method: TextMatch | None = None
    scheme: TextMatch | None = None
    authority: TextMatch | None = None
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    claims: tuple[ClaimMatch, ...] = ()
