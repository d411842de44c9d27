"""Port 15012: the configuration stream and certificate signing, for authenticated callers only."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import TYPE_CHECKING, Final

from istiod.auth import Authenticator, Authorizer, Caller
from istiod.ca import CertificateAuthority
from istiod.metrics import Metrics
from istiod.proxy import Proxy
from istiod.push import Published
from meshcore.errors import (
    AuthenticationError,
    AuthorizationError,
    CertificateError,
    DeadlineExceeded,
    MeshError,
    Unavailable,
)
from meshcore.stream import grpc
from meshcore.stream.h2rpc import DEFAULT_LIMITS, Limits
from meshcore.stream.messages import CONFIG_PATH, SIGN_PATH, SignRequest, SignResponse, decode, encode
from meshcore.stream.server import Server, ServerStream

if TYPE_CHECKING:
    from istiod.xds.generators import Generators

log = logging.getLogger("istiod.serve")

SIGN_BYTES_MAX: Final = 64 * 2**10
SIGN_TIMEOUT_S: Final = 10.0
PROXIES_MAX: Final = 10_000
HAND_OVER_STEPS: Final = 100
HAND_OVER_PAUSE_S: Final = 0.1
"""At a shutdown subscriptions end in so many steps, or one by one, with at most this pause between them."""
DELTA_METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CERTIFICATE_METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


class Service:
    """The handlers of port 15012 and the state they share."""

    def __init__(
        self,
        authority: CertificateAuthority,
        authenticator: Authenticator,
        authorizer: Authorizer,
        published: Published,
        metrics: Metrics,
        *,
        limits: Limits = DEFAULT_LIMITS,
        grpc_bytes: int = grpc.RECEIVE_BYTES_MAX,
    ) -> None:
        self.proxies: dict[int, Proxy] = {}
        routes = {
            CONFIG_PATH: self._config,
            SIGN_PATH: self._sign,
            DELTA_METHOD: self._delta,
            CERTIFICATE_METHOD: self._create_certificate,
        }
        self.server = Server(routes, limits=limits, finishers=((grpc.is_grpc, grpc.finish),))
        self._authority = authority
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._published = published
        self._metrics = metrics
        self._grpc_bytes = grpc_bytes
        self._generators: Generators | None = None
        self._numbers = itertools.count(1)

    async def stop(self, timeout: float) -> None:
        """End the subscriptions in order, let signing finish, close."""
        self.server.draining = True
        for proxy in tuple(self.proxies.values()):
            proxy.finish()
        await self.server.stop(timeout)

    async def hand_over(self, seconds: float) -> None:
        """Take no more subscriptions and end those there are, spread over at most `seconds`: whoever takes over is not
        called by all at once. Connections on which nothing is left to do are closed with GOAWAY.
        """
        self.server.draining = True
        proxies = list(self.proxies.values())
        random.shuffle(proxies)
        size = -(-len(proxies) // HAND_OVER_STEPS)
        pause = min(seconds * size / max(1, len(proxies)), HAND_OVER_PAUSE_S)
        for begin in range(0, len(proxies), max(1, size)):
            for proxy in proxies[begin : begin + size]:
                proxy.finish()
            await asyncio.sleep(pause)
            for connection in tuple(self.server.connections):
                if not connection.streams:
                    connection.close()

    async def _config(self, stream: ServerStream) -> None:
        caller = self._authenticator.certificate(stream.peer)
        await self._subscribed(Proxy(next(self._numbers), stream, caller, self._published, self._metrics))

    async def _delta(self, stream: ServerStream) -> None:
        caller = await self._authenticate(stream)
        from istiod.xds.generators import Generators  # the protobuf runtime costs memory: not before somebody needs it
        from istiod.xds.proxy import XdsProxy

        if self._generators is None:
            self._generators = Generators(self._published)
        number = next(self._numbers)
        await self._subscribed(
            XdsProxy(
                number, stream, caller, self._published, self._metrics, self._generators, request_bytes=self._grpc_bytes
            )
        )

    async def _subscribed(self, proxy: Proxy) -> None:
        """Serve a subscription, visible in `proxies` as long as it lasts."""
        if len(self.proxies) >= PROXIES_MAX:
            raise Unavailable(f"this istiod serves its limit of {PROXIES_MAX} proxies")
        self.proxies[proxy.number] = proxy
        try:
            await proxy.run()
        except MeshError:
            raise
        except Exception:
            self._metrics.add("pilot_total_xds_internal_errors")
            raise
        finally:
            del self.proxies[proxy.number]

    async def _authenticate(self, stream: ServerStream) -> Caller:
        """The caller behind a client certificate or a token; raises AuthenticationError."""
        return await self._authenticator.authenticate(stream.peer, stream.headers)

    async def _sign(self, stream: ServerStream) -> None:
        caller = await self._signer_of(stream)
        request = decode(await stream.message(SIGN_BYTES_MAX, SIGN_TIMEOUT_S), SignRequest)
        chain = self._issue(caller, request.csr_pem, request.identity, request.ttl_seconds)
        await stream.reply(encode(SignResponse(tuple(chain))))

    async def _create_certificate(self, stream: ServerStream) -> None:
        grpc.start(stream)
        asked = grpc.timeout_of(stream.headers.get("grpc-timeout", ""))
        seconds = SIGN_TIMEOUT_S if asked is None else min(asked, SIGN_TIMEOUT_S)
        try:
            async with asyncio.timeout(seconds):
                caller = await self._signer_of(stream)
                from istiod.xds import certificates

                request = certificates.decode(await grpc.request(stream, SIGN_BYTES_MAX))
                try:
                    chain = self._issue(caller, request.csr_pem, request.identity, request.ttl_seconds)
                except AuthorizationError as exc:  # upstream tells both refusals with one status
                    raise AuthenticationError(str(exc)) from None
                answer = certificates.encode(chain)
                await grpc.send(stream, (answer,), len(answer))
        except TimeoutError:
            raise DeadlineExceeded(f"no certificate within {seconds:g} s") from None

    async def _signer_of(self, stream: ServerStream) -> Caller:
        self._metrics.add("citadel_server_csr_count")
        try:
            return await self._authenticate(stream)
        except AuthenticationError:
            self._metrics.add("citadel_server_authentication_failure_count")
            raise

    def _issue(self, caller: Caller, csr_pem: str, wanted: str, ttl_seconds: int) -> list[str]:
        """The chain for an identity that the caller may have; counts what went wrong."""
        try:
            identity = self._authorizer.grant(caller, wanted)
        except AuthorizationError:
            self._metrics.add("citadel_server_id_extraction_err_count")
            raise
        own = identity == caller.identity and self._authenticator.is_node(caller)
        try:
            chain = self._authority.sign(csr_pem, identity, ttl_seconds, node=caller.node if own else "")
        except CertificateError:
            self._metrics.add("citadel_server_csr_parsing_err_count")
            raise
        except Exception:
            self._metrics.add("citadel_server_csr_sign_err_count", error="internal")
            raise
        self._metrics.add("citadel_server_success_cert_issuance_count")
        return chain
