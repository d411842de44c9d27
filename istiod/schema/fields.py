"""The words in which the tables of fields are written.

A field is a value: tables share them, nothing changes them. What a word allows is what the API server enforces from the
definition made of it, so that a directory of files is held to the same rules as a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

UNSIGNED_MAX: Final = 2**32 - 1
SIGNED_MAX: Final = 2**31 - 1
PORT_MAX: Final = 65535


class Field(msgspec.Struct, frozen=True):
    """What one field may hold."""


class Text(Field, frozen=True):
    """`values` are the only ones allowed, if there are any. `pattern` is for the whole text, in the syntax that RE2 and
    Python share; `what` is how a user would call such a text.
    """

    values: tuple[str, ...] = ()
    pattern: str = ""
    what: str = "text"
    at_least: int = 0
    at_most: int | None = None
    default: str | None = None


class Number(Field, frozen=True):
    """Bounds are inclusive, a `whole` one has no fraction; `values` are the only ones allowed, if there are any."""

    minimum: int | None = None
    maximum: int | None = None
    whole: bool = True
    values: tuple[int, ...] = ()
    default: int | None = None


class Flag(Field, frozen=True):
    """True or false."""


class NumberOrText(Field, frozen=True):
    """Numbers of 64 bits may be written as text."""


class Anything(Field, frozen=True):
    """A mapping that is not looked into."""


class Items(Field, frozen=True):
    """A list. `keys` are the fields that tell its entries apart, `unique` says that entries themselves do."""

    item: Field
    keys: tuple[str, ...] = ()
    unique: bool = False
    at_least: int = 0
    at_most: int | None = None


class Entries(Field, frozen=True):
    """A mapping whose keys the user chooses."""

    value: Field
    at_most: int | None = None


class Record(Field, frozen=True):
    """A mapping of named fields. Of each group in `one_of` at most one may be given."""

    fields: dict[str, Field]
    required: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()


def text(
    *,
    at_least: int = 0,
    at_most: int | None = None,
    pattern: str = "",
    what: str = "text",
    default: str | None = None,
) -> Text:
    return Text(at_least=at_least, at_most=at_most, pattern=pattern, what=what, default=default)


def enum(*values: str, default: str | None = None) -> Text:
    return Text(values, default=default)


def integer(minimum: int | None = None, maximum: int | None = SIGNED_MAX, *, default: int | None = None) -> Number:
    return Number(minimum, maximum, default=default)


def one_number_of(*values: int, default: int | None = None) -> Number:
    return Number(values=values, default=default)


def unsigned(maximum: int = UNSIGNED_MAX) -> Number:
    return Number(0, maximum)


def number(minimum: int | None = None, maximum: int | None = None) -> Number:
    """May have a fraction."""
    return Number(minimum, maximum, whole=False)


def int_or_string() -> NumberOrText:
    return NumberOrText()


def anything() -> Anything:
    return Anything()


def list_of(
    item: Field, *, keys: tuple[str, ...] = (), unique: bool = False, at_least: int = 0, at_most: int | None = None
) -> Items:
    return Items(item, keys, unique, at_least, at_most)


def map_of(value: Field, *, at_most: int | None = None) -> Entries:
    return Entries(value, at_most)


def record(
    fields: Mapping[str, Field], *, required: tuple[str, ...] = (), one_of: tuple[tuple[str, ...], ...] = ()
) -> Record:
    """Raises ValueError if `required` or `one_of` name a field that is not there: a slip in a table."""
    stray = {name for group in (required, *one_of) for name in group} - fields.keys()
    if stray:
        raise ValueError(f"BUG: no such field: {', '.join(sorted(stray))}")
    return Record(dict(fields), required, one_of)


def names(*fields: str) -> dict[str, Field]:
    """Fields that are plain text."""
    return dict.fromkeys(fields, TEXT)


TEXT: Final = text()
TEXTS: Final = list_of(TEXT)
LABELS: Final = map_of(TEXT)
FLAG: Final = Flag()
DURATION: Final = Text(what="a duration such as 1.5s")
"""Istio's: `1.5s`, `1h10m`, `100ms`. The checks of each kind look at its syntax: they know the smallest one."""
INTEGER: Final = integer()
UNSIGNED: Final = unsigned()
PORT: Final = Number(1, PORT_MAX)


class Column(msgspec.Struct, frozen=True):
    """One column of `kubectl get`; a `priority` above 0 is for the wide form."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")


class Table(msgspec.Struct, frozen=True):
    """All fields of one kind, and how `kubectl` shows it."""

    spec: Record
    status: Record | None
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    def part(self, name: str) -> Record | None:
        """The record of a field at the top of an object; None if there is none."""
        return {"spec": self.spec, "status": self.status}.get(name)


def conditions(
    required: tuple[str, ...], extra: Mapping[str, Field] | None = None, *, at_most: int | None = None
) -> Items:
    """Status conditions: each type stands once, so that several writers can own one each."""
    fields: dict[str, Field] = {
        "type": TEXT,
        "status": enum("True", "False", "Unknown"),
        **names("reason", "message", "lastTransitionTime"),
        "observedGeneration": Number(0),
        **(extra or {}),
    }
    return list_of(record(fields, required=required), keys=("type",), at_most=at_most)
