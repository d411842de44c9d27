"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from tests.support.apiserver.kinds import Kind
from tests.support.apiserver.status import bad_request

Match = Callable[[dict[str, Any]], bool]

_FIELDS: Final[dict[str, frozenset[str]]] = {
    "Pod": frozenset(("spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP")),
    "Secret": frozenset(("type",)),
    "Namespace": frozenset(("status.phase",)),
}
_NAMES: Final = frozenset(("metadata.name", "metadata.namespace"))
_TERM: Final = re.compile(r"\s*(!?)([\w./-]+)\s*(?:(==|=|!=)\s*([\w.-]*)|(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")


def matcher(kind: Kind, label_selector: str, field_selector: str) -> Match:
    """Raises Refusal 400 for a selector that cannot be read, or a field that cannot be selected by."""
    terms = _labels(label_selector) + _fields(kind, field_selector)
    return lambda obj: all(term(obj) for term in terms)


def _labels(selector: str) -> list[Match]:
    terms: list[Match] = []
    position = 0
    while position < len(selector):
        found = _TERM.match(selector, position)
        if found is None:
            raise bad_request(f"unable to parse requirement: {selector!r}")
        terms.append(_label(*found.groups()))
        position = found.end()
    return terms


def _label(negated: str, name: str, operator: str | None, value: str, word: str | None, several: str) -> Match:
    def held(obj: dict[str, Any]) -> Any:
        return obj["metadata"].get("labels", {}).get(name)

    if operator is not None:
        return (lambda obj: held(obj) != value) if operator == "!=" else (lambda obj: held(obj) == value)
    if word is not None:
        values = {item.strip() for item in several.split(",")}
        return (lambda obj: held(obj) in values) if word == "in" else (lambda obj: held(obj) not in values)
    return (lambda obj: held(obj) is None) if negated else (lambda obj: held(obj) is not None)


def _fields(kind: Kind, selector: str) -> list[Match]:
    terms: list[Match] = []
    for part in filter(None, selector.split(",")):
        name, operator, value = re.split(r"(!=|==|=)", part, maxsplit=1) if "=" in part else (part, "", "")
        if not operator or name not in _NAMES | _FIELDS.get(kind.kind, frozenset()):
            raise bad_request(f"field label not supported: {name}")
        terms.append(_field(name.split("."), value, equal=operator != "!="))
    return terms


def _field(path: list[str], value: str, *, equal: bool) -> Match:
    def matches(obj: dict[str, Any]) -> bool:
        held: Any = obj
        for name in path:
            held = held.get(name, "") if isinstance(held, dict) else ""
        return (held == value) is equal

    return matches
