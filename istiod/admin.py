"""Ports 8080 and 15014: small HTTP/1.1 answers, one per connection."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from meshcore.errors import MeshError, Unavailable

log = logging.getLogger("istiod.admin")

HEAD_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
"""For making an answer and for the caller to read it."""
HEAD_BYTES_MAX: Final = 8192
CONNECTIONS_MAX: Final = 100
QUERY_FIELDS_MAX: Final = 20
DUMPS_MAX: Final = 4
"""Answers about the whole mesh that are made or read at one time: each may hold megabytes."""


class Request(msgspec.Struct, frozen=True):
    """One request. Header names are in lower case; of a query key that is repeated the first value counts."""

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    peer: str = ""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[Request], Answer | Awaitable[Answer]]
Access = Callable[[Request], bool]
"""Whether a caller may see what concerns the whole mesh; the place for tokens, should they be wanted one day."""

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def text(body: str, status: int = 200) -> Answer:
    return Answer(status, body.encode())


def json(value: Any) -> Answer:
    """Indented, for people; tools do not mind."""
    return Answer(200, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", "application/json")


def from_this_host(request: Request) -> bool:
    """The caller is on a loopback address, as one behind `kubectl port-forward` is."""
    try:
        address = ipaddress.ip_address(request.peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class AdminServer:
    """Answers GET and HEAD. Paths in `local` show the whole mesh and are only for callers that `access` admits."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        local: Mapping[str, Route] | None = None,
        *,
        access: Access = from_this_host,
    ) -> None:
        self._routes = dict(routes)
        self._local = dict(local or {})
        self._access = access
        self._dumps = asyncio.Semaphore(DUMPS_MAX)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
        except OSError as exc:
            raise Unavailable(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if len(self._open) > CONNECTIONS_MAX:
                return
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            peer = str((writer.get_extra_info("peername") or ("",))[0])
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._answer(parse(head, peer), writer)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            try:
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    await writer.wait_closed()
            except TimeoutError:
                writer.transport.abort()  # what the caller does not read would be kept for ever
            except OSError:
                pass

    async def _answer(self, request: Request | None, writer: asyncio.StreamWriter) -> None:
        if request is None:
            await _write(writer, text("only GET is answered here\n", 405))
            return
        bodyless = request.method == "HEAD"
        if request.path in self._routes:
            await _write(writer, await _made(self._routes[request.path], request), bodyless)
        elif request.path in self._local:
            if not self._access(request):
                await _write(writer, text("only for callers on this host\n", 403), bodyless)
                return
            async with self._dumps:
                await _write(writer, await _made(self._local[request.path], request), bodyless)
        else:
            known = "\n".join(sorted((*self._routes, *self._local)))
            await _write(writer, text(f"not found; there is\n{known}\n", 404), bodyless)


def parse(head: bytes, peer: str = "") -> Request | None:
    """The head of a request, up to its empty line; None unless it is a GET or HEAD."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[0] not in ("GET", "HEAD"):
        return None
    path, _, query = parts[1].partition("?")
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError):  # more fields than anybody needs
        for key, value in parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX):
            found.setdefault(key, value)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(parts[0], path, found, headers, peer)


async def _made(route: Route, request: Request) -> Answer:
    try:
        answer = route(request)
        return answer if isinstance(answer, Answer) else await answer
    except MeshError as error:
        return text(f"{error}\n", 503 if error.retryable else 400)
    except Exception:
        log.exception("BUG: %s failed", request.path)
        return text("internal error\n", 500)


async def _write(writer: asyncio.StreamWriter, answer: Answer, bodyless: bool = False) -> None:
    lines = (
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(answer.body)}",
        "connection: close",
        "",
        "",
    )
    writer.write("\r\n".join(lines).encode() + (b"" if bodyless else answer.body))
    await writer.drain()
