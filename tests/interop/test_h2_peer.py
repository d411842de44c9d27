"""HBONE with the `h2` library as the other end (RFC 9113; the wire contract of ztunnel)."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator

import h2.errors
import h2.settings
import pytest

from meshcore.records import Direction, Flag, PageCell, SlotCell
from tests.support import apps, peer_h2, pki
from tests.support.worker_harness import Harness, Pod, deliver, deny, eventually, tunnel

Codes = h2.settings.SettingCodes
Errors = h2.errors.ErrorCodes

CONNECT = (":method", "CONNECT")


@pytest.fixture
def app() -> Iterator[apps.App]:
    with apps.App() as made:
        yield made


@pytest.fixture
def worker(app: apps.App) -> Iterator[Harness]:
    with Harness(deliver(app.address)) as made:
        yield made
        made.idle()


@pytest.fixture
def pod(worker: Harness) -> Pod:
    return worker.add_pod()


@pytest.fixture
def peer(pod: Pod) -> Iterator[peer_h2.Peer]:
    with peer_h2.client(pod.hbone) as made:
        yield made


# --- inbound: the library is the client ---


def test_connect_is_answered_with_200_and_carries_bytes(worker: Harness, peer: peer_h2.Peer) -> None:
    stream = peer.connect("10.1.2.3:8080", [("baggage", "k8s.namespace.name=x"), ("forwarded", 'for="10.0.0.1:9"')])
    peer.echoes(stream, b"hello")
    peer.send(stream, b" again", end=True)
    assert peer.ended(stream) == b"hello again"
    upcall = worker.upcalls[0]
    assert upcall.direction == Direction.INBOUND_HBONE
    assert (upcall.dst_ip, upcall.dst_port) == (bytes((10, 1, 2, 3)), 8080)
    assert upcall.peer == pki.spiffe("peer")
    assert upcall.local_ip == upcall.src_ip == bytes((127, 0, 0, 1))


def test_the_server_announces_the_limits_of_the_wire_contract(peer: peer_h2.Peer) -> None:
    settings = peer.h2.remote_settings
    assert settings[Codes.INITIAL_WINDOW_SIZE] == 4 << 20
    assert settings[Codes.MAX_FRAME_SIZE] == 1 << 20
    assert settings[Codes.MAX_HEADER_LIST_SIZE] == 64 << 10
    assert settings[Codes.MAX_CONCURRENT_STREAMS] == 200
    peer.pump(lambda: peer.h2.outbound_flow_control_window == 16 << 20, "connection window of 16 MiB")


@pytest.mark.parametrize(
    ("authority", "ip", "port", "host"),
    [
        ("10.0.0.7:80", bytes((10, 0, 0, 7)), 80, ""),
        ("[fd00::7]:65535", bytes.fromhex("fd000000000000000000000000000007"), 65535, ""),
        ("web.default.svc.cluster.local:8080", bytes(16), 8080, "web.default.svc.cluster.local"),
        ("UPPER.example:1", bytes(16), 1, "UPPER.example"),
    ],
)
def test_each_form_of_the_authority_reaches_the_decision(
    worker: Harness, peer: peer_h2.Peer, authority: str, ip: bytes, port: int, host: str
) -> None:
    peer.echoes(peer.connect(authority), b"x")
    upcall = worker.upcalls[-1]
    assert (upcall.dst_ip, upcall.dst_port, upcall.host) == (ip, port, host)


@pytest.mark.parametrize(
    "authority",
    [
        *("10.0.0.7", "host", "10.0.0.7:", ":80", "10.0.0.7:0", "10.0.0.7:65536", "10.0.0.7:-1", "10.0.0.7:8 0"),
        *(
            "[fd00::7",
            "[fd00::7]",
            "[fd00::zz]:80",
            "fd00::7:80",
            "[10.0.0.7]:80",
            "[]:80",
            'na"me:80',
            "x" * 300 + ":1",
        ),
    ],
)
def test_garbage_in_the_authority_is_400(worker: Harness, pod: Pod, authority: str) -> None:
    with peer_h2.client(pod.hbone) as peer:
        peer.h2.config.validate_outbound_headers = False
        assert peer.answered(peer.open(authority)) == 400
        peer.echoes(peer.connect("10.0.0.7:80"), b"the connection goes on")
    assert len(worker.upcalls) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "connect"])
def test_anything_but_connect_is_400(worker: Harness, peer: peer_h2.Peer, method: str) -> None:
    headers = [(":method", method), (":scheme", "https"), (":authority", "10.0.0.7:80"), (":path", "/")]
    assert peer.answered(peer.request(headers, end=True)) == 400
    assert not worker.upcalls


@pytest.mark.parametrize("extra", [(":scheme", "https"), (":path", "/")])
def test_connect_with_scheme_or_path_is_malformed(worker: Harness, peer: peer_h2.Peer, extra: tuple[str, str]) -> None:
    peer.h2.config.validate_outbound_headers = False
    stream = peer.request([CONNECT, (":authority", "10.0.0.7:80"), extra])
    peer.answered(stream)
    assert stream.reset == Errors.PROTOCOL_ERROR
    assert not worker.upcalls
    peer.echoes(peer.connect("10.0.0.7:80"), b"the connection goes on")


@pytest.mark.parametrize("status", [401, 400, 503])
def test_a_denied_connect_gets_the_status_of_the_verdict(worker: Harness, peer: peer_h2.Peer, status: int) -> None:
    worker.decide = deny(status=status)
    stream = peer.open("10.0.0.7:80")
    assert peer.answered(stream) == status
    assert peer.ended(stream) == b""


def test_an_application_that_does_not_listen_is_503(worker: Harness, peer: peer_h2.Peer) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    worker.decide = deliver(closed.getsockname())
    closed.close()
    assert peer.answered(peer.open("10.0.0.7:80")) == 503
    worker.wait_log('error="connection to the destination was refused"')
    assert worker.slot(SlotCell.FAILED + Flag.CONNECT) == 1


def test_response_baggage_comes_with_200_only(app: apps.App, worker: Harness, peer: peer_h2.Peer) -> None:
    worker.decide = deliver(app.address, baggage=b"k8s.cluster.name=Kubernetes,service.name=web")
    stream = peer.connect("10.0.0.7:80")
    assert stream.headers["baggage"] == "k8s.cluster.name=Kubernetes,service.name=web"


def test_forwarded_host_and_gateway_reach_the_decision(worker: Harness, peer: peer_h2.Peer) -> None:
    extra = [
        ("forwarded", 'for="10.0.0.1:4711";host="web.default.svc.cluster.local"'),
        ("x-forwarded-network", "other"),
        ("baggage", "a=1"),
        ("baggage", "b=2"),
    ]
    peer.connect("10.0.0.7:80", extra)
    upcall = worker.upcalls[0]
    assert upcall.forwarded == "web.default.svc.cluster.local"
    assert upcall.flags == 1
    assert upcall.baggage == "a=1,b=2"


def test_ping_is_acknowledged(peer: peer_h2.Peer) -> None:
    peer.h2.ping(b"12345678")
    peer.flush()
    peer.pump(lambda: peer.pongs == 1, "PING ACK")


def test_the_201st_concurrent_stream_is_refused(worker: Harness, peer: peer_h2.Peer) -> None:
    peer.h2.remote_settings[Codes.MAX_CONCURRENT_STREAMS] = 1000
    peer.h2.remote_settings.acknowledge()
    streams = [peer.open("10.0.0.7:80") for _ in range(201)]
    assert all(peer.answered(stream) == 200 for stream in streams[:200])
    peer.answered(streams[200])
    assert streams[200].reset == Errors.REFUSED_STREAM
    peer.send(streams[0], b"", end=True)
    peer.ended(streams[0])
    eventually(lambda: worker.cell(PageCell.FLOWS_OPEN) == 199, "the flow of the ended stream is gone")
    peer.echoes(peer.connect("10.0.0.7:80"), b"there is room again")


def test_data_sent_before_the_answer_is_kept(worker: Harness, peer: peer_h2.Peer) -> None:
    stream = peer.open("10.0.0.7:80")
    peer.send(stream, b"early", end=True)
    assert peer.answered(stream) == 200
    assert peer.ended(stream) == b"early"


def test_padded_data_is_unpadded(peer: peer_h2.Peer) -> None:
    stream = peer.connect("10.0.0.7:80")
    body = os.urandom(3_000)
    for pad in (0, 1, 255):
        peer.send(stream, body, pad=pad)
    assert peer.received(stream, 9_000) == body * 3


def test_much_padding_does_not_eat_the_window(peer: peer_h2.Peer) -> None:
    """40,000 frames of one byte and 255 of padding are more than twice the stream's window."""
    stream = peer.connect("10.0.0.7:80")
    for _ in range(40):
        for _ in range(1_000):
            peer.pump(lambda: peer.h2.local_flow_control_window(stream.id) > 257, "window")
            peer.h2.send_data(stream.id, b"x", pad_length=255)
        peer.flush()
        peer.step(0)
    assert peer.received(stream, 40_000) == b"x" * 40_000


