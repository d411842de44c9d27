"""A small CA for tests: certificates with chosen names, times and serial numbers."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


class Issuer:
    """A self-signed root that signs whatever a test wants."""

    def __init__(self, name: str = "test root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        root = self._build(self._name, self._key.public_key(), 0, 4e9, 1)
        self._root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )

    @classmethod
    @functools.cache
    def shared(cls) -> Issuer:
        return cls()

    @property
    def root_pem(self) -> str:
        return self._root.public_bytes(_PEM).decode()

    def sign(self, csr_pem: str, uri: str, *, not_before: float, ttl: float, serial: int = 0) -> list[str]:
        """What istiod answers: the leaf, then the root."""
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return [self._leaf(key, uri, not_before, ttl, serial).public_bytes(_PEM).decode(), self.root_pem]

    def certificate(self, uri: str, *, not_before: float = 1.7e9, ttl: float = 3600, serial: int = 7) -> str:
        leaf = self._leaf(self._key.public_key(), uri, not_before, ttl, serial)
        return leaf.public_bytes(_PEM).decode()

    def certificate_der(self, uri: str) -> bytes:
        leaf = self._leaf(self._key.public_key(), uri, 1.7e9, 3600, 7)
        return leaf.public_bytes(serialization.Encoding.DER)

    def _leaf(
        self, key: ec.EllipticCurvePublicKey, uri: str, not_before: float, ttl: float, serial: int
    ) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = self._build(x509.Name([]), key, not_before, ttl, serial or x509.random_serial_number())
        return builder.add_extension(names, critical=True).sign(self._key, hashes.SHA256())

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, not_before: float, ttl: float, serial: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(datetime.fromtimestamp(not_before, UTC))
            .not_valid_after(datetime.fromtimestamp(not_before + ttl, UTC))
        )
