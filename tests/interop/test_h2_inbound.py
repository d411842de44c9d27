"""Our HBONE server against a client built on the `h2` library and one that writes frames by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from meshcore.records import PageCell, Rec, SlotCell, Upcall, Verdict
from tests.interop.conftest import PEER, Inbound, by_port, deny_address, run_inbound
from tests.support import peers_raw as raw
from tests.support import pki
from tests.support.peers_app import App, digest, pattern
from tests.support.peers_h2 import HboneClient
from tests.support.peers_raw import RawPeer
from tests.support.worker_harness import eventually

pytestmark = pytest.mark.usefixtures("no_leftovers")

MIB = 1 << 20


@pytest.fixture
def client(inbound: Inbound) -> Iterator[HboneClient]:
    with HboneClient(inbound.address, pki.context("client", pki.credential("peer"))) as made:
        yield made


@pytest.fixture
def peer(inbound: Inbound) -> Iterator[RawPeer]:
    with RawPeer.dial(inbound.address, pki.context("client", pki.credential("peer"))) as made:
        yield made


@pytest.mark.parametrize("size", [1, 16_375, 16_384, 65_535, MIB, 20 * MIB])
def test_bytes_come_back_as_they_went(inbound: Inbound, client: HboneClient, size: int) -> None:
    data = pattern(size)
    assert digest(client.echo(inbound.authority, data)) == digest(data)


def test_the_server_shows_its_identity_and_sees_ours(inbound: Inbound, client: HboneClient) -> None:
    assert client.uris == (pki.spiffe("ours"),)
    client.echo(inbound.authority, b"x")
    assert inbound.harness.upcalls[-1].peer == PEER


def test_settings_are_upstreams(inbound: Inbound, peer: RawPeer) -> None:
    update = peer.expect(raw.WINDOW_UPDATE, 0)
    peer.ping()
    assert peer.peer_settings[raw.INITIAL_WINDOW] == 4 * MIB
    assert peer.peer_settings[raw.MAX_FRAME] == MIB
    assert peer.peer_settings[raw.MAX_STREAMS] == 200
    assert peer.peer_settings[raw.MAX_HEADER_LIST] == 64 << 10
    assert update.code == 16 * MIB - 65_535


def test_many_streams_share_a_connection(inbound: Inbound, client: HboneClient) -> None:
    client.wait(lambda: client.settings_seen, "SETTINGS")
    accepted = inbound.harness.cell(PageCell.TLS_ACCEPT_OK)
    streams = {client.open(inbound.authority): pattern(3_000, seed) for seed in range(150)}
    for stream, data in streams.items():
        client.send(stream, data, end=True)
    client.wait(lambda: client.ended >= streams.keys(), "150 echoes")
    assert {stream: bytes(client.received[stream]) for stream in streams} == streams
    assert inbound.harness.cell(PageCell.TLS_ACCEPT_OK) == accepted


def test_streams_past_the_limit_are_refused_and_come_through_later(inbound: Inbound, peer: RawPeer) -> None:
    for number in range(201):
        peer.connect(1 + 2 * number, inbound.authority)
    assert peer.expect(raw.RST_STREAM, 401).code == raw.REFUSED_STREAM
    peer.send(raw.frame(raw.RST_STREAM, 0, 1, raw.u32(raw.CANCEL)))
    peer.connect(403, inbound.authority)
    assert peer.status(403) == 200


@pytest.mark.parametrize("authority", ["127.0.0.1:{port}", "[::1]:{port}", "svc.default.svc.cluster.local:{port}"])
def test_authority_forms(inbound: Inbound, client: HboneClient, authority: str) -> None:
    assert client.echo(authority.format(port=inbound.app.port), b"form") == b"form"
    upcall = inbound.harness.upcalls[-1]
    assert upcall.dst_port == inbound.app.port
    if authority.startswith("svc"):
        assert upcall.host == "svc.default.svc.cluster.local"
        assert not any(upcall.dst_ip)
    else:
        assert not upcall.host


@pytest.mark.parametrize(
    "authority", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", ":80", "[::1:80", "a b:80", "::1:80"]
)
def test_bad_authority_is_400(peer: RawPeer, authority: str) -> None:
    peer.connect(1, authority)
    assert peer.status(1) == 400


def test_connect_without_authority_is_refused(peer: RawPeer) -> None:
    peer.send(peer.headers(1, [(":method", "CONNECT")]))
    assert refused(peer, 1) in {400, -raw.PROTOCOL_ERROR}


def refused(peer: RawPeer, stream: int) -> int:
    """-> status of the answer, or minus the code of the reset."""
    while True:
        got = peer.read()
        if got.stream == stream and got.kind == raw.RST_STREAM:
            return -got.code
        if got.stream == stream and got.kind == raw.HEADERS:
            return int(dict(peer.decoder.decode(got.payload))[":status"])


@pytest.mark.parametrize("extra", [(":scheme", "https"), (":path", "/")])
def test_connect_with_scheme_or_path_is_malformed(inbound: Inbound, peer: RawPeer, extra: tuple[str, str]) -> None:
    fields = [(":method", "CONNECT"), extra, (":authority", inbound.authority)]
    peer.send(peer.headers(1, fields))
    assert peer.expect(raw.RST_STREAM, 1).code == raw.PROTOCOL_ERROR


@pytest.mark.parametrize("method", ["GET", "POST", "connect"])
def test_other_methods_are_400(inbound: Inbound, peer: RawPeer, method: str) -> None:
    fields = [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", inbound.authority)]
    peer.send(peer.headers(1, fields))
    assert peer.status(1) == 400


def test_denied_is_401_without_reaching_the_application(inbound: Inbound, client: HboneClient) -> None:
    accepted = len(inbound.app.accepted)
    inbound.harness.decide = deny_address(401)
    try:
        assert client.status(client.request("127.0.0.9:81")) == 401
    finally:
        inbound.harness.decide = by_port
    assert len(inbound.app.accepted) == accepted


def test_application_that_refuses_is_503(client: HboneClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert client.status(client.request(f"127.0.0.1:{port}")) == 503


def test_address_that_is_not_the_connections_own_is_what_the_verdict_says(
    inbound: Inbound, client: HboneClient
) -> None:
    seen: list[Upcall] = []

    def mismatch(upcall: Upcall) -> Verdict | None:
        seen.append(upcall)
        return deny_address(400)(upcall)

    inbound.harness.decide = mismatch
    try:
        assert client.status(client.request("10.1.2.3:8080")) == 400
    finally:
        inbound.harness.decide = by_port
    assert (seen[0].dst_ip, seen[0].dst_port) == (bytes((10, 1, 2, 3)), 8080)
    assert seen[0].local_ip == bytes((127, 0, 0, 1))


def test_forwarded_and_gateway_headers_reach_the_decision(inbound: Inbound, client: HboneClient) -> None:
    seen: list[Upcall] = []

    def note(upcall: Upcall) -> Verdict | None:
        seen.append(upcall)
        return by_port(upcall)

    inbound.harness.decide = note
    try:
        stream = client.request(
            f"other.example:{inbound.app.port}",
            ("baggage", "k8s.cluster.name=a"),
            ("forwarded", 'for="10.0.0.9:33";host=reviews.default.svc'),
            ("x-forwarded-network", "remote"),
        )
        assert client.status(stream) == 200
    finally:
        inbound.harness.decide = by_port
    assert (seen[0].forwarded, seen[0].baggage, int(seen[0].flags)) == ("reviews.default.svc", "k8s.cluster.name=a", 1)


def test_half_close_by_the_client(inbound: Inbound, client: HboneClient) -> None:
    stream = client.open(inbound.authority)
    client.send(stream, b"question", end=True)
    client.wait(lambda: stream in client.ended, "the end")
    assert client.received[stream] == b"question"


def test_half_close_by_the_application(inbound: Inbound, client: HboneClient) -> None:
    got: list[bytes] = []

    def speak_first(sock: socket.socket) -> None:
        sock.sendall(b"greeting")
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(100):
            got.append(data)

    with App(speak_first) as app:
        stream = client.open(f"127.0.0.1:{app.port}")
        client.wait(lambda: stream in client.ended, "the end of the application's side")
        assert client.received[stream] == b"greeting"
        client.send(stream, b"late answer", end=True)
        eventually(lambda: b"".join(got) == b"late answer", "what the client sent after the application's end")


def test_end_stream_on_the_request(inbound: Inbound, peer: RawPeer) -> None:
    peer.send(peer.headers(1, raw.connect_fields(inbound.authority), raw.END_HEADERS | raw.END_STREAM))
    assert peer.status(1) == 200
    assert peer.expect(raw.DATA, 1).flags & raw.END_STREAM


def test_ping_is_answered_with_its_payload(peer: RawPeer) -> None:
    peer.send(raw.frame(raw.PING, 0, 0, b"\1\2\3\4\5\6\7\x08"))
    assert peer.expect(raw.PING, ack=True).payload == b"\1\2\3\4\5\6\7\x08"


def test_padded_frames(inbound: Inbound, peer: RawPeer) -> None:
    block = peer.block(raw.connect_fields(inbound.authority))
    peer.send(raw.frame(raw.HEADERS, raw.END_HEADERS | raw.PADDED, 1, b"\x0a" + block + bytes(10)))
    assert peer.status(1) == 200
    peer.send(raw.frame(raw.DATA, raw.PADDED, 1, b"\xff" + b"payload" + bytes(255)))
    peer.send(raw.frame(raw.DATA, raw.PADDED, 1, b"\x00" + b" more"))
    peer.send(raw.frame(raw.DATA, raw.PADDED, 1, b"\x05" + bytes(5)))
    back = b""
    while back != b"payload more":
        back += peer.expect(raw.DATA, 1).payload
        assert b"payload more".startswith(back)


def test_padding_is_given_back_as_credit(inbound: Inbound, peer: RawPeer) -> None:
    """40 MiB of mostly padding pass through windows of 4 and 16 MiB."""
    peer.connect(1, inbound.authority)
    peer.status(1)
    block = raw.frame(raw.DATA, raw.PADDED, 1, b"\xff" + b"x" + bytes(255))
    stream_room, connection_room, sent = 4 * MIB, 16 * MIB, 0
    while sent < 40 * MIB:
        count = min(stream_room, connection_room, 256 * 1024) // 257
        if count == 0:
            got = peer.read()
            if got.kind == raw.WINDOW_UPDATE and got.stream == 1:
                stream_room += got.code
            elif got.kind == raw.WINDOW_UPDATE:
                connection_room += got.code
            continue
        peer.send(block * count)
        stream_room -= 257 * count
        connection_room -= 257 * count
        sent += 257 * count
        if sent % (8 * MIB) < 257 * count:
            peer.send(
                raw.frame(raw.WINDOW_UPDATE, 0, 1, raw.u32(MIB)), raw.frame(raw.WINDOW_UPDATE, 0, 0, raw.u32(MIB))
            )
    peer.send(raw.frame(raw.RST_STREAM, 0, 1, raw.u32(raw.CANCEL)))
    peer.ping()


def test_headers_in_many_continuations(inbound: Inbound, peer: RawPeer) -> None:
    block = peer.block(raw.connect_fields(inbound.authority, ("baggage", "k8s.cluster.name=c")))
    pieces = [block[at : at + 12] for at in range(0, len(block), 12)]
    frames = [raw.frame(raw.HEADERS, 0, 1, pieces[0])]
    frames += [raw.frame(raw.CONTINUATION, 0, 1, piece) for piece in pieces[1:]]
    frames.append(raw.frame(raw.CONTINUATION, raw.END_HEADERS, 1))
    peer.send(*frames)
    assert peer.status(1) == 200


def test_frames_in_single_bytes(inbound: Inbound, peer: RawPeer) -> None:
    """Each byte in a TLS record of its own."""
    for byte in peer.headers(1, raw.connect_fields(inbound.authority)) + raw.frame(raw.DATA, 0, 1, b"slowly"):
        peer.send(bytes((byte,)))
    assert peer.status(1) == 200
    back = b""
    while back != b"slowly":
        back += peer.expect(raw.DATA, 1).payload


def test_priority_in_headers_and_unknown_frames_are_ignored(inbound: Inbound, peer: RawPeer) -> None:
    block = peer.block(raw.connect_fields(inbound.authority))
    peer.send(
        raw.frame(0xFA, 0, 0, b"extension"),
        raw.frame(raw.PRIORITY, 0, 5, raw.u32(0) + b"\x10"),
        raw.frame(raw.HEADERS, raw.END_HEADERS | raw.PRIORITY_FLAG, 1, raw.u32(0) + b"\x10" + block),
        raw.frame(0xFB, 0, 1, b"extension"),
    )
    assert peer.status(1) == 200


def test_window_of_one_byte(inbound: Inbound) -> None:
    with RawPeer.dial(inbound.address, pki.context("client", pki.credential("peer")), preface=False) as peer:
        peer.send(raw.PREFACE, raw.settings(initial_window=1))
        peer.connect(1, inbound.authority)
        assert peer.status(1) == 200
        peer.send(raw.frame(raw.DATA, raw.END_STREAM, 1, b"drip by drip"))
        back = b""
        while True:
            got = peer.expect(raw.DATA, 1)
            assert len(got.payload) <= 1
            back += got.payload
            if got.flags & raw.END_STREAM:
                break
            peer.send(raw.frame(raw.WINDOW_UPDATE, 0, 1, raw.u32(1)))
        assert back == b"drip by drip"


def test_stalled_stream_does_not_stop_its_neighbour(inbound: Inbound, client: HboneClient) -> None:
    """One stream is not given any credit; a second one moves 8 MiB on the same connection."""
    stalled = client.open(inbound.authority)
    client.consume = False
    client.send(stalled, pattern(600_000))
    client.wait(lambda: len(client.received[stalled]) == 600_000, "the first window")
    client.consume = True
    assert digest(client.echo(inbound.authority, pattern(8 * MIB))) == digest(pattern(8 * MIB))


def test_flow_control_stall_and_resume(inbound: Inbound) -> None:
    """An application that sends 6 MB to a client with a window of 64 KiB, which opens it only later."""
    data = pattern(6_000_000)

    def pour(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)

    context = pki.context("client", pki.credential("peer"))
    with App(pour) as app, HboneClient(inbound.address, context, window=65_536) as client:
        client.consume = False
        stream = client.open(f"127.0.0.1:{app.port}")
        client.wait(lambda: len(client.received[stream]) == 65_536, "a full window")
        client.pump(0.2)
        assert len(client.received[stream]) == 65_536
        client.consume = True
        client.h2.acknowledge_received_data(65_536, stream)
        client.flush()
        client.wait(lambda: stream in client.ended, "the rest")
        assert digest(client.received[stream]) == digest(data)


def test_window_that_shrinks_by_settings(inbound: Inbound, peer: RawPeer) -> None:
    """RFC 9113 section 6.9.2: a smaller INITIAL_WINDOW_SIZE can make a stream's window negative."""
    peer.connect(1, inbound.authority)
    peer.status(1)
    peer.send(raw.frame(raw.DATA, 0, 1, b"a" * 1000))
    got = 0
    while got < 1000:
        got += len(peer.expect(raw.DATA, 1).payload)
    peer.send(raw.settings(initial_window=500))
    peer.expect(raw.SETTINGS, ack=True)
    peer.send(raw.frame(raw.DATA, 0, 1, b"b" * 100))
    peer.ping()
    peer.send(raw.frame(raw.WINDOW_UPDATE, 0, 1, raw.u32(550)))
    first = peer.expect(raw.DATA, 1)
    assert len(first.payload) == 50
    peer.send(raw.frame(raw.WINDOW_UPDATE, 0, 1, raw.u32(50)))
    assert len(peer.expect(raw.DATA, 1).payload) == 50


