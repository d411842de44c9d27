"""Port 15012 alone, with what it publishes in the hands of the test, and grpcio as the proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types

from istiod import ca
from istiod.auth import Authenticator, Authorizer, BootstrapTokens, Place, TokenKey
from istiod.metrics import Metrics
from istiod.push import Published
from istiod.serve import CERTIFICATE_METHOD, DELTA_METHOD, Service
from meshcore import model
from meshcore.identity import Identity
from meshcore.model import ADDRESS_TYPE
from meshcore.stream.h2rpc import Limits
from meshcore.stream.tls import server_context
from tests.support.protobuf import referee
from tests.unit.istiod.support import ZTUNNEL, new_csr

NODE_ID: Final = "ztunnel~10.0.0.9~ztunnel-x.istio-system~istio-system.svc.cluster.local"
WAIT_S: Final = 20.0
TOKEN_KEY: Final = TokenKey(b"k" * 32)
EVERYTHING: Final = ("*",)
"""Subscribed and unsubscribed in one request, it means nothing: a proxy that will ask by name."""


class Pods:
    """Which service accounts run on which node."""

    def __init__(self) -> None:
        self.users = {("n1", "default", "web")}

    def running(self, node: str, namespace: str, service_account: str) -> bool:
        return (node, namespace, service_account) in self.users

    def place(self, namespace: str, name: str) -> Place | None:
        del namespace, name
        return None


class Istiod:
    """The service on a free port of loopback."""

    def __init__(self, folder: Path, **limits: float) -> None:
        day = timedelta(days=1)
        rules = ca.SelfSigned("cluster.local", 100 * day)
        own = ca.StateDirectory(str(folder), rules)
        self.authority = ca.CertificateAuthority(own, own.read(), ca.Lifetimes(day, 30 * day))
        authenticator = Authenticator(
            "cluster.local", ["istio-system/ztunnel"], (BootstrapTokens(TOKEN_KEY, "cluster.local"),)
        )
        authorizer = Authorizer({"": Pods()}, authenticator, "cluster.local")
        self.published = Published()
        self.metrics = Metrics()
        self.service = Service(
            self.authority,
            authenticator,
            authorizer,
            self.published,
            self.metrics,
            limits=Limits(**limits),  # type: ignore[arg-type]  # numbers of either kind
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Istiod]:
        chain, key = self.authority.serving(["localhost"])
        await self.service.server.start("127.0.0.1", 0, server_context(self.root_pem, chain, key))
        try:
            yield self
        finally:
            for connection in tuple(
                self.service.server.connections
            ):  # grpcio keeps one as long as a call is referenced
                connection.abort()
            await self.service.stop(1.0)

    @property
    def root_pem(self) -> str:
        return self.authority.current.root_pem

    def put(self, *addresses: model.Address) -> None:
        self.published.update(ADDRESS_TYPE, {name_of(address): address for address in addresses})

    def remove(self, *names: str) -> None:
        self.published.update(ADDRESS_TYPE, dict.fromkeys(names))

    def token(self, account: str = "istio-system/ztunnel", node: str = "n1", ttl: float = 600) -> str:
        return TOKEN_KEY.mint(account, node, timedelta(seconds=ttl))

    def credential(self, identity: Identity, node: str = "", ttl: int = 3600) -> tuple[str, bytes]:
        """Chain and key of a client certificate."""
        csr, key = new_csr()
        return "".join(self.authority.sign(csr, identity, ttl, node=node)[:-1]), key

    def channel(
        self,
        identity: Identity | None = None,
        node: str = "",
        options: Iterable[tuple[str, Any]] = (),
        ttl: int = 3600,
    ) -> grpc.aio.Channel:
        """A connection with the client certificate of `identity`, or without one."""
        credentials = grpc.ssl_channel_credentials(self.root_pem.encode())
        if identity is not None:
            chain, key = self.credential(identity, node, ttl)
            credentials = grpc.ssl_channel_credentials(self.root_pem.encode(), key, chain.encode())
        named = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{self.service.server.port}"
        return grpc.aio.secure_channel(address, credentials, options=[*named, *options])

    @contextlib.asynccontextmanager
    async def subscribed(
        self,
        identity: Identity | None = ZTUNNEL,
        node: str = "n1",
        token: str | None = None,
        ttl: int = 3600,
        options: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Subscriber]:
        """A delta stream of a node proxy, by certificate or, without identity, by token."""
        async with self.channel(identity, node, (options or {}).items(), ttl) as channel:
            yield Subscriber(channel, token)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - a condition of the server, with a deadline
                await asyncio.sleep(0.01)


class Subscriber:
    """One DeltaAggregatedResources stream; messages are those of `tests/support/protos`."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None = None, path: str = DELTA_METHOD) -> None:
        method = channel.stream_stream(
            path,
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=referee("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString,
        )
        self.call = method(metadata=bearer(token), timeout=60)

    async def ask(
        self,
        type_url: str = ADDRESS_TYPE,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        versions: Mapping[str, str] | None = None,
        node: Mapping[str, str] | None = None,
        node_id: str = NODE_ID,
    ) -> None:
        """The first request of a type: with a node, unless `node_id` is empty."""
        message = referee("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
            type_url=type_url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=versions or {},
        )
        if node_id:
            message.node.id = node_id
            message.node.metadata.update({"NODE_NAME": "n1", "NAMESPACE": "istio-system"} if node is None else node)
        await self.call.write(message)

    async def next(self) -> Any:
        """The next response."""
        response = await asyncio.wait_for(self.call.read(), WAIT_S)
        if response is grpc.aio.EOF:
            raise await self.refusal()
        return response

    async def answer(self, response: Any, error: str = "", **names: Iterable[str]) -> None:
        """ACK, or NACK with `error`."""
        message = referee("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
            type_url=response.type_url, response_nonce=response.nonce
        )
        if error:
            message.error_detail.message = error
        message.resource_names_subscribe.extend(names.get("subscribe", ()))
        message.resource_names_unsubscribe.extend(names.get("unsubscribe", ()))
        await self.call.write(message)

    async def take(self) -> tuple[dict[str, Any], list[str]]:
        """The next response, acknowledged: its addresses by name, parsed, and the names removed."""
        response = await self.next()
        await self.answer(response)
        address = referee("istio.workload.Address")
        found = {one.name: address.FromString(one.resource.value) for one in response.resources}
        return found, sorted(response.removed_resources)

    async def refusal(self) -> grpc.aio.AioRpcError:
        """How the call ended."""
        async with asyncio.timeout(WAIT_S):
            code, details = await self.call.code(), await self.call.details()
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


async def create_certificate(
    channel: grpc.aio.Channel,
    csr: str,
    identity: str = "",
    seconds: int = 0,
    token: str | None = None,
    timeout: float = WAIT_S,
) -> list[str]:
    """CreateCertificate as upstream's ztunnel calls it; raises grpc.aio.AioRpcError."""
    request = referee("istio.v1.auth.IstioCertificateRequest")(csr=csr, validity_duration=seconds)
    if identity:
        request.metadata.update({"ImpersonatedIdentity": identity})
    method = channel.unary_unary(
        CERTIFICATE_METHOD,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=referee("istio.v1.auth.IstioCertificateResponse").FromString,
    )
    answer = await method(request, metadata=bearer(token), timeout=timeout)
    return list(answer.cert_chain)


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")]


def name_of(address: model.Address) -> str:
    if address.workload is not None:
        return address.workload.uid
    assert address.service is not None
    return f"{address.service.namespace}/{address.service.hostname}"


def workload(name: str, last: int, *services: str, node: str = "n9") -> model.Address:
    """A pod 10.0.0.LAST."""
    uid, ports = f"Kubernetes//Pod/default/{name}", (model.Port(80, 8080),)
    address = (bytes([10, 0, last // 256, last % 256]),)
    return model.Address(
        workload=model.Workload(uid, name, "default", address, node=node, services=dict.fromkeys(services, ports))
    )


def service(name: str, last: int) -> model.Address:
    """A service with the virtual IP 10.1.0.LAST."""
    vips = (model.NetworkAddress("", bytes([10, 1, 0, last])),)
    return model.Address(service=model.Service(name, "default", f"{name}.default.svc.cluster.local", vips))