def test_one_byte_windows_carry_everything(pod: Pod) -> None:
    with peer_h2.client(pod.hbone, settings={Codes.INITIAL_WINDOW_SIZE: 0}) as peer:
        peer.credit = False
        stream = peer.connect("10.0.0.7:80")
        peer.send(stream, b"trickle", end=True)
        for size in range(1, 8):
            assert len(stream.data) == size - 1, "more arrived than there was window for"
            peer.h2.increment_flow_control_window(1, stream.id)
            peer.flush()
            peer.received(stream, size)
        assert peer.ended(stream) == b"trickle"


def test_end_of_stream_needs_no_window(pod: Pod) -> None:
    """An empty DATA frame with END_STREAM is not flow-controlled (RFC 9113 section 6.9.1)."""
    with peer_h2.client(pod.hbone, settings={Codes.INITIAL_WINDOW_SIZE: 5}) as peer:
        peer.credit = False
        stream = peer.connect("10.0.0.7:80")
        peer.send(stream, b"12345", end=True)
        assert peer.ended(stream, timeout=2) == b"12345"


def test_a_stalled_stream_resumes_and_does_not_stall_its_neighbour(worker: Harness, pod: Pod) -> None:
    size = 1 << 20
    with peer_h2.client(pod.hbone, settings={Codes.INITIAL_WINDOW_SIZE: 65_535}) as peer:
        peer.h2.increment_flow_control_window(8 << 20)
        peer.flush()
        peer.credit = False
        stalled, neighbour = peer.connect("10.0.0.7:80"), peer.connect("10.0.0.7:80")
        body = os.urandom(size)
        peer.send(stalled, body, end=True)
        assert len(peer.received(stalled, 65_535)) == 65_535
        peer.echoes(neighbour, b"still here")
        assert len(stalled.data) == 65_535
        peer.h2.increment_flow_control_window(size, stalled.id)
        peer.flush()
        assert hashlib.sha256(peer.ended(stalled)).digest() == hashlib.sha256(body).digest()