def test_frames_are_not_larger_than_the_client_allows(inbound: Inbound, peer: RawPeer) -> None:
    peer.connect(1, inbound.authority)
    peer.status(1)
    peer.send(raw.frame(raw.WINDOW_UPDATE, 0, 0, raw.u32(MIB)))
    for _ in range(20):
        peer.send(raw.frame(raw.DATA, 0, 1, bytes(16_384)))
    got = 0
    while got < 20 * 16_384:
        size = len(peer.expect(raw.DATA, 1).payload)
        assert size <= 16_384
        got += size


def test_largest_frame_we_announce_is_taken(inbound: Inbound, peer: RawPeer) -> None:
    peer.connect(1, inbound.authority)
    peer.status(1)
    peer.send(raw.frame(raw.DATA, raw.END_STREAM, 1, bytes(MIB)))
    peer.send(raw.frame(raw.WINDOW_UPDATE, 0, 0, raw.u32(MIB)))
    got = 0
    while got < MIB:
        got += len(peer.expect(raw.DATA, 1).payload)


def test_client_goaway_lets_open_streams_finish(inbound: Inbound, peer: RawPeer) -> None:
    peer.connect(1, inbound.authority)
    assert peer.status(1) == 200
    peer.send(raw.frame(raw.GOAWAY, 0, 0, raw.u32(0) + raw.u32(raw.NO_ERROR)))
    assert peer.round_trip(1, b"after goaway") == b"after goaway"
    peer.send(raw.frame(raw.DATA, raw.END_STREAM, 1))
    assert peer.expect(raw.DATA, 1).flags & raw.END_STREAM


