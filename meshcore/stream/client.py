"""The proxy's side: a subscription that lives through reconnects, and a signer of certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from meshcore.errors import DeadlineExceeded, MeshError, ProtocolError, Unavailable
from meshcore.stream.delta import ClientType
from meshcore.stream.h2rpc import DEFAULT_LIMITS, ClientConnection, Headers, Limits, Stream, connect, error_of
from meshcore.stream.messages import (
    CONFIG_PATH,
    CONTENT_TYPE,
    SIGN_PATH,
    DeltaRequest,
    DeltaResponse,
    ErrorBody,
    Node,
    Resource,
    SignRequest,
    SignResponse,
    Unframer,
    decode,
    encode,
    frame,
)

log = logging.getLogger("meshcore.stream")

OnUpdate = Callable[[str, list[Resource], list[str]], dict[str, str]]
Token = Callable[[], "str | None"]
TlsSource = Callable[[], ssl.SSLContext]

BACKOFF_MIN_S: Final = 0.01
BACKOFF_MAX_S: Final = 15.0
STEADY_S: Final = 5.0
"""A stream that lived this long counts as a success: the next wait starts from the minimum."""
ANSWER_BYTES_MAX: Final = 2**20


class DeltaStats(msgspec.Struct):
    """Counters of a DeltaClient; `terminations` has upstream's reasons."""

    connected: bool = False
    connections: int = 0
    messages: dict[str, int] = {}
    bytes: dict[str, int] = {}
    rejected: int = 0
    terminations: dict[str, int] = {}
    last_error: str = ""