def test_a_smaller_initial_window_in_the_middle_is_respected(pod: Pod) -> None:
    with peer_h2.client(pod.hbone, settings={Codes.INITIAL_WINDOW_SIZE: 1000}) as peer:
        peer.credit = False
        stream = peer.connect("10.0.0.7:80")
        peer.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 10})
        peer.flush()
        peer.pump(lambda: peer.h2.local_settings.initial_window_size == 10, "SETTINGS ACK")
        peer.send(stream, b"y" * 20, end=True)
        assert peer.received(stream, 10) == b"y" * 10
        peer.h2.update_settings({Codes.INITIAL_WINDOW_SIZE: 30})
        peer.flush()
        assert peer.ended(stream) == b"y" * 20


def test_reset_by_the_peer_resets_the_application(app: apps.App, worker: Harness, peer: peer_h2.Peer) -> None:
    stream = peer.connect("10.0.0.7:80")
    peer.echoes(stream, b"x")
    peer.h2.reset_stream(stream.id, Errors.CANCEL)
    peer.flush()
    worker.wait_cell(PageCell.FLOWS_OPEN, 0)
    peer.echoes(peer.connect("10.0.0.7:80"), b"the connection goes on")


def test_half_close_by_the_application_leaves_the_other_direction_open(worker: Harness, peer: peer_h2.Peer) -> None:
    def speak_first(sock: socket.socket) -> None:
        sock.sendall(b"banner")
        sock.shutdown(socket.SHUT_WR)
        heard.append(apps.read_to_end(sock))

    heard: list[bytes] = []
    with apps.App(speak_first) as app:
        worker.decide = deliver(app.address)
        stream = peer.connect("10.0.0.7:80")
        assert peer.ended(stream) == b"banner"
        peer.send(stream, b"x" * 100_000, end=True)
        eventually(lambda: bool(heard), "the application heard the end")
        assert heard == [b"x" * 100_000]


