"""The HTTP/2 side of the control-plane stream against peers that are slow, silent, hostile or gone."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from meshcore.errors import (
    AuthorizationError,
    CertificateError,
    DeadlineExceeded,
    MeshError,
    ProtocolError,
    Unavailable,
)
from meshcore.stream import DeltaClient, Limits, Node, Resource, SigningClient, SignResponse, client_context
from meshcore.stream.guard import FrameGuard
from meshcore.stream.h2rpc import ClientConnection, connect
from meshcore.stream.messages import CONFIG_PATH, SIGN_PATH, encode
from meshcore.stream.server import Handler, Server, ServerStream
from meshcore.stream.tls import server_context
from tests.fuzz.fuzz_stream import SEEDS, fuzz_one


@cache
def credentials() -> tuple[str, bytes]:
    """A self-signed certificate for localhost that is its own root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem).decode(), private


def tls() -> ssl.SSLContext:
    return client_context(credentials()[0])


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    uvloop.run(bounded())


async def serving(routes: dict[str, Handler], **limits: float) -> Server:
    server = Server(routes, limits=Limits(**limits))  # type: ignore[arg-type]
    root, key = credentials()
    await server.start("127.0.0.1", 0, server_context(root, root, key))
    return server


async def dial(server: Server, **limits: float) -> ClientConnection:
    return await connect(("127.0.0.1", server.port), tls(), "localhost", Limits(**limits))  # type: ignore[arg-type]


async def echo(stream: ServerStream) -> None:
    stream.start()
    while data := await stream.receive():
        await stream.send(data)


async def slurp(connection: ClientConnection, data: bytes) -> bytes:
    stream = connection.open("/echo", [])
    sender = asyncio.create_task(stream.send(data, end=True))
    got = bytearray()
    while piece := await stream.receive(10):
        got += piece
    await sender
    connection.forget(stream)
    return bytes(got)


def test_more_than_every_window_arrives_intact_on_many_streams() -> None:
    async def scenario() -> None:
        server = await serving({"/echo": echo})
        connection = await dial(server)
        blobs = [os.urandom(400_000 + i) for i in range(8)]
        assert await asyncio.gather(*(slurp(connection, blob) for blob in blobs)) == blobs
        assert not connection.streams
        connection.close()
        await server.stop(1)
        assert not server.connections

    run(scenario())


def test_a_stream_nobody_reads_does_not_stall_the_others() -> None:
    async def flood(stream: ServerStream) -> None:
        stream.start()
        await stream.send(bytes(10_000_000))

    async def scenario() -> None:
        server = await serving({"/echo": echo, "/flood": flood})
        connection = await dial(server)
        for _ in range(5):
            connection.open("/flood", [], end=True)
        blob = os.urandom(3_000_000)
        assert await slurp(connection, blob) == blob
        connection.close()
        await server.stop(0)

    run(scenario())


def test_a_peer_that_does_not_read_costs_its_stream_after_the_limit() -> None:
    ended: list[str] = []

    async def flood(stream: ServerStream) -> None:
        stream.start()
        try:
            await stream.send(bytes(10_000_000))
        except MeshError as exc:
            ended.append(exc.code)
            raise

    async def scenario() -> None:
        server = await serving({"/flood": flood}, send_timeout=0.2)
        connection = await dial(server)
        stream = connection.open("/flood", [], end=True)
        await connection.response(stream)
        async with asyncio.timeout(5):
            while stream.error is None:  # noqa: ASYNC110 - the stream's own event belongs to its reader
                await asyncio.sleep(0.01)
        assert ended == ["deadline"]
        connection.close()
        await server.stop(0)

    run(scenario())


def test_a_silent_peer_is_found_out_by_ping() -> None:
    async def scenario() -> None:
        root, key = credentials()
        silent = await asyncio.start_server(
            lambda _r, _w: asyncio.sleep(30), "127.0.0.1", 0, ssl=server_context(root, root, key)
        )
        address = silent.sockets[0].getsockname()[:2]
        connection = await connect(address, tls(), "localhost", Limits(ping_interval=0.1, ping_timeout=0.1))
        stream = connection.open("/x", [])
        with pytest.raises(Unavailable, match="PING"):
            await stream.receive(5)
        await connection.wait_closed(1)
        silent.close()

    run(scenario())


def test_an_answering_peer_is_left_alone_by_ping() -> None:
    async def scenario() -> None:
        server = await serving({"/echo": echo})
        connection = await dial(server, ping_interval=0.05, ping_timeout=0.5)
        await asyncio.sleep(0.4)
        assert connection.error is None
        assert await slurp(connection, b"x") == b"x"
        connection.close()
        await server.stop(0)

    run(scenario())


