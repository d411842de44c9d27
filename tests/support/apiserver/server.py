"""The listening server, its faults, and the thread it lives in."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from istiod.resources import Resource, resource_of
from tests.support.apiserver import kinds
from tests.support.apiserver.api import Api, TokenUser, Watch, bookmark, events, view
from tests.support.apiserver.http import (
    HEAD_BYTES_MAX,
    Request,
    Response,
    read_request,
    start_chunks,
    write_chunk,
    write_response,
)
from tests.support.apiserver.objects import Target
from tests.support.apiserver.status import Refusal
from tests.support.apiserver.store import HISTORY, Obj, Store

T = TypeVar("T")

STEP_S: Final = 10.0
"""For anything that a test asks of the server's thread."""
REQUESTS_KEPT: Final = 10_000
NAMESPACES: Final = ("default", "kube-system", "istio-system")


@dataclass
class _Fault:
    """Befalls the next `left` requests whose `METHOD /path?query` contains `match`."""

    left: int
    match: str
    refusal: Refusal | None = None
    delay: float = 0.0


class Server:
    """One API server in the running loop."""

    def __init__(self, api: Api, tls: ssl.SSLContext | None) -> None:
        self.api = api
        self.port = 0
        self.requests: deque[str] = deque(maxlen=REQUESTS_KEPT)
        self.faults: list[_Fault] = []
        self.refuse_old_at_once = False
        self.watch_round = 0
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._watches: set[asyncio.StreamWriter] = set()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def start(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=HEAD_BYTES_MAX
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Nothing listens and nobody is connected; the objects stay."""
        if self._listener is not None:
            self._listener.close()
        for writer in self._connections:
            writer.transport.abort()
        tasks = [*self._connections.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STEP_S)

    def drop_watches(self) -> None:
        """Cut every watch in the middle."""
        for writer in self._watches:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[writer] = task
        try:
            while (request := await read_request(reader)) is not None:
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the server stops
        finally:
            del self._connections[writer]
            writer.close()

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = "&".join(f"{name}={value}" for name, value in request.query.items())
        line = f"{request.method} {request.path}" + (f"?{query}" if query else "")
        self.requests.append(line)
        try:
            await self._suffer(line)
            answer = self.api.answer(request)
            if isinstance(answer, Watch):
                if self.refuse_old_at_once:
                    self.api.store.since(answer.version)
                await self._watch(answer, reader, writer)
                return
        except Refusal as refusal:
            answer = Response(refusal.code, refusal.status(), refusal.headers)
        await write_response(writer, answer)

    async def _suffer(self, line: str) -> None:
        for fault in self.faults:
            if fault.left > 0 and fault.match in line:
                fault.left -= 1
                if fault.delay:
                    await asyncio.sleep(fault.delay)
                if fault.refusal is not None:
                    raise fault.refusal

    async def _watch(self, watch: Watch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store = self.api.store
        kind_id = watch.target.kind.id
        seen, asked, round_ = watch.version, store.bookmarks, self.watch_round
        self._watches.add(writer)
        left = asyncio.create_task(reader.read(1))  # a client that watches says nothing more: it can only go
        try:
            await start_chunks(writer)
            await _send(writer, [{"type": "ADDED", "object": view(watch.target, obj)} for obj in watch.initial])
            async with asyncio.timeout(watch.seconds):
                while True:
                    news = store.news
                    await _send(writer, events(watch, store.since(seen)))
                    seen = store.version
                    if store.bookmarks > asked and watch.bookmarks:
                        await _send(writer, [bookmark(watch, seen)])
                    asked = store.bookmarks
                    if kind_id not in store.kinds or round_ != self.watch_round:
                        break  # its definition was deleted, or the watch is to end
                    await _first(left, news)
                    if left.done():
                        raise ConnectionResetError
        except TimeoutError:
            pass
        except Refusal as refusal:
            await _send(writer, [{"type": "ERROR", "object": refusal.status()}])
        finally:
            self._watches.discard(writer)
            left.cancel()
            await asyncio.wait((left,))
            if not left.cancelled():
                left.exception()  # a connection that broke is no news
        await write_chunk(writer, b"")

    @property
    def watches(self) -> int:
        return len(self._watches)


async def _first(task: asyncio.Task[bytes], event: asyncio.Event) -> None:
    """Until either is done."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _send(writer: asyncio.StreamWriter, said: Iterable[Obj]) -> None:
    if data := b"".join(msgspec.json.encode(event) + b"\n" for event in said):
        await write_chunk(writer, data)


class Control:
    """What a test does to the server behind its API; callable from any thread."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    def put(self, obj: Obj) -> Obj:
        """Store an object, status and all."""
        return self._run(lambda: self._server.api.objects.force(self._target(obj), obj))

    def put_all(self, objs: Iterable[Obj]) -> None:
        held = list(objs)
        self._run(lambda: [self._server.api.objects.force(self._target(obj), obj) for obj in held])

    def remove(self, obj: Obj) -> None:
        """The object of this kind, namespace and name."""
        self._run(lambda: self._server.api.objects.delete(self._target(obj), {}))

    def select(self, resource: Resource) -> list[Obj]:
        store = self._server.api.store
        return self._run(lambda: store.select(store.kinds[(resource.group, resource.plural)]))

    def install(self, resource: Resource) -> None:
        """As if its CustomResourceDefinition was created."""
        kind = kinds.of_resource(resource)
        self._run(lambda: self._server.api.store.kinds.__setitem__(kind.id, kind))

    def uninstall(self, resource: Resource) -> None:
        """The kind and every object of it is gone."""
        self._run(lambda: self._server.api.objects.undefine((resource.group, resource.plural)))

    def add_token(self, token: str, user: TokenUser) -> None:
        self._run(lambda: self._server.api.tokens.__setitem__(token, user))

    def set_token(self, token: str) -> None:
        """What every caller needs from now on."""
        self._run(lambda: setattr(self._server.api, "token", token))

    def bookmark(self) -> int:
        """Send a bookmark on every watch that wants some; -> its resource version."""

        def send() -> int:
            store = self._server.api.store
            store.bookmarks += 1
            store.wake()
            return store.version

        return self._run(send)

    def compact(self) -> None:
        """Every resource version and continue token that was handed out is too old from now on."""
        self._run(self._server.api.store.compact)

    def refuse_old_at_once(self, *, at_once: bool = True) -> None:
        """410 as an HTTP status, not as an event of an accepted watch."""
        self._run(lambda: setattr(self._server, "refuse_old_at_once", at_once))

    def end_watches(self) -> None:
        """End every watch properly, as at its timeout."""

        def end() -> None:
            self._server.watch_round += 1
            self._server.api.store.wake()

        self._run(end)

    def drop_watches(self) -> None:
        self._run(self._server.drop_watches)

    def fail_next(
        self,
        count: int,
        code: int,
        reason: str = "InternalError",
        message: str = "injected",
        *,
        match: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse the next `count` requests whose `METHOD /path?query` contains `match`."""
        refusal = Refusal(code, reason, message, headers=dict(headers or {}))
        self._run(lambda: self._server.faults.append(_Fault(count, match, refusal)))

    def delay_next(self, count: int, seconds: float, *, match: str = "") -> None:
        self._run(lambda: self._server.faults.append(_Fault(count, match, delay=seconds)))

    def clear_faults(self) -> None:
        self._run(self._server.faults.clear)

    def requests(self, match: str = "") -> list[str]:
        """`METHOD /path?query` of what was asked so far."""
        return self._run(lambda: [line for line in self._server.requests if match in line])

    @property
    def watches(self) -> int:
        return self._run(lambda: self._server.watches)

    def go_down(self) -> None:
        """Refuse connections, and cut those that are open."""
        self._wait(self._server.stop)

    def come_up(self) -> None:
        """At the same address."""
        self._wait(self._server.start)

    def _target(self, obj: Obj) -> Target:
        resource = resource_of(obj["kind"], obj["apiVersion"])
        plural = resource.plural if resource is not None else ""
        group, _, version = obj["apiVersion"].rpartition("/")
        store = self._server.api.store
        for kind in store.kinds.values():
            if kind.group == group and (kind.plural == plural or kind.kind == obj["kind"]):
                namespace = obj["metadata"].get("namespace", "") if kind.namespaced else ""
                return Target(kind, version, namespace, obj["metadata"]["name"])
        raise KeyError(f"the server has no {obj['kind']} of {obj['apiVersion']}")

    def _run(self, what: Callable[[], T]) -> T:
        async def call() -> T:
            return what()

        return self._wait(call)

    def _wait(self, what: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(STEP_S)


@dataclass(frozen=True)
class KubeApi:
    """What a client needs of a server. `control` exists for this server only, not for a real one."""

    url: str
    token: str
    ca_file: str
    control: Control | None = None


@contextlib.contextmanager
def api_server(
    *,
    custom: Iterable[Resource] = kinds.CUSTOM,
    tokens: Mapping[str, TokenUser] | None = None,
    token: str = "",
    history: int = HISTORY,
    tls: ssl.SSLContext | None = None,
    ca_file: str = "",
) -> Iterator[KubeApi]:
    """A server on loopback in a thread of its own, so that a test that blocks does not block it.

    `custom` are the kinds whose CRDs are installed, `tokens` what TokenReview knows, `token` what every caller needs.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="apiserver", daemon=True)
    thread.start()
    try:
        store = Store(kinds.builtin(custom), history=history)
        server = Server(Api(store, tokens or {}, token), tls)
        control = Control(server, loop)
        control.come_up()
        try:
            control.put_all(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}}
                for name in NAMESPACES
            )
            scheme = "http" if tls is None else "https"
            yield KubeApi(f"{scheme}://127.0.0.1:{server.port}", token, ca_file, control)
        finally:
            control.go_down()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STEP_S)
        loop.close()


@contextlib.asynccontextmanager
async def running_api_server(**options: Any) -> AsyncIterator[KubeApi]:
    """`api_server` for a test that is a coroutine."""
    server = api_server(**options)
    api = await asyncio.to_thread(server.__enter__)
    try:
        yield api
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
