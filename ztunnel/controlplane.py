"""How we reach istiod: address, roots, token, client certificate, and the configuration stream that uses them."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import Final

from meshcore.errors import CertificateError
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream import DeltaClient, Node, Resource, SigningClient, client_context
from ztunnel.config import Settings, host_port

log = logging.getLogger("ztunnel.controlplane")

TYPES: Final = (ADDRESS_TYPE, AUTHORIZATION_TYPE)
SYSTEM: Final = "SYSTEM"
OWN_NAMESPACE: Final = "istio-system"
"""Where a ztunnel belongs that no pod says it of."""

OwnIdentity = Callable[[], "tuple[str, bytes] | None"]
OnUpdate = Callable[[str, list[Resource], list[str]], dict[str, str]]


def root_pem(value: str, variable: str) -> str:
    """The trust anchors that XDS_ROOT_CA or CA_ROOT_CA name: a file, SYSTEM, or the PEM text itself.

    Raises CertificateError naming the variable.
    """
    if "-----BEGIN" in value:
        return value
    path = value
    if value == SYSTEM:
        known = ssl.get_default_verify_paths()
        path = known.cafile or known.openssl_cafile
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - pathlib costs memory in this process
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not PEM"
        raise CertificateError(f"{variable}: {path}: {why}") from None


def token(value: str) -> str | None:
    """AUTH_TOKEN: a file, read anew for each request, or the token itself. None: there is none."""
    if not value:
        return None
    if not os.path.exists(value):  # noqa: PTH110 - see above
        return value.strip()
    try:
        with open(value, encoding="ascii") as file:  # noqa: PTH123 - see above
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        log.warning("AUTH_TOKEN: %s cannot be read", value)
        return None


class Tls:
    """Makes the TLS context of each connection: roots are read anew, our certificate is the current one."""

    def __init__(self, roots: str, variable: str, own: OwnIdentity) -> None:
        self._roots = roots
        self._variable = variable
        self._own = own

    def __call__(self) -> ssl.SSLContext:
        chain, key = self._own() or ("", b"")
        return client_context(root_pem(self._roots, self._variable), chain, key)


def signing_client(settings: Settings, own: OwnIdentity) -> SigningClient:
    host, port = host_port(settings.ca_address)
    return SigningClient(
        address=(host, port),
        tls=Tls(settings.ca_root_ca, "CA_ROOT_CA", own),
        server_name=settings.alt_ca_hostname or host,
        token=lambda: token(settings.auth_token),
    )


class ConfigStream:
    """The subscription. It starts with our first certificate and is opened anew with each renewed one; what is held is
    kept and resumed by versions."""

    def __init__(self, settings: Settings, own: OwnIdentity, on_update: OnUpdate) -> None:
        host, port = host_port(settings.xds_address)
        self.client = DeltaClient(
            address=(host, port),
            tls=Tls(settings.xds_root_ca, "XDS_ROOT_CA", own),
            server_name=settings.alt_xds_hostname or host,
            node=_node(settings),
            types=TYPES,
            on_update=on_update,
            token=lambda: token(settings.auth_token),
        )
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Keep the stream up until cancelled."""
        while True:
            self._stop = asyncio.Event()
            await self.client.run(self._stop)

    def reconnect(self) -> None:
        """Use new credentials."""
        self._stop.set()

    async def synced(self) -> None:
        """Wait until every type was received once; the caller cancels."""
        for type_url in TYPES:
            await self.client.ready(type_url)


def _node(settings: Settings) -> Node:
    """Outside Kubernetes there is no pod to be named after: the node is what tells one ztunnel from another."""
    name = settings.pod_name or f"ztunnel-{settings.node}"
    namespace = settings.pod_namespace or OWN_NAMESPACE
    return Node(
        id=f"ztunnel~{settings.instance_ip}~{name}.{namespace}~{namespace}.svc.cluster.local",
        name=name,
        namespace=namespace,
        node=settings.node,
        service_account=settings.service_account,
        cluster_id=settings.cluster_id,
        version=settings.istio_version,
    )
