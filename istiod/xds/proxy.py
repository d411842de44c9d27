"""A subscriber that speaks delta xDS over gRPC."""

from __future__ import annotations

from collections.abc import Mapping

from istiod.auth import Caller
from istiod.metrics import Metrics
from istiod.proxy import Framing, Proxy
from istiod.push import Published
from istiod.xds import discovery
from istiod.xds.generators import Generators, Subscription
from meshcore.errors import ProtocolError
from meshcore.stream import grpc
from meshcore.stream.delta import ServerType
from meshcore.stream.messages import DeltaRequest, DeltaResponse, Resource
from meshcore.stream.server import ServerStream


class XdsProxy(Proxy):
    """`DeltaAggregatedResources` for one caller; `request_bytes` limits one message of its."""

    def __init__(
        self,
        number: int,
        stream: ServerStream,
        caller: Caller,
        published: Published,
        metrics: Metrics,
        generators: Generators,
        *,
        request_bytes: int = grpc.RECEIVE_BYTES_MAX,
    ) -> None:
        super().__init__(number, stream, caller, published, metrics)
        self._generators = generators
        self._subscriptions: dict[str, Subscription] = {}
        self._request_bytes = request_bytes

    def _accept(self) -> Framing:
        grpc.start(self._stream)
        return grpc.Unframer(self._request_bytes)

    def _listen(self) -> None:
        self._generators.listen(self._published_changed)

    def _forget(self) -> None:
        self._generators.forget(self._published_changed)

    def _decode(self, message: bytes) -> DeltaRequest:
        return discovery.decode_request(message)

    def _open(self, type_url: str) -> ServerType:
        if self.node is None:
            raise ProtocolError("the first request does not say which proxy it comes from")
        subscription = self._subscriptions[type_url] = self._generators.open(type_url, self.node)
        return subscription.state

    def _store(self, type_url: str) -> Mapping[str, Resource]:
        return self._subscriptions[type_url].store

    def _in_order(self) -> tuple[ServerType, ...]:
        return tuple(self.types[url] for url in self._generators.by_type if url in self.types)

    async def _prepare(self, state: ServerType) -> None:
        await self._subscriptions[state.type_url].prepare()

    async def _send(self, response: DeltaResponse) -> None:
        parts, size = discovery.encode_response(response)
        await grpc.send(self._stream, parts, size)

    def _published_changed(self, source: str, names: frozenset[str], aliases: frozenset[str]) -> None:
        concerned = [one.changed(source, names, aliases) for one in self._subscriptions.values()]
        if any(concerned):
            self._awake()
