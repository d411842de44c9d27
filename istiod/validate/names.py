"""The grammar of names: DNS labels and hosts, Kubernetes labels, HTTP headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.field import Field

_LABEL_CHARS_MAX: Final = 63
_SUBDOMAIN_CHARS_MAX: Final = 253
_HOST_CHARS_MAX: Final = 255

_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_HOST_LABEL: Final = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_WILDCARD_LABEL: Final = re.compile(r"\*|\*?-?[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~A-Za-z0-9]+")  # RFC 9110, 5.6.2
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, 5.5: of these only the tab may stand in a value

AUTHORITY: Final = frozenset({"host", ":authority"})


def is_label(text: str) -> bool:
    """DNS-1123 label: the name of a namespace."""
    return len(text) <= _LABEL_CHARS_MAX and _DNS_LABEL.fullmatch(text) is not None


def is_part_name(text: str) -> bool:
    """The name of a port or of a subset: Istio takes upper case there."""
    return is_label(text.lower())


def is_subdomain(text: str) -> bool:
    """DNS-1123 subdomain: the name of most objects."""
    return len(text) <= _SUBDOMAIN_CHARS_MAX and _SUBDOMAIN.fullmatch(text) is not None


def namespace_hint(text: str) -> str:
    return "" if len(text) <= _LABEL_CHARS_MAX else f": longer than {_LABEL_CHARS_MAX} characters"


def label_faults(key: str, value: str) -> Iterator[str]:
    """What Kubernetes would refuse about a label."""
    prefix, slash, name = key.rpartition("/")
    if (slash and not is_subdomain(prefix)) or len(name) > _LABEL_CHARS_MAX or not _QUALIFIED.fullmatch(name):
        yield f"{key[:100]!r} is not a label name: [DOMAIN/]NAME of letters, digits, '-', '_' and '.', at most 63"
    if value and (len(value) > _LABEL_CHARS_MAX or not _QUALIFIED.fullmatch(value)):
        yield f"{value[:100]!r} is not a label value: letters, digits, '-', '_' and '.', at most 63"


def host_fault(text: str, *, wildcard: bool) -> str:
    """Why `text` is no host name, "" if it is one; `wildcard` allows `*`, `*.x` and `*x` in front."""
    if not text:
        return "is empty"
    if len(text) > _HOST_CHARS_MAX:
        return f"is longer than {_HOST_CHARS_MAX} characters"
    first, *others = text.removesuffix(".").split(".")
    pattern = _WILDCARD_LABEL if wildcard else _HOST_LABEL
    if "*" in text and not wildcard:
        return "holds a wildcard, where a single host is needed"
    if "*" in first[1:] or any("*" in label for label in others):
        return "may have a wildcard at its start only"
    for label, shape in ((first, pattern), *((label, _HOST_LABEL) for label in others)):
        if len(label) > _LABEL_CHARS_MAX or not shape.fullmatch(label):
            return f"is not a host name: {label[:_LABEL_CHARS_MAX]!r} cannot stand between dots"
    if others and others[-1].isdigit():
        return f"is not a host name: its last part {others[-1]} is a number"
    return ""


def host(field: Field, *, wildcard: bool = True) -> Iterator[Problem]:
    """A host name; anything but text is left to the schema."""
    if isinstance(field.value, str) and (fault := host_fault(field.text, wildcard=wildcard)):
        yield field.error(f"{field} {fault}")


class Hosts:
    """Hosts and wildcards, to find one that matches all that another does. The cost is that of the name's length."""

    def __init__(self, hosts: Iterable[Field]) -> None:
        self._by_name: dict[str, Field] = {}
        self._by_suffix: dict[str, Field] = {}
        for field in hosts:
            self._by_name.setdefault(field.text, field)
            if field.text.startswith("*"):
                self._by_suffix.setdefault(field.text[1:], field)

    def covering(self, text: str, besides: Field | None = None) -> Field | None:
        """The entry itself or a wildcard over it; `besides` does not count."""
        found = self._by_name.get(text)
        if found is not None and found is not besides:
            return found
        suffix = text.removeprefix("*")[:_HOST_CHARS_MAX]
        for start in range(0 if text.startswith("*") else 1, len(suffix) + 1):
            found = self._by_suffix.get(suffix[start:])
            if found is not None and found is not besides:
                return found
        return None


def namespaced_host(field: Field, namespaces: tuple[str, ...]) -> Iterator[Problem]:
    """`[NAMESPACE/]HOST`, where `namespaces` are the signs that may stand for one."""
    namespace, slash, rest = field.text.partition("/")
    if not slash:
        namespace, rest = "*", namespace
    if namespace not in namespaces and not is_label(namespace):
        yield field.error(f"{field}: before the slash stands neither a namespace nor {_words(namespaces)}")
    if fault := host_fault(rest, wildcard=True):
        yield field.error(f"{field}: the host {fault}")


def _words(signs: tuple[str, ...]) -> str:
    return " or ".join(f"'{sign}'" for sign in signs)


def header_name(field: Field, name: str) -> Iterator[Problem]:
    """A header that a rule looks at."""
    if not name:
        yield field.error("a header needs a name")
    elif not _TOKEN.fullmatch(name.removeprefix(":")):
        yield field.error(f"{name[:80]!r} is not a header name")


def changed_header(field: Field, name: str, *, authority: bool) -> Iterator[Problem]:
    """A header that a rule changes; `authority` says whether the host may be among them."""
    lower = name.lower()
    if lower in AUTHORITY:
        if not authority:
            yield field.error(f"{name!r} cannot be changed here; rewrite.authority sets the host")
    elif name.startswith(":"):
        yield field.error(f"{name[:80]!r}: a name with ':' in front is not a header but a part of the request line")
    else:
        yield from header_name(field, name)


def header_value(field: Field) -> Iterator[Problem]:
    if _CONTROL.search(field.text):
        yield field.error("a header value cannot hold control characters")
