"""Workers of two pods in namespaces of their own, with traffic captured by the real redirection rules."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni.redirect import PodRules, Redirector
from cni.rules_nft import NftBackend
from meshcore import netns, records
from meshcore.records import (
    Action,
    AuthorityKind,
    Direction,
    Endpoint,
    Flag,
    Mask,
    PageCell,
    Protocol,
    SlotCell,
    Upcall,
    Verdict,
    VerdictFlag,
)
from tests.support import apps, pki
from tests.support.netns import Namespace, Topology
from tests.support.worker_harness import CERT_ID, LABEL_ID, SANS_ID, TIMEOUT, Harness, eventually, ip_bytes

pytestmark = pytest.mark.netns

CONFIG = {
    "packet_mark": 1337,
    "connect_timeout_ms": 500,
    "tls_timeout_ms": 500,
    "response_timeout_ms": 500,
    "upcall_timeout_ms": 500,
}
PORT = 8080
HOLE = "10.66.0.250"
FLOW = Mask.DST_IP | Mask.DST_PORT
CONNECTIONS = 20_000
MIB = 1 << 20


class Mesh:
    """client (captured, worker `out`), server (captured, worker `into`) and outsider (not captured) on one bridge."""

    def __init__(self, net: Topology, stack: contextlib.ExitStack) -> None:
        self.client, self.server, self.outsider = (net.pod(name) for name in ("client", "server", "outsider"))
        self.client.black_hole(HOLE)
        self.hbone = {self.server.ip, self.server.ip6}
        own = pki.credential("peer")
        self.out = stack.enter_context(Harness(self.outbound, config=CONFIG))
        self.into = stack.enter_context(Harness(self.inbound, own=own, config=CONFIG, expected=(pki.spiffe("ours"),)))
        self.out.add_pod_in(self.client.fd, self.client.ip)
        self.into.add_pod_in(self.server.fd, self.server.ip)
        redirector = Redirector(NftBackend())
        for pod in (self.client, self.server):
            assert redirector.apply(pod.fd, PodRules())

    def outbound(self, upcall: Upcall) -> Verdict:
        where = records.ip_text(upcall.dst_ip)
        if upcall.direction is Direction.INBOUND_PLAIN:
            return self.inbound(upcall)
        if where not in self.hbone:
            return Verdict(Action.PASSTHROUGH, FLOW, LABEL_ID)
        peer = Endpoint(
            upcall.dst_ip, 15008, upcall.dst_port, Protocol.HBONE, AuthorityKind.ENDPOINT, 1, SANS_ID, LABEL_ID
        )
        return Verdict(Action.BALANCE, FLOW, LABEL_ID, cert_id=CERT_ID, endpoints=(peer,), baggage=b"k8s.x=y")

    def inbound(self, upcall: Upcall) -> Verdict:
        """Upstream's: the connection's own address with the port that was asked for, as the client."""
        if upcall.direction is Direction.OUTBOUND:
            return Verdict(Action.PASSTHROUGH, FLOW, LABEL_ID)
        ip = upcall.local_ip if upcall.direction is Direction.INBOUND_HBONE else upcall.dst_ip
        port = upcall.dst_port
        app = Endpoint(ip, port, port, Protocol.TCP, AuthorityKind.ENDPOINT, 1, 0, LABEL_ID)
        mask = FLOW | Mask.LOCAL_IP | Mask.PEER
        return Verdict(Action.DELIVER, mask, LABEL_ID, endpoints=(app,), flags=VerdictFlag.SPOOF)

    def serve(self, serve: apps.Serve, where: Namespace | None = None, port: int = PORT) -> apps.App:
        return apps.App(serve, listener=(where or self.server).listen(port))

    def dial(self, port: int = PORT) -> socket.socket:
        return self.client.connect(self.server.ip, port, TIMEOUT)

    def idle(self) -> None:
        self.out.idle()
        self.into.idle()


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with Topology() as net, contextlib.ExitStack() as stack:
        made = Mesh(net, stack)
        yield made
        made.idle()


def test_captured_connection_goes_over_hbone_and_keeps_its_source(mesh: Mesh) -> None:
    mesh.server.nginx(PORT)
    answer = mesh.client.run("curl", "-sS", "--max-time", "5", f"http://{mesh.server.ip}:{PORT}/ip").stdout
    assert answer.decode() == mesh.client.ip
    (asked,) = mesh.into.upcalls
    assert (asked.direction, asked.peer) == (Direction.INBOUND_HBONE, pki.spiffe("ours"))
    assert records.ip_text(asked.src_ip) == mesh.client.ip
    assert records.ip_text(asked.local_ip) == mesh.server.ip
    line = mesh.out.wait_log("dst.hbone_addr")
    assert f"dst.addr={mesh.server.ip}:15008" in line
    assert f"dst.hbone_addr={mesh.server.ip}:{PORT}" in line


def test_ipv6_is_carried_like_ipv4(mesh: Mesh) -> None:
    listener = mesh.server.tcp(socket.AF_INET6)
    listener.bind(("::", PORT))
    listener.listen()
    with apps.App(listener=listener) as app, mesh.client.connect(mesh.server.ip6, PORT) as sock:
        apps.send_all(sock, b"six")
        assert apps.read_to_end(sock) == b"six"
        assert app.peers == [mesh.client.ip6]
    assert f"dst.hbone_addr=[{mesh.server.ip6}]:{PORT}" in mesh.out.wait_log("dst.hbone_addr")


def test_plaintext_from_outside_keeps_its_source_too(mesh: Mesh) -> None:
    with mesh.serve(apps.echo) as app, mesh.outsider.connect(mesh.server.ip, PORT) as sock:
        apps.send_all(sock, b"plain")
        assert apps.read_to_end(sock) == b"plain"
        assert app.peers == [mesh.outsider.ip]
    (asked,) = mesh.into.upcalls
    assert (asked.direction, asked.peer) == (Direction.INBOUND_PLAIN, "")
    assert (records.ip_text(asked.dst_ip), asked.dst_port) == (mesh.server.ip, PORT)


def test_large_passthrough_is_spliced_and_intact(mesh: Mesh, tmp_path: Path) -> None:
    body = os.urandom(MIB) * 100
    mesh.outsider.nginx(PORT, {"large": body})
    target = tmp_path / "large"
    mesh.client.run(
        "curl", "-sS", "--max-time", "30", "-o", str(target), f"http://{mesh.outsider.ip}:{PORT}/large", timeout=40
    )
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(body).digest()
    assert mesh.out.cell(PageCell.SPLICE) > 0
    assert mesh.out.cell(PageCell.TLS_CONNECT_OK) == 0
    mesh.out.wait_slot(SlotCell.CLOSED, 1)
    assert mesh.out.slot(SlotCell.SENT) > len(body)


def test_large_transfer_over_hbone_is_intact(mesh: Mesh, tmp_path: Path) -> None:
    body = os.urandom(MIB) * 100
    mesh.server.nginx(PORT, {"large": body})
    target = tmp_path / "large"
    mesh.client.run(
        "curl", "-sS", "--max-time", "30", "-o", str(target), f"http://{mesh.server.ip}:{PORT}/large", timeout=40
    )
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(body).digest()
    mesh.idle()


def test_the_node_link_carries_no_payload_byte(mesh: Mesh, tmp_path: Path) -> None:
    secret = b"attack-at-dawn-" * 8
    capture = tmp_path / "node.pcap"
    with netns.inside(mesh.server.fd):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with sniffer, mesh.serve(apps.echo), mesh.dial() as sock:
        sniffer.bind(("eth0", 0))
        sniffer.settimeout(0.5)
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        apps.send_all(sock, secret)
        assert apps.read_to_end(sock) == secret
        frames = []
        with contextlib.suppress(TimeoutError):
            while True:
                frames.append(sniffer.recv(65_536))
    capture.write_bytes(b"".join(frames))
    assert sum(map(len, frames)) > 2 * len(secret), "the capture saw the tunnel"
    assert not any(b"attack-at-dawn" in frame for frame in frames)
    to_hbone = (15008).to_bytes(2, "big")
    assert any(to_hbone in frame[34:38] for frame in frames)


def test_half_close_both_ways(mesh: Mesh) -> None:
    heard: list[bytes] = []

    def speak_then_listen(sock: socket.socket) -> None:
        apps.send_all(sock, b"server first")
        heard.append(apps.read_to_end(sock))

    with mesh.serve(speak_then_listen), mesh.dial() as sock:
        assert apps.read_to_end(sock) == b"server first"
        apps.send_all(sock, b"client later")
        eventually(lambda: heard == [b"client later"], "the client's bytes after the server's end")


@pytest.mark.parametrize("how", ["hbone", "passthrough"])
def test_reset_by_the_server_reaches_the_client(mesh: Mesh, how: str) -> None:
    def slam(sock: socket.socket) -> None:
        sock.recv(1)
        apps.reset(sock)

    where = mesh.server if how == "hbone" else mesh.outsider
    with mesh.serve(slam, where), mesh.client.connect(where.ip, PORT) as sock:
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("how", ["hbone", "passthrough"])
def test_reset_by_the_client_reaches_the_server(mesh: Mesh, how: str) -> None:
    ends: list[str] = []

    def note_end(sock: socket.socket) -> None:
        try:
            sock.recv(1)
            ends.append("eof" if sock.recv(1) == b"" else "data")
        except ConnectionResetError:
            ends.append("reset")

    where = mesh.server if how == "hbone" else mesh.outsider
    with mesh.serve(note_end, where) as app:
        sock = mesh.client.connect(where.ip, PORT)
        sock.sendall(b"x")
        eventually(lambda: bool(app.accepted), "the application has the connection")
        apps.reset(sock)
        eventually(lambda: ends == ["reset"], lambda: f"the server saw {ends}")


@pytest.mark.parametrize("how", ["hbone", "passthrough"])
def test_reset_by_a_client_that_is_stalled_ends_its_flow(mesh: Mesh, how: str) -> None:
    """Nobody reads at the far end, so the worker reads no more; it must notice the client's end all the same."""
    where = mesh.server if how == "hbone" else mesh.outsider
    with mesh.serve(apps.silent, where):
        sock = mesh.client.connect(where.ip, PORT)
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                sock.sendall(bytes(65_536))
        apps.reset(sock)
        mesh.out.wait_cell(PageCell.FLOWS_OPEN, 0, timeout=5)
        mesh.into.wait_cell(PageCell.FLOWS_OPEN, 0, timeout=5)


