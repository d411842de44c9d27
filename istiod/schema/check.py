"""An object held against the table of its kind."""

from __future__ import annotations

import difflib
import functools
import re
import types
from collections.abc import Collection, Iterator
from typing import Any, Final, Union, get_args, get_origin

import msgspec

from istiod import objects
from istiod.problem import Problem
from istiod.resources import Resource, store_kind
from istiod.schema.fields import Anything, Entries, Field, Flag, Items, Number, NumberOrText, Record, Table, Text
from istiod.schema.tables import table
from meshcore.manifests import type_name
from meshcore.yamldoc import Path

HINTS_MAX: Final = 20
"""Suggestions per object: each compares a name with all its neighbours, and a hostile object may hold any number."""
HINT_CHARS_MAX: Final = 64
SHOWN_CHARS_MAX: Final = 60
"""Of a value that is wrong: enough to recognise it."""

_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")


def faults(resource: Resource, obj: Any, *, strict: bool = True) -> Iterator[Problem]:
    """What the API server would refuse in an object as written: unknown and missing fields, wrong types and values.

    A field that is null counts as absent. A fault in `status`, which no user writes, is a warning. So is an unknown
    field without `strict`, for objects that a cluster with newer definitions has accepted.
    """
    found = table(resource)
    if found is None:
        return
    if not isinstance(obj, dict):
        yield Problem((), f"expected a mapping, found {type_name(obj)}")
        return
    walk = _Walk(strict=strict)
    yield from walk.top(found, obj)


def unused(resource: Resource, obj: Any) -> list[Path]:
    """The fields of `spec` that are right but that istiod does not act on, outermost ones only."""
    found, python_type = table(resource), objects.KINDS.get(store_kind(resource))
    if found is None or python_type is None or not isinstance(obj, dict):
        return []
    spec = next((field.type for field in msgspec.structs.fields(python_type) if field.encode_name == "spec"), None)
    return list(_unused(found.spec, spec, obj.get("spec"), ("spec",)))


