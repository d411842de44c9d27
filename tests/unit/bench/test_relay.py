"""The relay that only copies: what arrives is what was sent, ends are passed on, and nobody waits for a slow reader."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import bench
from bench._relay import run
from bench.errors import BenchError
from meshcore.errors import ConfigError
from tests.support import programs
from tests.support.apps import App, background, echo, read_exactly, read_to_end, reset, send_all, silent
from tests.support.worker_harness import TIMEOUT, address_of, eventually, listen

PROGRAM: Final = Path(bench.__file__).parent / "programs" / "relay.py"  # of the build under test
MB: Final = 1_000_000
SIZES: Final = (0, 1, 65_535, 65_536, 65_537, MB, 5 * MB)
ROUNDS_TO_WIDEN: Final = 30
MARK: Final = 0x539
Address = tuple[str, int]


class Relay:
    """A running relay: its process and where it listens."""

    def __init__(self, process: subprocess.Popen[str], addresses: list[Address]) -> None:
        self.process = process
        self.addresses = addresses

    def connect(self, route: int = 0) -> socket.socket:
        return socket.create_connection(self.addresses[route], TIMEOUT)

    def sockets(self) -> int:
        """How many sockets it holds, listeners included."""
        links = Path(f"/proc/{self.process.pid}/fd").iterdir()
        found = 0
        for link in links:
            with contextlib.suppress(OSError):
                found += str(link.readlink()).startswith("socket:")
        return found

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def command(*arguments: object, before: tuple[str, ...] = ()) -> list[str]:
    return [*before, sys.executable, "-I", "-S", str(PROGRAM), *map(str, arguments)]


@contextlib.contextmanager
def relaying(*targets: Address, options: tuple[object, ...] = (), before: tuple[str, ...] = ()) -> Iterator[Relay]:
    """A relay from a free port to each of these targets; ended by SIGTERM, it must have nothing to complain of."""
    routes = [f"127.0.0.1:0={host}:{port}" for host, port in targets]
    line = command(*options, *routes, before=before)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], (), (), TIMEOUT)
        assert ready, "the relay does not say that it listens"
        first = process.stdout.readline()
        assert first, process.communicate(timeout=TIMEOUT)[1]
        listening = [name.rpartition(":") for name in json.loads(first)["listening"]]
        yield Relay(process, [(host, int(port)) for host, _, port in listening])
        assert process.poll() is None, process.communicate(timeout=TIMEOUT)[1]
    finally:
        process.terminate()
        try:
            _, errors = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=TIMEOUT)
            raise
    assert (process.returncode, errors) == (-signal.SIGTERM, "")


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_both_directions_carry_the_same_bytes(size: int) -> None:
    """The client sends while it receives, so that both directions are full at once."""
    data = payload(size)
    with App(echo) as app, relaying(app.address) as relay, relay.connect() as sock:
        sender = background(lambda: send_all(sock, data))
        got = read_to_end(sock)
        sender.join()
    assert (len(got), digest(got)) == (size, digest(data))


@pytest.mark.parametrize("size", SIZES)
def test_a_download_arrives_whole_and_ends(size: int) -> None:
    data = payload(size)
    with App(lambda sock: send_all(sock, data)) as app, relaying(app.address) as relay, relay.connect() as sock:
        got = read_to_end(sock)
    assert (len(got), digest(got)) == (size, digest(data))


def test_the_servers_answer_comes_through_after_the_client_has_ended() -> None:
    received: list[bytes] = []

    def answer_at_the_end(sock: socket.socket) -> None:
        received.append(read_to_end(sock))
        sock.sendall(b"answer")

    with App(answer_at_the_end) as app, relaying(app.address) as relay, relay.connect() as sock:
        send_all(sock, b"question")
        assert read_to_end(sock) == b"answer"
    assert received == [b"question"]


def test_the_client_may_go_on_after_the_server_has_ended() -> None:
    received: list[bytes] = []
    done = threading.Event()

    def end_first(sock: socket.socket) -> None:
        send_all(sock, b"that is all")
        received.append(read_to_end(sock))
        done.set()

    with App(end_first) as app, relaying(app.address) as relay, relay.connect() as sock:
        assert read_to_end(sock) == b"that is all"
        send_all(sock, b"not for me")
        assert done.wait(TIMEOUT)
    assert received == [b"not for me"]


@pytest.mark.parametrize("early", [b"", b"early"])
def test_an_end_that_comes_before_the_target_is_connected_is_kept_for_it(early: bytes) -> None:
    """The target's backlog is full, so its connection is made only when somebody accepts."""
    target = listen()
    target.listen(0)
    with target, contextlib.ExitStack() as stack:
        fill = [stack.enter_context(socket.socket()) for _ in range(2)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(address_of(target))
        with relaying(address_of(target)) as relay, relay.connect() as client:
            send_all(client, early)
            eventually(lambda: relay.sockets() == 3, "the relay to have accepted")
            target.setblocking(True)
            target.settimeout(TIMEOUT)
            for _ in range(3):
                accepted = target.accept()[0]
                stack.enter_context(accepted)
                if accepted.getpeername() not in {sock.getsockname() for sock in fill}:
                    accepted.settimeout(TIMEOUT)
                    assert read_to_end(accepted) == early
                    return
            pytest.fail("the relay's connection was not among those accepted")


def test_a_reader_that_stops_stops_the_sender_and_loses_nothing() -> None:
    go = threading.Event()
    received: list[bytes] = []

    def read_when_told(sock: socket.socket) -> None:
        assert go.wait(3 * TIMEOUT)
        received.append(read_to_end(sock))

    data = payload(64 * MB)
    with App(read_when_told) as app, App(echo) as other, relaying(app.address, other.address) as relay:
        before = relay.resident()
        with relay.connect(0) as sock:
            sock.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < len(data):
                    sent += sock.send(data[sent : sent + 65_536])
            # The kernel may hold some megabytes for the four sockets; the relay must not hold the rest.
            assert sent < len(data)
            assert relay.resident() - before < 2 * MB
            with relay.connect(1) as beside:
                send_all(beside, b"beside")
                assert read_to_end(beside) == b"beside"
            go.set()
            sock.settimeout(3 * TIMEOUT)
            send_all(sock, data[sent:])
            assert read_to_end(sock) == b""
    assert [digest(each) for each in received] == [digest(data)]


def all_taken(sock: socket.socket, sender: threading.Thread) -> bool:
    """Wait until the other end's kernel has all that `sender` sends (True), or takes no more (False)."""
    before = None
    while True:
        unsent = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
        state = (unsent, sender.is_alive())
        if state in {before, (0, False)}:
            return state == (0, False)
        before = state
        time.sleep(0.05)


def test_what_had_to_wait_for_the_next_turn_gets_it_though_nothing_new_comes() -> None:
    """More than one turn moves is there, and the end behind it, when the relay looks: no further event will come.

    The kernel offers so large a window only after a few rounds in which much was read at once.
    """
    size = 3 * MB
    data = payload(size)
    with App(silent) as app, relaying(app.address) as relay, relay.connect() as client:
        client.sendall(b"x")
        eventually(lambda: len(app.accepted) == 1, "the server to be connected")
        server = app.accepted[0]
        assert read_exactly(server, 1) == b"x"
        for _ in range(ROUNDS_TO_WIDEN):
            relay.process.send_signal(signal.SIGSTOP)
            sender = background(lambda: server.sendall(data))
            if taken := all_taken(server, sender):
                server.shutdown(socket.SHUT_WR)
            relay.process.send_signal(signal.SIGCONT)
            assert digest(read_exactly(client, size)) == digest(data)
            sender.join()
            if taken:
                break
        else:
            pytest.skip(f"the kernel offers no window of {size} bytes (net.ipv4.tcp_rmem)")
        assert read_to_end(client) == b""


def test_hundreds_of_connections_at_once_each_get_their_own_bytes_and_leave_nothing() -> None:
    count = 300
    with App(echo) as app, relaying(app.address) as relay:
        idle = relay.sockets()
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(relay.connect()) for _ in range(count)]
            for number, sock in enumerate(socks):
                sock.sendall(payload(1000 + number))
            for number, sock in enumerate(socks):
                assert read_exactly(sock, 1000 + number) == payload(1000 + number)
            assert relay.sockets() == idle + 2 * count
            for sock in socks:
                sock.shutdown(socket.SHUT_WR)
                assert read_to_end(sock) == b""
        eventually(lambda: relay.sockets() == idle, lambda: f"{relay.sockets()} sockets instead of {idle}")


