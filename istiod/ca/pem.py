"""Certificates and keys as PEM: reading with errors that name the file, writing, and who issued whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshcore.errors import ConfigError

RSA_BITS: Final = range(2048, 8193)
"""NIST SP 800-57 asks for 2048; above 8192 one signature costs more than a caller should be able to ask for."""
CERTIFICATES_MAX: Final = 256
"""Of one file. A bundle of every public root has about 150."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def acceptable(key: object) -> bool:
    """A key this mesh works with: ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS


def parse_key(data: bytes, where: str) -> SigningKey:
    """An unencrypted private key; raises ConfigError naming `where`."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{where}: not an unencrypted private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) or not acceptable(key.public_key()):
        raise ConfigError(f"{where}: the key must be ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits")
    return key


def parse_certificates(data: bytes, where: str) -> tuple[x509.Certificate, ...]:
    """One certificate or several, without repetitions, in order; raises ConfigError naming `where`."""
    try:
        found = tuple(dict.fromkeys(x509.load_pem_x509_certificates(data)))
        for certificate in found:
            certificate.public_key()
            _ = certificate.extensions, certificate.subject, certificate.issuer  # parsed on first use only
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
        cause = "" if b"-----BEGIN" not in data else f" ({exc})"
        raise ConfigError(f"{where}: holds no certificate in PEM form{cause}") from None
    if len(found) > CERTIFICATES_MAX:
        raise ConfigError(f"{where}: holds {len(found)} certificates, more than {CERTIFICATES_MAX}")
    return found


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def bundle_pem(certificates: Iterable[x509.Certificate]) -> str:
    return "".join(certificate_pem(c) for c in certificates)


def key_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def name_of(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """By name and signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def in_force(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc <= datetime.now(UTC) < certificate.not_valid_after_utc