class DeltaClient:
    """Subscribes to `types` and hands every batch to `on_update`, which returns {name: why} for what it refuses.

    `run` keeps the stream up until told to stop; what was received stays in force while it is down. `tls` is called
    for each connection, so that renewed certificates and roots are picked up. A type whose url is in `by_name` is
    subscribed by name (`subscribe`), the others as a whole.
    """

    def __init__(
        self,
        *,
        address: tuple[str, int],
        tls: TlsSource,
        server_name: str,
        node: Node,
        types: tuple[str, ...],
        on_update: OnUpdate,
        token: Token | None = None,
        by_name: tuple[str, ...] = (),
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.stats = DeltaStats()
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._node = node
        self._on_update = on_update
        self._token = token
        self._limits = limits
        self._types = {url: ClientType(url, wildcard=url not in by_name) for url in types}
        self._synced = {url: asyncio.Event() for url in types}
        self._stream: Stream | None = None

    def is_synced(self, type_url: str | None = None) -> bool:
        """Whether a type (or all of them) was once received and accepted as a whole."""
        urls = self._types if type_url is None else (type_url,)
        return all(self._types[url].synced for url in urls)

    async def ready(self, type_url: str, timeout: float | None = None) -> None:
        """Wait for `is_synced(type_url)`; raises DeadlineExceeded."""
        try:
            async with asyncio.timeout(timeout):
                await self._synced[type_url].wait()
        except TimeoutError:
            raise DeadlineExceeded(f"{type_url}: not received from istiod within {timeout:g} s") from None

    def versions(self, type_url: str) -> dict[str, str]:
        """Name to version of everything held of a type."""
        return dict(self._types[type_url].versions)

    async def subscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Ask for more resources by name; kept for later connections when there is none now."""
        await self._change(self._types[type_url].change(subscribe=names))

    async def unsubscribe(self, type_url: str, names: Iterable[str]) -> None:
        await self._change(self._types[type_url].change(unsubscribe=names))

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, subscribe, apply, acknowledge; reconnect until `stop` is set. Raises nothing but cancellation."""
        loop = asyncio.get_running_loop()
        backoff = 0.0
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                begun = loop.time()
                session = asyncio.create_task(self._session())
                await asyncio.wait((session, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not session.done():
                    session.cancel()
                    await asyncio.wait((session,), timeout=self._limits.response_timeout)
                    break
                self._ended(session)
                if loop.time() - begun >= STEADY_S:
                    backoff = 0.0
                backoff = min(max(backoff * 2, BACKOFF_MIN_S), BACKOFF_MAX_S)
                await asyncio.wait((stopping,), timeout=backoff * random.uniform(0.5, 1.0))
        finally:
            stopping.cancel()

    def _ended(self, session: asyncio.Task[str]) -> None:
        error = session.exception()
        if error is None:
            reason = session.result()
        elif isinstance(error, MeshError):
            reason = "ConnectionError" if isinstance(error, Unavailable | DeadlineExceeded) else "Error"
            reason = "Reconnect" if self.stats.connected and reason == "ConnectionError" else reason
        else:
            reason = "Error"
            log.error("BUG: the config stream failed", exc_info=error)
        text = "" if error is None else str(error)
        if text != self.stats.last_error or not error:
            log.info("config stream to %s:%d ended: %s%s", *self._address, reason, f": {text}" if text else "")
        self.stats.last_error = text
        self.stats.connected = False
        self.stats.terminations[reason] = self.stats.terminations.get(reason, 0) + 1

    async def _session(self) -> str:
        connection = await connect(self._address, self._tls(), self._server_name, self._limits)
        try:
            stream = connection.open(CONFIG_PATH, _headers(self._token))
            with contextlib.suppress(Unavailable):  # a server that refuses does not read on; its answer says why
                for kind in self._types.values():
                    await stream.send(frame(encode(kind.first_request(self._node))))
            if await connection.response(stream) != 200:
                raise await _refusal(stream, self._limits.response_timeout)
            self.stats.connected = True
            self.stats.connections += 1
            self._stream = stream
            unframer = Unframer(self._limits.message_bytes)
            while data := await stream.receive():
                for message in unframer.feed(data):
                    await stream.send(frame(encode(self._apply(message))))
            return "Complete"
        finally:
            self._stream = None
            connection.close()

    def _apply(self, message: bytes) -> DeltaRequest:
        response = decode(message, DeltaResponse)
        url = response.type_url
        self.stats.messages[url] = self.stats.messages.get(url, 0) + 1
        self.stats.bytes[url] = self.stats.bytes.get(url, 0) + len(message)
        kind = self._types.get(url)
        if kind is None:
            return DeltaRequest(url, nonce=response.nonce)
        resources, removed = kind.wanted(response)
        refused = self._on_update(url, resources, removed) if resources or removed else {}
        self.stats.rejected += len(refused)
        answer = kind.answer(response, refused)
        if kind.synced:
            self._synced[url].set()
        return answer

    async def _change(self, request: DeltaRequest | None) -> None:
        if request is not None and self._stream is not None:
            with contextlib.suppress(MeshError):  # the next stream repeats every subscription
                await self._stream.send(frame(encode(request)))


class SigningClient:
    """Gets certificates signed over one kept connection; many requests may be under way."""

    def __init__(
        self,
        *,
        address: tuple[str, int],
        tls: TlsSource,
        server_name: str,
        token: Token | None = None,
        limits: Limits = DEFAULT_LIMITS,
        parallel: int = 50,
    ) -> None:
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._token = token
        self._limits = limits
        self._slots = asyncio.Semaphore(parallel)
        self._dialling = asyncio.Lock()
        self._connection: ClientConnection | None = None

    async def sign(self, csr_pem: str, identity: str = "", ttl_seconds: int = 0, *, timeout: float = 10.0) -> list[str]:
        """Returns PEM texts: leaf, intermediates, last the root bundle.

        Raises AuthenticationError, AuthorizationError, CertificateError (the CSR or the lifetime is refused),
        Unavailable or DeadlineExceeded (both worth a retry).
        """
        message = frame(encode(SignRequest(csr_pem, identity, ttl_seconds)))
        try:
            async with asyncio.timeout(timeout), self._slots:
                kept = self._connection
                try:
                    return await self._once(message)
                except Unavailable:
                    if kept is None or kept.error is None:
                        raise
                return await self._once(message)  # the kept connection had died meanwhile
        except TimeoutError:
            raise DeadlineExceeded(f"istiod did not sign within {timeout:g} s") from None

    def refresh(self) -> None:
        """Use a new connection, with new credentials, from the next call on; calls under way end on the old one."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.streams:
            connection.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.wait_closed(2.0)

    async def _once(self, message: bytes) -> list[str]:
        connection = await self._connected()
        stream = connection.open(SIGN_PATH, _headers(self._token))
        try:
            with contextlib.suppress(Unavailable):
                await stream.send(message, end=True)
            if await connection.response(stream) != 200:
                raise await _refusal(stream, self._limits.response_timeout)  # noqa: TRY301 - the reset below is for it too
            chain = decode(await _message(stream, self._limits.response_timeout), SignResponse).chain
        except BaseException:
            stream.reset()
            raise
        connection.forget(stream)
        if self._connection is not connection and not connection.streams:
            connection.close()
        if len(chain) < 2:
            raise ProtocolError("istiod answered with fewer than two certificates")
        return list(chain)

    async def _connected(self) -> ClientConnection:
        async with self._dialling:
            connection = self._connection
            if connection is None or connection.error is not None:
                connection = await connect(self._address, self._tls(), self._server_name, self._limits)
                self._connection = connection
            return connection


def _headers(token: Token | None) -> Headers:
    headers = [("content-type", CONTENT_TYPE)]
    bearer = token() if token is not None else None
    if bearer:
        headers.append(("authorization", f"Bearer {bearer}"))
    return headers


async def _message(stream: Stream, timeout: float) -> bytes:
    unframer = Unframer(ANSWER_BYTES_MAX)
    found: list[bytes] = []
    while data := await stream.receive(timeout):
        found += unframer.feed(data)
    if len(found) != 1:
        raise ProtocolError("an answer that is not exactly one message")
    return found[0]


async def _refusal(stream: Stream, timeout: float) -> MeshError:
    """The typed error in an answer other than 200."""
    status = int(stream.headers.get(":status", "0"))
    try:
        body = decode(await _message(stream, timeout), ErrorBody)
    except ProtocolError:
        return error_of("", f"istiod answered with status {status}", status)
    return error_of(body.code, body.message, status)
