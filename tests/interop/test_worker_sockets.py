"""What a worker asks of the kernel for a connection: calls that are left out must not be missed. All on loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from meshcore.records import PageCell
from tests.support import apps, peer_h2
from tests.support.worker_harness import Harness, deliver, eventually, tunnel

_KEEPALIVE_TIMER: Final = "02:"  # /proc/net/tcp, timer_active
_KEEPALIVE_OPTIONS: Final = 4
_BATCH: Final = 256  # sockets that get keepalive in one turn
_SEGS_IN: Final = struct.Struct("136xII")  # struct tcp_info: segs_out, segs_in


def with_keepalive(app: apps.App) -> int:
    """How many of the worker's connections to this application the kernel would probe, by /proc/net/tcp."""
    ends = {f"{accepted.getpeername()[1]:04X}" for accepted in app.accepted}
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == f"0100007F:{app.address[1]:04X}" and fields[1].partition(":")[2] in ends:
            found += fields[5].startswith(_KEEPALIVE_TIMER)
    return found


def segments_in(sock: socket.socket) -> int:
    """TCP segments that a socket has received."""
    return int(_SEGS_IN.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))[1])


@pytest.fixture
def app() -> Iterator[apps.App]:
    with apps.App() as made:
        yield made


@pytest.fixture(params=["hbone", "plain"])
def dialled(request: pytest.FixtureRequest, app: apps.App) -> Iterator[tuple[Harness, socket.socket]]:
    """A worker that has dialled the application, and the client's end; keepalive is due after two seconds."""
    config = {"keepalive_idle_s": 2, "keepalive_interval_s": 2}
    with contextlib.ExitStack() as stack:
        if request.param == "plain":
            worker = stack.enter_context(Harness(deliver(app.address), config=config))
            entry = worker.add_pod().plain
        else:
            worker = stack.enter_context(Harness(deliver(app.address), service_account="peer", config=config))
            entry = stack.enter_context(Harness(tunnel(worker.add_pod().hbone))).add_pod().outbound
        before = worker.cell(PageCell.SOCKOPT)
        client = stack.enter_context(socket.create_connection(entry, timeout=10))
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert worker.cell(PageCell.SOCKOPT) - before < _KEEPALIVE_OPTIONS
        yield worker, client


def test_a_dialled_connection_that_lasts_has_keepalive(app: apps.App, dialled: tuple[Harness, socket.socket]) -> None:
    worker, client = dialled
    before = worker.cell(PageCell.SOCKOPT)
    eventually(lambda: with_keepalive(app) == 1, "the dialled connection has keepalive")
    assert worker.cell(PageCell.SOCKOPT) - before == _KEEPALIVE_OPTIONS
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    # The next one starts a round of its own.
    with socket.create_connection(client.getpeername(), timeout=10) as second:
        second.sendall(b"z")
        assert second.recv(1) == b"z"
        eventually(lambda: with_keepalive(app) == 2, "so has the next one")


def test_keepalive_of_many_connections_is_set_in_several_turns(app: apps.App) -> None:
    count = _BATCH + 40
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Harness(deliver(app.address), config={"keepalive_idle_s": 2}))
        entry = worker.add_pod().plain
        for _ in range(count):
            stack.enter_context(socket.create_connection(entry, timeout=10))
        eventually(lambda: len(app.accepted) == count, "every connection has arrived")
        eventually(lambda: with_keepalive(app) == count, "all have keepalive")


def test_a_connection_whose_verdict_comes_after_the_round_has_keepalive(app: apps.App) -> None:
    verdict = deliver(app.address)
    with Harness(lambda _: None, config={"keepalive_idle_s": 2}) as worker:
        first, late = worker.add_pod(), worker.add_pod(pod_id=2)
        with (
            socket.create_connection(late.plain, timeout=10) as waiting,
            socket.create_connection(first.plain, timeout=10) as client,
        ):
            upcalls = {upcall.pod_id: upcall for upcall in worker.wait_upcalls(2)}
            answer = verdict(upcalls[1])
            assert answer is not None
            worker.answer(upcalls[1], answer)
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            eventually(lambda: with_keepalive(app) == 1, "the first connection has keepalive")
            worker.answer(upcalls[2], answer)
            waiting.sendall(b"x")
            assert waiting.recv(1) == b"x"
            eventually(lambda: with_keepalive(app) == 2, "so has the one that was still being decided")


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_last_bytes_and_the_end_arrive_in_one_segment(pieces: int) -> None:
    with (
        apps.App(apps.silent) as app,
        Harness(deliver(app.address)) as worker,
        peer_h2.client(worker.add_pod().hbone) as peer,
    ):
        stream = peer.connect("10.0.0.7:80")
        eventually(lambda: len(app.accepted) == 1, "the connection has arrived")
        before = segments_in(app.accepted[0])
        for number in range(pieces):
            peer.h2.send_data(stream.id, b"word %d" % number, end_stream=number == pieces - 1)
        peer.flush()
        assert apps.read_to_end(app.accepted[0]) == b"".join(b"word %d" % number for number in range(pieces))
        assert segments_in(app.accepted[0]) - before == 1
        app.close_all()
        worker.idle()


def test_a_silent_application_is_not_read_before_it_says_something(app: apps.App) -> None:
    with (
        Harness(deliver(app.address), service_account="peer") as server,
        Harness(tunnel(server.add_pod().hbone)) as client_side,
    ):
        entry = client_side.add_pod().outbound
        with socket.create_connection(entry, timeout=10) as first:
            first.sendall(b"x")
            assert first.recv(1) == b"x"
            before = server.cell(PageCell.READ)
            with socket.create_connection(entry, timeout=10):
                eventually(lambda: client_side.cell(PageCell.FLOWS_OPEN) == 2, "the second is known")
                eventually(lambda: len(app.accepted) == 2, "the second has arrived")
                eventually(lambda: len(server.dump()) == 2, "the second is open")
                # The one read of the tunnel that brought the CONNECT.
                assert server.cell(PageCell.READ) - before == 1


def test_each_connection_is_accepted_by_one_call(app: apps.App) -> None:
    with Harness(deliver(app.address)) as worker:
        entry = worker.add_pod().plain
        for number in range(1, 6):
            with socket.create_connection(entry, timeout=10) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            assert worker.cell(PageCell.ACCEPT) == number
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(entry, timeout=10)) for _ in range(200)]
            for client in clients:
                client.sendall(b"y")
                assert client.recv(1) == b"y"
        assert worker.cell(PageCell.ACCEPT) == 205
