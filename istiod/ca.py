"""The certificate authority: its key, and the certificates it signs for granted identities."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshcore.errors import CertificateError, ConfigError
from meshcore.identity import Identity
from meshcore.manifests import write_atomic

BACKDATE: Final = timedelta(minutes=2)
"""Clocks of two nodes differ."""
CSR_CHARS_MAX: Final = 16 * 2**10
RSA_BITS: Final = range(2048, 8193)
ROOT_GRACE: Final = 0.2
"""A self-signed root with less than this part of its life left is renewed, with the same key."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Authority:
    """Signs with one key. `intermediates` are sent behind the leaf, `root_pem` last."""

    def __init__(
        self,
        key: SigningKey,
        certificate: x509.Certificate,
        intermediates: Sequence[x509.Certificate],
        root_pem: str,
        *,
        default_ttl: timedelta,
        max_ttl: timedelta,
    ) -> None:
        self._key = key
        self.certificate = certificate
        self.root_pem = root_pem
        self._tail = [*(_pem(c) for c in intermediates), root_pem]
        self._default_ttl = default_ttl
        self._max_ttl = max_ttl
        self._issuer_id = _authority_key_id(certificate)

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()!r})"

    @property
    def root_expiry(self) -> datetime:
        return min(c.not_valid_after_utc for c in x509.load_pem_x509_certificates(self.root_pem.encode()))

    def sign(self, csr_pem: str, identity: Identity, ttl_seconds: int, *, node: str = "") -> list[str]:
        """Sign a CSR for a granted identity: what the CSR itself says about names is ignored.

        Returns PEM texts: leaf, intermediates, last the whole root bundle. `node` binds a node proxy's certificate to
        its node, as the DNS name `node_san(node)`. Raises CertificateError.
        """
        public_key = _csr_key(csr_pem)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
        if node:
            names.append(x509.DNSName(node_san(node)))
        return [self._leaf(public_key, names, self._lifetime(ttl_seconds)), *self._tail]

    def serving(self, names: Iterable[str]) -> tuple[str, bytes]:
        """A certificate chain and key for istiod itself: DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        sans = [_general_name(name) for name in dict.fromkeys(names)]
        chain = [self._leaf(key.public_key(), sans, self._default_ttl), *self._tail[:-1]]
        return "".join(chain), _key_pem(key)

    def _lifetime(self, ttl_seconds: int) -> timedelta:
        if ttl_seconds <= 0:
            return self._default_ttl
        if ttl_seconds > self._max_ttl.total_seconds():
            limit = int(self._max_ttl.total_seconds())
            raise CertificateError(f"a lifetime of {ttl_seconds} s is longer than the limit of {limit} s")
        return timedelta(seconds=ttl_seconds)

    def _leaf(self, public_key: PublicKey, names: list[x509.GeneralName], lifetime: timedelta) -> str:
        now = datetime.now(UTC)
        signer_end = self.certificate.not_valid_after_utc
        if now >= signer_end:
            raise CertificateError(f"the CA's certificate has expired at {signer_end:%Y-%m-%d %H:%M:%S} UTC")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, signer_end))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(_LEAF_EXTENDED, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(self._issuer_id, critical=False)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()))


def node_san(node: str) -> str:
    """How a certificate says that it holds on one node only. Never given for any other purpose."""
    return f"node.{node}.ambient"


def node_of(dns_names: Iterable[str]) -> str:
    """The node of a certificate made by `Authority.sign`; empty if it is bound to none."""
    nodes = [name for name in dns_names if name.startswith("node.") and name.endswith(".ambient")]
    return nodes[0].removeprefix("node.").removesuffix(".ambient") if len(nodes) == 1 else ""


def self_signed(
    state_dir: str, trust_domain: str, ca_ttl: timedelta, default_ttl: timedelta, max_ttl: timedelta
) -> Authority:
    """The CA kept in `state_dir`, made on first use. Raises ConfigError if its files do not fit together."""
    folder = Path(state_dir)
    key_path, cert_path = folder / "ca-key.pem", folder / "ca-cert.pem"
    if key_path.exists():
        key = _load_key(key_path)
        certificate = _load_certificates(cert_path)[0] if cert_path.exists() else _root(key, trust_domain, ca_ttl)
        if certificate.public_key() != key.public_key():
            raise ConfigError(f"{cert_path}: does not belong to the key in {key_path}")
        if _aged(certificate):
            certificate = _root(key, trust_domain, ca_ttl)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _root(key, trust_domain, ca_ttl)
        write_atomic(key_path, _key_pem(key), 0o600)
    root_pem = _pem(certificate)
    write_atomic(cert_path, root_pem.encode())
    return Authority(key, certificate, (), root_pem, default_ttl=default_ttl, max_ttl=max_ttl)


def plugged_in(ca_dir: str, default_ttl: timedelta, max_ttl: timedelta) -> Authority:
    """A CA that a user brings. Raises ConfigError if a file is missing or the chain does not reach the root."""
    folder = Path(ca_dir)
    key = _load_key(folder / "ca-key.pem")
    certificate = _load_certificates(folder / "ca-cert.pem")[0]
    roots = _load_certificates(folder / "root-cert.pem")
    chain_path = folder / "cert-chain.pem"
    above = _load_certificates(chain_path) if chain_path.exists() else []
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{folder}/ca-cert.pem: does not belong to the key in ca-key.pem")
    path = [certificate]
    while path[-1] not in roots:
        issuer = next((c for c in (*roots, *above) if c not in path and _issued(path[-1], c)), None)
        if issuer is None:
            name = path[-1].subject.rfc4514_string()
            raise ConfigError(f"{folder}: no certificate in cert-chain.pem or root-cert.pem has issued {name!r}")
        path.append(issuer)
    intermediates = [c for c in path if c not in roots]
    root_pem = "".join(_pem(c) for c in roots)
    return Authority(key, certificate, intermediates, root_pem, default_ttl=default_ttl, max_ttl=max_ttl)


_LEAF_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_encipherment=True,
    content_commitment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
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
_LEAF_EXTENDED: Final = x509.ExtendedKeyUsage((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))


def _csr_key(csr_pem: str) -> PublicKey:
    """The key of a CSR whose signature proves that the caller holds it."""
    if len(csr_pem) > CSR_CHARS_MAX:
        raise CertificateError(f"the CSR is longer than {CSR_CHARS_MAX} characters")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        if not _acceptable(key):
            raise CertificateError("the CSR's key must be ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits")
        valid = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise CertificateError(f"the CSR cannot be read: {exc}") from None
    if not valid:
        raise CertificateError("the CSR's signature is wrong")
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # noqa: S101 - _acceptable says so
    return key


def _acceptable(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS


def _root(key: SigningKey, trust_domain: str, ttl: timedelta) -> x509.Certificate:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _aged(certificate: x509.Certificate) -> bool:
    whole = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - datetime.now(UTC) < whole * ROOT_GRACE


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority_key_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]  # a CA key signs
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load_key(path: Path) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not an unencrypted private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError(f"{path}: the key must be ECDSA or RSA")
    return key


def _load_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: holds no certificate in PEM form") from None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
