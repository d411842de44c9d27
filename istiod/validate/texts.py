"""The grammar of durations, regular expressions and string matches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from istiod.problem import Problem
from istiod.validate.field import Field

_DURATION_CHARS_MAX: Final = 40
_DURATION: Final = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+")
_STEP: Final = re.compile(r"([0-9.]+)([a-zµμ]+)")
_MS: Final = {
    "ns": Decimal("1e-6"),
    "us": Decimal("1e-3"),
    "µs": Decimal("1e-3"),
    "μs": Decimal("1e-3"),
    "ms": Decimal(1),
    "s": Decimal(1_000),
    "m": Decimal(60_000),
    "h": Decimal(3_600_000),
}
_DURATION_MS_MAX: Final = 2**63 // 1_000_000
"""Go counts nanoseconds in 64 bits: about 292 years."""

REGEX_CHARS_MAX: Final = 1024
"""Upstream's bound: a pattern of another party must not cost the proxy more."""


def milliseconds(text: str) -> Decimal | None:
    """A duration as Go and protobuf write it (`1.5s`, `100ms`, `1h30m`, `0`); None if it is none."""
    if text == "0":
        return Decimal(0)
    if len(text) > _DURATION_CHARS_MAX or not _DURATION.fullmatch(text):
        return None
    total = sum((Decimal(amount) * _MS[unit] for amount, unit in _STEP.findall(text)), Decimal(0))
    if total > _DURATION_MS_MAX:
        return None
    return -total if text.startswith("-") else total


def duration(field: Field, *, zero: bool = False, whole_seconds: bool = False) -> Iterator[Problem]:
    """At least 1 ms and whole milliseconds; `zero` where 0s switches something off. May be absent."""
    if not isinstance(field.value, str):
        return
    value = milliseconds(field.text)
    if value is None:
        yield field.error(f"{field} is not a duration such as 1.5s, 100ms or 1h30m")
    elif value < 1 and not (zero and value == 0):
        yield field.error(f"{field} is shorter than 1ms")
    elif value % 1:
        yield field.error(f"{field} is finer than milliseconds")
    elif whole_seconds and value % 1000:
        yield field.error(f"{field} is not a number of whole seconds")


def regex(field: Field) -> Iterator[Problem]:
    """A pattern as the proxy compiles it. May be absent."""
    if not isinstance(field.value, str):
        return
    if len(field.text) > REGEX_CHARS_MAX:
        yield field.error(f"longer than {REGEX_CHARS_MAX} characters")
    elif fault := _regex_fault(field.text):
        yield field.error(f"not a regular expression of RE2 syntax: {fault}")


def _regex_fault(pattern: str) -> str:
    import re2  # type: ignore[import-untyped]  # here: it is 4 MiB that a mesh without patterns does not need

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as exc:
        reason = exc.args[0] if exc.args else ""
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return ""


def string_match(field: Field, *, presence: bool = False) -> Iterator[Problem]:
    """A `prefix` or `regex`; `presence` allows the regex `*`, which means that the value is there."""
    for form in field.given_of("prefix", "regex"):
        if form.value == "":
            yield form.error(f"an empty {form.name} matches everything; leave it out")
        elif form.name == "regex" and not (presence and form.value == "*"):
            yield from regex(form)
