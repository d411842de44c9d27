"""A certificate authority for tests: good leaves, and each kind of bad one."""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

TRUST_DOMAIN: Final = "cluster.local"
SKEW: Final = dt.timedelta(minutes=2)
LIFETIME: Final = dt.timedelta(days=1)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def spiffe(service_account: str, *, namespace: str = "default", trust_domain: str = TRUST_DOMAIN) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


class Credential(NamedTuple):
    """What a TLS endpoint presents: the chain, leaf first and without the root, and the leaf's key, as PEM."""

    chain: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """-> (chain file, key file)."""
        chain, key = directory / f"{name}.crt", directory / f"{name}.key"
        chain.write_bytes(self.chain)
        key.write_bytes(self.key)
        return chain, key


class Authority:
    """A root, or with `parent` an intermediate."""

    def __init__(self, name: str = "root", parent: Authority | None = None) -> None:
        self.parent = parent
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(
            self._subject, self._key, parent or self, x509.BasicConstraints(ca=True, path_length=None)
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def intermediate(self, name: str = "intermediate") -> Authority:
        return Authority(name, self)

    def leaf(
        self,
        *sans: str,
        key: Literal["ec", "rsa"] = "ec",
        valid_from: dt.timedelta = -SKEW,
        valid_until: dt.timedelta = LIFETIME,
    ) -> Credential:
        """A leaf with these URI SANs, in this order; none leaves the extension out. The times count from now."""
        private: PrivateKey
        if key == "ec":
            private = ec.generate_private_key(ec.SECP256R1())
        else:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = self._sign(
            x509.Name([]),
            private,
            self,
            x509.BasicConstraints(ca=False, path_length=None),
            sans,
            valid_from,
            valid_until,
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        above: Authority | None = self
        while above is not None and above.parent is not None:
            chain += above.pem
            above = above.parent
        return Credential(
            chain,
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def expired(self, san: str) -> Credential:
        return self.leaf(san, valid_from=-LIFETIME, valid_until=-dt.timedelta(hours=1))

    def _sign(
        self,
        subject: x509.Name,
        key: PrivateKey,
        issuer: Authority,
        constraints: x509.BasicConstraints,
        sans: tuple[str, ...] = (),
        valid_from: dt.timedelta = -SKEW,
        valid_until: dt.timedelta = LIFETIME,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid_from)
            .not_valid_after(now + valid_until)
            .add_extension(constraints, critical=True)
        )
        if sans:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(san) for san in sans])
            builder = builder.add_extension(names, critical=not subject.rdns)
        return builder.sign(issuer._key, hashes.SHA256())


def self_signed_server(address: str = "127.0.0.1") -> tuple[bytes, bytes]:
    """-> (certificate, key), as PEM: for a server at an address, and its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), pem


@functools.cache
def root() -> Authority:
    """The mesh root of this test process."""
    return Authority()


@functools.cache
def stranger() -> Authority:
    """A root that nobody in the mesh trusts."""
    return Authority("stranger")


@functools.cache
def credential(service_account: str) -> Credential:
    """A good leaf of the mesh root."""
    return root().leaf(spiffe(service_account))


def context(
    side: Literal["client", "server"],
    own: Credential | None,
    trusted: bytes | None = None,
    *,
    alpn: tuple[str, ...] = ("h2",),
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """A peer's TLS context of exactly one protocol version. `trusted` is PEM, by default the mesh root."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if side == "client" else ssl.PROTOCOL_TLS_SERVER)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = made.maximum_version = version
    made.load_verify_locations(cadata=(trusted or root().pem).decode())
    if alpn:
        made.set_alpn_protocols(list(alpn))
    if own is not None:
        with tempfile.TemporaryDirectory() as directory:
            made.load_cert_chain(*own.write(Path(directory), "own"))
    return made
