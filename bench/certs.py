"""A throw-away certificate authority: P-256 leafs with one SPIFFE URI, as istiod signs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN: Final = "cluster.local"


class Leaf(NamedTuple):
    """A certificate and its key, both PEM."""

    chain: bytes
    key: bytes


class LeafFiles(NamedTuple):
    """The same as files, with the trust anchor, for programs that read files."""

    chain: Path
    key: Path
    root: Path


def spiffe(account: str) -> str:
    """The identity of a service account in namespace `bench`."""
    return f"spiffe://{TRUST_DOMAIN}/ns/bench/sa/{account}"


class Authority:
    """Signs leafs; `pem` is its own certificate."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, TRUST_DOMAIN)])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=2))
            .not_valid_after(now + timedelta(days=1))
        )

    def issue(self, account: str) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe(account))]), critical=True
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def issue_files(self, account: str, directory: Path) -> LeafFiles:
        leaf = self.issue(account)
        files = LeafFiles(directory / f"{account}.pem", directory / f"{account}.key", directory / "root.pem")
        files.chain.write_bytes(leaf.chain)
        files.key.touch(mode=0o600)
        files.key.write_bytes(leaf.key)
        files.root.write_bytes(self.pem)
        return files
