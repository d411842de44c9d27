"""`istio.v1.auth.IstioCertificateService`: the messages of CreateCertificate, to and from our own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from istiod.xds.descriptors import message
from istiod.xds.discovery import parse
from meshcore.stream.messages import SignRequest

_Request: Final = message("istio.v1.auth.IstioCertificateRequest")
_Response: Final = message("istio.v1.auth.IstioCertificateResponse")

IMPERSONATED: Final = "ImpersonatedIdentity"
"""Key of the request's metadata: the identity that a node proxy asks for. `CertSigner`, the other one that upstream
knows, chooses among external signers; our own CA is the only one here and ignores it, as upstream's does."""


def decode(data: bytes) -> SignRequest:
    """Raises ProtocolError."""
    request = parse(_Request, data)
    fields = request.metadata.fields
    identity = fields[IMPERSONATED].string_value if IMPERSONATED in fields else ""
    return SignRequest(request.csr, identity, request.validity_duration)


def encode(chain: Iterable[str]) -> bytes:
    """PEM texts: the leaf, then each intermediate, last the whole root bundle."""
    data: bytes = _Response(cert_chain=chain).SerializeToString()
    return data
