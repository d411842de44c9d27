"""Port 15017: the webhook that refuses wrong objects before the API server stores them.

It speaks admission.k8s.io/v1 over HTTP/1.1. What it says of one object is what `ambient analyze` says of it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import h11
import msgspec

from istiod.analyze import Level, Message, World, analyze
from istiod.analyze.analyzers import OF_ONE_OBJECT
from istiod.resources import resource_of
from meshcore.errors import MeshError, Unavailable
from meshcore.manifests import CLUSTER_SCOPED, Manifest

log = logging.getLogger("istiod.webhook")

PATH: Final = "/validate"
API_VERSION: Final = "admission.k8s.io/v1"
BODY_BYTES_MAX: Final = 3 * 2**20
"""Upstream's limit. etcd takes objects up to 1.5 MiB, and the review of an update holds two of them."""
HEAD_BYTES_MAX: Final = 16 * 2**10
REQUEST_S: Final = 10.0
"""From the first byte to the answer: the API server waits 10 s by default."""
IDLE_S: Final = 120.0
"""Between requests; longer than the 90 s after which the API server itself closes an idle connection."""
HANDSHAKE_S: Final = 10.0
CONNECTIONS_MAX: Final = 256
WARNINGS_MAX: Final = 20
WARNING_CHARS_MAX: Final = 256
"""What the API server passes on of one warning before it truncates."""
ERRORS_MAX: Final = 50

_CHUNK: Final = 64 * 2**10
_THREAD_BYTES: Final = 128 * 2**10
"""A larger body is judged in a thread: the loop serves proxies meanwhile."""
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"


class MalformedReview(MeshError, code="webhook.review"):
    """What was posted is no AdmissionReview that can be answered."""


class Counters(Protocol):
    """Where requests are counted (`istiod.metrics.Metrics`)."""

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None: ...


class _Kind(msgspec.Struct):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Request(msgspec.Struct):
    uid: str
    kind: _Kind = msgspec.field(default_factory=_Kind)
    operation: str = ""
    name: str = ""
    namespace: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    request: _Request | None = None


