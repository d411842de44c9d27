"""A control plane on a free port of loopback, with callers that hold real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from istiod.app import Istiod, local_istiod
from istiod.auth import TokenKey
from istiod.config import Settings
from meshcore.identity import Identity
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshcore.stream import DeltaClient, Node, Resource, SigningClient, client_context

ZTUNNEL = Identity("cluster.local", "istio-system", "ztunnel")
WEB = Identity("cluster.local", "default", "web")
TYPES = (ADDRESS_TYPE, AUTHORIZATION_TYPE)

POD = """apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: {name}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
status:
  podIPs: [{{ip: {ip}}}]
  phase: {phase}
"""


def pod(name: str, ip: str = "10.0.0.1", node: str = "n1", phase: str = "Running") -> str:
    return POD.format(name=name, ip=ip, node=node, phase=phase)


def new_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> tuple[str, bytes]:
    """A CSR that asks for what it should not get, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "evil")]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://evil/ns/a/sa/b")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return csr.public_bytes(serialization.Encoding.PEM).decode(), pem


class Mesh:
    """One istiod and its directories."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.config = root / "config"
        self.state = root / "state"
        self.status = root / "status"
        for folder in (self.config, self.state, self.status):
            folder.mkdir(parents=True, exist_ok=True)
        values = {
            "config_dir": str(self.config),
            "state_dir": str(self.state),
            "status_dir": str(self.status),
            "address": "127.0.0.1",
            "port": 0,
            "http_port": 0,
            "monitoring_port": 0,
            "debounce_after": 0.01,
            "shutdown": 0.5,
        }
        self.settings = Settings(**(values | settings))  # type: ignore[arg-type]
        self.istiod = local_istiod(self.settings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Istiod]:
        stop = asyncio.Event()
        await self.istiod.start()
        task = asyncio.create_task(self.istiod.run(stop))
        try:
            yield self.istiod
        finally:
            stop.set()
            await self.istiod.close()
            await asyncio.wait_for(task, 10)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.istiod.service.server.port)

    @property
    def root_pem(self) -> str:
        return (self.state / "root-cert.pem").read_text()

    def token(self, node: str = "n1", account: str = "istio-system/ztunnel", ttl: float = 600) -> str:
        return TokenKey.load(str(self.state)).mint(account, node, timedelta(seconds=ttl))

    def tls(self, identity: Identity | None = None, node: str = "", ttl: int = 3600) -> Callable[[], ssl.SSLContext]:
        """A context of a caller with that identity, or of one without a certificate."""
        if identity is None:
            return lambda: client_context(self.root_pem)
        csr, key = new_csr()
        chain = self.istiod.authority.sign(csr, identity, ttl, node=node)
        return lambda: client_context(self.root_pem, "".join(chain[:-1]), key)

    def signer(self, tls: Callable[[], ssl.SSLContext] | None = None, token: str | None = None) -> SigningClient:
        return SigningClient(address=self.address, tls=tls or self.tls(), server_name="localhost", token=lambda: token)

    def subscriber(self, tls: Callable[[], ssl.SSLContext] | None = None, node: Node | None = None) -> Subscriber:
        return Subscriber(self, tls or self.tls(ZTUNNEL, "n1"), node or Node("ztunnel~1.1.1.1~z.istio-system~x"))


class Subscriber:
    """A DeltaClient that keeps what it was told."""

    def __init__(self, mesh: Mesh, tls: Callable[[], ssl.SSLContext], node: Node) -> None:
        self.held: dict[str, Resource] = {}
        self.received: list[str] = []
        self.refuse: dict[str, str] = {}
        self.client = DeltaClient(
            address=mesh.address, tls=tls, server_name="localhost", node=node, types=TYPES, on_update=self._update
        )
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def _update(self, type_url: str, resources: list[Resource], removed: list[str]) -> dict[str, str]:
        del type_url
        for resource in resources:
            self.received.append(resource.name)
            if resource.name not in self.refuse:
                self.held[resource.name] = resource
        for name in removed:
            self.held.pop(name, None)
        self._changed.set()
        return {name: self.refuse[name] for r in resources if (name := r.name) in self.refuse}

    async def until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.05)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.client.run(self._stop))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, 10)
