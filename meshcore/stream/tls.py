"""TLS contexts of the control plane: TLS 1.3, HTTP/2, no session tickets."""

from __future__ import annotations

import os
import ssl

from meshcore.errors import CertificateError


def client_context(root_pem: str, chain_pem: str = "", key_pem: bytes = b"") -> ssl.SSLContext:
    """For dialling istiod: its name is checked against `root_pem`; the certificate is optional.

    Raises CertificateError if a text is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context, root_pem)
    if chain_pem:
        load_identity(context, chain_pem, key_pem)
    return context


def server_context(root_pem: str, chain_pem: str, key_pem: bytes) -> ssl.SSLContext:
    """For istiod: a client certificate is optional, but one that is shown must verify against `root_pem`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context, root_pem)
    load_identity(context, chain_pem, key_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    return context


def load_identity(context: ssl.SSLContext, chain_pem: str, key_pem: bytes) -> None:
    """Load certificate chain and key through anonymous memory: the key never touches a disk."""
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, key_pem.rstrip() + b"\n" + chain_pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except (ssl.SSLError, OSError) as exc:
        raise CertificateError(f"the certificate or its key cannot be used: {exc.strerror or exc}") from None
    finally:
        os.close(fd)


def _common(context: ssl.SSLContext, root_pem: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=root_pem)
    except (ssl.SSLError, ValueError) as exc:
        raise CertificateError(f"the root certificate cannot be used: {exc}") from None
