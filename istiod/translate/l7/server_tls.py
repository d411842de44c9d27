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
_SCHEMES: Final = ("kubernetes://", "kubernetes-gateway://")


def listener_tls(tls: ServerTls, namespace: str) -> ListenerTls:
    """`namespace` is that of the gateway's pods: only its Secrets count, whatever the object says."""
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
        if secret := own_secret(name, namespace):
            yield KeyPair(secret)
    if tls.server_certificate:
        yield KeyPair(certificate_file=tls.server_certificate, key_file=tls.private_key)
    for one in tls.tls_certificates:
        yield KeyPair(certificate_file=one.server_certificate, key_file=one.private_key)


def _trust(tls: ServerTls, namespace: str) -> Trust:
    """The authorities of clients; those of the credential itself unless others are named."""
    name = tls.ca_cert_credential_name or tls.credential_name or next(iter(tls.credential_names), "")
    if name:
        secret = own_secret(name, namespace)
        return Trust((secret,) if secret else ())
    files = (tls.ca_certificates, *(one.ca_certificates for one in tls.tls_certificates))
    return Trust(file=next((one for one in files if one), ""), crl_file=tls.ca_crl)


def own_secret(name: str, namespace: str) -> str:
    """`namespace/name` of the Secret that a credential names; empty if that is not in the proxy's own namespace."""
    for scheme in _SCHEMES:
        name = name.removeprefix(scheme)
    place, slash, rest = name.rpartition("/")
    return "" if slash and place != namespace else f"{namespace}/{rest}"