class Verdict(NamedTuple):
    """`errors` refuse the object; `warnings` are shown to whoever wrote it."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = _TEXT


_decode_review: Final = msgspec.json.Decoder(_Review)
_Body: TypeAlias = bytes | None


def judge(kind: str, api_version: str, obj: Any, namespace: str = "") -> Verdict:
    """What is to be said of one object; nothing of a kind that is not ours. Any JSON value gives an answer."""
    resource = resource_of(kind, api_version)
    if resource is None:
        return Verdict()
    meta = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(meta, dict):
        return Verdict(("metadata: expected a mapping",))
    name = meta.get("name") or f"{meta.get('generateName') or ''}x"  # the server adds to a prefix only later
    name = name if isinstance(name, str) else ""
    place = "" if kind in CLUSTER_SCOPED else namespace or "default"
    whole = {**obj, "kind": kind, "apiVersion": api_version, "metadata": {"name": name, "namespace": place, **meta}}
    world = World(namespace=place)
    world.add_manifests([Manifest("", 0, api_version, kind, place, name, whole)])
    found = analyze(world, analyzers=OF_ONE_OBJECT)
    return Verdict(
        tuple(_text(one) for one in found if one.code.level is Level.ERROR)[:ERRORS_MAX],
        tuple(_warning(one) for one in found if one.code.level is not Level.ERROR)[:WARNINGS_MAX],
    )


def review(body: bytes) -> tuple[bytes, _Request, Verdict]:
    """The AdmissionReview that answers another one, with what was asked and found. Raises MalformedReview."""
    try:
        asked = _decode_review.decode(body)
        request = asked.request
        if asked.kind != "AdmissionReview" or request is None or not request.uid:
            raise MalformedReview("this is no AdmissionReview with a request that has a uid")
        if asked.api_version != API_VERSION:
            raise MalformedReview(f"apiVersion {asked.api_version[:100]!r} is not {API_VERSION}")
        obj = msgspec.json.decode(request.object)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedReview(f"the body is not an AdmissionReview in JSON: {exc}") from None
    verdict = Verdict()
    if request.operation in ("CREATE", "UPDATE") and not _going(obj):
        kind = request.kind
        api_version = f"{kind.group}/{kind.version}" if kind.group else kind.version
        verdict = judge(kind.kind, api_version, obj, request.namespace)
    return _answer(request.uid, verdict), request, verdict


def _going(obj: Any) -> bool:
    """Whether it is being deleted: then only finalizers change, and refusing that would keep it for ever."""
    meta = obj.get("metadata") if isinstance(obj, dict) else None
    return isinstance(meta, dict) and bool(meta.get("deletionTimestamp"))


def _answer(uid: str, verdict: Verdict) -> bytes:
    response: dict[str, Any] = {"uid": uid, "allowed": not verdict.errors}
    if verdict.errors:
        text = "; ".join(verdict.errors)
        response["status"] = {"status": "Failure", "reason": "Invalid", "code": 422, "message": text}
    if verdict.warnings:
        response["warnings"] = verdict.warnings
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def _text(one: Message) -> str:
    return f"{one.field}: {one.text}" if one.path else one.text


def _warning(one: Message) -> str:
    text = f"{one.code.id}: {_text(one)}"
    return text if len(text) <= WARNING_CHARS_MAX else f"{text[: WARNING_CHARS_MAX - 3]}..."


class Webhook:
    """The HTTPS server. `serving` once it listens."""

    def __init__(self, counters: Counters, *, request_timeout: float = REQUEST_S, idle_timeout: float = IDLE_S) -> None:
        self.port = 0
        self.serving = False
        self._counters = counters
        self._request_timeout = request_timeout
        self._idle_timeout = idle_timeout
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, bool] = {}
        """Connections, and whether a request of theirs is being answered."""
        self._changed = asyncio.Event()

    async def start(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        """Listen; `tls` must not offer h2. Raises Unavailable if the port cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=HEAD_BYTES_MAX, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError as exc:
            raise Unavailable(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None
        self.port = self._server.sockets[0].getsockname()[1]
        self.serving = True

    async def stop(self, timeout: float = 5.0) -> None:
        """No new requests; those that run are answered within `timeout`."""
        self.serving = False
        if self._server is not None:
            self._server.close()
        for writer in [writer for writer, busy in self._open.items() if not busy]:
            writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._open:
                    self._changed.clear()
                    await self._changed.wait()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            log.warning("more than %d connections: one was closed", CONNECTIONS_MAX)
            writer.transport.abort()
            return
        self._open[writer] = False
        connection = _Connection(reader, writer)
        try:
            while self.serving and await self._exchange(connection):
                pass
        except (OSError, TimeoutError, h11.ProtocolError) as exc:
            log.debug("connection ended: %r", exc)
        finally:
            del self._open[writer]
            self._changed.set()
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(HANDSHAKE_S):
                    await writer.wait_closed()

    async def _exchange(self, connection: _Connection) -> bool:
        """One request and its answer; False when the connection is of no more use."""
        try:
            async with asyncio.timeout(self._idle_timeout):
                if not await connection.begin():
                    return False
            self._open[connection.writer] = True
            async with asyncio.timeout(self._request_timeout):
                request = await connection.head()
                answer = await self._answered(connection, request)
                return await connection.send(answer, keep=self.serving)
        except h11.RemoteProtocolError as exc:
            refusal = self._refused(exc.error_status_hint, f"not HTTP as it is spoken here: {exc}\n")
            await self._last_words(connection, refusal)
        except TimeoutError:
            if self._open[connection.writer]:
                text = f"no whole request within {self._request_timeout:g} s\n"
                await self._last_words(connection, self._refused(408, text))
        finally:
            self._open[connection.writer] = False
        return False

    async def _last_words(self, connection: _Connection, answer: Answer) -> None:
        """The answer to a request that never became one, if the peer still listens."""
        with contextlib.suppress(h11.LocalProtocolError):
            async with asyncio.timeout(HANDSHAKE_S):
                await connection.send(answer, keep=False)

    async def _answered(self, connection: _Connection, request: h11.Request) -> Answer:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        body = await connection.body()
        if body is None:
            return self._refused(413, f"the body is larger than {BODY_BYTES_MAX} bytes\n")
        try:
            answer, asked, verdict = (
                await asyncio.to_thread(review, body) if len(body) > _THREAD_BYTES else review(body)
            )
        except MalformedReview as exc:
            return self._refused(400, f"{exc}\n")
        self._count(asked, verdict)
        return Answer(200, answer, _JSON)

    def _refusal(self, request: h11.Request) -> Answer | None:
        """By the head alone."""
        headers: dict[bytes, bytes] = dict(request.headers)
        if request.target.partition(b"?")[0] != PATH.encode():
            return self._refused(404, f"not found; there is {PATH}\n")
        if request.method != b"POST":
            return self._refused(405, "only POST is answered here\n")
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != _JSON:
            return self._refused(415, "the content-type is not application/json\n")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:12]) > BODY_BYTES_MAX:
            return self._refused(413, f"the body is larger than {BODY_BYTES_MAX} bytes\n")
        return None

    def _refused(self, status: int, text: str) -> Answer:
        self._counters.add("galley_validation_http_error", status=str(status))
        return Answer(status, text.encode())

    def _count(self, asked: _Request, verdict: Verdict) -> None:
        kind = asked.kind
        resource = resource_of(kind.kind, f"{kind.group}/{kind.version}")
        if resource is None:  # whatever a caller writes there must not become labels
            labels = {"group": "other", "version": "other", "resource": "other"}
        else:
            version = kind.version if kind.version in resource.versions else "other"
            labels = {"group": kind.group, "version": version, "resource": resource.plural}
        if verdict.errors:
            self._counters.add("galley_validation_failed", 1.0, reason="invalid_resource", **labels)
            name = f"{asked.namespace}/{asked.name}"
            log.info("refused %s %s: %s", kind.kind[:100], name[:300], "; ".join(verdict.errors)[:1000])
        else:
            self._counters.add("galley_validation_passed", 1.0, **labels)


