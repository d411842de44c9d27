"""Two workers between two applications: ends, resets, stalls and plain relaying. All on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from meshcore.records import Action, AuthorityKind, Endpoint, PageCell, Protocol, SlotCell, Verdict
from tests.support import apps
from tests.support.worker_harness import (
    EVERYTHING,
    LABEL_ID,
    Address,
    Decide,
    Harness,
    deliver,
    eventually,
    ip_bytes,
    listen,
    tunnel,
)

CHUNK = 16 << 10  # bytes of one buffer of the pool


class Pair(NamedTuple):
    """`dial` leads through both workers (or, when plain, one) to the application of `serve`."""

    dial: Callable[[], socket.socket]
    serve: Callable[[apps.Serve], None]
    app: apps.App
    workers: tuple[Harness, ...]


def plain(app: Address) -> Decide:
    """Outbound to an endpoint outside of the mesh: bytes are spliced."""
    endpoint = Endpoint(ip_bytes(app[0]), app[1], app[1], Protocol.TCP, AuthorityKind.ENDPOINT, 1, 0, LABEL_ID)
    verdict = Verdict(Action.BALANCE, EVERYTHING, LABEL_ID, endpoints=(endpoint,))
    return lambda _: verdict


@pytest.fixture(params=["hbone", "plain"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    serving: list[apps.Serve] = [apps.echo]

    def served(sock: socket.socket) -> None:
        serving[0](sock)

    with apps.App(served) as app, contextlib.ExitStack() as stack:
        workers: tuple[Harness, ...]
        if request.param == "plain":
            workers = (stack.enter_context(Harness(plain(app.address))),)
        else:
            server = stack.enter_context(Harness(deliver(app.address), service_account="peer"))
            workers = (stack.enter_context(Harness(tunnel(server.add_pod().hbone))), server)
        entry = workers[0].add_pod().outbound

        def dial() -> socket.socket:
            return stack.enter_context(socket.create_connection(entry, timeout=10))

        def serve(how: apps.Serve) -> None:
            serving[0] = how

        yield Pair(dial, serve, app, workers)
        app.close()
        for worker in workers:
            worker.idle()


def test_the_client_ends_first_and_hears_the_answer(pair: Pair) -> None:
    def answer_at_the_end(sock: socket.socket) -> None:
        sock.sendall(b"%d bytes" % len(apps.read_to_end(sock)))

    pair.serve(answer_at_the_end)
    client = pair.dial()
    apps.send_all(client, b"x" * 300_000)
    assert apps.read_to_end(client) == b"300000 bytes"


def test_the_server_ends_first_and_hears_the_rest(pair: Pair) -> None:
    heard: list[bytes] = []

    def end_then_listen(sock: socket.socket) -> None:
        apps.send_all(sock, b"banner")
        heard.append(apps.read_to_end(sock))

    pair.serve(end_then_listen)
    client = pair.dial()
    assert apps.read_to_end(client) == b"banner"
    apps.send_all(client, b"y" * 300_000)
    eventually(lambda: bool(heard), "the server heard the end")
    assert heard == [b"y" * 300_000]


def test_a_connection_without_a_byte_ends_like_any_other(pair: Pair) -> None:
    client = pair.dial()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_reset_by_the_server_reaches_the_client(pair: Pair) -> None:
    def read_and_reset(sock: socket.socket) -> None:
        sock.recv(1)
        apps.reset(sock)

    pair.serve(read_and_reset)
    client = pair.dial()
    client.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_reset_by_the_client_reaches_the_server(pair: Pair) -> None:
    seen: list[str] = []

    def listen_in(sock: socket.socket) -> None:
        sock.sendall(sock.recv(1))
        try:
            seen.append(repr(sock.recv(1)))
        except ConnectionResetError:
            seen.append("reset")

    pair.serve(listen_in)
    client = pair.dial()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    apps.reset(client)
    eventually(lambda: bool(seen), "the server noticed")
    assert seen == ["reset"]


def test_a_client_that_resets_in_the_middle_of_a_download_harms_nobody(pair: Pair) -> None:
    """What is written then goes to a socket that is gone: EPIPE without SIGPIPE."""

    def pour(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"z" * 65_536)

    pair.serve(pour)
    for _ in range(10):
        client = pair.dial()
        apps.read_exactly(client, 100_000)
        apps.reset(client)
    pair.serve(apps.echo)
    client = pair.dial()
    apps.send_all(client, b"still here")
    assert apps.read_to_end(client) == b"still here"


@pytest.mark.parametrize("size", [100 << 20])
def test_a_hundred_megabytes_arrive_intact(pair: Pair, size: int) -> None:
    block = os.urandom(1 << 20)
    digest: list[str] = []

    def swallow(sock: socket.socket) -> None:
        found = hashlib.sha256()
        while data := sock.recv(1 << 20):
            found.update(data)
        digest.append(found.hexdigest())

    pair.serve(swallow)
    client, expected = pair.dial(), hashlib.sha256()
    client.settimeout(50)
    for i in range(size // len(block)):
        piece = i.to_bytes(4, "big") + block[4:]
        expected.update(piece)
        client.sendall(piece)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert digest == [expected.hexdigest()]
    for worker in pair.workers:
        worker.wait_slot(SlotCell.RECEIVED, size)
    if len(pair.workers) == 1:
        assert pair.workers[0].cell(PageCell.SPLICE) > 0
        assert pair.workers[0].cell(PageCell.BUFFERS_HIGH) <= 1, "plain bytes never enter the worker"


def test_a_reader_that_stops_stalls_its_sender_in_bounded_memory(pair: Pair) -> None:
    """100 MiB are offered. What stands between the ends is the windows and the kernel's buffers, no more."""
    go_on: list[bool] = []
    digest: list[str] = []

    def wait_then_read(sock: socket.socket) -> None:
        sock.recv(1)
        while not go_on:
            time.sleep(0.01)
        found = hashlib.sha256()
        while data := sock.recv(1 << 20):
            found.update(data)
        digest.append(found.hexdigest())

    pair.serve(wait_then_read)
    before = [worker.memory_kb() for worker in pair.workers]
    client = pair.dial()
    client.sendall(b"!")
    block, expected, sent = os.urandom(1 << 18), hashlib.sha256(), 0
    client.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
        while sent < 100 << 20:
            count = client.send(block)
            expected.update(block[:count])
            sent += count
    assert sent < 40 << 20, "the sender was never stalled"
    for worker, kb in zip(pair.workers, before, strict=True):
        assert worker.cell(PageCell.BUFFERS_OUT) * CHUNK <= 12 << 20
        assert worker.memory_kb() - kb < 16 << 10
    other = pair.dial()  # another connection through the same tunnel is served
    go_on.append(True)
    client.settimeout(20)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert digest == [expected.hexdigest()]
    other.close()


