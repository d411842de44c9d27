"""A company's own certificate authority, and the files it gives to a mesh."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from istiod.ca import Lifetimes
from istiod.ca.material import authority_key_id, new_root
from istiod.ca.pem import bundle_pem, certificate_pem, key_pem

DAY = timedelta(days=1)
LIFETIMES = Lifetimes(DAY, 90 * DAY)


class Corp:
    """A key and its CA certificate: a root, or an intermediate made by `issue`."""

    def __init__(self, name: str = "corp", ttl: timedelta = 100 * DAY) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = new_root(self.key, name, ttl)

    @property
    def pem(self) -> str:
        return certificate_pem(self.certificate)

    def issue(
        self,
        name: str,
        *,
        start: timedelta = -DAY,
        end: timedelta = 10 * DAY,
        is_ca: bool = True,
        path_length: int | None = 0,
        may_sign: bool = True,
    ) -> Self:
        made = type(self)(name)
        now = datetime.now(UTC)
        usage = made.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not may_sign:
            usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
        made.certificate = (
            x509.CertificateBuilder()
            .subject_name(made.certificate.subject)
            .issuer_name(self.certificate.subject)
            .public_key(made.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + start)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.key.public_key()), critical=False)
            .add_extension(authority_key_id(self.certificate), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return made

    def crl(self, *serials: int, next_update: timedelta = DAY) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - 2 * DAY)
            .next_update(now + next_update)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def ca_files(signer: Corp, chain: Iterable[Corp], roots: Iterable[Corp], crl: bytes = b"") -> dict[str, bytes]:
    """What is mounted: `chain` stands above the signer."""
    files = {
        "ca-key.pem": key_pem(signer.key),
        "ca-cert.pem": signer.pem.encode(),
        "cert-chain.pem": bundle_pem(c.certificate for c in chain).encode(),
        "root-cert.pem": bundle_pem(c.certificate for c in roots).encode(),
    }
    return files | ({"ca-crl.pem": crl} if crl else {})


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """A directory that holds these files and no others."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in files:
            old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def leaf(chain: list[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())
