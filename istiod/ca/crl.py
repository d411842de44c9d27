"""Certificate revocation lists (RFC 5280 section 5): read, checked, asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from meshcore.errors import ConfigError

_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class Revocations:
    """Which certificates no longer count. `pem` is what is handed on to proxies; empty: nothing is revoked."""

    def __init__(self, pem: str = "", revoked: dict[bytes, frozenset[int]] | None = None, overdue: str = "") -> None:
        self.pem = pem
        self.overdue = overdue
        """The issuer of a list whose successor should have come by now; the list holds all the same."""
        self._revoked = revoked or {}

    def holds(self, certificate: x509.Certificate) -> bool:
        return certificate.serial_number in self._revoked.get(certificate.issuer.public_bytes(), ())

    def find(self, chain: Sequence[bytes]) -> str:
        """What is revoked in a chain of DER certificates, as a text for the log; empty if nothing is."""
        if not self._revoked:
            return ""
        for der in chain:
            certificate = x509.load_der_x509_certificate(der)
            if self.holds(certificate):
                return f"certificate {certificate.serial_number:x} of {certificate.issuer.rfc4514_string()!r}"
        return ""


def parse_crl(data: bytes, where: str, issuers: Iterable[x509.Certificate]) -> Revocations:
    """The lists of a PEM file, each signed by one of `issuers`; raises ConfigError naming `where` and the cause."""
    issuers = tuple(issuers)
    revoked: dict[bytes, frozenset[int]] = {}
    overdue = ""
    blocks = _BLOCK.findall(data)
    if not blocks:
        raise ConfigError(f"{where}: holds no revocation list in PEM form")
    for block in blocks:
        try:
            crl = x509.load_pem_x509_crl(block)
            issuer, serials = crl.issuer, frozenset(entry.serial_number for entry in crl)
            partial = any(
                isinstance(e.value, x509.DeltaCRLIndicator | x509.IssuingDistributionPoint) for e in crl.extensions
            )
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
            raise ConfigError(f"{where}: a revocation list cannot be read: {exc}") from None
        if partial:
            raise ConfigError(f"{where}: the list of {issuer.rfc4514_string()!r} is partial; only whole lists are used")
        if not any(_signed(crl, c) for c in issuers):
            raise ConfigError(
                f"{where}: the list of {issuer.rfc4514_string()!r} is signed by none of the CA's certificates"
            )
        name = issuer.public_bytes()
        revoked[name] = revoked.get(name, frozenset()) | serials
        if crl.next_update_utc is not None and crl.next_update_utc < datetime.now(UTC):
            overdue = issuer.rfc4514_string()
    pem = b"".join(block.replace(b"\r", b"") + b"\n" for block in blocks).decode("ascii")
    return Revocations(pem, revoked, overdue)


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if issuer.subject != crl.issuer:
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # a key that cannot sign: TypeError
    except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False