class _Connection:
    """HTTP/1.1 on one stream. Every wait here is limited by the caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def begin(self) -> bool:
        """Wait for the first byte of a request; False if there will be none."""
        if self._http.trailing_data[0]:
            return True
        data = await self._reader.read(_CHUNK)
        self._http.receive_data(data)
        return bool(data)

    async def head(self) -> h11.Request:
        event = await self._next()
        if not isinstance(event, h11.Request):
            raise ConnectionResetError("closed in the middle of a request")
        return event

    async def body(self) -> _Body:
        """The whole body; None if it is too large."""
        if self._http.they_are_waiting_for_100_continue:
            await self._write(h11.InformationalResponse(status_code=100, headers=[]))
        parts = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            parts += event.data
            if len(parts) > BODY_BYTES_MAX:
                return None
        return bytes(parts)

    async def send(self, answer: Answer, *, keep: bool) -> bool:
        """Send a whole answer; True if another request may follow."""
        unread = self._http.their_state is not h11.DONE
        headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body))]
        if unread or not keep:
            headers.append((b"connection", b"close"))
        await self._write(
            h11.Response(status_code=answer.status, headers=headers),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        )
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _next(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event

    async def _write(self, *events: h11.Event) -> None:
        parts: Iterable[bytes | None] = [self._http.send(event) for event in events]
        self.writer.write(b"".join(part for part in parts if part))
        await self.writer.drain()
