"""Whether the certificate in a Secret can be served."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from istiod.objects import Secret

_PAIRS: Final = (("tls.crt", "tls.key"), ("cert", "key"))
"""Where a certificate and its key stand, in the spelling of Kubernetes and in Istio's own."""


def fault(secret: Secret, now: datetime | None = None) -> str:
    """What is wrong with it at `now`, without a word of what it holds; empty if it can be served.

    A Secret with an authority's certificate alone is the other half of one with a certificate.
    """
    pair = next((names for names in _PAIRS if any(secret.value(name) for name in names)), None)
    if pair is None:
        has_ca = any(secret.value(name) for name in ("ca.crt", "cacert"))
        return "" if has_ca else f"it has neither {' and '.join(_PAIRS[0])} nor {' and '.join(_PAIRS[1])}"
    for name in pair:
        if not secret.value(name):
            return f"{name} is missing, or is no base64"
    return _pair_fault(secret.value(pair[0]), secret.value(pair[1]), pair, now or datetime.now(UTC))


def _pair_fault(chain: bytes, key: bytes, names: tuple[str, str], now: datetime) -> str:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        return f"{names[0]} is no PEM certificate"
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except (TypeError, ValueError):
        return f"{names[1]} is no PEM key, or is encrypted"
    leaf = certificates[0]
    if _der(public) != _der(leaf.public_key()):
        return f"{names[1]} is not the key of {names[0]}"
    if leaf.not_valid_after_utc < now:
        return f"{names[0]} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if leaf.not_valid_before_utc > now:
        return f"{names[0]} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def _der(key: object) -> bytes:
    public: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return public
