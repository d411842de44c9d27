"""The HTTP servers of ports 8080 and 15014: who is answered, and that no caller is left hanging."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod import admin
from istiod.admin import AdminServer, Answer, Request, from_this_host, json, parse, text
from istiod.hostaddresses import local_addresses
from meshcore.errors import ConfigError, Unavailable
from tests.unit.istiod.http_support import fetch, page, run


async def spoken(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def ready(request: Request) -> Answer:
    del request
    return text("ready\n")


def echo(request: Request) -> Answer:
    return json(request.query)


async def later(request: Request) -> Answer:
    await asyncio.sleep(0)
    return text(request.path)


def refuses(request: Request) -> Answer:
    raise ConfigError(f"no {request.query['x']}")


def fails(request: Request) -> Answer:
    raise KeyError(request.path)


def test_pages_are_answered_and_strangers_refused() -> None:
    async def scenario() -> None:
        server = AdminServer({"/ready": ready}, {"/debug/x": echo})
        await server.start("0.0.0.0", 0)
        try:
            assert await fetch(server.port, "/ready?x=1") == (200, "ready\n")
            assert await fetch(server.port, "/ready", method="HEAD") == (200, "")
            assert await page(server.port, "/debug/x?a=1%2F2&b=&a=3") == {"a": "1/2", "b": ""}
            status, body = await fetch(server.port, "/nothing")
            assert (status, body.split()[-2:]) == (404, ["/debug/x", "/ready"])
            own = [address for address in local_addresses() if ":" not in address and address != "127.0.0.1"]
            for address in own[:1]:
                assert (await fetch(server.port, "/debug/x", address))[0] == 403
                assert (await fetch(server.port, "/ready", address))[0] == 200
        finally:
            await server.stop()
        with pytest.raises(Unavailable):
            await server.start("192.0.2.1", 0)

    run(scenario())


def test_what_is_no_get_is_refused() -> None:
    async def scenario() -> None:
        server = AdminServer({"/ready": ready})
        await server.start("127.0.0.1", 0)
        for raw in (b"POST /ready HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"GET /ready\r\n\r\n"):
            assert b" 405 " in await spoken(server.port, raw)
        assert await spoken(server.port, b"x" * 20_000) == b""
        await server.stop()

    run(scenario())


def test_a_page_may_take_its_time_refuse_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = AdminServer({"/later": later, "/refuses": refuses, "/fails": fails})
        await server.start("127.0.0.1", 0)
        assert await fetch(server.port, "/later") == (200, "/later")
        assert await fetch(server.port, "/refuses?x=y") == (400, "no y\n")
        assert await fetch(server.port, "/fails") == (500, "internal error\n")
        await server.stop()

    run(scenario())
    assert "BUG: /fails failed" in caplog.text


def test_who_may_see_the_mesh_can_be_decided_elsewhere() -> None:
    async def scenario() -> None:
        server = AdminServer({}, {"/debug/x": echo}, access=lambda request: "authorization" in request.headers)
        await server.start("127.0.0.1", 0)
        assert b" 403 " in await spoken(server.port, b"GET /debug/x HTTP/1.1\r\n\r\n")
        assert b" 200 " in await spoken(server.port, b"GET /debug/x HTTP/1.1\r\nAuthorization: Bearer t\r\n\r\n")
        await server.stop()

    run(scenario())


def test_who_does_not_read_a_large_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(admin, "HEAD_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        def large(request: Request) -> Answer:
            del request
            return text("x" * 64 * 2**20)

        server = AdminServer({"/large": large, "/ready": ready})
        await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.5)  # longer than both limits
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(64 * 2**20)
        writer.close()
        assert (await fetch(server.port, "/ready"))[0] == 200
        await server.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_what_is_this_host(peer: str, here: bool) -> None:
    assert from_this_host(Request("GET", "/", peer=peer)) is here


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_none(data: bytes) -> None:
    found = parse(data)
    assert found is None or found.method in ("GET", "HEAD")


@given(st.binary(max_size=300))
def test_any_query_is_read(data: bytes) -> None:
    head = b"GET /x?" + data.replace(b" ", b"").replace(b"\r", b"").replace(b"\n", b"") + b" HTTP/1.1\r\n\r\n"
    found = parse(head)
    assert found is not None
    assert found.path == "/x"
