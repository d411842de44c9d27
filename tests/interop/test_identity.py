"""Who may talk to whom: refusals of the TLS handshake, with the `openssl` program and with Python's `ssl`."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshcore.records import Flag, PageCell, SlotCell
from tests.support import apps, peer_h2, pki, programs
from tests.support.worker_harness import Harness, Pod, deliver, eventually, tunnel

TLS13 = ("-tls1_3",)


@pytest.fixture
def worker() -> Iterator[Harness]:
    with apps.App() as app, Harness(deliver(app.address)) as made:
        yield made
        made.idle()


@pytest.fixture
def pod(worker: Harness) -> Pod:
    return worker.add_pod()


def s_client(pod: Pod, directory: Path, own: pki.Credential | None, *options: str) -> str:
    """Handshake, wait for what the server says next, leave -> everything the program printed."""
    (directory / "root.pem").write_bytes(pki.root().pem)
    arguments = ["-connect", "{}:{}".format(*pod.hbone), "-CAfile", str(directory / "root.pem"), "-state", *options]
    if own is not None:
        chain, key = own.write(directory, "own")
        (directory / "above.pem").write_bytes(own.chain)
        arguments += ["-cert", str(chain), "-key", str(key), "-cert_chain", str(directory / "above.pem")]
    return programs.run("openssl", "s_client", "-ign_eof", *arguments, timeout=15).stdout.decode(errors="replace")


def test_openssl_is_let_in_with_a_good_certificate(worker: Harness, pod: Pod, tmp_path: Path) -> None:
    chain, key = pki.credential("peer").write(tmp_path, "own")
    (tmp_path / "root.pem").write_bytes(pki.root().pem)
    arguments = ["-CAfile", str(tmp_path / "root.pem"), "-cert", str(chain), "-key", str(key), "-alpn", "h2", *TLS13]
    done = programs.run("openssl", "s_client", "-connect", "{}:{}".format(*pod.hbone), *arguments, stdin=b"Q\n")
    output = done.stdout.decode(errors="replace")
    assert "ALPN protocol: h2" in output
    assert "TLS_AES_256_GCM_SHA384" in output
    assert "Verify return code: 0 (ok)" in output
    assert "Verification: OK" in output
    eventually(lambda: worker.cell(PageCell.TLS_ACCEPT_OK) == 1, "the handshake is counted")
    assert worker.cell(PageCell.TLS_ACCEPT_FAIL) == 0


REFUSED: dict[str, tuple[pki.Credential | None, tuple[str, ...]]] = {
    "no certificate": (None, ("-alpn", "h2", *TLS13)),
    "a stranger's root": (pki.stranger().leaf(pki.spiffe("peer")), ("-alpn", "h2", *TLS13)),
    "another trust domain": (
        pki.root().leaf(pki.spiffe("peer", trust_domain="elsewhere.example")),
        ("-alpn", "h2", *TLS13),
    ),
    "TLS 1.2": (pki.credential("peer"), ("-alpn", "h2", "-tls1_2")),
    "another protocol by ALPN": (pki.credential("peer"), ("-alpn", "http/1.1", *TLS13)),
    "an expired certificate": (pki.root().expired(pki.spiffe("peer")), ("-alpn", "h2", *TLS13)),
    "a certificate of tomorrow": (
        pki.root().leaf(pki.spiffe("peer"), valid_from=dt.timedelta(hours=12)),
        ("-alpn", "h2", *TLS13),
    ),
    "no identity": (pki.root().leaf(), ("-alpn", "h2", *TLS13)),
    "an identity that is not SPIFFE": (pki.root().leaf("https://cluster.local/ns/default"), ("-alpn", "h2", *TLS13)),
    "a path too short": (pki.root().leaf("spiffe://cluster.local/ns/default"), ("-alpn", "h2", *TLS13)),
    "a path too long": (pki.root().leaf(pki.spiffe("peer") + "/x"), ("-alpn", "h2", *TLS13)),
    "a trust domain with ours in front": (
        pki.root().leaf(pki.spiffe("peer", trust_domain="cluster.local.evil")),
        ("-alpn", "h2", *TLS13),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_openssl_is_refused_with(worker: Harness, pod: Pod, tmp_path: Path, name: str) -> None:
    own, options = REFUSED[name]
    output = s_client(pod, tmp_path, own, *options)
    assert "alert" in output, output
    assert worker.cell(PageCell.TLS_ACCEPT_FAIL) == 1
    assert worker.cell(PageCell.TLS_ACCEPT_OK) == 0
    assert not worker.upcalls
    with peer_h2.client(pod.hbone) as peer:  # the control: it was not the worker that was broken
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")


@pytest.mark.parametrize("own", ["intermediate", "rsa", "several identities", "foreign identity first"])
def test_good_certificates_of_every_kind_are_let_in(worker: Harness, pod: Pod, own: str) -> None:
    credential = {
        "intermediate": lambda: pki.root().intermediate().leaf(pki.spiffe("peer")),
        "rsa": lambda: pki.root().leaf(pki.spiffe("peer"), key="rsa"),
        "several identities": lambda: pki.root().leaf(pki.spiffe("peer"), pki.spiffe("other")),
        "foreign identity first": lambda: pki.root().leaf("https://x.example", pki.spiffe("peer")),
    }[own]()
    with peer_h2.client(pod.hbone, pki.context("client", credential)) as peer:
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")
    assert worker.upcalls[0].peer == pki.spiffe("peer")


def test_tls_12_is_let_in_when_it_is_enabled() -> None:
    context = pki.context("client", pki.credential("peer"), version=ssl.TLSVersion.TLSv1_2)
    with (
        apps.App() as app,
        Harness(deliver(app.address), config={"tls12": 1}) as worker,
        peer_h2.client(worker.add_pod().hbone, context) as peer,
    ):
        assert peer.sock.version() == "TLSv1.2"
        peer.echoes(peer.connect("10.0.0.7:80"), b"x" * 100_000)


def test_a_session_is_never_resumed(worker: Harness, pod: Pod) -> None:
    """A resumed session would skip the verification of a certificate that has expired since."""
    context = pki.context("client", pki.credential("peer"))
    with peer_h2.client(pod.hbone, context) as first:
        first.echoes(first.connect("10.0.0.7:80"), b"x")
        session = first.sock.session
    with (
        socket.create_connection(pod.hbone, timeout=10) as plain,
        context.wrap_socket(plain, session=session) as again,
    ):
        assert not again.session_reused
        assert again.version() == "TLSv1.3"
    assert worker.alive()


def test_the_worker_shows_the_chain_of_its_own_certificate(tmp_path: Path) -> None:
    own = pki.root().intermediate().leaf(pki.spiffe("ours"))
    with (
        apps.App() as app,
        Harness(deliver(app.address), own=own) as worker,
        peer_h2.client(worker.add_pod().hbone) as peer,
    ):
        assert peer.sock.getpeercert() is not None
        peer.echoes(peer.connect("10.0.0.7:80"), b"x")


# --- outbound: whom do we accept as a server? ---

SERVERS: dict[str, tuple[pki.Credential, Flag]] = {
    "another identity": (pki.credential("impostor"), Flag.IDENTITY_ERROR),
    "another namespace": (pki.root().leaf(pki.spiffe("peer", namespace="other")), Flag.IDENTITY_ERROR),
    "a longer name": (pki.root().leaf(pki.spiffe("peer2")), Flag.IDENTITY_ERROR),
    "a shorter name": (pki.root().leaf(pki.spiffe("pee")), Flag.IDENTITY_ERROR),
    "another trust domain": (pki.root().leaf(pki.spiffe("peer", trust_domain="x.example")), Flag.IDENTITY_ERROR),
    "no identity": (pki.root().leaf(), Flag.IDENTITY_ERROR),
    "a stranger's root": (pki.stranger().leaf(pki.spiffe("peer")), Flag.IDENTITY_ERROR),
    "an expired certificate": (pki.root().expired(pki.spiffe("peer")), Flag.IDENTITY_ERROR),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_with_the_wrong_identity_gets_no_byte(name: str) -> None:
    own, flag = SERVERS[name]
    received: list[bytes] = []

    def listen_in(peer: peer_h2.Peer) -> None:
        while not peer.closed:
            peer.step(0.1)
        received.extend(bytes(stream.data) for stream in peer.streams.values())

    with (
        peer_h2.Server(listen_in, context=pki.context("server", own)) as server,
        Harness(tunnel(server.address)) as worker,
    ):
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as app:
            app.sendall(b"secret")
            assert_cut(app)
        worker.wait_slot(SlotCell.FAILED + flag, 1)
        worker.wait_log("error=")
        assert worker.cell(PageCell.TLS_CONNECT_FAIL) == 1
        assert worker.slot(SlotCell.OPENED) == 0
        worker.idle()
        assert server.accepted == 1
    assert not received
    assert all(not peer.streams for peer in server.peers)


def assert_cut(app: socket.socket) -> None:
    """The application sees the end: a FIN, or a RST since it has sent what nobody read."""
    with contextlib.suppress(ConnectionResetError):
        assert app.recv(1) == b""


@pytest.mark.parametrize("expected", [(pki.spiffe("peer"),), (pki.spiffe("a"), pki.spiffe("peer"), pki.spiffe("b"))])
def test_any_of_the_expected_identities_will_do(expected: tuple[str, ...]) -> None:
    with (
        peer_h2.Server() as server,
        Harness(tunnel(server.address), expected=expected) as worker,
        socket.create_connection(worker.add_pod().outbound, timeout=10) as app,
    ):
        app.sendall(b"x")
        assert apps.read_exactly(app, 1) == b"x"


def test_no_expected_identity_means_nobody() -> None:
    with peer_h2.Server() as server, Harness(tunnel(server.address), expected=()) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as app:
            app.sendall(b"x")
            assert_cut(app)
        worker.wait_slot(SlotCell.FAILED + Flag.IDENTITY_ERROR, 1)


def test_a_plaintext_server_gets_no_byte() -> None:
    def answer(sock: socket.socket) -> None:
        heard.append(sock.recv(10_000))
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    heard: list[bytes] = []
    with apps.App(answer) as app, Harness(tunnel(app.address)) as worker:
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as client:
            client.sendall(b"secret")
            assert_cut(client)
        worker.wait_cell(PageCell.TLS_CONNECT_FAIL, 1)
        worker.idle()
    assert heard
    assert b"secret" not in heard[0]
    assert heard[0][:1] == b"\x16", "the first byte of a TLS handshake"