def test_each_route_leads_to_its_own_target() -> None:
    with (
        App(lambda sock: send_all(sock, b"one")) as one,
        App(lambda sock: send_all(sock, b"two")) as two,
        relaying(one.address, two.address, one.address) as relay,
    ):
        for route, expected in enumerate((b"one", b"two", b"one")):
            with relay.connect(route) as sock:
                assert read_to_end(sock) == expected


def test_a_target_that_refuses_resets_the_client() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with relaying(address_of(bound)) as relay:
            idle = relay.sockets()
            with relay.connect() as sock, pytest.raises(ConnectionResetError):
                sock.recv(1)
            eventually(lambda: relay.sockets() == idle, "both sockets to be closed")


def test_a_reset_of_the_server_is_no_clean_end_for_the_client() -> None:
    def break_off(sock: socket.socket) -> None:
        sock.sendall(b"part")
        sock.recv(1)
        reset(sock)

    with App(break_off) as app, relaying(app.address) as relay, relay.connect() as sock:
        assert read_exactly(sock, 4) == b"part"
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_reset_of_the_client_reaches_the_server() -> None:
    seen: list[str] = []
    done = threading.Event()

    def wait_for_the_end(sock: socket.socket) -> None:
        try:
            sock.sendall(b"hello")
            seen.append(f"end {sock.recv(1)!r}")
        except OSError as error:
            seen.append(type(error).__name__)
        done.set()

    with App(wait_for_the_end) as app, relaying(app.address) as relay:
        sock = relay.connect()
        assert read_exactly(sock, 5) == b"hello"
        reset(sock)
        assert done.wait(TIMEOUT)
    assert seen == ["ConnectionResetError"]


