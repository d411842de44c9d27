"""An asynchronous client of the Kubernetes API that never decodes more of an object than its name and version.

HTTP/1.1, one connection per watch: a stuck or broken connection then costs one kind, not all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import httpx2
import msgspec

from istiod.kube.credentials import Credentials
from istiod.kube.errors import KubeError, NotFound, Request, decode_status, error_of
from istiod.kube.lines import LineSplitter
from istiod.kube.ratelimit import TokenBucket
from istiod.resources import Resource
from meshcore.errors import DeadlineExceeded, MeshError, ProtocolError, Unavailable

QPS: Final = 80.0
BURST: Final = 160
"""Upstream's --kubernetesApiQPS and --kubernetesApiBurst."""
PAGE: Final = 500
"""Objects per page of a list, as client-go asks for."""
REQUEST_S: Final = 30.0
LIST_PAGE_S: Final = 60.0
BODY_BYTES_MAX: Final = 256 * 2**20
"""Of one answer: 500 Secrets of half a MiB."""
WATCH_MIN_S: Final = 300.0
"""A watch is ended by the server after 1 to 2 times this, so that clients spread over the servers (client-go)."""
WATCH_IDLE_S: Final = 150.0
"""A server sends a bookmark every minute; after this silence the connection is taken for dead."""
CONNECT_S: Final = 10.0
CONNECTIONS_MAX: Final = 256
USER_AGENT: Final = "istiod"

TOKEN_REVIEW: Final = Resource("TokenReview", "tokenreviews", "authentication.k8s.io", ("v1",), namespaced=False)

T = TypeVar("T")

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"
_SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""A peer that vanished is noticed within a minute, also by a watch that has nothing to send."""


class Item(NamedTuple):
    """One object as the server wrote it. `raw` may be a view into the answer it came in: decode it, or `copy()`.

    Objects of built-in kinds carry no `kind` and `apiVersion` when they come in a list.
    """

    namespace: str
    name: str
    resource_version: str
    raw: msgspec.Raw


class Page(NamedTuple):
    """One page of a list; `resource_version` is the collection's, where a watch continues."""

    items: list[Item]
    resource_version: str


