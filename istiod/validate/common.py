"""Checks that several kinds share. Each yields problems with the path of the field."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from istiod.problem import Problem
from istiod.validate.field import Field
from istiod.validate.names import is_label, is_subdomain, label_faults, namespace_hint

__all__ = ["Check", "Problem"]

Check: TypeAlias = Callable[[Field], Iterator[Problem]]


PORT_DIGITS: Final = 5


def choice(field: Field, allowed: Sequence[str]) -> Iterator[Problem]:
    """One of `allowed`, or absent."""
    if field.given and field.value not in allowed:
        plain = {word.lower(): word for word in allowed}
        near = difflib.get_close_matches(str(field.value)[:100].lower(), plain, n=1)
        hint = f"; did you mean {plain[near[0]]}?" if near else ""
        yield field.error(f"{field} is not one of {', '.join(allowed)}{hint}")


def each(field: Field, check: Check) -> Iterator[Problem]:
    """`check` on every entry of a list, which cannot be null."""
    for entry in field:
        if entry.given:
            yield from check(entry)
        else:
            yield entry.error("is null: remove it, or fill it in")


def needs_one(parent: Field, *names: str) -> Iterator[Problem]:
    """Fields of which one must be given; that it is one alone is the schema's to check."""
    if not parent.given_of(*names):
        yield parent.error(f"needs one of {', '.join(names)}")


def exactly_one(parent: Field, *names: str) -> Iterator[Problem]:
    """Fields of which one must hold something, and no other."""
    filled = parent.filled_of(*names)
    for other in filled[1:]:
        yield other.error(f"cannot stand beside {filled[0].name}: choose one of them")
    if not filled:
        yield from needs_one(Field(None, parent.path), *names)


def required(field: Field, why: str = "") -> Iterator[Problem]:
    """Must hold something."""
    if not field:
        yield field.error(f"missing{': ' + why if why else ''}")


def unique(fields: Iterable[Field], what: str) -> Iterator[Problem]:
    """Texts and numbers that must differ from each other; those that hold nothing do not count."""
    seen: set[str | int | float] = set()
    for field in fields:
        value = field.text or field.number
        if value is not None and value != "":
            if value in seen:
                yield field.error(f"{what} {field} stands twice")
            seen.add(value)


def port_number(field: Field) -> Iterator[Problem]:
    """A port from 1 to 65535, as a number or as text; may be absent."""
    if field.given:
        text = field.text if isinstance(field.value, str) else str(field.number)
        if not (text.isascii() and text.isdigit() and len(text) <= PORT_DIGITS and 1 <= int(text) <= 65535):
            yield field.error(f"{field.value if field.number is not None else field} is not a port from 1 to 65535")


def whole(field: Field, *, least: int = 0, most: int | None = None) -> Iterator[Problem]:
    """A number within bounds; may be absent."""
    number = field.number
    if number is not None and (number < least or (most is not None and number > most)):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        yield field.error(f"{number} is not a number {bounds}")


def percent(field: Field) -> Iterator[Problem]:
    """From 0 to 100; may be absent."""
    number = field.number
    if number is not None and not 0 <= number <= 100:
        yield field.error(f"{number} is not a percentage from 0 to 100")


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def ip_address(field: Field) -> Iterator[Problem]:
    if field.given and not is_ip(field.text):
        yield field.error(f"{field} is not an IP address")


def is_ip_block(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "%" not in text


def ip_block(field: Field) -> Iterator[Problem]:
    """An address or a CIDR."""
    if field.given and not is_ip_block(field.text):
        yield field.error(f"{field} is neither an IP address nor a CIDR such as 10.0.0.0/8")


def labels(field: Field) -> Iterator[Problem]:
    """Label names and values by the rules of Kubernetes."""
    for key, value in field.members():
        if value.given and not isinstance(value.value, str):
            continue
        for fault in label_faults(key, value.text):
            yield value.error(fault)


def selected_labels(field: Field) -> Iterator[Problem]:
    """Labels to select by: plain, Istio knows no wildcards here."""
    for key, value in field.members():
        if not key:
            yield value.error("a label cannot have an empty name")
        elif "*" in key or "*" in value.text:
            yield value.error("wildcards are not supported in a selector; write the label out")
        else:
            for fault in label_faults(key, value.text):
                yield value.error(fault)


def selector(spec: Field) -> Iterator[Problem]:
    """`selector.matchLabels` of the security, telemetry and extension kinds."""
    chosen = spec["selector"]
    if not chosen.given:
        return
    if not chosen["matchLabels"]:
        yield chosen.warn("has no labels, so it selects every pod of the namespace")
    yield from selected_labels(chosen["matchLabels"])


_TARGET_KINDS = ("Service", "ServiceEntry", "Gateway", "GatewayClass")


def attachment(spec: Field, *, selector_field: str = "selector") -> Iterator[Problem]:
    """To what a policy is attached: at most one of a selector, `targetRef` and `targetRefs`."""
    given = spec.filled_of(selector_field, "targetRef", "targetRefs")
    if len(given) > 1:
        yield given[1].error(f"cannot stand beside {given[0].name}: choose one of {selector_field} and targetRefs")
    for ref in (*spec.filled_of("targetRef"), *spec["targetRefs"]):
        yield from required(ref["name"])
        if ref["namespace"]:
            yield ref["namespace"].error("must not be set: a policy targets its own namespace")
        yield from choice(Field(ref["kind"].text, ref["kind"].path), _TARGET_KINDS)


def export_to(field: Field, namespace: str, *, nobody: bool = False) -> Iterator[Problem]:
    """Where an object is visible: `.`, `*`, or namespaces; `~` (nowhere) if `nobody`."""
    seen: set[str] = set()
    for entry in field.texts():
        text = entry.text
        if text == "~" and not nobody:
            yield entry.error("~ (nowhere) is possible for a ServiceEntry only")
        elif text not in (".", "*", "~") and not is_label(text):
            yield entry.error(f"{entry} is neither '.', '*' nor a namespace{namespace_hint(text)}")
        place = namespace if text == "." and namespace else text
        if place in seen:
            yield entry.error(f"{entry} stands twice" + (", . is this namespace" if text in (".", namespace) else ""))
        seen.add(place)
    for whole_mesh in ("*", "~"):
        if whole_mesh in seen and len(seen) > 1:
            yield field.error(f"{whole_mesh!r} says it all: it cannot stand beside other values")


def namespace_name(field: Field) -> Iterator[Problem]:
    """A namespace; may be absent."""
    if field and isinstance(field.value, str) and not is_label(field.text):
        yield field.error(f"{field} is not the name of a namespace{namespace_hint(field.text)}")


def object_name(field: Field) -> Iterator[Problem]:
    """The name of an object that is referred to; may be absent."""
    if field and isinstance(field.value, str) and not is_subdomain(field.text):
        yield field.error(f"{field} is not a name: lower-case letters, digits, '-' and '.' only")