def test_a_client_that_resets_after_its_end_is_noticed_though_nothing_is_read_from_it() -> None:
    with App(silent) as app, relaying(app.address) as relay:
        idle = relay.sockets()
        sock = relay.connect()
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: len(app.accepted) == 1, "the server to be connected")
        assert app.accepted[0].recv(1) == b""
        reset(sock)
        eventually(lambda: relay.sockets() == idle, "both sockets to be closed")


def test_beyond_the_limit_of_descriptors_connections_wait_for_their_turn() -> None:
    limit = 64 + 1 + 2 * 5 + 1  # spare, listener, five connections, one that is too few for a sixth
    limited = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    with App(echo) as app, relaying(app.address, before=limited) as relay, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(relay.connect()) for _ in range(8)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        for number in range(5):
            assert socks[number].recv(1) == b"%d" % number
        assert len(app.accepted) == 5
        for number in range(5):
            socks[number].close()
        for number in range(5, 8):
            assert socks[number].recv(1) == b"%d" % number


def may_mark() -> bool:
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        except PermissionError:
            return False
    return True


def test_sockets_towards_the_target_carry_the_mark() -> None:
    if not may_mark():
        pytest.skip("SO_MARK needs CAP_NET_ADMIN or CAP_NET_RAW")

    def marked(app: App) -> list[str]:
        shown = programs.run("ss", "-Htne", "dport", "=", f":{app.address[1]}").stdout.decode()
        return [line for line in shown.splitlines() if f"fwmark:{MARK:#x}" in line]

    with App(echo) as app, relaying(app.address, options=("--mark", hex(MARK))) as relay, relay.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert len(marked(app)) == 1
    with App(echo) as app, relaying(app.address) as relay, relay.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert marked(app) == []


def start(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    line = command(*arguments, before=before)
    return subprocess.run(line, capture_output=True, text=True, timeout=3 * TIMEOUT, check=False)


def test_a_mark_that_may_not_be_set_is_one_line() -> None:
    before: tuple[str, ...] = ()
    if may_mark():
        before = (programs.find("setpriv"), "--inh-caps=-all", "--bounding-set=-net_admin,-net_raw")
    done = start("--mark", MARK, "127.0.0.1:0=127.0.0.1:80", before=before)
    assert done.returncode == 1
    what = "sockets cannot be marked, which needs CAP_NET_ADMIN or CAP_NET_RAW: Operation not permitted"
    assert done.stderr == f"relay: {what}\n"


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), "the following arguments are required"),
        (("127.0.0.1:80",), "is not LISTEN_HOST:PORT=TARGET_HOST:PORT with IPv4 addresses"),
        (("127.0.0.1:80=localhost:80",), "is not LISTEN_HOST:PORT=TARGET_HOST:PORT"),
        (("127.0.0.1:80=127.0.0.1:0",), "is not LISTEN_HOST:PORT=TARGET_HOST:PORT"),
        (("127.0.0.1:65536=127.0.0.1:1",), "is not LISTEN_HOST:PORT=TARGET_HOST:PORT"),
        (("[::1]:80=127.0.0.1:1",), "is not LISTEN_HOST:PORT=TARGET_HOST:PORT"),
        (("--mark", "red", "127.0.0.1:0=127.0.0.1:1"), "argument --mark: invalid"),
        (("--mark", "-1", "127.0.0.1:0=127.0.0.1:1"), "mark -1 is not between 0 and"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = start(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("relay: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = address_of(taken)
        done = start(f"{host}:{port}={host}:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"relay: cannot listen on {host}:{port}: Address already in use\n"


def test_ctrl_c_ends_it_with_its_status_and_connections_are_reset() -> None:
    with App(echo) as app:
        line = command("127.0.0.1:0={}:{}".format(*app.address))
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                host, _, port = json.loads(process.stdout.readline())["listening"][0].rpartition(":")
                with socket.create_connection((host, int(port)), TIMEOUT) as sock:
                    sock.sendall(b"x")
                    assert sock.recv(1) == b"x"
                    process.send_signal(signal.SIGINT)
                    with pytest.raises(ConnectionResetError):
                        sock.recv(1)
                assert process.wait(TIMEOUT) == 130
                assert process.communicate(timeout=TIMEOUT)[1] == ""
            finally:
                process.kill()


def test_a_target_that_is_no_address_is_an_error_of_ours() -> None:
    with listen() as listener:
        for target in (("localhost", 80), ("127.0.0.1", 0), ("::1", 80)):
            with pytest.raises(ConfigError, match="is not an IPv4 address and port"):
                run([(listener, target)])
        with pytest.raises(ConfigError, match="no route is given"):
            run([])


def test_a_listener_that_is_none_ends_it_with_an_error() -> None:
    with socket.socket() as not_listening, pytest.raises(BenchError, match="the relay cannot go on: Invalid argument"):
        run([(not_listening, ("127.0.0.1", 80))])