class _Walk:
    """One pass over an object. Its depth is that of the table, whatever the object holds."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._hints = HINTS_MAX

    def top(self, found: Table, obj: dict[Any, Any]) -> Iterator[Problem]:
        if found.spec.required and obj.get("spec") is None:
            yield Problem(("spec",), "missing")
        for name, value in obj.items():
            part = found.part(name)
            if name not in _TOP:
                yield self._unknown((name,), _TOP)
            elif part is not None and value is not None:
                for problem in self._check(part, value, (name,)):
                    yield Problem(problem.path, problem.message, warning=True) if name == "status" else problem

    def _check(self, field: Field, value: Any, path: Path) -> Iterator[Problem]:
        match field:
            case Record():
                yield from self._record(field, value, path)
            case Items():
                yield from self._items(field, value, path)
            case Entries():
                yield from self._entries(field, value, path)
            case Text():
                yield from _text(field, value, path)
            case Number():
                yield from _number(field, value, path)
            case Flag() if not isinstance(value, bool):
                hint = "; leave the quotes out" if value in ("true", "false") else ""
                yield _expected("true or false", value, path, hint)
            case NumberOrText() if isinstance(value, bool) or not isinstance(value, int | str):
                yield _expected("a whole number or text", value, path)
            case Anything() if not isinstance(value, dict):
                yield _expected("a mapping", value, path)
            case _:
                pass

    def _record(self, field: Record, value: Any, path: Path) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield _expected("a mapping", value, path)
            return
        for name in field.required:
            if value.get(name) is None:
                yield Problem((*path, name), "missing")
        for group in field.one_of:
            given = [name for name, item in value.items() if name in group and item is not None]
            for name in given[1:]:
                text = f"cannot stand beside {given[0]}: choose one of {', '.join(group)}"
                yield Problem((*path, name), text)
        for name, item in value.items():
            if (inner := field.fields.get(name)) is None:
                yield self._unknown((*path, name), field.fields)
            elif item is not None:
                yield from self._check(inner, item, (*path, name))

    def _items(self, field: Items, value: Any, path: Path) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield _expected("a list", value, path)
            return
        yield from _count(len(value), field.at_least, field.at_most, path)
        seen: set[Any] = set()
        for index, item in enumerate(value):
            where: Path = (*path, index)
            yield from self._check(field.item, item, where)
            identity = _identity(field, item)
            if identity is not None and identity in seen:
                last = field.keys[-1:]
                yield Problem((*where, *last), f"{_shown(identity[-1])} stands twice")
            seen.add(identity)

    def _entries(self, field: Entries, value: Any, path: Path) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield _expected("a mapping", value, path)
            return
        yield from _count(len(value), 0, field.at_most, path)
        for name, item in value.items():
            if item is not None:
                yield from self._check(field.value, item, (*path, name))

    def _unknown(self, path: Path, known: Collection[str]) -> Problem:
        name, near = path[-1], ""
        if self._hints and isinstance(name, str) and len(name) <= HINT_CHARS_MAX:
            self._hints -= 1
            near = _near(name, known)
        return Problem(path, f"unknown field{near}", warning=not self._strict)


def _text(field: Text, value: Any, path: Path) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield _expected(field.what, value, path, "; use quotes" if isinstance(value, int | float) else "")
    elif field.values:
        if value not in field.values:
            near = difflib.get_close_matches(value[:HINT_CHARS_MAX].upper(), field.values, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Problem(path, f"{_shown(value)} is not one of {', '.join(field.values)}{hint}")
    elif len(value) < field.at_least:
        yield Problem(path, "is empty" if not value else f"is shorter than {field.at_least} characters")
    elif field.at_most is not None and len(value) > field.at_most:
        yield Problem(path, f"is longer than {field.at_most} characters")
    elif field.pattern and not re.fullmatch(field.pattern, value):
        yield Problem(path, f"{_shown(value)} is not {field.what}")


def _number(field: Number, value: Any, path: Path) -> Iterator[Problem]:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or (field.whole and isinstance(value, float) and not value.is_integer()):
        quoted = isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit()
        wanted = "a whole number" if field.whole else "a number"
        yield _expected(wanted, value, path, "; leave the quotes out" if quoted else "")
    elif field.values:
        if value not in field.values:
            yield Problem(path, f"{_shown(value)} is not one of {', '.join(map(str, field.values))}")
    elif field.minimum is not None and not value >= field.minimum:
        yield Problem(path, f"{_shown(value)} is less than {field.minimum}")
    elif field.maximum is not None and not value <= field.maximum:
        yield Problem(path, f"{_shown(value)} is more than {field.maximum}")


def _count(count: int, at_least: int, at_most: int | None, path: Path) -> Iterator[Problem]:
    if count < at_least:
        yield Problem(path, "is empty" if not count else f"needs at least {at_least} entries")
    elif at_most is not None and count > at_most:
        yield Problem(path, f"holds {count} entries, more than {at_most}")


def _identity(field: Items, item: Any) -> tuple[Any, ...] | None:
    """What no other entry of the list may have; None if that cannot be said."""
    parts: tuple[Any, ...]
    if field.unique:
        parts = (item,)
    elif field.keys and isinstance(item, dict):
        parts = tuple(item.get(key) for key in field.keys)
    else:
        return None
    return parts if all(isinstance(part, str | int) for part in parts) else None


def _expected(what: str, value: Any, path: Path, hint: str = "") -> Problem:
    return Problem(path, f"expected {what}, found {type_name(value)}{hint}")


def _near(word: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}..."


def _unused(field: Field, expected: Any, value: Any, path: Path) -> Iterator[Path]:
    expected = _plain(expected)
    if isinstance(field, Record) and isinstance(value, dict):
        known = _members(expected)
        for name, item in value.items():
            inner = field.fields.get(name)
            if known is None or inner is None or item is None:
                continue
            if name in known:
                yield from _unused(inner, known[name], item, (*path, name))
            else:
                yield (*path, name)
    elif isinstance(field, Items) and isinstance(value, list) and get_origin(expected) in (tuple, list):
        for index, item in enumerate(value):
            yield from _unused(field.item, get_args(expected)[0], item, (*path, index))
    elif isinstance(field, Entries) and isinstance(value, dict) and get_origin(expected) is dict:
        for name, item in value.items():
            yield from _unused(field.value, get_args(expected)[1], item, (*path, name))


def _plain(expected: Any) -> Any:
    """`X | None` as X; what may be several things stays as it is."""
    if get_origin(expected) in (Union, types.UnionType):
        options = [option for option in get_args(expected) if option is not type(None)]
        if len(options) == 1:
            return options[0]
    return expected


@functools.cache
def _members(expected: Any) -> dict[str, Any] | None:
    """The fields a struct has, by their names in the API; None for a type that is no struct."""
    if not (isinstance(expected, type) and issubclass(expected, msgspec.Struct)):
        return None
    return {field.encode_name: field.type for field in msgspec.structs.fields(expected)}
