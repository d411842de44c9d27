"""Just enough of X.509 to schedule and to show certificates: serial number, validity, URI names.

A certificate is verified by OpenSSL, in the workers; this only reads it, because the library that could is ten
megabytes. DER of RFC 5280; anything unexpected raises CertificateError.
"""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from meshcore.errors import CertificateError

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----")
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_URI: Final = 0x86  # GeneralName [6]
_SUBJECT_ALT_NAME: Final = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """One certificate. `pem` is its text, times are seconds since 1970."""

    pem: str
    serial: int
    not_before: float
    not_after: float
    uris: tuple[str, ...]


def parse_all(text: str) -> list[Certificate]:
    """Every certificate in a PEM text, in order; at least one. Raises CertificateError."""
    found = [_certificate(match) for match in _PEM.finditer(text)]
    if not found:
        raise CertificateError("there is no certificate in the text")
    return found


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificate(match: re.Match[str]) -> Certificate:
    try:
        der = binascii.a2b_base64(match[1])
        whole = _one(der, _SEQUENCE)
        tag, fields, _ = _element(whole, 0)
        if tag != _SEQUENCE:
            raise CertificateError("a certificate without content")
        return _content(match[0] + "\n", fields)
    except (binascii.Error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise CertificateError(f"a certificate cannot be read: {error}") from None


def _content(pem: str, fields: bytes) -> Certificate:
    """TBSCertificate: version, serialNumber, signature, issuer, validity, subject, key, ..., extensions."""
    parts = list(_elements(fields))
    if parts and parts[0][0] == _VERSION:
        parts = parts[1:]
    if len(parts) < 6 or parts[0][0] != _INTEGER or parts[3][0] != _SEQUENCE:
        raise CertificateError("a certificate lacks fields")
    times = [_time(tag, body) for tag, body in _elements(parts[3][1])]
    if len(times) != 2:
        raise CertificateError("a certificate's validity is not two times")
    uris: tuple[str, ...] = ()
    for tag, body in parts[6:]:
        if tag == _EXTENSIONS:
            uris = _uris(_one(body, _SEQUENCE))
    return Certificate(pem, int.from_bytes(parts[0][1], "big", signed=True), times[0], times[1], uris)


def _uris(extensions: bytes) -> tuple[str, ...]:
    for _, extension in _elements(extensions):
        fields = list(_elements(extension))
        if fields[0] == (_OID, _SUBJECT_ALT_NAME) and fields[-1][0] == _OCTETS:
            names = _one(fields[-1][1], _SEQUENCE)
            return tuple(body.decode("ascii") for tag, body in _elements(names) if tag == _URI)
    return ()


def _time(tag: int, body: bytes) -> float:
    text = body.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text  # RFC 5280 section 4.1.2.5.1
    elif tag != _GENERALIZED_TIME:
        raise CertificateError("a certificate's time has an unknown form")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """-> (tag, content, offset behind it)."""
    tag, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        if not 0 < count <= 4:
            raise CertificateError("a length in a certificate is not DER")
        length = int.from_bytes(data[at : at + count], "big")
        at += count
    if at + length > len(data):
        raise CertificateError("a certificate ends inside a field")
    return tag, data[at : at + length], at + length


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        tag, body, at = _element(data, at)
        found.append((tag, body))
    return found


def _one(data: bytes, wanted: int) -> bytes:
    tag, body, end = _element(data, 0)
    if tag != wanted or end != len(data):
        raise CertificateError("a certificate has an unexpected structure")
    return body
