"""Certificates for granted identities, signed with material that does not change."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from istiod.ca import pem
from istiod.ca.material import BACKDATE, Material, authority_key_id
from istiod.ca.pem import PublicKey
from meshcore.errors import CertificateError, Unavailable
from meshcore.identity import Identity

log = logging.getLogger("istiod.ca")

CSR_CHARS_MAX: Final = 16 * 2**10
"""An RSA key of 8192 bits needs 3 KiB; the rest is names, which are ignored."""


class Lifetimes(NamedTuple):
    """Of a leaf: what is given to who asks for none, and what may be asked for."""

    default: timedelta
    longest: timedelta


class Authority:
    """Signs with one key. `intermediates` are sent behind the leaf, `root_pem` last."""

    def __init__(self, material: Material, lifetimes: Lifetimes) -> None:
        self.material = material
        self.certificate = material.certificate
        self.root_pem = pem.bundle_pem(material.roots)
        self.crl_pem = material.revocations.pem
        self._tail = [*(pem.certificate_pem(c) for c in material.intermediates), self.root_pem]
        self._lifetimes = lifetimes
        self._issuer_id = authority_key_id(material.certificate)

    def __repr__(self) -> str:
        return f"Authority({pem.name_of(self.certificate)!r})"

    @property
    def root_expiry(self) -> datetime:
        """End of the root that our chain leads to; others in the bundle are there for others, or were renewed."""
        return self.material.roots[0].not_valid_after_utc

    @property
    def chain_expiry(self) -> datetime:
        """When signing ends, unless the CA is renewed before."""
        return self.certificate.not_valid_after_utc

    def revoked(self, chain: Sequence[bytes]) -> str:
        """What is revoked in a client's verified chain of DER certificates; empty if nothing is."""
        found = self.material.revocations.find(chain)
        if found:
            log.warning("a client is refused: %s is revoked", found)
        return found

    def sign(self, csr_pem: str, identity: Identity, ttl_seconds: int, *, node: str = "") -> list[str]:
        """Sign a CSR for a granted identity: what the CSR itself says about names is ignored.

        Returns PEM texts: leaf, intermediates, last the whole root bundle. `node` binds a node proxy's certificate to
        its node, as the DNS name `node_san(node)`. Raises CertificateError, or
        Unavailable if the signer has expired.
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
        chain = [self._leaf(key.public_key(), sans, self._lifetimes.default), *self._tail[:-1]]
        return "".join(chain), pem.key_pem(key)

    def _lifetime(self, ttl_seconds: int) -> timedelta:
        if ttl_seconds <= 0:
            return self._lifetimes.default
        limit = int(self._lifetimes.longest.total_seconds())
        if ttl_seconds > limit:
            raise CertificateError(f"a lifetime of {ttl_seconds} s is longer than the limit of {limit} s")
        return timedelta(seconds=ttl_seconds)

    def _leaf(self, public_key: PublicKey, names: list[x509.GeneralName], lifetime: timedelta) -> str:
        now = datetime.now(UTC)
        signer_end = self.certificate.not_valid_after_utc
        if now >= signer_end:
            raise Unavailable(f"the CA's certificate has expired at {signer_end:%Y-%m-%d %H:%M:%S} UTC")
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
        return pem.certificate_pem(builder.sign(self.material.key, hashes.SHA256()))


def node_san(node: str) -> str:
    """How a certificate says that it holds on one node only. Never given for any other purpose."""
    return f"node.{node}.ambient"


def node_of(dns_names: Iterable[str]) -> str:
    """The node of a certificate made by `Authority.sign`; empty if it is bound to none."""
    nodes = [name for name in dns_names if name.startswith("node.") and name.endswith(".ambient")]
    return nodes[0].removeprefix("node.").removesuffix(".ambient") if len(nodes) == 1 else ""


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
_LEAF_EXTENDED: Final = x509.ExtendedKeyUsage((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))


def _csr_key(csr_pem: str) -> PublicKey:
    """The key of a CSR whose signature proves that the caller holds it."""
    if len(csr_pem) > CSR_CHARS_MAX:
        raise CertificateError(f"the CSR is longer than {CSR_CHARS_MAX} characters")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        if not pem.acceptable(key):
            raise CertificateError("the CSR's key must be ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits")
        valid = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise CertificateError(f"the CSR cannot be read: {exc}") from None
    if not valid:
        raise CertificateError("the CSR's signature is wrong")
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # noqa: S101 - acceptable() says so
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
