"""What a CA signs with: key, chain, trust bundle, revocations. Checked as a whole, then never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from istiod.ca import pem
from istiod.ca.crl import Revocations, parse_crl
from istiod.ca.pem import SigningKey
from meshcore.errors import ConfigError

BACKDATE: Final = timedelta(minutes=2)
"""Clocks of two nodes differ."""

KEY: Final = "ca-key.pem"
CERT: Final = "ca-cert.pem"
ROOTS: Final = "root-cert.pem"
CHAIN: Final = "cert-chain.pem"
CRL: Final = "ca-crl.pem"


class Layout(NamedTuple):
    """How the files of a CA are called; `chain` is empty if the intermediates stand behind the certificate."""

    key: str
    certificate: str
    roots: str
    chain: str


LAYOUTS: Final = (Layout(KEY, CERT, ROOTS, CHAIN), Layout("tls.key", "tls.crt", "ca.crt", ""))
"""Istio's names first, then those of a Secret that cert-manager writes."""
FILES: Final = (*LAYOUTS[0], *LAYOUTS[1][:3], CRL)


class Material(msgspec.Struct, frozen=True, eq=False):
    """`roots[0]` issued the chain; `intermediates` begin with the signing certificate unless that is a root."""

    key: SigningKey
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    revocations: Revocations

    def __repr__(self) -> str:
        return f"Material({pem.name_of(self.certificate)!r})"

    def same(self, other: Material) -> bool:
        """Nobody could tell the difference."""
        return self._shown() == other._shown()

    def _shown(self) -> tuple[Any, ...]:
        return self.certificate, self.intermediates, self.roots, self.revocations.pem


def from_files(files: Mapping[str, bytes], where: str) -> Material:
    """The CA in a directory or Secret. Raises ConfigError naming `where`, the file and what does not fit."""
    layout = next((names for names in LAYOUTS if files.get(names.key)), LAYOUTS[0])
    for name in (layout.key, layout.certificate, layout.roots):
        if not files.get(name):
            raise ConfigError(f"{where}/{name}: No such file, or it is empty")
    key = pem.parse_key(files[layout.key], f"{where}/{layout.key}")
    certificate, *above = pem.parse_certificates(files[layout.certificate], f"{where}/{layout.certificate}")
    roots = pem.parse_certificates(files[layout.roots], f"{where}/{layout.roots}")
    if chain := files.get(layout.chain):
        above += pem.parse_certificates(chain, f"{where}/{layout.chain}")
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{where}/{layout.certificate}: does not belong to the key in {layout.key}")
    path = _path(certificate, above, roots, where)
    _check_path(path, where)
    crl = files.get(CRL)
    revocations = parse_crl(crl, f"{where}/{CRL}", (*path, *above, *roots)) if crl else Revocations()
    for own in path:
        if revocations.holds(own):
            raise ConfigError(f"{where}/{CRL}: revokes {pem.name_of(own)!r}, which this CA signs with")
    return Material(key, certificate, tuple(path[:-1]), _first(path[-1], roots), revocations)


def to_files(material: Material) -> dict[str, bytes]:
    """The files that `from_files` reads it from, without revocations. The key is among them."""
    files = {
        KEY: pem.key_pem(material.key),
        CERT: pem.certificate_pem(material.certificate).encode(),
        ROOTS: pem.bundle_pem(material.roots).encode(),
    }
    if material.intermediates:
        files[CHAIN] = pem.bundle_pem(material.intermediates).encode()
    return files


