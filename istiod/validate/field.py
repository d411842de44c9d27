"""A value with its place in an object, read without trust in its shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from istiod.problem import Problem
from meshcore.yamldoc import Path

_NUMBER_MAX: Final = 2**64
"""No field of any kind is larger; such a number reads as absent, as every other wrong type does."""
_SHOWN_CHARS: Final = 80


class Field:
    """Whatever has another shape than a check asks for reads as absent: that it does is the schema's to report.

    So `spec["http"]` of anything is a field, iterating over it gives the entries if it is a list, and nothing here
    raises. Null and absent are the same, except to `has`.
    """

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: Path = ()) -> None:
        self.path = path
        self.value = value

    def __getitem__(self, name: str) -> Field:
        """A field of a mapping."""
        value = self.value.get(name) if isinstance(self.value, dict) else None
        return Field(value, (*self.path, name))

    def __iter__(self) -> Iterator[Field]:
        """The entries of a list."""
        if isinstance(self.value, list):
            for index, value in enumerate(self.value):
                yield Field(value, (*self.path, index))

    def __len__(self) -> int:
        return len(self.value) if isinstance(self.value, list | dict) else 0

    def __bool__(self) -> bool:
        """Whether there is something in it: 0, "", [] and {} are nothing, as they are in protobuf."""
        return bool(self.value)

    def __str__(self) -> str:
        """The value, as a message quotes it."""
        text = repr(self.value)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."

    @property
    def given(self) -> bool:
        """Whether it was written at all, be it empty."""
        return self.value is not None

    @property
    def name(self) -> str:
        return str(self.path[-1])

    @property
    def text(self) -> str:
        """The value if it is text, else nothing."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | float | None:
        """The value if it is a number of ordinary size."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_NUMBER_MAX < value < _NUMBER_MAX:
            return None
        return value

    def has(self, name: str) -> bool:
        """Whether a mapping has this key, be its value null."""
        return isinstance(self.value, dict) and name in self.value

    def members(self) -> Iterator[tuple[str, Field]]:
        """The keys of a mapping and what they hold."""
        if isinstance(self.value, dict):
            for key in self.value:
                yield key, self[key]

    def texts(self) -> Iterator[Field]:
        """The entries of a list that are text."""
        return (entry for entry in self if isinstance(entry.value, str))

    def given_of(self, *names: str) -> list[Field]:
        """Those of some fields that were written."""
        return [field for name in names if (field := self[name]).given]

    def filled_of(self, *names: str) -> list[Field]:
        """Those of some fields that hold something."""
        return [field for name in names if (field := self[name])]

    def error(self, message: str) -> Problem:
        return Problem(self.path, message)

    def warn(self, message: str, code: str = "") -> Problem:
        return Problem(self.path, message, warning=True, code=code)
