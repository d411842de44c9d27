"""The TLS settings of an Istio Gateway's server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.objects.istio_gateway import ServerTls
from meshcore.l7 import ClientAuth, KeyPair, ListenerTls, Trust

KEYS_MAX: Final = 2
"""Certificates of one server: one RSA and one ECDSA."""
_VERSIONS: Final = {"TLSV1_0": 10, "TLSV1_1": 11, "TLSV1_2": 12, "TLSV1_3": 13}
_CLIENTS: Final = {
    "MUTUAL": ClientAuth.REQUIRED,
    "OPTIONAL_MUTUAL": ClientAuth.OPTIONAL,
    "ISTIO_MUTUAL": ClientAuth.REQUIRED,
}
_MIN_VERSION: Final = 12


def listener_tls(tls: ServerTls, namespace: str) -> ListenerTls:
    """Credentials are of the gateway's namespace, unless another is named."""
    client = _CLIENTS.get(tls.mode, ClientAuth.NONE)
    mesh = tls.mode == "ISTIO_MUTUAL"
    return ListenerTls(
        keys=() if mesh else tuple(_keys(tls, namespace))[:KEYS_MAX],
        client=client,
        trust=_trust(tls, namespace) if client is not ClientAuth.NONE and not mesh else None,
        names=tls.subject_alt_names,
        spki_hashes=tls.verify_certificate_spki,
        certificate_hashes=tls.verify_certificate_hash,
        min_version=_VERSIONS.get(tls.min_protocol_version, _MIN_VERSION),
        max_version=_VERSIONS.get(tls.max_protocol_version, 0),
        ciphers=tls.cipher_suites,
        mesh=mesh,
    )


def _keys(tls: ServerTls, namespace: str) -> Iterator[KeyPair]:
    for name in tls.credential_names or ((tls.credential_name,) if tls.credential_name else ()):
        yield KeyPair(secret=_qualified(name, namespace))
    if tls.server_certificate:
        yield KeyPair(certificate_file=tls.server_certificate, key_file=tls.private_key)
    for one in tls.tls_certificates:
        yield KeyPair(certificate_file=one.server_certificate, key_file=one.private_key)


def _trust(tls: ServerTls, namespace: str) -> Trust:
    """The authorities of clients; those of the credential itself unless others are named."""
    name = tls.ca_cert_credential_name or tls.credential_name or next(iter(tls.credential_names), "")
    if name:
        return Trust(secret=_qualified(name, namespace))
    files = (tls.ca_certificates, *(one.ca_certificates for one in tls.tls_certificates))
    return Trust(file=next((one for one in files if one), ""), crl_file=tls.ca_crl)


def _qualified(name: str, namespace: str) -> str:
    name = name.removeprefix("kubernetes://").removeprefix("kubernetes-gateway://")
    return name if "/" in name else f"{namespace}/{name}"
