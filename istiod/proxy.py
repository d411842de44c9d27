"""One subscriber of port 15012: what it asked for, what it holds and what it still has to hear."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from istiod.auth import Caller
from istiod.convergence import Convergence
from istiod.metrics import Metrics
from istiod.push import Published
from istiod.typenames import metric_type, short_name
from meshcore.errors import AuthenticationError, AuthorizationError, DeadlineExceeded, ProtocolError
from meshcore.stream.delta import ServerType
from meshcore.stream.messages import DeltaRequest, DeltaResponse, Node, Resource, Unframer, decode, encode, frame
from meshcore.stream.server import ServerStream

log = logging.getLogger("istiod.serve")

REQUEST_BYTES_MAX: Final = 32 * 2**20
"""A first request repeats every name held: 100,000 names of 100 bytes and their versions fit."""
FIRST_REQUEST_TIMEOUT_S: Final = 10.0
REFUSAL_CHARS_MAX: Final = 1000
UNKNOWN_VERSION: Final = "unknown"
_ENVOY_TYPES: Final = frozenset({"cds", "eds", "lds", "rds"})
"""Types whose refusals have a metric of their own."""


class Framing(Protocol):
    """Cuts what arrives into messages."""

    def feed(self, data: bytes) -> Iterable[bytes]: ...


class Proxy:
    """A subscriber in the native encoding; the methods that a subclass replaces for another one stand first."""

    def __init__(
        self, number: int, stream: ServerStream, caller: Caller, published: Published, metrics: Metrics
    ) -> None:
        self.number = number
        self.caller = caller
        self.address = stream.peer.address
        self.node: Node | None = None
        self.types: dict[str, ServerType] = {}
        self.last_refusals: dict[str, str] = {}
        """What a proxy last said against a response, by type; stays when a later one is accepted."""
        self.since = datetime.now(UTC)
        self._stream = stream
        self._published = published
        self._metrics = metrics
        self._convergence: dict[str, Convergence] = {}
        self._wake = asyncio.Event()
        self._requests_over = False
        self._failure: Exception | None = None

    def _accept(self) -> Framing:
        """Begin the answer; returns what cuts the requests."""
        self._stream.start()
        return Unframer(REQUEST_BYTES_MAX)

    def _listen(self) -> None:
        self._published.listen(self._changed)

    def _forget(self) -> None:
        self._published.forget(self._changed)

    def _decode(self, message: bytes) -> DeltaRequest:
        return decode(message, DeltaRequest)

    def _open(self, type_url: str) -> ServerType:
        """Begin a subscription; raises a MeshError if this type is not served."""
        if type_url not in self._published.resources:
            raise ProtocolError(f"unknown type {type_url[:200]!r}")
        return ServerType(type_url)

    def _store(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type whose subscription has begun."""
        return self._published.resources[type_url]

    def _in_order(self) -> tuple[ServerType, ...]:
        """The types subscribed, the one to be pushed first at the front."""
        return tuple(self.types.values())

    async def _prepare(self, state: ServerType) -> None:
        """Called before the next response of a type is made."""

    async def _send(self, response: DeltaResponse) -> None:
        await self._stream.send(frame(encode(response)))

    @property
    def name(self) -> str:
        return f"{self.node.id if self.node is not None else '?'}@{self.address}"

    @property
    def version(self) -> str:
        """That of the proxy's software, as it says."""
        return (self.node.version if self.node is not None else "") or UNKNOWN_VERSION

    async def run(self) -> None:
        """Serve the subscription until either side ends it."""
        framing = self._accept()
        self._listen()
        reader = asyncio.create_task(self._read(framing))
        try:
            await self._write()
        finally:
            self._forget()
            if self.node is not None:
                self._metrics.add("pilot_xds", -1, version=self.version)
            reader.cancel()
            await asyncio.wait((reader,), timeout=1.0)
            self._failure = None  # its traceback holds the frames that hold us

    def finish(self) -> None:
        """End the stream in order; the proxy will come back."""
        self._requests_over = True
        self._wake.set()

    def _changed(self, type_url: str, names: Iterable[str]) -> None:
        state = self.types.get(type_url)
        if state is not None:
            state.changed(names)
            self._awake()

    def _awake(self) -> None:
        """Something was published that concerns this proxy."""
        for url, state in self.types.items():
            if state.behind:
                self._convergence[url].changed(self._published.changed_at)
                self._wake.set()

    async def _read(self, framing: Framing) -> None:
        try:
            while data := await self._stream.receive(None if self.types else FIRST_REQUEST_TIMEOUT_S):
                for message in framing.feed(data):
                    self._metrics.peak("pilot_xds_recv_max", len(message))
                    self._request(self._decode(message))
        except Exception as exc:  # noqa: BLE001 - raised again by the writer, which owns the stream
            self._failure = exc
        self._requests_over = True
        self._wake.set()

    def _request(self, request: DeltaRequest) -> None:
        url = request.type_url
        if self.node is None:
            self.node = self._checked(request.node)
            self._metrics.add("pilot_xds", version=self.version)
        state = self.types.get(url)
        if state is None:
            state = self.types[url] = self._open(url)
            self._convergence[url] = Convergence(self._metrics)
        stale = state.stale
        answered = state.request(request, self._store(url))
        if state.stale != stale:
            self._metrics.add("pilot_xds_expired_nonce", type=metric_type(url))
        if answered:
            self._convergence[url].answered(accepted=not request.error)
        if answered and request.error:
            self._refused(url, request.error)
        if state.behind:
            self._wake.set()

    def _refused(self, url: str, why: str) -> None:
        self.last_refusals[url] = why[:REFUSAL_CHARS_MAX]
        name = metric_type(url)
        self._metrics.add("pilot_total_xds_rejects", type=name)
        if name in _ENVOY_TYPES:
            self._metrics.add(f"pilot_xds_{name}_reject")
        log.warning("proxy %s refused a push of %s: %s", self.name, short_name(url), self.last_refusals[url])

    def _checked(self, node: Node | None) -> Node:
        """What a proxy says about itself must agree with its credential."""
        if node is None:
            raise ProtocolError("the first request does not say which proxy it comes from")
        identity = self.caller.identity
        if node.namespace and node.namespace != identity.namespace:
            raise AuthorizationError("the namespace in the first request is not that of the caller's credential")
        if node.service_account and node.service_account != identity.service_account:
            raise AuthorizationError("the service account in the first request is not that of the caller's credential")
        if node.node and self.caller.node and node.node != self.caller.node:
            raise AuthorizationError("the node in the first request is not that of the caller's credential")
        return node

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        expiry = self._stream.peer.not_after
        left = (expiry - datetime.now(UTC)).total_seconds() if expiry is not None else None
        ends = None if left is None else loop.time() + left
        while True:
            self._wake.clear()
            for state in self._in_order():
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
        if state.waiting or not state.behind:
            return
        begun = time.monotonic()
        await self._prepare(state)
        response = state.next(self._store(state.type_url))
        convergence = self._convergence[state.type_url]
        if response is None:
            convergence.nothing()
            return
        convergence.responded(more=response.more)
        name = metric_type(state.type_url)
        self._metrics.add("pilot_xds_pushes", type=name)
        self._metrics.observe("pilot_xds_config_size_bytes", sum(len(r.body) for r in response.resources), type=name)
        made = time.monotonic()
        try:
            await self._send(response)
        except DeadlineExceeded:
            self._metrics.add("pilot_xds_write_timeout")
            raise
        sent = time.monotonic()
        self._metrics.observe("pilot_xds_push_time", sent - begun, type=name)
        self._metrics.observe("pilot_xds_send_time", sent - made)