def test_reset_by_the_client_reaches_the_application(inbound: Inbound, client: HboneClient) -> None:
    ends: list[str] = []

    def wait_for_end(sock: socket.socket) -> None:
        try:
            ends.append("eof" if sock.recv(10) == b"" else "data")
        except ConnectionResetError:
            ends.append("reset")

    with App(wait_for_end) as app:
        stream = client.open(f"127.0.0.1:{app.port}")
        client.h2.reset_stream(stream, raw.INTERNAL_ERROR)
        client.flush()
        eventually(lambda: bool(ends), "the application hears of it")
        assert ends == ["reset"]


def test_reset_by_the_application_reaches_the_client(inbound: Inbound, client: HboneClient) -> None:
    def slam(sock: socket.socket) -> None:
        sock.recv(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    with App(slam) as app:
        stream = client.open(f"127.0.0.1:{app.port}")
        client.send(stream, b"x")
        client.wait(lambda: stream in client.resets, "RST_STREAM")
        assert client.resets[stream] != raw.NO_ERROR


def test_connection_that_just_goes_away_takes_its_streams_along(inbound: Inbound) -> None:
    harness = inbound.harness
    context = pki.context("client", pki.credential("peer"))
    with App(lambda sock: sock.recv(1) and None) as app, HboneClient(inbound.address, context) as client:
        for _ in range(20):
            client.open(f"127.0.0.1:{app.port}")
        eventually(lambda: harness.cell(PageCell.FLOWS_OPEN) == 20, "20 open flows")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        harness.wait_cell(PageCell.FLOWS_OPEN, 0)


def test_bytes_and_closes_are_counted_and_logged(inbound: Inbound, client: HboneClient) -> None:
    harness = inbound.harness
    before = {cell: harness.slot(cell) for cell in SlotCell}
    client.echo(inbound.authority, bytes(12_345))
    eventually(lambda: harness.slot(SlotCell.CLOSED) == before[SlotCell.CLOSED] + 1, "the close is counted")
    assert harness.slot(SlotCell.RECEIVED) == before[SlotCell.RECEIVED] + 12_345
    assert harness.slot(SlotCell.SENT) == before[SlotCell.SENT] + 12_345
    assert harness.slot(SlotCell.OPENED) == before[SlotCell.OPENED] + 1
    line = harness.wait_log("bytes_sent=12345")
    assert "bytes_recv=12345" in line
    assert "error=" not in line


def test_keepalive_pings_and_gives_up_on_silence() -> None:
    """The client answers the first ping and then nothing any more."""
    for inbound in run_inbound(tls_timeout_ms=300, ping_interval_ms=100, ping_timeout_ms=300):
        with RawPeer.dial(inbound.address, pki.context("client", pki.credential("peer"))) as peer:
            ping = peer.expect(raw.PING, ack=False)
            peer.send(raw.frame(raw.PING, raw.ACK, 0, ping.payload))
            peer.expect(raw.PING, ack=False)
            peer.frames(timeout=5)
            inbound.harness.wait_cell(PageCell.KEEPALIVE_TIMEOUT, 1)


def test_drain_announces_refuses_and_waits() -> None:
    """Two GOAWAYs as RFC 9113 section 6.8 has it; the open stream goes on to its end."""
    for inbound in run_inbound():
        with RawPeer.dial(inbound.address, pki.context("client", pki.credential("peer"))) as peer:
            peer.connect(1, inbound.authority)
            assert peer.status(1) == 200
            inbound.harness.drain(20_000)
            first = peer.goaway()
            assert (int.from_bytes(first.payload[:4], "big"), first.code) == (0x7FFF_FFFF, raw.NO_ERROR)
            second = peer.goaway()
            assert (int.from_bytes(second.payload[:4], "big"), second.code) == (1, raw.NO_ERROR)
            assert peer.round_trip(1, b"still served") == b"still served"
            assert not inbound.harness.count(Rec.DRAINED)
            peer.send(raw.frame(raw.DATA, raw.END_STREAM, 1))
            peer.frames()
        inbound.harness.wait_record(Rec.DRAINED)
