"""The HBONE users of the bench, which share no code with ours, against a real worker, Envoy, and peers that misbehave.

Their client works with threads as with locust's greenlets, so most of it is tested here without locust.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import h2.errors
import h2.settings
import pytest

from bench import locustload
from bench.locustload import Entry
from bench.subjects.base import Address
from bench.users import http1
from bench.users.channel import Files, HboneError, client_context
from bench.users.hbone import STREAM_WINDOW, Connection
from bench.users.pool import Pool
from meshcore.records import PageCell, SlotCell
from tests.support import apps, envoy, peer_h2, pki, programs
from tests.support.worker_harness import TIMEOUT, Harness, address_of, deliver, deny, eventually, listen

needs_locust = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed: scripts/virtualenv dev,bench"
)

ROOT: Final = Path(__file__).resolve().parents[2]
TARGET: Final = "10.0.0.7:8080"
SHORT: Final = 0.5  # s; where the wait is what is tested
RUN_TIMEOUT: Final = 40.0  # s; a run of two seconds on a busy machine
Codes = h2.settings.SettingCodes


def page(sock: socket.socket) -> None:
    """Answer every request on the connection with 1 KB."""
    got = b""
    while data := sock.recv(65536):
        got += data
        while b"\r\n\r\n" in got:
            _, _, got = got.partition(b"\r\n\r\n")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """What a workload has; its identity is `peer`, its servers are called `ours`."""
    chain, key = pki.credential("peer").write(tmp_path, "peer")
    root = tmp_path / "root.pem"
    root.write_bytes(pki.root().pem)
    return Files(chain, key, root)


@pytest.fixture
def app() -> Iterator[apps.App]:
    with apps.App(page) as made:
        yield made


@pytest.fixture
def worker(app: apps.App) -> Iterator[Harness]:
    with Harness(deliver(app.address)) as made:
        yield made
        made.idle()


@pytest.fixture
def hbone(worker: Harness) -> Address:
    return Address(*worker.add_pod().hbone)


def dial(address: Address, files: Files, *, expected: str = "ours", timeout: float = TIMEOUT) -> Connection:
    return Connection(address, client_context(files), pki.spiffe(expected), timeout)


@contextlib.contextmanager
def connected(
    address: Address, files: Files, *, expected: str = "ours", timeout: float = TIMEOUT
) -> Iterator[Connection]:
    made = dial(address, files, expected=expected, timeout=timeout)
    try:
        yield made
    finally:
        made.close()


# --- a real worker ---


def test_requests_go_through_a_tunnel_of_a_worker(worker: Harness, hbone: Address, files: Files) -> None:
    with connected(hbone, files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        for _ in range(3):
            assert http1.get(tunnel, TARGET, "/1k") == (200, 1024)
        tunnel.close()
        worker.idle()
    (upcall,) = worker.upcalls
    assert upcall.peer == pki.spiffe("peer")
    assert (upcall.dst_ip, upcall.dst_port) == (bytes((10, 0, 0, 7)), 8080)
    assert "error=" not in worker.wait_log("connection complete")


def test_many_threads_share_one_connection(worker: Harness, hbone: Address, files: Files) -> None:
    pool = Pool(lambda: dial(hbone, files), TIMEOUT)

    def ask() -> None:
        tunnel = pool.reserve().open(TARGET)
        for _ in range(20):
            assert http1.get(tunnel, TARGET, "/1k") == (200, 1024)
        tunnel.close()

    for thread in [apps.background(ask) for _ in range(30)]:
        thread.join(30)
    pool.close()
    assert worker.slot(SlotCell.OPENED) == 30
    assert worker.cell(PageCell.TLS_ACCEPT_OK) == 1
    assert worker.cell(PageCell.H2_GOAWAY_SENT) == 0


def test_a_full_connection_makes_the_pool_dial_another(worker: Harness, hbone: Address, files: Files) -> None:
    pool = Pool(lambda: dial(hbone, files), TIMEOUT, streams=2)
    tunnels = [pool.reserve().open(TARGET) for _ in range(5)]
    assert worker.cell(PageCell.TLS_ACCEPT_OK) == 3
    tunnels[0].close()
    worker.wait_slot(SlotCell.CLOSED, 1)
    assert http1.get(tunnels[-1], TARGET, "/1k") == (200, 1024)

    def reused() -> bool:
        tunnels.append(pool.reserve().open(TARGET))
        tunnels.pop().close()
        return True

    assert reused()
    assert reused()
    assert worker.cell(PageCell.TLS_ACCEPT_OK) == 3
    pool.close()


def test_every_byte_comes_back_whatever_the_windows(files: Files) -> None:
    """The windows are 4 MiB; each side holds back the other many times over."""
    body = os.urandom(24 << 20)
    with (
        apps.App() as app,
        Harness(deliver(app.address)) as worker,
        connected(Address(*worker.add_pod().hbone), files) as connection,
    ):
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        sender = apps.background(lambda: tunnel.send(body))
        received = bytearray()
        while len(received) < len(body):
            received += tunnel.recv()
        sender.join()
        assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
        tunnel.close()
        worker.idle()


def test_the_application_that_ends_is_seen(worker: Harness, hbone: Address, app: apps.App, files: Files) -> None:
    with connected(hbone, files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        assert http1.get(tunnel, TARGET, "/1k").status == 200
        app.close_all()
        with pytest.raises(HboneError, match="the tunnel ended in the head of the answer"):
            http1.get(tunnel, TARGET, "/1k")
        tunnel.close()
        worker.idle()


@pytest.mark.parametrize("status", [401, 503])
def test_a_refused_connect_is_named_and_the_connection_goes_on(
    worker: Harness, hbone: Address, files: Files, status: int
) -> None:
    allow, worker.decide = worker.decide, deny(status=status)
    with connected(hbone, files) as connection:
        assert connection.reserve(1)
        with pytest.raises(HboneError, match=f"answered CONNECT {TARGET} with {status}"):
            connection.open(TARGET)
        worker.decide = allow
        worker.flush(1, reevaluate=False)
        assert connection.reserve(1), "the refused tunnel gave its place back"
        eventually(lambda: opens(connection), "the next CONNECT is allowed")


def opens(connection: Connection) -> bool:
    try:
        connection.open(TARGET).close()
    except HboneError:
        return not connection.reserve(1)
    return True


def test_a_server_of_another_identity_is_refused(hbone: Address, files: Files) -> None:
    with pytest.raises(HboneError, match=rf"is {pki.spiffe('ours')}, not {pki.spiffe('web')}"):
        dial(hbone, files, expected="web")


def test_a_server_that_nobody_vouches_for_is_refused(hbone: Address, files: Files) -> None:
    files.root.write_bytes(pki.stranger().pem)
    with pytest.raises(HboneError, match=r"TLS handshake with 127.0.0.1:\d+: .*(self.signed|unable to get)"):
        dial(hbone, files)


def test_a_certificate_that_the_server_refuses_is_named(hbone: Address, files: Files, tmp_path: Path) -> None:
    chain, key = pki.stranger().leaf(pki.spiffe("peer")).write(tmp_path, "stranger")
    # Its reset may overtake what it says.
    with pytest.raises(HboneError, match=r"ended TLS: .*unknown ca|it may have refused the client's certificate"):
        dial(hbone, Files(chain, key, files.root))


def test_a_worker_that_dies_fails_its_tunnels(app: apps.App, files: Files) -> None:
    with Harness(deliver(app.address)) as worker, connected(Address(*worker.add_pod().hbone), files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        worker.kill()
        with pytest.raises(HboneError, match=r"closed the connection|Connection reset"):
            http1.get(tunnel, TARGET, "/1k")
        assert not connection.alive


# --- peers of our own making ---


@contextlib.contextmanager
def peer(
    serve: Callable[[peer_h2.Peer], None], settings: dict[Codes, int] | None = None
) -> Iterator[tuple[Address, peer_h2.Server]]:
    context = pki.context("server", pki.credential("ours"))
    with peer_h2.Server(serve, context=context, settings=settings) as server:
        yield Address(*server.address), server


def answer_then(then: Callable[[peer_h2.Peer, int], None]) -> Callable[[peer_h2.Peer], None]:
    """Answer the first CONNECT with 200, do this with its stream, and wait for the other side to go."""

    def serve(made: peer_h2.Peer) -> None:
        while not made.streams:
            if made.closed:
                return  # a run may end between the dial and its CONNECT
            made.step(0.1)
        (stream,) = made.streams
        made.h2.send_headers(stream, [(":status", "200")])
        made.flush()
        then(made, stream)
        made.flush()
        # Not through the library: after its own GOAWAY it takes nothing.
        while made.sock.recv(65536):
            pass

    return serve


def fails(address: Address, files: Files, text: str, *, timeout: float = TIMEOUT) -> Connection:
    """The peer accepts a tunnel, and a request through it fails with this text.

    What follows the answer to CONNECT may come along with it, and then no tunnel opens.
    """
    with connected(address, files, timeout=timeout) as connection:
        assert connection.reserve(1)
        with pytest.raises(HboneError, match=text), contextlib.closing(connection.open(TARGET)) as tunnel:
            http1.get(tunnel, TARGET, "/1k")
    return connection


def test_connect_says_what_that_of_a_ztunnel_says(files: Files) -> None:
    baggage = ("baggage", "k8s.namespace.name=shop")
    with peer(peer_h2.echo) as (address, server), connected(address, files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET, (baggage,))
        (made,) = server.peers
        (stream,) = made.streams.values()
        assert set(stream.headers) == {":method", ":authority", "baggage", "forwarded", "traceparent"}
        assert (stream.headers[":method"], stream.headers[":authority"]) == ("CONNECT", TARGET)
        assert stream.headers["baggage"] == "k8s.namespace.name=shop"
        host, port = made.sock.getpeername()
        assert stream.headers["forwarded"] == f'for="{host}:{port}"'
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", stream.headers["traceparent"])
        announced = made.h2.remote_settings
        assert announced[Codes.INITIAL_WINDOW_SIZE] == STREAM_WINDOW == 4 << 20
        assert (announced[Codes.MAX_FRAME_SIZE], announced[Codes.MAX_HEADER_LIST_SIZE]) == (1 << 20, 16 << 10)
        assert announced[Codes.ENABLE_PUSH] == 0
        assert made.h2.outbound_flow_control_window == 16 << 20
        assert made.sock.version() == "TLSv1.3"
        tunnel.close()


def test_goaway_is_named_with_what_the_peer_says(files: Files) -> None:
    def goaway(made: peer_h2.Peer, _: int) -> None:
        made.h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, b"too many pings")

    with peer(answer_then(goaway)) as (address, _):
        connection = fails(address, files, "sent GOAWAY ENHANCE_YOUR_CALM: too many pings")
    assert not connection.alive


def test_after_goaway_the_pool_dials_again(files: Files) -> None:
    def goaway(made: peer_h2.Peer, _: int) -> None:
        made.h2.close_connection()

    with peer(answer_then(goaway)) as (address, server):
        pool = Pool(lambda: dial(address, files), TIMEOUT)
        for _ in range(2):
            tunnel = pool.reserve().open(TARGET)
            with pytest.raises(HboneError, match="sent GOAWAY NO_ERROR"):
                http1.get(tunnel, TARGET, "/1k")
            tunnel.close()
        pool.close()
        assert server.accepted == 2


def test_a_reset_is_named_and_leaves_the_connection(files: Files) -> None:
    def reset(made: peer_h2.Peer, stream: int) -> None:
        made.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)

    with peer(answer_then(reset)) as (address, _), connected(address, files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        with pytest.raises(HboneError, match=f"reset the tunnel to {TARGET}: REFUSED_STREAM"):
            tunnel.recv()
        tunnel.close()
        assert connection.alive
        assert connection.reserve(1), "the reset tunnel gave its place back"


def test_garbage_is_named(files: Files) -> None:
    def garbage(made: peer_h2.Peer, _: int) -> None:
        made.sock.sendall(bytes(9))  # a DATA frame of stream 0

    with peer(answer_then(garbage)) as (address, _):
        fails(address, files, "broke the rules of HTTP/2")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"SSH-2.0\r\n\r\n", "the answer is not HTTP/1.1: 'SSH-2.0'"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "the answer has no Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", "1 bytes longer than its Content-Length"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "the answer's head is over"),
    ],
)
def test_an_answer_that_is_none_is_named(files: Files, said: bytes, text: str) -> None:
    def say(made: peer_h2.Peer, stream: int) -> None:
        made.send(made.streams[stream], said)

    with peer(answer_then(say)) as (address, _):
        fails(address, files, text)


def test_a_peer_that_answers_nothing_is_waited_for_as_long_as_said(files: Files) -> None:
    began = time.monotonic()
    with peer(answer_then(lambda made, stream: None)) as (address, _):
        fails(address, files, f"no bytes from {TARGET} over .* within 0.5 s", timeout=SHORT)
    assert SHORT < time.monotonic() - began < TIMEOUT


def test_a_connect_without_an_answer_is_reset(files: Files) -> None:
    reset = threading.Event()

    def serve(made: peer_h2.Peer) -> None:
        made.pump(lambda: any(stream.reset is not None for stream in made.streams.values()), "the reset")
        reset.set()

    with peer(serve) as (address, _), connected(address, files, timeout=SHORT) as connection:
        assert connection.reserve(1)
        with pytest.raises(HboneError, match=f"no answer to CONNECT from {TARGET}"):
            connection.open(TARGET)
        assert reset.wait(TIMEOUT)


def test_a_closed_window_is_waited_for_as_long_as_said(files: Files) -> None:
    """The peer allows 10 bytes and gives nothing back."""

    def hold(made: peer_h2.Peer, stream: int) -> None:
        made.credit = False
        made.received(made.streams[stream], 10)

    with peer(answer_then(hold), {Codes.INITIAL_WINDOW_SIZE: 10}) as (address, server):
        fails(address, files, f"no window to send from {TARGET}", timeout=SHORT)
        assert [bytes(stream.data) for stream in server.peers[0].streams.values()] == [b"GET /1k HT"]


def test_credit_is_given_back_for_what_was_taken_and_only_that(files: Files) -> None:
    """More than our window comes: the peer must stop until the user takes bytes, then may go on to the end."""
    body = os.urandom(STREAM_WINDOW * 2)
    stopped = threading.Event()

    def flood(made: peer_h2.Peer, stream: int) -> None:
        sent = 0
        while sent < len(body):
            room = min(made.h2.local_flow_control_window(stream), made.h2.max_outbound_frame_size, len(body) - sent)
            if room:
                made.h2.send_data(stream, body[sent : sent + room])
                made.flush()
                sent += room
            else:
                stopped.set()
                made.step(0.1)
        made.h2.end_stream(stream)

    with peer(answer_then(flood)) as (address, _), connected(address, files) as connection:
        assert connection.reserve(1)
        tunnel = connection.open(TARGET)
        assert stopped.wait(TIMEOUT)
        eventually(lambda: sum(credit for _, credit in tunnel.chunks) == STREAM_WINDOW, "a full window of bytes")
        received = bytearray()
        while data := tunnel.recv():
            received += data
        assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
        tunnel.close()


def test_the_peers_limit_of_streams_is_kept(files: Files) -> None:
    with peer(peer_h2.echo, {Codes.MAX_CONCURRENT_STREAMS: 2}) as (address, server):
        pool = Pool(lambda: dial(address, files), TIMEOUT)
        for _ in range(3):
            pool.reserve().open(TARGET)
        assert server.accepted == 2
        pool.close()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "no TLS"])
def test_a_server_without_tls_is_named(files: Files, says: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(says)
        apps.read_to_end(sock)

    with apps.App(serve) as app, pytest.raises(HboneError, match=r"TLS handshake with 127.0.0.1:\d+: "):
        dial(Address(*app.address), files, timeout=SHORT)


def test_a_server_that_stays_silent_after_the_handshake_is_named(files: Files) -> None:
    context = pki.context("server", pki.credential("ours"))

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as made:
            while made.recv(65536):
                pass

    with apps.App(serve) as app, pytest.raises(HboneError, match=r"sent no SETTINGS within 0\.5 s"):
        dial(Address(*app.address), files, timeout=SHORT)


def test_a_server_of_an_older_tls_is_refused(files: Files) -> None:
    context = pki.context("server", pki.credential("ours"), version=ssl.TLSVersion.TLSv1_2)

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as made:
            made.recv(1)

    with apps.App(serve) as app, pytest.raises(HboneError, match=r"TLS handshake with .*version"):
        dial(Address(*app.address), files)


def test_a_server_without_http2_is_named(files: Files) -> None:
    context = pki.context("server", pki.credential("ours"), alpn=())

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as made:
            made.recv(1)

    with apps.App(serve) as app, pytest.raises(HboneError, match="does not speak HTTP/2 over TLS"):
        dial(Address(*app.address), files)


def test_nobody_listening_is_named(files: Files) -> None:
    with listen() as closed:
        address = Address(*address_of(closed))
    with pytest.raises(HboneError, match=rf"cannot connect to 127.0.0.1:{address.port}: Connection refused"):
        dial(address, files)


# --- Envoy ---


def test_envoy_serves_as_a_worker_does(files: Files) -> None:
    with apps.App(page) as app, envoy.Envoy(envoy.hbone_server(app.address, own="ours", peer="peer")) as server:
        pool = Pool(lambda: dial(Address(*server.address), files), TIMEOUT)
        tunnels = [pool.reserve().open(TARGET) for _ in range(20)]
        for tunnel in tunnels:
            assert http1.get(tunnel, TARGET, "/1k") == (200, 1024)
            tunnel.close()
        pool.close()
        assert server.stats()["http.hbone.downstream_cx_total"] == 1
        assert server.faults() == {}


# --- locust ---


def locust(
    address: Address, files: Files, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Entry]]:
    """Run the users -> the run, and what it counted by name."""
    given = {
        "-f": "bench/hbone_user.py",
        "--host": f"hbone://{address.host}:{address.port}",
        "--hbone-target": TARGET,
        "--hbone-cert": str(files.chain),
        "--hbone-key": str(files.key),
        "--hbone-root": str(files.root),
        "--expected-identity": pki.spiffe("ours"),
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("locust")),
            *(part for item in given.items() for part in item),
            *("--headless", "--only-summary", "--json", *arguments),
        ],
        cwd=ROOT,
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done, {entry.name: entry for entry in locustload.parse_statistics(done.stdout)}


@needs_locust
def test_users_share_a_connection_to_a_worker(worker: Harness, hbone: Address, files: Files) -> None:
    done, found = locust(hbone, files, "-u", "20", "-r", "20", "-t", "2s", "--rate-per-user", "10")
    assert done.returncode == 0, done.stderr
    assert {name: entry.failures for name, entry in found.items()} == {
        "HBONE dial": 0,
        "HBONE connect": 0,
        "HBONE GET": 0,
    }
    assert (found["HBONE dial"].requests, found["HBONE connect"].requests) == (1, 20)
    asked = found["HBONE GET"]
    assert asked.requests / (asked.ended - asked.began) == pytest.approx(200, rel=0.15)
    worker.idle()
    assert worker.cell(PageCell.TLS_ACCEPT_OK) == 1
    assert worker.slot(SlotCell.OPENED) == 20
    assert not [line for line in worker.log_lines() if "error=" in line]


@needs_locust
def test_a_run_that_is_more_than_the_machine_can_do_ends_in_time(worker: Harness, hbone: Address, files: Files) -> None:
    """Users are ended wherever they are, most of them with a request under way."""
    options = ("-u", "60", "-r", "60", "-t", "2s", "--rate-per-user", "100", "--requests-per-tunnel", "3")
    done, found = locust(hbone, files, *options)
    assert done.returncode == 0, done.stderr
    assert found["HBONE connect"].requests > 60
    assert found["HBONE GET"].requests > 3 * 60
    worker.idle()


@needs_locust
def test_users_of_envoy(files: Files) -> None:
    with apps.App(page) as app, envoy.Envoy(envoy.hbone_server(app.address, own="ours", peer="peer")) as server:
        done, found = locust(Address(*server.address), files, "-u", "5", "-r", "5", "-t", "1s")
        assert done.returncode == 0, done.stderr
        assert found["HBONE GET"].requests > 50
        assert server.faults() == {}


@needs_locust
def test_a_refused_connect_is_a_failure_of_connect(worker: Harness, hbone: Address, files: Files) -> None:
    worker.decide = deny(status=401)
    done, found = locust(hbone, files, "-u", "2", "-r", "2", "-t", "1s", "--rate-per-user", "20")
    assert done.returncode == 1, done.stderr
    assert set(found) == {"HBONE dial", "HBONE connect"}
    assert found["HBONE connect"].failures == found["HBONE connect"].requests > 10
    assert f"answered CONNECT {TARGET} with 401" in done.stderr


@needs_locust
def test_a_wrong_page_is_a_failure_of_get(worker: Harness, hbone: Address, files: Files) -> None:
    options = ("-u", "2", "-r", "2", "-t", "1s", "--rate-per-user", "20", "--body-bytes", "1000")
    done, found = locust(hbone, files, *options)
    assert done.returncode == 1
    assert found["HBONE GET"].failures == found["HBONE GET"].requests > 10
    assert "1024 bytes instead of 1000" in done.stderr


@needs_locust
def test_a_server_that_says_goaway_is_a_failure_and_dialed_again(files: Files) -> None:
    def goaway(made: peer_h2.Peer, _: int) -> None:
        made.h2.close_connection()

    with peer(answer_then(goaway)) as (address, server):
        done, found = locust(address, files, "-u", "1", "-r", "1", "-t", "1s", "--rate-per-user", "20")
    assert done.returncode == 1
    assert found["HBONE dial"].failures == 0
    assert found["HBONE dial"].requests > 3
    assert server.accepted - found["HBONE dial"].requests in (0, 1), "the run may end while a user dials"
    assert found["HBONE GET"].failures == found["HBONE GET"].requests
    assert "sent GOAWAY NO_ERROR" in done.stderr


@needs_locust
def test_nobody_listening_is_a_failure_of_dial(files: Files) -> None:
    with listen() as closed:
        address = Address(*address_of(closed))
    done, found = locust(address, files, "-u", "2", "-r", "2", "-t", "1s", "--rate-per-user", "20")
    assert done.returncode == 1
    assert set(found) == {"HBONE dial"}
    assert "Connection refused" in done.stderr
