"""YAML documents as plain data, with the line of every field and with limits.

The parser walks libyaml's events without recursion, so a hostile file costs bounded time and memory: nesting and the
number of nodes are limited, aliases and custom tags are refused. Values follow what Kubernetes accepts: JSON types
only, `yes/no/on/off` are booleans, dates stay text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, Final

import yaml

from meshcore.errors import ConfigError

Path = tuple[str | int, ...]
"""Where a field stands in its document: names of mappings and indexes of lists."""

MAX_DEPTH: Final = 64
MAX_NODES: Final = 2_000_000
_NUMBER_CHARS_MAX: Final = 40

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)\Z")
_RADIX = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+|[0-7_]+)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((w for t in ("true", "yes", "on") for w in (t, t.title(), t.upper())), True),
    **dict.fromkeys((w for t in ("false", "no", "off") for w in (t, t.title(), t.upper())), False),
}
_NUMBER_START: Final = frozenset("-+.0123456789")
_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))


class YamlError(ConfigError, code="config.yaml"):
    """A text is not YAML, or goes past a limit; `line` counts from 1."""

    def __init__(self, msg: str, line: int) -> None:
        super().__init__(msg)
        self.line = line


class Document:
    """One document of a stream: its data, its source text and its first line (from 1)."""

    __slots__ = ("data", "line", "text")

    def __init__(self, data: Any, text: str, line: int) -> None:
        self.data = data
        self.text = text
        self.line = line


def parse(text: str) -> Iterator[Document]:
    """Yield the documents of `text`, empty ones left out; raises YamlError at the first fault."""
    events = _events(text)
    lines: list[str] | None = None
    nodes = [0]
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            data, first, last = _build(events, nodes, None)
            if data is None:
                continue
            if lines is None:
                lines = text.splitlines(keepends=True)
            yield Document(data, "".join(lines[first : last + 1]), first + 1)


def field_lines(doc_text: str) -> dict[Path, int]:
    """The line of every field of the first document in `doc_text`, counted from 0 within that text."""
    found: dict[Path, int] = {}
    events = _events(doc_text)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            _build(events, [0], found.__setitem__)
            break
    return found


def nearest_line(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of its closest parent that stands in the text."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = ": ".join(part for part in (exc.context, exc.problem) if part)
        hint = "; indent with spaces, not tabs" if "\\t" in what or "cannot start any token" in what else ""
        raise YamlError(f"not valid YAML: {what}{hint}", mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, max(exc.position, 0)) + 1
        raise YamlError("holds a control character or a byte that YAML does not allow", line) from None
    except yaml.YAMLError as exc:
        raise YamlError(f"not valid YAML: {exc}", 1) from None
    except UnicodeEncodeError as exc:
        raise YamlError("holds a lone surrogate", text.count("\n", 0, exc.start) + 1) from None


def _build(
    events: Iterator[yaml.Event], nodes: list[int], mark: Callable[[Path, int], None] | None
) -> tuple[Any, int, int]:
    """Consume the events of one document; returns the data and its first and last line, from 0."""
    stack: list[tuple[Any, Path]] = []
    key: str | None = None
    keys: list[str | None] = []
    root: Any = None
    first = -1
    for event in events:
        line = event.start_mark.line if event.start_mark is not None else 0
        if isinstance(event, yaml.DocumentEndEvent):
            return root, max(first, 0), line
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            stack.pop()
            key = keys.pop()
            continue
        nodes[0] += 1
        if first < 0:
            first = line
        value = _value(event, len(stack), nodes[0], line)
        path: Path = ()
        if not stack:
            root = value
        else:
            parent, base = stack[-1]
            if isinstance(parent, list):
                path = (*base, len(parent)) if mark else ()
                parent.append(value)
            elif key is None:
                key = _key(event, parent, line)
                if mark:
                    mark((*base, key), line)
                continue
            else:
                parent[key] = value
                path = (*base, key) if mark else ()
                key = None
        if mark:
            if isinstance(value, dict | list) and isinstance(path[-1] if path else None, str):
                pass  # the line of its key is the better place
            else:
                mark(path, line)
        if isinstance(value, dict | list):
            stack.append((value, path))
            keys.append(key)
            key = None
    raise YamlError("the document ends early", first + 1)


def _value(event: yaml.Event, depth: int, count: int, line: int) -> Any:
    if isinstance(event, yaml.AliasEvent):
        raise YamlError(f"alias *{event.anchor}: aliases are not supported here, write the value out", line + 1)
    if count > MAX_NODES:
        raise YamlError(f"more than {MAX_NODES} values in one file: split it", line + 1)
    if depth >= MAX_DEPTH:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line + 1)
    tag: str | None = getattr(event, "tag", None)
    if tag is not None and tag not in _TAGS and tag != "!":
        raise YamlError(f"tag {tag}: custom tags are not supported", line + 1)
    if isinstance(event, yaml.ScalarEvent):
        return scalar(event.value) if event.implicit[0] and tag is None else event.value
    return {} if isinstance(event, yaml.MappingStartEvent) else []


def _key(event: yaml.Event, parent: dict[str, Any], line: int) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise YamlError("a key is itself a mapping or a list", line + 1)
    key: str = event.value
    if key == "<<" and event.implicit[0]:
        raise YamlError("merge keys (<<) are not supported here, write the fields out", line + 1)
    if key in parent:
        raise YamlError(f"field {key!r} stands twice in the same mapping", line + 1)
    parent[key] = None
    return key


def scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted YAML word means."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START or len(text) > _NUMBER_CHARS_MAX:
        return text
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _RADIX.match(text):
        return _radix(text.replace("_", ""), text)
    if _FLOAT.match(text):
        number = float(text)
        return number if isfinite(number) else text
    return text


def _radix(digits: str, text: str) -> int | str:
    sign = -1 if digits[0] == "-" else 1
    digits = digits.lstrip("+-")
    base = {"x": 16, "o": 8, "b": 2}.get(digits[1:2], 8)
    try:
        return sign * int(digits[1:] if base == 8 and digits[1:2] != "o" else digits[2:], base)
    except ValueError:
        return text