def failed(mesh: Mesh, flag: Flag, address: str) -> str:
    """Dialling `address` ends without a byte within the configured half second and is counted under `flag`."""
    started = time.monotonic()
    with mesh.client.connect(address, PORT) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    assert 0.3 < time.monotonic() - started < 3
    mesh.out.wait_slot(SlotCell.FAILED + flag, 1)
    return mesh.out.wait_log("error=")


def test_destination_in_a_black_hole(mesh: Mesh) -> None:
    with mesh.out.counts(PageCell.CONNECT_TIMEOUT):
        assert "timed out" in failed(mesh, Flag.CONNECT, HOLE)


def test_peer_in_a_black_hole_hints_at_a_network_policy(mesh: Mesh) -> None:
    mesh.hbone.add(HOLE)
    with mesh.out.counts(PageCell.CONNECT_TIMEOUT):
        assert "NetworkPolicy" in failed(mesh, Flag.NETWORK_POLICY, HOLE)


def test_application_that_does_not_listen_refuses_the_client(mesh: Mesh) -> None:
    with mesh.dial() as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    mesh.out.wait_slot(SlotCell.FAILED + Flag.CONNECT, 1)
    mesh.into.wait_slot(SlotCell.FAILED + Flag.CONNECT, 1)
    assert "http status: 503" in mesh.out.wait_log("error=")