def test_an_idle_connection_is_closed_by_the_server() -> None:
    async def scenario() -> None:
        server = await serving({"/echo": echo}, idle_timeout=0.2, ping_interval=0.1, ping_timeout=0.1)
        connection = await dial(server)
        async with asyncio.timeout(5):
            await connection.closed.wait()
        await server.stop(0)

    run(scenario())


def test_an_answer_that_does_not_come_is_a_deadline() -> None:
    async def never(stream: ServerStream) -> None:
        del stream
        await asyncio.sleep(30)

    async def scenario() -> None:
        server = await serving({SIGN_PATH: never})
        connection = await dial(server, response_timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            await connection.response(connection.open(SIGN_PATH, [], end=True))
        signer = SigningClient(address=("127.0.0.1", server.port), tls=tls, server_name="localhost")
        with pytest.raises(DeadlineExceeded, match=r"within 0.1 s"):
            await signer.sign("csr", timeout=0.1)
        await signer.close()
        connection.close()
        await server.stop(0)

    run(scenario())


class Raw:
    """A TLS client that writes frames as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        )
        self.h2.initiate_connection()

    @classmethod
    async def open(cls, server: Server) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port, ssl=tls(), server_hostname="localhost"))

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def until_closed(self) -> bytes:
        data = b""
        try:
            async with asyncio.timeout(5):
                while piece := await self.reader.read(65536):
                    data += piece
        except ConnectionError:
            pass
        self.writer.close()
        return data


HEAD = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/echo")]


def ping_flood(raw: Raw) -> None:
    for _ in range(2500):
        raw.h2.ping(b"12345678")


def settings_flood(raw: Raw) -> None:
    for _ in range(2500):
        raw.h2.update_settings({4: 70_000})


def reset_flood(raw: Raw) -> None:
    for _ in range(2500):
        stream = raw.h2.get_next_available_stream_id()
        raw.h2.send_headers(stream, HEAD)
        raw.h2.reset_stream(stream)


def empty_data_flood(raw: Raw) -> None:
    raw.h2.send_headers(1, HEAD)
    for _ in range(2500):
        raw.h2.send_data(1, b"")


def too_many_streams(raw: Raw) -> None:
    raw.h2.remote_settings[3] = 1000
    for _ in range(150):
        raw.h2.send_headers(raw.h2.get_next_available_stream_id(), HEAD)


def large_headers(raw: Raw) -> None:
    raw.h2.send_headers(1, [*HEAD, *((f"h{i}", "v" * 200) for i in range(200))])


def rubbish(raw: Raw) -> None:
    raw.writer.write(b"\xff" * 200)


def long_frame(raw: Raw) -> None:
    raw.writer.write((2**14 + 1).to_bytes(3) + b"\0\0\0\0\0\1" + b"x" * 100)


def unknown_frames(raw: Raw) -> None:
    raw.writer.write(b"\0\0\0\x20\0\0\0\0\0" * 5000)


def not_utf8(raw: Raw) -> None:
    raw.h2.send_headers(1, [*((k.encode(), v.encode()) for k, v in HEAD), (b"x", b"\xff\xfe")])


@pytest.mark.parametrize(
    "attack",
    [
        ping_flood,
        settings_flood,
        reset_flood,
        empty_data_flood,
        too_many_streams,
        large_headers,
        rubbish,
        long_frame,
        unknown_frames,
        not_utf8,
    ],
)
def test_abuse_ends_the_connection_and_nothing_else(attack: Callable[[Raw], None]) -> None:
    async def scenario() -> None:
        server = await serving({"/echo": echo})
        good = await dial(server)
        raw = await Raw.open(server)
        raw.flush()
        attack(raw)
        raw.flush()
        await raw.until_closed()
        assert await slurp(good, b"still here") == b"still here"
        async with asyncio.timeout(5):
            while len(server.connections) > 1:  # noqa: ASYNC110 - closing sets no event of ours
                await asyncio.sleep(0.01)
        good.close()
        await server.stop(0)

    run(scenario())


def test_too_many_connections_are_turned_away() -> None:
    async def scenario() -> None:
        server = await serving({"/echo": echo})
        server.max_connections = 1
        first = await dial(server)
        second = await dial(server)
        async with asyncio.timeout(5):
            await second.closed.wait()
        assert first.error is None
        first.close()
        await server.stop(0)

    run(scenario())


def test_errors_of_a_handler_arrive_with_their_type_and_bugs_without_their_text() -> None:
    async def failing(stream: ServerStream) -> None:
        kind = stream.headers.get("authorization", "").removeprefix("Bearer ")
        raise {"denied": AuthorizationError("no"), "bad": CertificateError("bad CSR")}.get(kind) or ValueError("secret")

    async def scenario() -> None:
        server = await serving({SIGN_PATH: failing})
        for kind, expected in (("denied", AuthorizationError), ("bad", CertificateError), ("bug", MeshError)):
            token = partial(str, kind)
            signer = SigningClient(address=("127.0.0.1", server.port), tls=tls, server_name="localhost", token=token)
            with pytest.raises(expected) as caught:
                await signer.sign("csr")
            assert "secret" not in str(caught.value)
            await signer.close()
        await server.stop(0)

    run(scenario())


def test_a_signer_survives_the_loss_of_its_kept_connection_and_refreshes() -> None:
    async def sign(stream: ServerStream) -> None:
        await stream.message(65536, 5)
        await stream.reply(encode(SignResponse(("leaf", "root"))))

    async def scenario() -> None:
        server = await serving({SIGN_PATH: sign})
        signer = SigningClient(address=("127.0.0.1", server.port), tls=tls, server_name="localhost")
        assert await signer.sign("csr") == ["leaf", "root"]
        (connection,) = server.connections
        connection.abort()
        await connection.wait_closed(1)
        assert await signer.sign("csr") == ["leaf", "root"]
        (second,) = server.connections
        signer.refresh()
        assert await signer.sign("csr") == ["leaf", "root"]
        assert second not in server.connections or second.error is not None or len(server.connections) == 2
        await signer.close()
        await server.stop(1)
        with pytest.raises(Unavailable):
            await signer.sign("csr")

    run(scenario())


def test_a_delta_client_backs_off_and_recovers() -> None:
    attempts: list[float] = []

    async def config(stream: ServerStream) -> None:
        attempts.append(asyncio.get_running_loop().time())
        if len(attempts) < 5:
            raise Unavailable("not yet")
        stream.start()
        await asyncio.sleep(30)

    async def scenario() -> None:
        server = await serving({CONFIG_PATH: config})

        def update(url: str, resources: list[Resource], removed: list[str]) -> dict[str, str]:
            del url, resources, removed
            return {}

        client = DeltaClient(
            address=("127.0.0.1", server.port),
            tls=tls,
            server_name="localhost",
            node=Node("x"),
            types=("T",),
            on_update=update,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(client.run(stop))
        async with asyncio.timeout(10):
            while not client.stats.connected:  # noqa: ASYNC110 - a counter sets no event
                await asyncio.sleep(0.01)
        assert client.stats.terminations == {"ConnectionError": 4}
        waits = [b - a for a, b in itertools.pairwise(attempts)]
        assert waits[-1] >= 0.04  # 10, 20, 40, 80 ms, each by half at most
        with pytest.raises(DeadlineExceeded):
            await client.ready("T", 0.05)
        stop.set()
        await asyncio.wait_for(task, 5)
        await server.stop(0)

    run(scenario())


def test_a_client_in_trouble_with_its_credentials_keeps_trying() -> None:
    async def scenario() -> None:
        def broken() -> ssl.SSLContext:
            raise CertificateError("no root yet")

        client = DeltaClient(
            address=("127.0.0.1", 1),
            tls=broken,
            server_name="localhost",
            node=Node("x"),
            types=("T",),
            on_update=lambda _u, _r, _d: {},
        )
        stop = asyncio.Event()
        task = asyncio.create_task(client.run(stop))
        async with asyncio.timeout(5):
            while client.stats.terminations.get("Error", 0) < 3:  # noqa: ASYNC110 - a counter sets no event
                await asyncio.sleep(0.01)
        assert client.stats.last_error == "no root yet"
        stop.set()
        await asyncio.wait_for(task, 5)

    run(scenario())


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12)), max_size=8), st.data())
def test_the_guard_follows_frames_at_any_split(frames: list[tuple[int, int]], data: st.DataObject) -> None:
    stream = bytes(24) + b"".join(n.to_bytes(3) + bytes([kind]) + bytes(5 + n) for n, kind in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    guard = FrameGuard(preface=True)
    for start, end in itertools.pairwise([0, *cuts, len(stream)]):
        guard.feed(stream[start:end])
    head = (2**14 + 1).to_bytes(3) + bytes(6)
    cut = data.draw(st.integers(0, 8))
    guard.feed(head[:cut])
    with pytest.raises(ProtocolError, match="larger than the limit"):
        guard.feed(head[cut:])


@pytest.mark.parametrize("seed", SEEDS)
def test_fuzz_seeds(seed: bytes) -> None:
    fuzz_one(seed)
