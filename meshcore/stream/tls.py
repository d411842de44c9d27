"""TLS contexts of the control plane: TLS 1.3, HTTP/2, no session tickets."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Self

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


Revoked = Callable[[Sequence[bytes]], str]
"""Says what is revoked in a verified chain of DER certificates, leaf first; empty if nothing is."""


def https_context(chain_pem: str, key_pem: bytes) -> ssl.SSLContext:
    """For a page or webhook of istiod over HTTP/1.1: no client certificate is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    load_identity(context, chain_pem, key_pem)
    return context


class ServerContext(ssl.SSLContext):
    """What a listener is started with when its material changes later: new connections are made by the last `use`.

    An `SSLContext` can be given a new certificate but never loses a root, and event loops keep the one they got at the
    start; they make connections by `wrap_bio`. A peer that becomes revoked loses its open connection with the next
    bytes it sends, which keepalive bounds.
    """

    def __new__(cls, context: ssl.SSLContext, revoked: Revoked | None = None) -> Self:
        del context, revoked
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, context: ssl.SSLContext, revoked: Revoked | None = None) -> None:
        super().__init__()
        self.use(context, revoked)

    def use(self, context: ssl.SSLContext, revoked: Revoked | None = None) -> None:
        """Take a `server_context` for connections from now on, and `revoked` for all."""
        context.sslobject_class = _Connection
        self._context = context
        self.revoked = revoked

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _Connection):
            made.owner = self
        return made


class _Connection(ssl.SSLObject):
    """Asks about revocations after the handshake, and again once there are others."""

    owner: ServerContext | None = None
    _asked: Revoked | None = None

    def do_handshake(self) -> None:
        super().do_handshake()
        self._ask()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name of the base class
        if self.owner is not None and self.owner.revoked is not self._asked:
            self._ask()
        return super().read(len, buffer)

    def _ask(self) -> None:
        revoked = self.owner.revoked if self.owner is not None else None
        found = revoked(verified_chain(self)) if revoked is not None else ""
        if found:
            raise ssl.SSLCertVerificationError(1, f"the peer's certificate is revoked: {found}")
        self._asked = revoked


def verified_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """The peer's certificates in DER, leaf first, root last; none if it showed none."""
    if hasattr(tls, "get_verified_chain"):  # Python 3.13
        return tuple(tls.get_verified_chain())
    chain = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # noqa: SLF001 - public only later
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain or ())


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
