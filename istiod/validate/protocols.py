"""The protocols that a port of an Istio kind may name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import choice
from istiod.validate.field import Field

HTTP: Final = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTP_PROXY", "HBONE"})
TLS: Final = frozenset({"TLS", "HTTPS"})
_OTHERS: Final = ("TCP", "UDP", "MONGO", "MYSQL", "REDIS")
_NAMELESS: Final = ("", *_OTHERS)
_ALL: Final = tuple(sorted((*HTTP, *TLS, *_OTHERS)))


def protocol(field: Field) -> Iterator[Problem]:
    """Of a port; upper and lower case are the same. May be absent."""
    if field.text and field.text.upper() not in _ALL:
        yield from choice(field, _ALL)


def is_nameless(field: Field) -> bool:
    """Whether a client of the protocol does not say which host it wants; one that is not known is not judged."""
    return field.text.upper() in _NAMELESS
