"""The small HTTP server, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from meshcore.errors import Unavailable
from ztunnel import http
from ztunnel.http import Request, Response, Server

DEADLINE = 10.0


async def echo(request: Request) -> Response:
    return Response.text(f"{request.method} {request.path} {request.query}")


async def fails(_: Request) -> Response:
    raise Unavailable("not now")


async def breaks(_: Request) -> Response:
    raise ValueError("a bug with a secret")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, int]]:
    server = Server("test", {"/echo": echo, "/fails": fails, "/breaks": breaks})
    (sock,) = http.loopback(0, ipv6=False)
    port = sock.getsockname()[1]
    await server.listen(sock)
    yield server, port
    server.close()


async def talk(port: int, data: bytes, *, end: bool = True) -> bytes:
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        if end:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


def ask(data: bytes) -> bytes:
    async def main() -> bytes:
        async with serving() as (_, port):
            return await talk(port, data, end=False)

    return uvloop.run(main())


def test_a_request_is_answered() -> None:
    answer = ask(b"GET /echo?a=1&b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"GET /echo [('a', '1'), ('b', '')]")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /fails HTTP/1.1\r\nConnection: close\r\n\r\n", 500),
        (b"GET /breaks HTTP/1.1\r\nConnection: close\r\n\r\n", 500),
        (b"GET /echo HTTP/1.0\r\n\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /echo HTTP/2\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nName : x\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /echo HTTP/1.1\r\nX: " + b"x" * 8200, 431),
    ],
)
def test_statuses(request_: bytes, status: int) -> None:
    answer = ask(request_)
    assert answer.split(b" ", 2)[1] == str(status).encode()
    assert b"secret" not in answer


def test_head_has_no_body() -> None:
    head, _, body = ask(b"HEAD /echo HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert b"content-length: 13" in head
    assert body == b""


def test_requests_follow_each_other_on_one_connection_at_any_cut() -> None:
    stream = b"GET /echo?1 HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde"
    stream += b"GET /echo?3 HTTP/1.1\r\nConnection: close\r\n\r\n"

    async def main() -> None:
        async with serving() as (_, port):
            for cut in range(0, len(stream), 7):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(stream[:cut])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(stream[cut:])
                async with asyncio.timeout(DEADLINE):
                    answer = await reader.read()
                writer.close()
                assert answer.count(b"HTTP/1.1 200 OK") == 3, f"cut at {cut}"
                assert answer.index(b"('1', '')") < answer.index(b"POST /echo") < answer.index(b"('3', '')")

    uvloop.run(main())


def timed(monkeypatch: pytest.MonkeyPatch, data: bytes, check: Callable[[bytes], bool]) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT_S", 0.1)

    async def main() -> None:
        async with serving() as (_, port):
            assert check(await talk(port, data, end=False))

    uvloop.run(main())


def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, b"GET /echo HTT", lambda answer: b" 408 " in answer)


def test_a_body_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", lambda answer: b" 408 " in answer)


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, b"", lambda answer: answer == b"")


def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 1)

    async def main() -> None:
        async with serving() as (_, port):
            taken, first = await asyncio.open_connection("127.0.0.1", port)
            first.write(b"GET /echo HTTP/1.1\r\n\r\n")
            await taken.read(1)  # the first connection is counted
            reader, second = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(OSError):  # noqa: PT012 - the reset shows at either call
                async with asyncio.timeout(DEADLINE):
                    if not await reader.read():
                        raise ConnectionResetError
            first.close()
            second.close()

    uvloop.run(main())


def test_a_closed_server_lets_the_port_go() -> None:
    async def main() -> None:
        async with serving() as (server, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            server.close()
            await asyncio.sleep(0.01)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            writer.close()

    uvloop.run(main())
