"""Gateway of networking.istio.io, called IstioGateway here: the Gateway API has one too."""

from __future__ import annotations

import msgspec

from istiod.objects.base import ConditionedStatus, Meta, Object


class GatewayPort(Object, frozen=True):
    number: int = 0
    protocol: str = ""
    name: str = ""


class TlsFiles(Object, frozen=True):
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTls(Object, frozen=True):
    https_redirect: bool = False
    mode: str = "PASSTHROUGH"
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TlsFiles, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: str = "TLS_AUTO"
    max_protocol_version: str = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()


class Server(Object, frozen=True):
    port: GatewayPort = GatewayPort()
    bind: str = ""
    hosts: tuple[str, ...] = ()
    tls: ServerTls | None = None
    name: str = ""


class IstioGatewaySpec(Object, frozen=True):
    servers: tuple[Server, ...] = ()
    selector: dict[str, str] = msgspec.field(default_factory=dict)


class IstioGateway(Object, frozen=True):
    metadata: Meta
    spec: IstioGatewaySpec = IstioGatewaySpec()
    status: ConditionedStatus = ConditionedStatus()