class WatchEvent(NamedTuple):
    """`item` of a BOOKMARK has only a resource version; that of DELETED is the last state."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    item: Item


class Review(msgspec.Struct, frozen=True):
    """What the server says of a token. `error` tells why it is not authenticated."""

    authenticated: bool = False
    error: str = ""
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}
    audiences: tuple[str, ...] = ()


class Selection(NamedTuple):
    """Which objects of a kind: one namespace or all ("")."""

    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""

    def query(self) -> dict[str, str]:
        query = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in query.items() if value}


EVERYTHING: Final = Selection()


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ApiResource(msgspec.Struct):
    name: str


class _ApiResourceList(msgspec.Struct):
    resources: list[_ApiResource] | None = None


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    error: str = ""
    user: _User = msgspec.field(default_factory=_User)
    audiences: tuple[str, ...] = ()


class _Review(msgspec.Struct):
    status: _ReviewStatus


_decode_object: Final = msgspec.json.Decoder(_Object)
_decode_list: Final = msgspec.json.Decoder(_List)
_decode_event: Final = msgspec.json.Decoder(_Event)
_decode_resources: Final = msgspec.json.Decoder(_ApiResourceList)
_decode_review: Final = msgspec.json.Decoder(_Review)


class KubeClient:
    """Requests to one API server, at most `qps` of them per second after a burst of `burst`.

    Every method raises a leaf of KubeError for what the server refuses, Unavailable when it cannot be reached,
    DeadlineExceeded when it does not answer in time and ProtocolError when it does not speak JSON.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        qps: float = QPS,
        burst: int = BURST,
        timeout: float = REQUEST_S,
        user_agent: str = USER_AGENT,
    ) -> None:
        self.server = credentials.server
        self._bucket = TokenBucket(qps, burst)
        self._timeout = timeout
        transport = httpx2.AsyncHTTPTransport(
            verify=False if credentials.tls is None else credentials.tls,
            trust_env=False,
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=8),
            socket_options=_SOCKET_OPTIONS,
        )
        self._http = httpx2.AsyncClient(
            base_url=credentials.server,
            transport=transport,
            auth=credentials.auth,
            trust_env=False,
            # Inside a cluster, bandwidth is cheaper than the server's time for compression.
            headers={"user-agent": user_agent, "accept": _JSON, "accept-encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, resource: Resource, namespace: str, name: str, *, version: str = "") -> Item:
        return await self._call("get", "GET", resource, namespace, name, version=version)

    async def create(
        self, resource: Resource, namespace: str, obj: Any, *, version: str = "", dry_run: bool = False
    ) -> Item:
        """`obj` is what msgspec encodes to the object's JSON; so it is for `replace`, `apply` and `merge_patch`.

        With `dry_run` the object is judged as if, and not stored.
        """
        query = {"dryRun": "All"} if dry_run else None
        return await self._call("create", "POST", resource, namespace, body=obj, query=query, version=version)

    async def replace(
        self, resource: Resource, namespace: str, name: str, obj: Any, *, subresource: str = "", version: str = ""
    ) -> Item:
        """With `metadata.resourceVersion` in `obj`, raises Conflict if the object changed since."""
        return await self._call(
            "update", "PUT", resource, namespace, name, body=obj, subresource=subresource, version=version
        )

    async def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        obj: Any,
        *,
        manager: str,
        force: bool = False,
        subresource: str = "",
        version: str = "",
    ) -> Item:
        """Server-side apply: `obj` holds all and only the fields that `manager` wants. Raises Conflict when another
        manager set one of them differently, unless `force`.
        """
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._call(
            "patch",
            "PATCH",
            resource,
            namespace,
            name,
            body=obj,
            query=query,
            content=_APPLY,
            subresource=subresource,
            version=version,
        )

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Any, *, subresource: str = "", version: str = ""
    ) -> Item:
        """RFC 7386: null removes a field, a list replaces a list."""
        return await self._call(
            "patch",
            "PATCH",
            resource,
            namespace,
            name,
            body=patch,
            content=_MERGE,
            subresource=subresource,
            version=version,
        )

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> None:
        """With `uid` or `resource_version`, only that very object: raises Conflict otherwise."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if held := {key: value for key, value in preconditions.items() if value}:
            options["preconditions"] = held
        request = Request("delete", _full_name(resource), namespace, name)
        await self._send(request, "DELETE", resource.path(namespace, name), body=options)

    async def review_token(self, token: str, audiences: tuple[str, ...] = ()) -> Review:
        """Ask who a bearer token belongs to; `audiences` are those that the caller would accept."""
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = audiences
        body = {"apiVersion": TOKEN_REVIEW.api_version, "kind": TOKEN_REVIEW.kind, "spec": spec}
        request = Request("create", _full_name(TOKEN_REVIEW))
        answer = await self._send(request, "POST", TOKEN_REVIEW.path(), body=body)
        status = _decoded(_decode_review, answer, request).status
        user = status.user
        return Review(
            status.authenticated, status.error, user.username, user.uid, user.groups, user.extra, status.audiences
        )

    async def served_version(self, resource: Resource) -> str | None:
        """The first of `resource.versions` that the server has; None if it does not know the kind."""
        for version in resource.versions:
            path = f"/apis/{resource.group}/{version}" if resource.group else f"/api/{version}"
            request = Request("get", path)
            try:
                answer = await self._send(request, "GET", path)
            except NotFound:
                continue
            served = _decoded(_decode_resources, answer, request).resources or ()
            if any(entry.name == resource.plural for entry in served):
                return version
        return None

    async def list_pages(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int = PAGE, version: str = ""
    ) -> AsyncGenerator[Page, None]:
        """All objects of one moment, page by page. Raises Gone when the server forgot that moment meanwhile."""
        request = Request("list", _full_name(resource), selection.namespace)
        path = resource.path(selection.namespace, version=version)
        query = selection.query() | {"limit": str(limit)}
        while True:
            answer = await self._send(request, "GET", path, query=query, timeout=LIST_PAGE_S)
            listed = _decoded(_decode_list, answer, request)
            items = [_item(raw, request) for raw in listed.items or ()]
            yield Page(items, listed.metadata.resource_version)
            if not listed.metadata.continue_:
                return
            query["continue"] = listed.metadata.continue_

    @contextlib.asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        selection: Selection = EVERYTHING,
        *,
        version: str = "",
        seconds: float | None = None,
        idle: float = WATCH_IDLE_S,
    ) -> AsyncIterator[AsyncIterator[list[WatchEvent]]]:
        """Changes after `resource_version`, in the lots in which they arrive, until the server ends the watch after
        about `seconds`. Raises Gone when the version is too old, DeadlineExceeded after `idle` seconds of silence.
        """
        request = Request("watch", _full_name(resource), selection.namespace)
        seconds = WATCH_MIN_S * random.uniform(1.0, 2.0) if seconds is None else seconds
        query = selection.query() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        await self._bucket.acquire()
        timeout = httpx2.Timeout(connect=CONNECT_S, write=self._timeout, pool=self._timeout, read=idle)
        path = resource.path(selection.namespace, version=version)
        asked = self._http.build_request("GET", path, params=query, timeout=timeout)
        with _transport_errors(request, self.server):
            response = await self._http.send(asked, stream=True)
        try:
            if response.status_code != 200:
                with _transport_errors(request, self.server):
                    async with asyncio.timeout(self._timeout):
                        raise await _refusal(request, response)
            async with contextlib.aclosing(_events(request, response, self.server)) as lots:
                yield lots
        finally:
            await response.aclose()

    async def _call(
        self,
        verb: str,
        method: str,
        resource: Resource,
        namespace: str,
        name: str = "",
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content: str = _JSON,
        subresource: str = "",
        version: str = "",
    ) -> Item:
        full_name = _full_name(resource)
        path = resource.path(namespace, name, version=version)
        if subresource:
            full_name, path = f"{full_name}/{subresource}", f"{path}/{subresource}"
        request = Request(verb, full_name, namespace, name)
        answer = await self._send(request, method, path, body=body, query=query, content=content)
        return _item(msgspec.Raw(answer), request)

    async def _send(
        self,
        request: Request,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content: str = _JSON,
        timeout: float | None = None,
    ) -> bytes:
        """The body of a successful answer."""
        await self._bucket.acquire()
        timeout = self._timeout if timeout is None else timeout
        encoded = None if body is None else msgspec.json.encode(body)
        headers = None if encoded is None else {"content-type": content}
        with _transport_errors(request, self.server):
            async with (
                asyncio.timeout(timeout),
                self._http.stream(
                    method, path, params=query, content=encoded, headers=headers, timeout=timeout
                ) as response,
            ):
                if response.is_success:
                    return await _body(request, response)
                raise await _refusal(request, response)


def _full_name(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


@contextlib.contextmanager
def _transport_errors(request: Request, server: str) -> Iterator[None]:
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise Unavailable(f"{request}: no connection to {server} within its limit; is the address right?") from error
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise DeadlineExceeded(f"{request}: {server} did not answer in time") from error
    except httpx2.RequestError as error:
        raise Unavailable(f"{request}: {server}: {str(error) or type(error).__name__}") from error


async def _body(request: Request, response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProtocolError(f"{request}: an answer of more than {BODY_BYTES_MAX} bytes; are there huge objects?")
    return bytes(body)


async def _refusal(request: Request, response: httpx2.Response) -> KubeError:
    status = decode_status(await _body(request, response), response.status_code)
    return error_of(request, status, retry_after=response.headers.get("retry-after"))


async def _events(request: Request, response: httpx2.Response, server: str) -> AsyncGenerator[list[WatchEvent], None]:
    splitter = LineSplitter()
    with _transport_errors(request, server):
        async for chunk in response.aiter_bytes():
            if lines := splitter.feed(chunk):
                events, failure = parse_events(request, lines)
                if events:
                    yield events
                if failure is not None:
                    raise failure


def parse_events(request: Request, lines: list[bytes]) -> tuple[list[WatchEvent], MeshError | None]:
    """The events of some lines, and the error that ends them: what came before it still counts."""
    events: list[WatchEvent] = []
    for line in lines:
        try:
            event = _decoded(_decode_event, line, request)
            if event.type in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
                events.append(WatchEvent(event.type, _item(event.object, request)))  # type: ignore[arg-type]
            elif event.type == "ERROR":
                return events, error_of(request, decode_status(event.object, 500))
        except ProtocolError as error:
            return events, error
    return events, None


def _item(raw: msgspec.Raw, request: Request) -> Item:
    meta = _decoded(_decode_object, raw, request).metadata
    return Item(meta.namespace, meta.name, meta.resource_version, raw)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, request: Request) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{request}: the answer is not what an API server says: {error}") from error
