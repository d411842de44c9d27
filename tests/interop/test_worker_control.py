"""What the control process can ask of a worker while connections are live, and what time does. All on loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from meshcore import records
from meshcore.records import Direction, Flag, PageCell, Rec, SlotCell, Upcall, Verdict
from tests.support import apps, peer_h2, pki, raw_h2
from tests.support.worker_harness import (
    BUNDLE_ID,
    CERT_ID,
    LOOPBACK,
    POD_ID,
    Harness,
    deliver,
    deny,
    eventually,
    ip_bytes,
    tunnel,
)

POLICY = 'error="closed due to policy change"'


@pytest.fixture
def app() -> Iterator[apps.App]:
    with apps.App() as made:
        yield made


@pytest.fixture
def inbound(app: apps.App) -> Iterator[Harness]:
    with Harness(deliver(app.address)) as made:
        yield made


def no_verdict(_: Upcall) -> Verdict | None:
    return None


def talk(sock: socket.socket, data: bytes = b"x") -> None:
    sock.sendall(data)
    assert apps.read_exactly(sock, len(data)) == data


def is_cut(sock: socket.socket) -> bool:
    """Wait for the end -> whether it was a reset."""
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        return True
    return False


def reset_of(peer: peer_h2.Peer, stream: peer_h2.Stream) -> int | None:
    peer.pump(lambda: stream.reset is not None or stream.ended, "the end of the stream")
    return stream.reset


# --- policy changes ---


def test_a_verdict_that_turns_to_deny_closes_live_inbound_connections(inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        streams = [peer.connect("10.0.0.7:80") for _ in range(3)]
        for stream in streams:
            peer.echoes(stream, b"x")
        denied = deny(status=401)(inbound.upcalls[0])
        assert denied is not None
        inbound.update(1, denied)
        assert all(reset_of(peer, stream) for stream in streams)
        inbound.wait_log(POLICY)
        assert inbound.cell(PageCell.CLOSED_BY_POLICY) == 3
        assert peer.answered(peer.open("10.0.0.7:80")) == 401, "later connections are refused without asking"
        assert len(inbound.upcalls) == 1
    inbound.idle()
    assert inbound.slot(SlotCell.FAILED + Flag.DENY) == 4


def test_a_verdict_that_turns_to_deny_closes_live_outbound_connections() -> None:
    with peer_h2.Server() as server, Harness(tunnel(server.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            talk(client)
            denied = deny()(worker.upcalls[0])
            assert denied is not None
            worker.update(1, denied)
            assert is_cut(client), "a reset, so that nobody takes it for the end of the message"
        worker.wait_log(POLICY)
        worker.idle()


@pytest.mark.parametrize("outcome", ["allowed", "denied"])
def test_a_flush_makes_live_connections_ask_again(app: apps.App, inbound: Harness, outcome: str) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        stream = peer.connect("10.0.0.7:80")
        peer.echoes(stream, b"x")
        if outcome == "denied":
            inbound.decide = deny()
        inbound.flush(1, reevaluate=True)
        inbound.wait_upcalls(2)
        if outcome == "denied":
            assert reset_of(peer, stream)
            inbound.wait_log(POLICY)
        else:
            peer.echoes(stream, b"y")
            assert inbound.cell(PageCell.CLOSED_BY_POLICY) == 0
        again = inbound.upcalls[1]
        assert again._replace(cookie=0) == inbound.upcalls[0]._replace(cookie=0), "the same question"


def test_connections_of_one_tunnel_ask_again_each_with_its_own_host(app: apps.App, inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        hosts = ["a.example", "b.example", "b.example", "a.example", "c.example"]
        forwarded = [("forwarded", "host=one"), ("forwarded", "host=two")]
        streams = [peer.connect(f"{host}:80", [forwarded[at % 2]]) for at, host in enumerate(hosts)]
        first = peer.connect("10.0.0.7:80")
        asked = len(inbound.upcalls)
        peer.send(streams.pop(0), b"", end=True)
        inbound.wait_cell(PageCell.FLOWS_OPEN, len(hosts))
        inbound.flush(1, reevaluate=True)
        inbound.wait_upcalls(asked + 4 + 1)
        again = {(upcall.host, upcall.forwarded) for upcall in inbound.upcalls[asked:]}
        assert again == {
            ("b.example", "two"),
            ("b.example", "one"),
            ("a.example", "two"),
            ("c.example", "one"),
            ("", ""),
        }
        for stream in (*streams, first):
            peer.echoes(stream, b"y")


def test_a_flush_without_reevaluation_touches_new_connections_only(inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        stream = peer.connect("10.0.0.7:80")
        inbound.decide = deny()
        inbound.flush(1, reevaluate=False)
        assert peer.answered(peer.open("10.0.0.7:80")) == 401
        peer.echoes(stream, b"still open")


def test_a_verdict_with_a_time_to_live_is_asked_for_again(app: apps.App, inbound: Harness) -> None:
    verdict = deliver(app.address)(Upcall(*[None] * 13))  # type: ignore[arg-type] # it looks at nothing
    assert verdict is not None
    inbound.decide = lambda _: verdict._replace(ttl_ms=100)
    with peer_h2.client(inbound.add_pod().hbone) as peer:

        def asked_twice() -> bool:
            peer.echoes(peer.connect("10.0.0.7:80"), b"x")
            return len(inbound.upcalls) >= 2

        eventually(asked_twice, "a second question")


# --- endpoints, certificates, pods ---


def test_an_endpoint_that_is_gone_loses_its_connections() -> None:
    with peer_h2.Server() as server, Harness(tunnel(server.address)) as worker:
        pod = worker.add_pod()
        with socket.create_connection(pod.outbound, timeout=10) as client:
            talk(client)
            worker.send(records.encode_endpoint_gone(ip_bytes("127.0.0.9")))
            talk(client, b"another endpoint's end is not ours")
            worker.send(records.encode_endpoint_gone(ip_bytes(LOOPBACK)))
            assert is_cut(client)
        worker.wait_cell(PageCell.TUNNELS_OPEN, 0)
        with socket.create_connection(pod.outbound, timeout=10) as client:
            talk(client)
        assert server.accepted == 2


def test_a_rotated_certificate_is_used_by_new_connections(inbound: Harness) -> None:
    pod = inbound.add_pod()

    def serial() -> object:
        with peer_h2.client(pod.hbone) as peer:
            return (peer.sock.getpeercert() or {})["serialNumber"]

    before = serial()
    assert serial() == before
    fresh = pki.root().leaf(pki.spiffe("ours"))
    inbound.send(records.encode_cert(CERT_ID, BUNDLE_ID, fresh.chain, fresh.key))
    eventually(lambda: serial() != before, "the new certificate")


def test_a_broken_certificate_is_reported_and_the_old_one_kept(inbound: Harness) -> None:
    pod = inbound.add_pod()
    other = pki.root().leaf(pki.spiffe("ours"))
    inbound.send(records.encode_cert(CERT_ID, BUNDLE_ID, other.chain, pki.credential("peer").key))
    cert_id, text = records.decode_cert_error(inbound.wait_record(Rec.CERT_ERROR))
    assert cert_id == CERT_ID
    assert text
    with peer_h2.client(pod.hbone) as peer:
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")


def test_a_pod_that_leaves_takes_its_connections_along(inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")
        inbound.send(records.encode_pod_del(POD_ID))
        while not peer.closed:
            peer.step(10)
    inbound.idle()
    inbound.wait_cell(PageCell.TUNNELS_OPEN, 0)


def test_the_dump_shows_each_live_connection(inbound: Harness) -> None:
    assert inbound.dump() == []
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        stream = peer.connect("10.0.0.7:80")
        peer.echoes(stream, b"12345")
        (flow,) = inbound.dump()
        assert flow.direction == Direction.INBOUND_HBONE
        assert flow.dst == (bytes((10, 0, 0, 7)), 80)
        assert (flow.pod_id, flow.verdict_id) == (POD_ID, 1)
        assert flow.bytes_sent == flow.bytes_received == 5


# --- drain ---


def test_drain_says_goaway_and_lets_streams_finish(inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer, raw_h2.Raw(peer.sock.getpeername()) as raw:
        raw.send(raw_h2.connect(1))
        assert raw.status(1) == "200"
        inbound.drain(30_000)
        assert raw.wait(raw_h2.GOAWAY).number == raw_h2.NO_ERROR
        raw.send(raw_h2.frame(raw_h2.DATA, 0, 1, b"still served"))
        assert raw.wait(raw_h2.DATA, 1).payload == b"still served"
        assert inbound.count(Rec.DRAINED) == 0
        raw.send(raw_h2.frame(raw_h2.DATA, raw_h2.END_STREAM, 1))
        assert raw.goaway() == raw_h2.NO_ERROR
    inbound.wait_record(Rec.DRAINED)
    inbound.idle()


def test_drain_ends_what_is_left_at_the_deadline(inbound: Harness) -> None:
    with raw_h2.Raw(inbound.add_pod().hbone) as raw:
        raw.send(raw_h2.connect(1))
        assert raw.status(1) == "200"
        inbound.drain(300)
        assert raw.goaway() == raw_h2.NO_ERROR
        inbound.wait_record(Rec.DRAINED)
    inbound.idle()


def test_drain_of_an_idle_worker_is_over_at_once(inbound: Harness) -> None:
    inbound.add_pod()
    inbound.drain(30_000)
    inbound.wait_record(Rec.DRAINED)


def test_stop_with_live_connections_is_a_clean_end(inbound: Harness) -> None:
    with peer_h2.client(inbound.add_pod().hbone) as peer:
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")
        assert inbound.stop() == 0


# --- GOAWAY and refusals of the peer ---


def goaway(peer: peer_h2.Peer, last: int) -> None:
    peer.flush()
    peer.sock.sendall(raw_h2.frame(raw_h2.GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))


def test_after_goaway_new_connections_use_a_new_tunnel_and_old_ones_go_on() -> None:
    def leave_after_the_first(peer: peer_h2.Peer) -> None:
        if len(server.peers) == 1:
            peer.pump(lambda: 1 in peer.streams, "a stream")
            goaway(peer, 1)
        peer_h2.echo(peer)

    with peer_h2.Server(leave_after_the_first) as server, Harness(tunnel(server.address)) as worker:
        pod = worker.add_pod()
        with socket.create_connection(pod.outbound, timeout=10) as first:
            talk(first)
            with socket.create_connection(pod.outbound, timeout=10) as second:
                talk(second)
                talk(first)
                assert server.accepted == 2
        worker.idle()
        worker.wait_cell(PageCell.TUNNELS_OPEN, 1)


def test_streams_the_peer_will_not_answer_are_tried_elsewhere() -> None:
    def refuse_all_but_the_first(peer: peer_h2.Peer) -> None:
        if len(server.peers) == 1:
            peer.pump(lambda: 1 in peer.streams, "a stream")
            peer.h2.send_headers(1, [(":status", "200")])
            peer.flush()
            peer.pump(lambda: 3 in peer.streams, "a second stream")
            goaway(peer, 1)
            peer.pump(lambda: peer.streams[1].ended, "the end of the first stream")
            peer.h2.end_stream(1)
            peer.flush()
        else:
            peer_h2.echo(peer)

    with peer_h2.Server(refuse_all_but_the_first) as server, Harness(tunnel(server.address)) as worker:
        pod = worker.add_pod()
        with socket.create_connection(pod.outbound, timeout=10) as first:
            worker.wait_slot(SlotCell.OPENED, 1)
            with socket.create_connection(pod.outbound, timeout=10) as second:
                talk(second, b"on the second tunnel")
                assert server.accepted == 2
            first.shutdown(socket.SHUT_WR)
            assert first.recv(1) == b""
        worker.idle()


@pytest.mark.parametrize("refusals", [1, 100])
def test_a_refused_stream_is_tried_again_but_not_for_ever(refusals: int) -> None:
    count = 0

    def refuse(peer: peer_h2.Peer) -> None:
        nonlocal count
        while not peer.closed and count < refusals:
            peer.step(0.1)
            for stream in peer.streams.values():
                if stream.reset is None:
                    count += 1
                    stream.reset = 7
                    peer.h2.reset_stream(stream.id, raw_h2.REFUSED_STREAM)
            with contextlib.suppress(OSError):
                peer.flush()
        peer_h2.echo(peer)

    with peer_h2.Server(refuse) as server, Harness(tunnel(server.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            if refusals == 1:
                talk(client)
            else:
                is_cut(client)
                assert 1 < count < 10
        worker.idle()


def test_a_peer_that_vanishes_resets_its_connections() -> None:
    def vanish(peer: peer_h2.Peer) -> None:
        peer.pump(lambda: 1 in peer.streams, "a stream")
        peer.h2.send_headers(1, [(":status", "200")])
        peer.flush()
        peer.pump(lambda: bool(peer.streams[1].data), "a byte")
        apps.reset(peer.sock)

    with peer_h2.Server(vanish) as server, Harness(tunnel(server.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            client.sendall(b"x")
            assert is_cut(client)
        worker.idle()
        worker.wait_cell(PageCell.TUNNELS_OPEN, 0)


# --- time ---


def test_an_upcall_that_is_never_answered_ends_in_time() -> None:
    with Harness(no_verdict, config={"upcall_timeout_ms": 300}) as worker:
        pod = worker.add_pod()
        with peer_h2.client(pod.hbone) as peer:
            assert peer.answered(peer.open("10.0.0.7:80")) == 503
        with socket.create_connection(pod.outbound, timeout=10) as client:
            is_cut(client)
        assert worker.cell(PageCell.UPCALL_TIMEOUT) == 2
        worker.wait_cell(PageCell.FLOW_ENTRIES, 0)
        worker.idle()


def test_a_lost_upcall_is_asked_again(app: apps.App) -> None:
    answers = iter([None, deliver(app.address)])

    def lose_the_first(upcall: Upcall) -> Verdict | None:
        answer = next(answers)
        return answer(upcall) if answer else None

    with Harness(lose_the_first) as worker, peer_h2.client(worker.add_pod().hbone) as peer:
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")
        assert len(worker.upcalls) == 2


def test_a_late_verdict_is_harmless(app: apps.App) -> None:
    with Harness(no_verdict, config={"upcall_timeout_ms": 200}) as worker:
        with peer_h2.client(worker.add_pod().hbone) as peer:
            assert peer.answered(peer.open("10.0.0.7:80")) == 503
            verdict = deliver(app.address)(worker.upcalls[0])
            assert verdict is not None
            worker.answer(worker.upcalls[0], verdict)
            worker.decide = deliver(app.address)
            peer.echoes(peer.connect("10.0.0.7:80"), b"x")
        worker.idle()


def test_a_server_silent_in_the_handshake_is_given_up() -> None:
    with apps.App(apps.silent) as app, Harness(tunnel(app.address), config={"tls_timeout_ms": 300}) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            is_cut(client)
        assert worker.cell(PageCell.TLS_TIMEOUT) == 1
        worker.wait_slot(SlotCell.FAILED + Flag.TLS_FAILURE, 1)
        worker.idle()


def test_a_connect_that_is_never_answered_is_given_up_and_reset() -> None:
    def listen_only(peer: peer_h2.Peer) -> None:
        while not peer.closed:
            peer.step(0.1)

    config = {"response_timeout_ms": 300}
    with peer_h2.Server(listen_only) as server, Harness(tunnel(server.address), config=config) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            is_cut(client)
        assert worker.cell(PageCell.RESPONSE_TIMEOUT) == 1
        worker.wait_slot(SlotCell.FAILED + Flag.CONNECT, 1)
        worker.idle()
        eventually(lambda: server.peers[0].streams[1].reset is not None, "RST_STREAM")


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_peer_that_does_not_answer_pings_is_dropped(app: apps.App, role: str) -> None:
    def answer_then_hang(peer: peer_h2.Peer) -> None:
        peer.pump(lambda: 1 in peer.streams, "a stream")
        peer.h2.send_headers(1, [(":status", "200")])
        peer.flush()
        apps.silent(peer.sock)

    config = {"ping_interval_ms": 200, "ping_timeout_ms": 200, "tls_timeout_ms": 1_000}
    with peer_h2.Server(answer_then_hang) as server:
        decide = tunnel(server.address) if role == "client" else deliver(app.address)
        with Harness(decide, config=config) as worker:
            pod = worker.add_pod()
            if role == "client":
                with socket.create_connection(pod.outbound, timeout=10) as client:
                    is_cut(client)
            else:
                with raw_h2.Raw(pod.hbone) as raw:
                    raw.send(raw_h2.connect(1))
                    while raw.next() is not None:
                        pass
            assert worker.cell(PageCell.KEEPALIVE_TIMEOUT) == 1
            worker.idle()
            worker.wait_cell(PageCell.TUNNELS_OPEN, 0)
        for peer in server.peers:
            peer.sock.close()


def test_an_idle_tunnel_is_closed_in_order() -> None:
    config = {"pool_idle_ms": 300, "ping_interval_ms": 100, "tls_timeout_ms": 1_000}
    with peer_h2.Server() as server, Harness(tunnel(server.address), config=config) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            talk(client)
        worker.wait_cell(PageCell.TUNNELS_OPEN, 0)
        assert server.peers[0].goaway == raw_h2.NO_ERROR


def test_a_half_closed_connection_may_be_limited() -> None:
    with apps.App(apps.silent) as app, Harness(deliver(app.address), config={"half_close_ms": 300}) as worker:
        with peer_h2.client(worker.add_pod().hbone) as peer:
            stream = peer.connect("10.0.0.7:80")
            peer.send(stream, b"x", end=True)
            assert reset_of(peer, stream)
        worker.wait_log("half-closed for too long")
        worker.idle()


@pytest.mark.parametrize("every", [False, True])
def test_a_listener_of_a_pod_that_left_is_let_go(inbound: Harness, *, every: bool) -> None:
    """The control process keeps duplicates of the listeners, so closing the worker's own ends nothing in epoll."""
    gone = inbound.add_pod(pod_id=7)
    inbound.send(records.encode_pod_del(7))
    here = inbound.add_pod(pod_id=8)
    with contextlib.ExitStack() as stack:
        for address in gone if every else gone[2:]:
            stack.enter_context(socket.create_connection(address, timeout=10))
        for _ in range(3):
            with peer_h2.client(here.hbone) as peer:
                peer.echoes(peer.connect("10.0.0.7:80"), b"x")
    inbound.idle()
    accepted, turns = inbound.cell(PageCell.ACCEPT), inbound.cell(PageCell.LOOP_TURNS)
    for _ in range(20):
        inbound.dump()
    assert inbound.cell(PageCell.LOOP_TURNS) - turns < 100, "the worker spins on a listener that is not its own"
    assert inbound.cell(PageCell.ACCEPT) == accepted


def test_a_draining_worker_leaves_new_connections_to_its_successor(inbound: Harness) -> None:
    """The listeners are shared, so a connection that the draining worker does not take waits for the next one."""
    pod = inbound.add_pod()
    with raw_h2.Raw(pod.hbone) as raw:
        raw.send(raw_h2.connect(1))
        assert raw.status(1) == "200"
        inbound.drain(30_000)
        raw.wait(raw_h2.GOAWAY)
        with socket.create_connection(pod.hbone, timeout=10):
            turns = inbound.cell(PageCell.LOOP_TURNS)
            for _ in range(20):
                inbound.dump()
            assert inbound.cell(PageCell.LOOP_TURNS) - turns < 100, "the worker spins on a listener it has closed"
            eventually(lambda: inbound.accepts_itself(pod.hbone), "the connection is there for somebody else")
        raw.send(raw_h2.frame(raw_h2.DATA, raw_h2.END_STREAM, 1))
    inbound.wait_record(Rec.DRAINED)
