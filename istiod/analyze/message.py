"""One thing that analysis has to say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from istiod.analyze.codes import CODES, Code
from meshcore.manifests import Key, dotted
from meshcore.yamldoc import Path


@dataclass(frozen=True, slots=True)
class Message:
    """About one field of one object. `key` is None for what is wrong with a file as such; `line` counts from 1."""

    code: Code
    key: Key | None
    text: str
    path: Path = ()
    suggestion: str = ""
    file: str = ""
    line: int = 0

    def at(self, file: str, line: int) -> Message:
        """The same, with the place where it is written."""
        return replace(self, file=file, line=line)

    @property
    def field(self) -> str:
        return dotted(self.path)

    @property
    def place(self) -> str:
        """`FILE:LINE`; empty for an object of a cluster."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def name(self) -> str:
        """`NAMESPACE/NAME`, or the name alone."""
        if self.key is None:
            return ""
        return f"{self.key[1]}/{self.key[2]}" if self.key[1] else self.key[2]

    @property
    def kind(self) -> str:
        """As the object says it, without a group."""
        return self.key[0].partition(".")[0] if self.key is not None else ""

    @property
    def resource(self) -> str:
        """`KIND NAME.NAMESPACE`, as suppressions name an object."""
        if self.key is None:
            return ""
        _, namespace, name = self.key
        return f"{self.kind} {name}.{namespace}" if namespace else f"{self.kind} {name}"


def message(code: str, key: Key | None, path: Path = (), suggestion: str = "", **values: Any) -> Message:
    """A message with the text of its code, filled with `values`."""
    found = CODES[code]
    return Message(found, key, found.text.format(**values), path, suggestion)
