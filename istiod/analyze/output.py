"""Messages as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import yaml

from istiod.analyze.message import Message

_INDENT: Final = "    "


def log(messages: Sequence[Message]) -> str:
    """`LEVEL [CODE] (KIND NS/NAME FILE:LINE) FIELD: MESSAGE`, and a suggestion on a line of its own."""
    lines = []
    for one in messages:
        where = " ".join(part for part in (one.kind, one.name, one.place) if part)
        field = f"{one.field}: " if one.path else ""
        lines.append(f"{one.code.level.title} [{one.code.id}] ({where}) {field}{one.text}\n")
        if one.suggestion:
            lines.append(f"{_INDENT}{one.suggestion}\n")
    return "".join(lines)


def json(messages: Sequence[Message]) -> str:
    """A list of objects; `origin`, `reference` and `documentationUrl` are upstream's names."""
    return msgspec.json.format(msgspec.json.encode([_record(one) for one in messages]), indent=2).decode() + "\n"


def as_yaml(messages: Sequence[Message]) -> str:
    """The same as YAML."""
    text: str = yaml.safe_dump([_record(one) for one in messages], sort_keys=False, allow_unicode=True, width=1000)
    return text


FORMATS: Final = {"log": log, "json": json, "yaml": as_yaml}


def _record(one: Message) -> dict[str, Any]:
    record = {
        "code": one.code.id,
        "name": one.code.name,
        "level": one.code.level.title,
        "origin": one.resource,
        "reference": one.place,
        "field": one.field,
        "message": one.text,
        "suggestion": one.suggestion,
        "documentationUrl": one.code.url,
    }
    return {name: value for name, value in record.items() if value}
