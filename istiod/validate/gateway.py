"""Checks of Istio's own Gateway. That of the Gateway API is another kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import each, port_number, required, selected_labels, unique
from istiod.validate.common import is_ip as _is_ip
from istiod.validate.field import Field
from istiod.validate.names import namespaced_host
from istiod.validate.protocols import HTTP, TLS, protocol

_CERTIFICATE_SOURCES: Final = ("serverCertificate", "credentialName", "credentialNames", "tlsCertificates")
_CERTIFICATES: Final = (*_CERTIFICATE_SOURCES, "privateKey", "caCertificates", "caCrl", "caCertCredentialName")
_PASSING: Final = ("PASSTHROUGH", "AUTO_PASSTHROUGH")
_NAMESPACES: Final = ("*", ".", "~")
_OLD_VERSIONS: Final = ("TLSV1_0", "TLSV1_1")
CIPHERS: Final = frozenset(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
        "DES-CBC3-SHA",
    )
)
"""By the names of OpenSSL, which are those of the API."""


def istio_gateway(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from required(spec["servers"], "a Gateway without servers listens nowhere")
    yield from selected_labels(spec["selector"])
    yield from each(spec["servers"], _server)
    yield from unique((server["port"]["name"] for server in spec["servers"]), "the port name")


def _server(server: Field) -> Iterator[Problem]:
    port, bind = server["port"], server["bind"]
    yield from required(server["hosts"], "name the hosts to serve, or '*'")
    for host in server["hosts"].texts():
        yield from namespaced_host(host, _NAMESPACES)
    if not port.given:
        yield port.error("missing")
        return
    on_socket = bind.text.startswith(("unix://", "@"))
    if on_socket and port["number"]:
        yield port["number"].error("a Unix socket has no port; leave it out")
    elif not on_socket:
        yield from required(port["number"])
        yield from port_number(Field(port["number"].value or None, port["number"].path))
    if bind and not on_socket and not _is_ip(bind.text):
        yield bind.error(f"{bind} is neither an IP address nor unix:///PATH")
    yield from required(port["name"])
    yield from protocol(port["protocol"])
    if port["targetPort"].given:
        yield port["targetPort"].error("has no effect in a Gateway: the port of its Service says where to send")
    yield from _transport(server, port["protocol"].text.upper())


def _transport(server: Field, spoken: str) -> Iterator[Problem]:
    tls = server["tls"]
    if spoken in TLS:
        if not tls.given:
            yield tls.error(f"missing: protocol {spoken} needs it")
    elif tls.given and spoken in HTTP:
        for field in tls.filled_of("mode", "serverCertificate", "privateKey", "caCertificates"):
            if field.value not in _PASSING:
                yield field.error(f"protocol {spoken} is plain text; for TLS the protocol is HTTPS")
    elif tls.given and spoken:
        yield tls.error(f"protocol {spoken} has no TLS; for TLS the protocol is TLS or HTTPS")
    if tls["httpsRedirect"] and spoken not in HTTP:
        yield tls["httpsRedirect"].warn(f"has no effect with protocol {spoken or 'unknown'}: it redirects plain HTTP")
    if tls.given and spoken in TLS:
        yield from server_tls(tls)


def server_tls(tls: Field) -> Iterator[Problem]:
    """How a server presents itself."""
    mode = tls["mode"].text or "PASSTHROUGH"
    certificates = tls.filled_of(*_CERTIFICATES)
    if mode == "ISTIO_MUTUAL":
        for field in certificates:
            yield field.error("ISTIO_MUTUAL uses the certificates of the mesh; for others the mode is MUTUAL")
    elif mode in _PASSING:
        for field in certificates:
            yield field.warn(f"has no effect: in mode {mode} the connection is passed on encrypted")
    else:
        yield from _own_certificates(tls, mode)
    yield from _ciphers(tls)


def _own_certificates(tls: Field, mode: str) -> Iterator[Problem]:
    sources = tls.filled_of(*_CERTIFICATE_SOURCES)
    for field in sources[1:]:
        yield field.error(f"cannot stand beside {sources[0].name}: choose one source of certificates")
    mutual = mode in ("MUTUAL", "OPTIONAL_MUTUAL")
    by_name = tls.filled_of("credentialName", "credentialNames")
    if not by_name and not tls["tlsCertificates"]:
        for field in (tls["serverCertificate"], tls["privateKey"]):
            yield from required(field, f"mode {mode} needs serverCertificate and privateKey, or credentialName")
    for entry in tls["tlsCertificates"]:
        for field in (entry["serverCertificate"], entry["privateKey"]):
            yield from required(field)
    if mutual and not by_name and not tls.filled_of("caCertificates", "caCertCredentialName"):
        yield tls["caCertificates"].error(f"missing: mode {mode} needs a CA to verify clients with")
    if tls["caCrl"] and (not mutual or by_name):
        reason = "credentialName brings its own" if by_name else f"mode {mode} verifies no clients"
        yield tls["caCrl"].error(f"has no effect: {reason}")


def _ciphers(tls: Field) -> Iterator[Problem]:
    oldest = tls["minProtocolVersion"]
    if oldest.text in _OLD_VERSIONS and not tls["cipherSuites"]:
        yield oldest.warn("below TLSV1_2 the default ciphers do not work; name compatible ones in cipherSuites")
    seen: set[str] = set()
    for cipher in tls["cipherSuites"].texts():
        if cipher.text not in CIPHERS:
            yield cipher.warn(f"{cipher} is not a cipher proxies know; it is left out")
        elif cipher.text in seen:
            yield cipher.warn(f"{cipher} stands twice")
        seen.add(cipher.text)
