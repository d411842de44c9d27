"""Checks of RequestAuthentication."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from istiod.problem import Problem
from istiod.validate.common import attachment, each, required, selector
from istiod.validate.field import Field
from istiod.validate.names import header_name
from istiod.validate.texts import duration

_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
"""Members of a JSON Web Key that only its owner may know (RFC 7518, 6)."""
JWKS_BYTES_MAX: Final = 1_048_576
"""What the API server takes at most for a whole object."""


def request_authentication(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from attachment(spec)
    yield from selector(spec)
    yield from each(spec["jwtRules"], _rule)


def _rule(rule: Field) -> Iterator[Problem]:
    if not rule.filled_of("issuer", "jwksUri"):
        yield rule["issuer"].error("missing: a rule needs issuer or jwksUri, or no token could be verified")
    for audience in rule["audiences"].texts():
        if not audience.text:
            yield audience.error("an empty audience is in no token")
    yield from _jwks_uri(rule["jwksUri"])
    yield from _jwks(rule["jwks"])
    for header in rule["fromHeaders"]:
        yield from required(header["name"])
        if header["name"].text:
            yield from header_name(header["name"], header["name"].text)
    for source in ("fromParams", "fromCookies"):
        for entry in rule[source].texts():
            if not entry.text:
                yield entry.error("is empty; it names where the token is")
    if rule["outputPayloadToHeader"].text:
        yield from header_name(rule["outputPayloadToHeader"], rule["outputPayloadToHeader"].text)
    yield from each(rule["outputClaimToHeaders"], _claim)
    yield from duration(rule["timeout"])


def _claim(entry: Field) -> Iterator[Problem]:
    yield from required(entry["header"], "it needs both header and claim")
    yield from required(entry["claim"], "it needs both header and claim")
    if entry["header"].text:
        yield from header_name(entry["header"], entry["header"].text)


def _jwks_uri(uri: Field) -> Iterator[Problem]:
    if not uri.text:
        return
    try:
        parts = urlsplit(uri.text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        yield uri.error(f"{uri} is not a URL with http:// or https://")


def _jwks(jwks: Field) -> Iterator[Problem]:
    """The keys themselves. The text is never quoted: it may hold a secret by mistake."""
    if not jwks.text:
        return
    if len(jwks.text) > JWKS_BYTES_MAX:
        yield jwks.error(f"longer than {JWKS_BYTES_MAX} characters")
        return
    try:
        keys: Any = msgspec.json.decode(jwks.text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        yield jwks.error('is not JSON; a key set is written as {"keys": [...]}')
        return
    found = Field(keys)["keys"]
    if not isinstance(found.value, list):
        yield jwks.error("is no key set: it needs the member keys, a list")
        return
    for key in found:
        if not key["kty"].text:
            yield jwks.error(f"key {key.path[-1]} has no kty, so it is not a key")
        if key.given_of(*_PRIVATE):
            text = "who can read this object could forge tokens with it; keep the public parts only"
            yield jwks.warn(f"key {key.path[-1]} holds private key material: {text}")