class SelfSigned(msgspec.Struct, frozen=True):
    """How a root of our own is made and when it is renewed: with the part `grace` of its life left."""

    trust_domain: str
    ttl: timedelta
    grace: float = 0.2

    def settle(
        self, files: Mapping[str, bytes] | None, held: Material | None, where: str
    ) -> tuple[Material, dict[str, bytes]]:
        """The CA that these files hold, renewed if it is time, or made; and the files to write, none if all stands.

        `held` is what this process has been signing with: files that went away come back from it, with the same key.
        A renewed root has key and name of the old one, which stays in the bundle until it ends. A CA whose certificate
        was issued by another is a user's and never renewed. Raises ConfigError if the files do not fit together.
        """
        if files is None or not any(files.get(layout.key) for layout in LAYOUTS):
            material = held or _of_root(ec.generate_private_key(ec.SECP256R1()), self.trust_domain, self.ttl)
            return material, to_files(material)
        if files.get(KEY) and not files.get(CERT):
            made = _of_root(pem.parse_key(files[KEY], f"{where}/{KEY}"), self.trust_domain, self.ttl)
            return made, to_files(made)
        if files.get(CERT) and not files.get(ROOTS):
            files = {**files, ROOTS: files[CERT]}
        if not self._ours(files, where):
            return from_files(files, where), {}
        material = self._renewed(files, where)
        written = to_files(material)
        changed = any(files.get(name, b"").strip() != written[name].strip() for name in (CERT, ROOTS))
        return material, written if changed else {}

    def _ours(self, files: Mapping[str, bytes], where: str) -> bool:
        if not files.get(KEY) or not files.get(CERT):
            return False
        certificate = pem.parse_certificates(files[CERT], f"{where}/{CERT}")[0]
        return certificate.issuer == certificate.subject

    def _renewed(self, files: Mapping[str, bytes], where: str) -> Material:
        key = pem.parse_key(files[KEY], f"{where}/{KEY}")
        certificate = pem.parse_certificates(files[CERT], f"{where}/{CERT}")[0]
        if certificate.public_key() != key.public_key():
            raise ConfigError(f"{where}/{CERT}: does not belong to the key in {KEY}")
        bundle = pem.parse_certificates(files[ROOTS], f"{where}/{ROOTS}")
        roots = [c for c in dict.fromkeys((certificate, *bundle)) if datetime.now(UTC) < c.not_valid_after_utc]
        if self._aged(certificate):
            certificate = new_root(key, self.trust_domain, self.ttl, certificate)
            roots.insert(0, certificate)
        return Material(key, certificate, (), tuple(roots), Revocations())

    def _aged(self, certificate: x509.Certificate) -> bool:
        whole = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - datetime.now(UTC) < whole * self.grace


def new_root(
    key: SigningKey, trust_domain: str, ttl: timedelta, former: x509.Certificate | None = None
) -> x509.Certificate:
    """A root for this key. With the name and key identifier of `former`, so that its leaves verify against both."""
    now = datetime.now(UTC)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    if former is None:
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
    else:
        name, key_id = former.subject, _key_id(former) or key_id
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ttl)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_ROOT_USAGE, critical=True)
        .add_extension(key_id, critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def authority_key_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How a certificate issued by this one names its issuer."""
    own = _key_id(certificate)
    if own is None:
        key = certificate.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]  # a CA key signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


_ROOT_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    key_encipherment=False,
    content_commitment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _key_id(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None


def _of_root(key: SigningKey, trust_domain: str, ttl: timedelta) -> Material:
    root = new_root(key, trust_domain, ttl)
    return Material(key, root, (), (root,), Revocations())


def _first(anchor: x509.Certificate, roots: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return (anchor, *(c for c in roots if c != anchor))


def _path(
    certificate: x509.Certificate, above: Iterable[x509.Certificate], roots: Sequence[x509.Certificate], where: str
) -> list[x509.Certificate]:
    """From the signing certificate up to a root; of two issuers with the same key the one in force is taken."""
    candidates = sorted(dict.fromkeys((*roots, *above)), key=lambda c: not pem.in_force(c))
    path = [certificate]
    while path[-1] not in roots:
        issuer = next((c for c in candidates if c not in path and pem.issued(path[-1], c)), None)
        if issuer is None:
            name = pem.name_of(path[-1])
            raise ConfigError(f"{where}: no certificate of the chain or the root bundle has issued {name!r}")
        path.append(issuer)
    return path


def _check_path(path: Sequence[x509.Certificate], where: str) -> None:
    """What every verifier of a leaf will ask of the certificates above it (RFC 5280 section 6.1)."""
    for below, certificate in enumerate(path):
        name = pem.name_of(certificate)
        if not pem.in_force(certificate):
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            raise ConfigError(
                f"{where}: {name!r} is only valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
            )
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            if certificate.version is x509.Version.v1 and certificate is path[-1]:
                continue  # a root from the time before extensions
            raise ConfigError(f"{where}: {name!r} is no CA certificate: it has no basic constraints") from None
        if not constraints.ca:
            raise ConfigError(f"{where}: {name!r} is no CA certificate (basic constraints say CA:FALSE)")
        if constraints.path_length is not None and constraints.path_length < below:
            raise ConfigError(f"{where}: {name!r} allows {constraints.path_length} CAs below itself, there are {below}")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            continue
        if not usage.key_cert_sign:
            raise ConfigError(f"{where}: {name!r} may not sign certificates (its key usage lacks keyCertSign)")
