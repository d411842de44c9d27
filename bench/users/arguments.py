"""Types for command-line arguments: text -> value. A wrong text raises ArgumentTypeError, which argparse prints as one
line that names the argument. Nothing here needs locust.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Final

from bench.subjects.base import Address
from meshcore import identity
from meshcore.errors import IdentityError

HBONE_PORT: Final = 15008
_PORT_MAX: Final = 65_535
_SCHEMES: Final = ("hbone://", "https://", "tcp://")


def positive(text: str) -> float:
    """A number above zero: a rate in requests/s, or seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def rates(text: str) -> list[int]:
    """Whole numbers above zero, separated by commas: requests/s, one per step."""
    return [whole(part.strip()) for part in text.split(",")]


def path(text: str) -> str:
    """The path of a page, with its query if it has one."""
    if not text.startswith("/") or text.startswith("//") or not text.isascii() or any(c <= " " for c in text):
        raise ArgumentTypeError(f"{text!r} is not the path of a page: it starts with one / and has no blanks")
    return text


def base_url(text: str) -> str:
    """`http://HOST[:PORT][/...]`, or https: what locust's --host is for HTTP."""
    scheme, found, rest = text.partition("://")
    if scheme not in ("http", "https") or not found:
        raise ArgumentTypeError(f"{text!r} is not a URL that starts with http:// or https://")
    address(rest.partition("/")[0], 80)
    return text


def file(text: str) -> Path:
    """A file that can be read."""
    found = Path(text)
    try:
        with found.open("rb"):
            return found
    except OSError as error:
        raise ArgumentTypeError(f"{text}: {error.strerror}") from error


def address(text: str, default_port: int | None = None) -> Address:
    """`HOST:PORT`, an IPv6 address in brackets; with `default_port` the port may be missing."""
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if closed and (rest.startswith(":") or not rest) else "?"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    elif ":" in text:
        raise ArgumentTypeError(f"{text!r}: an IPv6 address stands in brackets")
    if not port and default_port is not None and not text.endswith(":"):
        port = str(default_port)
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) <= _PORT_MAX):
        raise ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return Address(host, int(port))


def target(text: str) -> str:
    """The destination inside a tunnel, `HOST:PORT`: the :authority of its CONNECT."""
    address(text)
    return text


def proxy(text: str) -> Address:
    """Where an HBONE server listens: `HOST[:15008]`, with or without a scheme."""
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    return address(text.rstrip("/"), HBONE_PORT)


def spiffe(text: str) -> str:
    """A SPIFFE URI of the mesh."""
    try:
        return str(identity.parse(text))
    except IdentityError as error:
        raise ArgumentTypeError(str(error)) from error