# --- outbound: the library is the server ---


def test_the_request_is_the_one_of_the_wire_contract() -> None:
    with peer_h2.Server() as server, Harness(tunnel(server.address, target_port=8080)) as worker:
        pod = worker.add_pod()
        worker.decide = tunnel(
            server.address, target_port=8080, host=b"web.default.svc.cluster.local", baggage=b"k8s.cluster.name=K"
        )
        with socket.create_connection(pod.outbound, timeout=10) as app:
            app.sendall(b"hello")
            assert apps.read_exactly(app, 5) == b"hello"
            source = "{}:{}".format(*app.getsockname())
        (peer,) = server.peers
        stream = peer.streams[1]
        assert stream.headers[":method"] == "CONNECT"
        assert stream.headers[":authority"] == "127.0.0.1:8080"
        assert stream.headers["forwarded"] == f'for="{source}";host=web.default.svc.cluster.local'
        assert stream.headers["baggage"] == "k8s.cluster.name=K"
        version, trace, span, flags = stream.headers["traceparent"].split("-")
        assert (version, len(trace), len(span), flags) == ("00", 32, 16, "00")
        assert set(stream.headers) == {":method", ":authority", "forwarded", "baggage", "traceparent"}
        settings = peer.h2.remote_settings
        assert settings[Codes.INITIAL_WINDOW_SIZE] == 4 << 20
        assert settings[Codes.MAX_FRAME_SIZE] == 1 << 20
        assert settings[Codes.MAX_HEADER_LIST_SIZE] == 16 << 10
        assert settings[Codes.ENABLE_PUSH] == 0
        assert peer.h2.outbound_flow_control_window == (16 << 20) - len(b"hello")
        worker.idle()


def test_connections_share_a_tunnel_up_to_the_peers_limit() -> None:
    limit = {Codes.MAX_CONCURRENT_STREAMS: 3}
    with peer_h2.Server(settings=limit) as server, Harness(tunnel(server.address)) as worker:
        pod = worker.add_pod()
        socks = []
        for _ in range(7):
            sock = socket.create_connection(pod.outbound, timeout=10)
            sock.sendall(b"x")
            assert apps.read_exactly(sock, 1) == b"x"
            socks.append(sock)
        assert server.accepted == 3
        assert sorted(len(peer.streams) for peer in server.peers) == [1, 3, 3]
        for sock in socks:
            sock.close()
        worker.idle()


@pytest.mark.parametrize("status", ["401", "503", "400", "204"])
def test_a_refused_connect_closes_the_application(status: str) -> None:
    def refuse(peer: peer_h2.Peer) -> None:
        while not peer.closed:
            peer.step(0.2)
            for stream in peer.streams.values():
                if not stream.ended and stream.reset is None:
                    peer.h2.send_headers(stream.id, [(":status", status)], end_stream=True)
                    stream.ended = True
            peer.flush()

    with peer_h2.Server(refuse) as server, Harness(tunnel(server.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as app:
            assert app.recv(1) == b""
        worker.wait_log(f'error="http status: {status}"')
        assert worker.slot(SlotCell.FAILED + (Flag.DENY if status == "401" else Flag.CONNECT)) == 1
        worker.idle()


@pytest.mark.parametrize("size", [1, 16_384, 1 << 20, 5 << 20])
def test_bodies_survive_both_directions(size: int) -> None:
    body = os.urandom(size)
    with peer_h2.Server() as server, Harness(tunnel(server.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=30) as app:
            sender = apps.background(lambda: apps.send_all(app, body))
            received = apps.read_to_end(app)
            sender.join()
        assert hashlib.sha256(received).hexdigest() == hashlib.sha256(body).hexdigest()
        worker.idle()