def test_many_connections_at_once_keep_their_bytes_apart(pair: Pair) -> None:
    bodies = [bytes([i]) * (10_000 + i) for i in range(200)]
    clients = [pair.dial() for _ in bodies]
    for client, body in zip(clients, bodies, strict=True):
        client.sendall(body)
    for client, body in zip(clients, bodies, strict=True):
        client.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(client) == body


def test_the_access_log_has_one_line_for_each_connection(pair: Pair) -> None:
    for i in range(3):
        client = pair.dial()
        apps.send_all(client, b"x" * (i + 1))
        apps.read_to_end(client)
    for worker in pair.workers:
        worker.idle()
        eventually(lambda worker=worker: len(worker.log_lines()) == 3, "three lines")  # type: ignore[misc] # bound early
        for size in (1, 2, 3):
            assert any(f"bytes_sent={size} bytes_recv={size} " in line for line in worker.log_lines())


@pytest.mark.parametrize("address", ["127.0.0.9", "127.10.99.100", "127.255.200.199", "::1"])
def test_addresses_are_written_as_everybody_writes_them(address: str) -> None:
    """In the access log, and as the authority that the other worker asks about."""
    with (
        apps.App(listener=listen(address)) as app,
        Harness(deliver(app.address), service_account="peer") as server,
        Harness(tunnel(server.add_pod(address=address).hbone, target_port=app.address[1])) as worker,
        socket.create_connection(worker.add_pod(address=address).outbound, timeout=10) as client,
    ):
        host = "[{}]:{}" if ":" in address else "{}:{}"
        source, target = host.format(*client.getsockname()[:2]), host.format(*app.address)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        asked = server.upcalls[0]
        assert (asked.dst_ip, asked.dst_port) == (ip_bytes(address), app.address[1])
        client.close()
        line = worker.wait_log(f"src.addr={source} ")
        assert f"dst.hbone_addr={target} " in line
        assert f"dst.addr={target} " in server.wait_log("dst.addr=")
