"""Makes keys and certificate requests in a short-lived child, because `cryptography` costs 15 MB.

`ztunnel.csrclient` is the control process's side. The child reads a MessagePack list of SPIFFE URIs from a
socket and writes back a list of (key PEM, request PEM): ECDSA P-256 in PKCS#8, an empty subject, one critical URI
name, SHA-256. Keys pass through a socket pair and are never on a disk.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Final

import msgspec

TIMEOUT_S: Final = 30.0
FD: Final = 3
"""The child's end of the socket pair."""


class KeyRequest(msgspec.Struct, frozen=True, array_like=True):
    """A fresh private key and the request that it signed."""

    key_pem: bytes
    csr_pem: str

    def __repr__(self) -> str:
        return "KeyRequest(...)"


def make(identity: str) -> KeyRequest:
    """One key and request."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return KeyRequest(private, request.public_bytes(pem).decode())


def main() -> None:
    """The child: one batch, then the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=FD) as sock, sock.makefile("rwb") as stream:
        sock.settimeout(TIMEOUT_S)
        identities = msgspec.msgpack.decode(stream.read(), type=list[str])
        stream.write(msgspec.msgpack.encode([make(identity) for identity in identities]))
        stream.flush()
    sys.exit(0)
