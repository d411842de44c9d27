"""Port 15012: the configuration stream and certificate signing, for authenticated callers only."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from istiod.auth import Authenticator, Authorizer, Caller
from istiod.ca import Authority
from istiod.metrics import Metrics
from istiod.push import Published
from meshcore.errors import AuthenticationError, AuthorizationError, CertificateError, DeadlineExceeded, ProtocolError
from meshcore.stream.delta import ServerType
from meshcore.stream.h2rpc import DEFAULT_LIMITS, Limits
from meshcore.stream.messages import (
    CONFIG_PATH,
    SIGN_PATH,
    DeltaRequest,
    Node,
    SignRequest,
    SignResponse,
    Unframer,
    decode,
    encode,
    frame,
)
from meshcore.stream.server import Server, ServerStream

log = logging.getLogger("istiod.serve")

REQUEST_BYTES_MAX: Final = 32 * 2**20
"""A first request repeats every name held: 100,000 names of 100 bytes and their versions fit."""
SIGN_BYTES_MAX: Final = 64 * 2**10
SIGN_TIMEOUT_S: Final = 10.0
FIRST_REQUEST_TIMEOUT_S: Final = 10.0
PROXIES_MAX: Final = 10_000


class Proxy:
    """One subscriber: what it holds of each type, and what it still has to hear."""

    def __init__(
        self, number: int, stream: ServerStream, caller: Caller, published: Published, metrics: Metrics
    ) -> None:
        self.number = number
        self.caller = caller
        self.address = stream.peer.address
        self.node: Node | None = None
        self.types: dict[str, ServerType] = {}
        self.since = datetime.now(UTC)
        self._stream = stream
        self._published = published
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._requests_over = False
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Serve the subscription until either side ends it."""
        self._published.listen(self._changed)
        reader = asyncio.create_task(self._read())
        try:
            self._stream.start()
            await self._write()
        finally:
            self._published.forget(self._changed)
            reader.cancel()
            await asyncio.wait((reader,), timeout=1.0)

    def finish(self) -> None:
        """End the stream in order; the proxy will come back."""
        self._requests_over = True
        self._wake.set()

    def _changed(self, type_url: str, names: Iterable[str]) -> None:
        state = self.types.get(type_url)
        if state is not None:
            state.changed(names)
            self._wake.set()

    async def _read(self) -> None:
        try:
            unframer = Unframer(REQUEST_BYTES_MAX)
            while data := await self._stream.receive(None if self.types else FIRST_REQUEST_TIMEOUT_S):
                for message in unframer.feed(data):
                    self._request(decode(message, DeltaRequest))
        except Exception as exc:  # noqa: BLE001 - raised again by the writer, which owns the stream
            self._failure = exc
        self._requests_over = True
        self._wake.set()

    def _request(self, request: DeltaRequest) -> None:
        store = self._published.resources.get(request.type_url)
        if store is None:
            raise ProtocolError(f"unknown type {request.type_url[:200]!r}")
        if self.node is None:
            self.node = self._checked(request.node)
        state = self.types.get(request.type_url)
        if state is None:
            state = self.types[request.type_url] = ServerType(request.type_url)
        stale = state.stale
        answered = state.request(request, store)
        if state.stale != stale:
            self._metrics.add("pilot_xds_expired_nonce", type=_short(request.type_url))
        if answered and request.error:
            self._metrics.add("pilot_total_xds_rejects", type=_short(request.type_url))
            log.warning("proxy %s refused a push of %s: %s", self.name, _short(request.type_url), request.error[:1000])
        self._wake.set()

    def _checked(self, node: Node | None) -> Node:
        """What a proxy says about itself must agree with its certificate."""
        if node is None:
            raise ProtocolError("the first request does not say which proxy it comes from")
        if node.namespace and node.namespace != self.caller.identity.namespace:
            raise AuthorizationError("the namespace in the first request is not that of the certificate")
        if node.node and self.caller.node and node.node != self.caller.node:
            raise AuthorizationError("the node in the first request is not that of the certificate")
        return node

    @property
    def name(self) -> str:
        return f"{self.node.id if self.node is not None else '?'}@{self.address}"

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        expiry = self._stream.peer.not_after
        left = (expiry - datetime.now(UTC)).total_seconds() if expiry is not None else None
        ends = None if left is None else loop.time() + left
        while True:
            self._wake.clear()
            for state in tuple(self.types.values()):
                await self._push(state)
            if self._failure is not None:
                raise self._failure
            if self._requests_over:
                return
            if not self._wake.is_set():
                try:
                    async with asyncio.timeout_at(ends):
                        await self._wake.wait()
                except TimeoutError:
                    raise AuthenticationError("the client certificate has expired") from None

    async def _push(self, state: ServerType) -> None:
        response = state.next(self._published.resources[state.type_url])
        if response is None:
            return
        name = _short(state.type_url)
        self._metrics.add("pilot_xds_pushes", type=name)
        self._metrics.add("pilot_xds_config_size_bytes", sum(len(r.body) for r in response.resources), type=name)
        try:
            await self._stream.send(frame(encode(response)))
        except DeadlineExceeded:
            self._metrics.add("pilot_xds_write_timeout")
            raise


class Service:
    """The handlers of port 15012 and the state they share."""

    def __init__(
        self,
        authority: Authority,
        authenticator: Authenticator,
        authorizer: Authorizer,
        published: Published,
        metrics: Metrics,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.proxies: dict[int, Proxy] = {}
        self.server = Server({CONFIG_PATH: self._config, SIGN_PATH: self._sign}, limits=limits)
        self._authority = authority
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._published = published
        self._metrics = metrics
        self._numbers = itertools.count(1)

    async def stop(self, timeout: float) -> None:
        """End the subscriptions in order, let signing finish, close."""
        self.server.draining = True
        for proxy in tuple(self.proxies.values()):
            proxy.finish()
        await self.server.stop(timeout)

    async def _config(self, stream: ServerStream) -> None:
        caller = self._authenticator.certificate(stream.peer)
        number = next(self._numbers)
        proxy = Proxy(number, stream, caller, self._published, self._metrics)
        self.proxies[number] = proxy
        self._metrics.set("pilot_xds", len(self.proxies))
        try:
            await proxy.run()
        finally:
            del self.proxies[number]
            self._metrics.set("pilot_xds", len(self.proxies))

    async def _sign(self, stream: ServerStream) -> None:
        self._metrics.add("citadel_server_csr_count")
        try:
            caller = self._authenticator.any(stream.peer, stream.headers)
        except AuthenticationError:
            self._metrics.add("citadel_server_authentication_failure_count")
            raise
        request = decode(await stream.message(SIGN_BYTES_MAX, SIGN_TIMEOUT_S), SignRequest)
        try:
            identity = self._authorizer.grant(caller, request.identity)
        except AuthorizationError:
            self._metrics.add("citadel_server_id_extraction_err_count")
            raise
        own = identity == caller.identity and self._authenticator.is_node(caller)
        try:
            chain = self._authority.sign(
                request.csr_pem, identity, request.ttl_seconds, node=caller.node if own else ""
            )
        except CertificateError:
            self._metrics.add("citadel_server_csr_parsing_err_count")
            raise
        except Exception:
            self._metrics.add("citadel_server_csr_sign_err_count", error="internal")
            raise
        self._metrics.add("citadel_server_success_cert_issuance_count")
        await stream.reply(encode(SignResponse(tuple(chain))))


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