def test_pod_that_calls_itself(mesh: Mesh) -> None:
    """Not captured on the way out (it never leaves the pod), and not spoofed: it works like without the mesh."""
    with mesh.serve(apps.echo), mesh.server.connect(mesh.server.ip, PORT) as sock:
        apps.send_all(sock, b"me")
        assert apps.read_to_end(sock) == b"me"


def test_pod_whose_namespace_goes_away(mesh: Mesh) -> None:
    """REC_POD_DEL closes live connections at once and gives the namespace back."""
    with mesh.serve(apps.echo), mesh.dial() as sock:
        sock.sendall(b"x")
        apps.read_exactly(sock, 1)
        before = mesh.into.descriptors()
        mesh.into.send(records.encode_pod_del(1))
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        eventually(lambda: mesh.into.descriptors() <= before - 6, "listeners, tunnel, flow and namespace are closed")
    assert mesh.into.cell(PageCell.FLOWS_OPEN) == 0


def visit(mesh: Mesh, count: int) -> None:
    """One request a connection; every fourth client ends with RST in the middle of the answer."""
    request = b"GET /small HTTP/1.0\r\n\r\n"
    address = (mesh.server.ip, PORT)
    with netns.inside(mesh.client.fd):
        for number in range(count):
            with socket.create_connection(address, TIMEOUT) as sock:
                sock.sendall(request)
                if number % 4 == 3:
                    apps.reset(sock)
                    continue
                answer = apps.read_to_end(sock)
                assert answer.endswith(b"small")


def in_parallel(call: Callable[[], object], threads: int, timeout: float) -> None:
    for thread in [apps.background(call) for _ in range(threads)]:
        thread.join(timeout)


def fits(worker: Harness, most: int) -> bool:
    return worker.descriptors() <= most


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_twenty_thousand_connections_leave_nothing_behind(mesh: Mesh) -> None:
    mesh.server.nginx(PORT)
    threads = 4
    in_parallel(lambda: visit(mesh, 500), threads, 30)
    mesh.idle()
    workers = (mesh.out, mesh.into)
    before = [(worker.descriptors(), worker.memory_kb()) for worker in workers]
    in_parallel(lambda: visit(mesh, CONNECTIONS // threads), threads, 90)
    mesh.idle()
    assert mesh.out.slot(SlotCell.OPENED) >= CONNECTIONS
    # The last clients may have gone before the worker took their connections.
    eventually(
        lambda: mesh.out.cell(PageCell.SOCKETS_OPEN) == 3 + mesh.out.cell(PageCell.TUNNELS_OPEN),
        "every socket is a listener's or a tunnel's",
    )
    for worker, (descriptors, memory) in zip(workers, before, strict=True):
        eventually(functools.partial(fits, worker, descriptors), "descriptors are back")
        assert worker.memory_kb() <= memory + 128, f"{memory} -> {worker.memory_kb()} kB"
    assert ip_bytes(mesh.server.ip) in {upcall.dst_ip for upcall in mesh.out.upcalls}
