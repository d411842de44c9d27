"""The load generator: its histogram, its reader of answers, and its load on servers that behave and that do not."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench._generator import run, summarize
from bench.answer import judge
from bench.errors import BenchError
from meshcore.errors import ConfigError
from tests.support import programs
from tests.support.apps import App
from tests.support.processes import open_fds
from tests.support.worker_harness import TIMEOUT, address_of, listen

PROGRAM: Final = Path(bench.__file__).parent / "programs" / "generate.py"  # of the build under test
BODY: Final = 10
ANSWER: Final = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: 10\r\n\r\n" + b"x" * BODY
MINUTE_NS: Final = 60_000_000_000
SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

Reply = Callable[[socket.socket, int], bool]
"""Answer a request, given its number on this connection; False ends the connection."""


# The histogram


def nearest_rank(ordered: list[int], share: float) -> int:
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


@given(st.lists(st.integers(1_000, MINUTE_NS), min_size=1, max_size=300))
def test_percentiles_are_within_one_percent(values: list[int]) -> None:
    found = summarize(values)
    ordered = sorted(values)
    for key, share in SHARES.items():
        exact = nearest_rank(ordered, share) / 1000
        assert abs(found[key] - exact) <= 0.01 * exact, key
    assert found["max"] == ordered[-1] / 1000
    assert found["mean"] == pytest.approx(sum(values) / len(values) / 1000, abs=1e-3)


def test_no_bucket_is_wider_than_its_error_allows() -> None:
    """Every bucket up to a minute, at both ends; a second value keeps the maximum from correcting the first."""
    for power in range(7, 36):
        for step in range(128, 256):
            for value in (step << power - 7, (step + 1 << power - 7) - 1):
                if 1_000 <= value <= MINUTE_NS:
                    found = summarize([value, 10 * MINUTE_NS])["p50"] * 1000
                    assert abs(found - value) <= 0.01 * value, value


def test_a_duration_beyond_the_histogram_is_in_the_last_bucket_and_in_the_maximum() -> None:
    found = summarize([1_000_000, 10 * MINUTE_NS])
    assert found["max"] == 600e6
    assert 60e6 < found["p99"] <= 600e6


def test_nothing_counted_is_zero() -> None:
    assert set(summarize([]).values()) == {0.0}


# The reader of answers

WRONG: Final = {
    "status": [
        ANSWER.replace(b"200 OK", b"503 Service Unavailable"),
        ANSWER.replace(b"200 OK", b"204"),
        ANSWER.replace(b"200 OK", b"500 X").replace(b"Length: 10", b"Length: 11"),
    ],
    "length": [
        ANSWER.replace(b"Length: 10", b"Length: 11"),
        ANSWER.replace(b"Length: 10", b"Length: -10"),
        ANSWER.replace(b"Length: 10", b"Length: 0x0a"),
        ANSWER.replace(b"Length: 10", b"Length: 1 0"),
        ANSWER.replace(b"Length: 10", b"Length:"),
        ANSWER.replace(b"Length: 10", b"Length: 1" + b"0" * 30),
        ANSWER.replace(b"Content-Length: 10", b"X-Content-Length: 10"),
        ANSWER.replace(b"Content-Length: 10", b"Content-Length: 10\r\nContent-Length: 11"),
        ANSWER.replace(b"Content-Length: 10", b"Content-Length: 10\r\nTransfer-Encoding: chunked"),
        ANSWER.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked"),
    ],
    "head": [
        b"SSH-2.0-OpenSSH_9.2\r\n" + ANSWER,
        ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ANSWER.replace(b"200 OK", b"2x0 OK"),
        ANSWER.replace(b"200 OK", b"2000 OK"),
        ANSWER.replace(b"\r\n", b"\n"),
        b"\r\n" + ANSWER,
        ANSWER.replace(b"Server: test", b"Server: " + b"t" * 8192),
    ],
}
RIGHT: Final = [
    ANSWER,
    ANSWER.replace(b"200 OK", b"200"),
    ANSWER.replace(b"Content-Length: 10", b"content-length:10 \t"),
    ANSWER.replace(b"Content-Length: 10", b"Content-Length: 10\r\nContent-Length: 10"),
    ANSWER.replace(b"Server: test", b"Server:\r\nConnection: keep-alive, close"),
]


def pieces_of(data: bytes, *cuts: int) -> list[bytes]:
    ends = sorted({*cuts, len(data)} - {0})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("answer", RIGHT, ids=range(len(RIGHT)))
def test_a_good_answer_is_read_at_every_split(answer: bytes) -> None:
    assert judge([answer], BODY) == "done"
    assert judge(pieces_of(answer, *range(len(answer))), BODY) == "done"
    for first in range(1, len(answer)):
        assert judge([answer[:first]], BODY) == "more"
        for second in range(first, len(answer), 7):
            assert judge(pieces_of(answer, first, second), BODY) == "done"


@pytest.mark.parametrize(
    "kind, answer", [(kind, answer) for kind, answers in WRONG.items() for answer in answers], ids=str
)
def test_a_wrong_answer_is_wrong_at_every_split(kind: str, answer: bytes) -> None:
    for cut in range(len(answer)):
        assert judge(pieces_of(answer, cut), BODY) == kind
    assert judge(pieces_of(answer, *range(len(answer))), BODY) == kind


def test_a_byte_too_many_is_an_error_and_a_byte_too_few_is_none_yet() -> None:
    assert judge([ANSWER + b"x"], BODY) == "length"
    assert judge([ANSWER[:-1], b"xx"], BODY) == "length"
    assert judge([ANSWER[:-1]], BODY) == "more"
    assert judge([ANSWER.replace(b"10\r\n\r\nxxxxxxxxxx", b"0\r\n\r\n")], 0) == "done"


@pytest.mark.parametrize("first", [1, 100, 8191, 8192])
def test_a_head_may_have_eight_kilobytes_and_no_more(first: int) -> None:
    def answer(head: int) -> bytes:
        body = b"x" * BODY
        return ANSWER.replace(b"Server: test", b"Server: " + b"t" * (head - len(ANSWER) + BODY + 4))[:head] + body

    fits = answer(8192)
    assert fits.endswith(b"\r\n\r\n" + b"x" * BODY)
    assert judge(pieces_of(fits, first), BODY) == "done"
    assert judge(pieces_of(answer(8193), first), BODY) == "head"


WORDS: Final = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 404 No", b"Content-Length: 3", b"content-length:3", b"Transfer-Encoding: x",
    b"Connection: close", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b":", b" ", b"abc", b"x" * 3000,
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=9)), min_size=1), st.data())
def test_any_bytes_get_the_same_verdict_however_they_are_split(words: list[bytes], data: st.DataObject) -> None:
    fuzz_one(b"".join(words), data.draw(st.lists(st.integers(1, len(b"".join(words))), max_size=20)))


def fuzz_one(text: bytes, cuts: list[int]) -> None:
    whole = judge([text], 3)
    split = judge(pieces_of(text, *cuts), 3)
    # Cut behind the body, an answer is complete before what follows it is seen.
    assert split == whole or (split, whole) == ("done", "length")


# The load


class Server(App):
    """Answers requests with `reply`; counts them, keeps what it was sent and when."""

    def __init__(self, reply: Reply, listener: socket.socket | None = None) -> None:
        self.requests: list[bytes] = []
        self.times: list[float] = []
        self.overlapping = 0  # requests that came before the last of that connection was answered
        self._lock = threading.Lock()
        self._reply = reply
        super().__init__(self._answer, listener=listener)

    def _answer(self, sock: socket.socket) -> None:
        data, number = b"", 0
        while piece := sock.recv(65536):
            data += piece
            while b"\r\n\r\n" in data:
                request, _, data = data.partition(b"\r\n\r\n")
                with self._lock:
                    self.requests.append(request)
                    self.times.append(time.monotonic())
                    self.overlapping += bool(data)
                if not self._reply(sock, number):
                    return
                number += 1


def says(*pieces: bytes, stay: bool = True) -> Reply:
    """Sends these pieces for every request; the connection stays or is closed."""

    def reply(sock: socket.socket, _: int) -> bool:
        for piece in pieces:
            sock.sendall(piece)
        return stay

    return reply


def load(server: App, **changed: Any) -> dict[str, Any]:
    """A short load on `server`: 200 requests/s on 4 connections for 0.5 s, unless changed."""
    host, port = server.address
    options: dict[str, Any] = {"rate": 200, "connections": 4, "seconds": 0.5, "body_bytes": BODY}
    return run(host, port, "/1k", **options | changed)


def test_what_was_due_is_sent_and_answered_once_each() -> None:
    with Server(says(ANSWER)) as server:
        found = load(server, rate=400)
    assert (found["requests"], found["errors"]) == (200, {})
    assert found["seconds"] >= 0.5
    host, port = server.address
    assert set(server.requests) == {f"GET /1k HTTP/1.1\r\nHost: {host}:{port}".encode()}
    assert len(server.requests) == 200
    assert found["connections"] == len(server.accepted) == 4
    assert 0 < found["latency_us"]["p50"] <= found["latency_us"]["p99"] <= found["latency_us"]["max"]
    assert 0 < found["cpu_seconds"] <= found["seconds"] + 5


def test_requests_are_evenly_spaced() -> None:
    """None comes before it is due; how far behind the first may be is known from the lag."""
    with Server(says(ANSWER)) as server:
        found = load(server, rate=100)
    late = (found["lag_us"]["max"] + found["latency_us"]["max"]) / 1e6
    for number, when in enumerate(server.times):
        assert when - server.times[0] >= number / 100 - late
    assert late < 0.25, "too busy a machine to tell"


def test_a_stall_is_seen_by_every_request_that_was_due_in_it() -> None:
    """Half a second in a run of 1.5: a third of the requests, though only four could have been on their way."""
    stall = 0.5
    lock = threading.Lock()
    seen = 0

    def reply(sock: socket.socket, _: int) -> bool:
        nonlocal seen
        with lock:  # the others wait behind it
            seen += 1
            if seen == 100:
                time.sleep(stall)
            sock.sendall(ANSWER)
        return True

    with Server(reply) as server:
        found = load(server, rate=200, seconds=1.5)
    assert (found["requests"], found["errors"]) == (300, {})
    # Requests due in the first half of the stall are 50 of 300 and wait at least for the second half.
    latency = found["latency_us"]
    assert latency["max"] >= stall * 1e6
    assert latency["p90"] >= stall / 2 * 1e6 * 0.99
    assert latency["mean"] >= 50 * stall / 2 * 1e6 / 300
    # Four were sent; the rest found no free connection, which is not the generator's doing.
    assert found["waited"] >= 90
    assert found["lag_us"]["p90"] < stall / 2 * 1e6


def test_the_warm_up_is_sent_and_not_counted() -> None:
    with Server(says(ANSWER)) as server:
        found = load(server, warm_up=0.25)
    assert found["requests"] == 100
    assert len(server.requests) == 150


def test_an_error_of_the_warm_up_is_not_counted() -> None:
    def reply(sock: socket.socket, number: int) -> bool:
        sock.sendall(ANSWER.replace(b"200", b"500") if len(server.requests) == 1 else ANSWER)
        return True

    with Server(reply) as server:
        found = load(server, rate=50, warm_up=0.2)
    assert (found["requests"], found["errors"], found["connections"]) == (25, {}, 5)


@pytest.mark.parametrize(
    "reply, kind",
    [
        (says(WRONG["status"][0]), "status"),
        (says(WRONG["length"][0] + b"x"), "length"),
        (says(ANSWER + b"x"), "length"),
        (says(WRONG["head"][0]), "head"),
        (says(ANSWER[:-1], stay=False), "closed"),
        (says(stay=False), "closed"),
    ],
    ids=["status", "length", "too much", "head", "cut short", "no answer"],
)
def test_each_wrong_answer_is_counted_and_costs_its_connection(reply: Reply, kind: str) -> None:
    with Server(reply) as server:
        found = load(server)
    assert (found["requests"], found["errors"]) == (0, {kind: 100})
    assert found["connections"] == 100
    assert set(found["latency_us"].values()) == {0.0}


def test_one_wrong_answer_leaves_the_others_right() -> None:
    def reply(sock: socket.socket, _: int) -> bool:
        sock.sendall(ANSWER.replace(b"200", b"500") if len(server.requests) == 50 else ANSWER)
        return True

    with Server(reply) as server:
        found = load(server, connections=1)
    assert (found["requests"], found["errors"], found["connections"]) == (99, {"status": 1}, 2)


def test_an_answer_in_single_bytes_is_read() -> None:
    with Server(says(*(bytes([byte]) for byte in ANSWER))) as server:
        server.accepted.clear()
        found = load(server, rate=50)
    assert (found["requests"], found["errors"]) == (25, {})


def test_an_answer_larger_than_the_buffer_is_read_to_its_end() -> None:
    size = 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    with Server(says(answer)) as server:
        found = load(server, rate=10, body_bytes=size)
    assert (found["requests"], found["errors"]) == (5, {})


def test_an_announced_close_is_no_error() -> None:
    with Server(says(ANSWER.replace(b"Server: test", b"Connection: close"), stay=False)) as server:
        found = load(server)
    assert (found["requests"], found["errors"], found["connections"]) == (100, {}, 100)


def test_a_close_behind_an_answer_is_no_error() -> None:
    """Answer and FIN in one segment: the next request finds the connection gone and makes another."""

    def reply(sock: socket.socket, _: int) -> bool:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sock.sendall(ANSWER)
        sock.shutdown(socket.SHUT_WR)
        return False

    with Server(reply) as server:
        found = load(server)
    assert (found["requests"], found["errors"], found["connections"]) == (100, {}, 100)


def test_no_answer_is_a_timeout_and_the_connection_is_replaced() -> None:
    with Server(says()) as server:
        found = load(server, rate=40, connections=2, timeout=0.1)
    assert (found["requests"], found["errors"]) == (0, {"timeout": 20})
    assert found["connections"] == 20


def test_what_is_unanswered_at_the_end_has_timed_out_even_if_it_was_never_sent() -> None:
    with Server(says()) as server:
        began = time.monotonic()
        found = load(server, rate=100, connections=3, seconds=0.1, timeout=60)
        took = time.monotonic() - began
    assert found["errors"] == {"timeout": 10}
    assert len(server.requests) == 3
    assert 5 < took < 5 + TIMEOUT


def test_a_server_that_goes_away_is_counted_and_tried_again() -> None:
    def reply(sock: socket.socket, _: int) -> bool:
        if len(server.requests) == 20:
            listener.shutdown(socket.SHUT_RDWR)
            server.close_all()
            return False
        sock.sendall(ANSWER)
        return True

    listener = listen()
    with Server(reply, listener) as server:
        found = load(server)
    assert found["requests"] + sum(found["errors"].values()) == 100
    assert found["errors"]["connect"] >= 50
    assert set(found["errors"]) <= {"connect", "closed"}


# Closed loop


def test_a_closed_loop_sends_the_next_request_when_the_last_was_answered() -> None:
    with Server(says(ANSWER)) as server:
        found = load(server, rate=0, connections=3, seconds=0.3)
    assert found["errors"] == {}
    assert found["requests"] == len(server.requests) > 3
    assert (len(server.accepted), server.overlapping) == (3, 0)
    assert found["lag_us"]["max"] == 0


def test_latency_of_a_closed_loop_counts_from_the_send() -> None:
    """Each answer takes 30 ms, and nothing is owed for the requests that a rate would have sent meanwhile."""

    def reply(sock: socket.socket, _: int) -> bool:
        time.sleep(0.03)
        sock.sendall(ANSWER)
        return True

    with Server(reply) as server:
        found = load(server, rate=0, connections=2, seconds=0.3)
    assert found["requests"] <= 2 * (0.3 / 0.03 + 1)
    assert 30_000 * 0.99 <= found["latency_us"]["p50"] < 10 * 30_000


def test_the_warm_up_of_a_closed_loop_comes_before_what_is_counted() -> None:
    with Server(says(ANSWER)) as server:
        found = load(server, rate=0, connections=1, seconds=0.2, warm_up=0.2)
    assert 0 < found["requests"] < len(server.requests)
    assert found["connections"] == 1


def test_a_closed_loop_does_not_spin_on_a_server_that_refuses() -> None:
    def reply(sock: socket.socket, _: int) -> bool:
        listener.shutdown(socket.SHUT_RDWR)
        return False

    listener = listen()
    with Server(reply, listener) as server:
        found = load(server, rate=0, connections=1, seconds=0.3)
    assert found["errors"]["closed"] == 1
    assert 1 <= found["errors"]["connect"] <= 0.3 / 0.01 + 2


# A connection for every request


@pytest.mark.parametrize("rate", [0, 200])
def test_fresh_makes_a_connection_for_every_request_and_says_so(rate: int) -> None:
    with Server(says(ANSWER, stay=False)) as server:
        found = load(server, rate=rate, fresh=True)
    assert (found["errors"], found["unclosed"]) == ({}, 0)
    assert found["requests"] == found["connections"] == len(server.accepted) == len(server.requests)
    assert all(b"\r\nConnection: close" in request for request in server.requests)
    assert rate == 0 or found["requests"] == rate * 0.5


def test_fresh_leaves_the_close_to_the_server_and_stops_waiting_for_it() -> None:
    with Server(says(ANSWER)) as server:
        found = load(server, rate=20, connections=1, seconds=0.1, fresh=True)
    assert (found["requests"], found["errors"], found["unclosed"]) == (2, {}, 1)
    assert found["latency_us"]["max"] >= 0.9e6  # the second waited for the connection of the first


def test_fresh_counts_what_is_cut_short() -> None:
    with Server(says(ANSWER[:20], stay=False)) as server:
        found = load(server, fresh=True)
    assert (found["requests"], found["errors"]) == (0, {"closed": 100})


def test_fresh_counts_bytes_behind_the_answer() -> None:
    with Server(says(ANSWER + b"x", stay=False)) as server:
        found = load(server, fresh=True)
    assert (found["requests"], found["errors"]) == (0, {"length": 100})


# Against a server of somebody else


@contextlib.contextmanager
def nginx(folder: Path, body: bytes) -> Iterator[App]:
    """An nginx that answers with `body`; it inherits its listener, so the port is surely its own."""
    program = programs.find("nginx")
    listener = listen()
    host, port = address_of(listener)
    temporary = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; events {{ worker_connections 512; }}\n"
        f"http {{ access_log off; {temporary} keepalive_requests 50; default_type text/plain;\n"
        f"server {{ listen {host}:{port}; location / {{ return 200 '{body.decode()}'; }} }} }}\n"
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    environment = programs.environment() | {"NGINX": f"{listener.fileno()};"}
    process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
    try:
        yield _Address((host, port))
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        listener.close()


class _Address(App):
    """An address to load without a server of ours behind it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 1000, "connections": 16},
        {"rate": 0, "connections": 64},
        {"rate": 300, "connections": 16, "fresh": True},
        {"rate": 0, "connections": 16, "fresh": True},
    ],
    ids=["open", "closed", "fresh", "fresh closed"],
)
def test_nginx_answers_everything_although_it_closes_every_fiftieth(options: dict[str, Any], tmp_path: Path) -> None:
    with nginx(tmp_path, b"x" * 1024) as server:
        found = load(server, body_bytes=1024, **options)
    assert (found["errors"], found["unclosed"]) == ({}, 0)
    requests = found["requests"]
    assert requests == options["rate"] * 0.5 or options["rate"] == 0 < requests
    if options.get("fresh"):
        assert found["connections"] == requests
    else:
        assert requests / 50 <= found["connections"] <= requests / 50 + options["connections"]


# Ends


def command(*arguments: object, before: tuple[str, ...] = ()) -> list[str]:
    return [*before, sys.executable, "-I", "-S", str(PROGRAM), *map(str, arguments)]


def start(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    line = command(*arguments, before=before)
    return subprocess.run(line, capture_output=True, text=True, timeout=3 * TIMEOUT, check=False)


OPTIONS: Final = ("--connections", 2, "--seconds", 0.2, "--body-bytes", BODY)


def test_the_program_prints_one_object() -> None:
    with Server(says(ANSWER)) as server:
        done = start(*server.address, "/1k", *OPTIONS, "--rate", 50, "--warm-up", 0.1)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["requests"], found["errors"]) == (10, {})
    assert set(found["latency_us"]) == set(found["lag_us"]) == {*SHARES, "max", "mean"}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("127.0.0.1", 80, "/", "--connections", 1), "the following arguments are required: --seconds, --body-bytes"),
        (("127.0.0.1", "http", "/", *OPTIONS), "argument port: invalid int value: 'http'"),
        (("localhost", 80, "/", *OPTIONS), "host 'localhost' is not an IPv4 address"),
        (("127.0.0.1", 0, "/", *OPTIONS), "port 0 is not between 1 and 65535"),
        (("127.0.0.1", 80, "/a b", *OPTIONS), "path '/a b' is not a /path"),
        (("127.0.0.1", 80, "/a\r\nX: y", *OPTIONS), "is not a /path"),
        (("127.0.0.1", 80, "/" + "a" * 4096, *OPTIONS), "is not a /path"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--rate", "-1"), "rate -1 is not between 0 and"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--rate", "nan"), "rate nan is not between 0 and"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--rate", "1e-9"), "no request is due within 0.2 s"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--connections", "0"), "0 connections"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--connections", "9" * 20), "a number is too large"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--seconds", "inf"), "inf seconds"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--warm-up", "-1"), "warm-up of -1 seconds"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--timeout", "0"), "timeout of 0 seconds"),
        (("127.0.0.1", 80, "/", *OPTIONS, "--body-bytes", "-1"), "a body of -1 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_the_arguments_is_one_line(arguments: tuple[object, ...], says: str) -> None:
    done = start(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("generate: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("fresh", [(), ("--fresh",)], ids=["kept", "fresh"])
def test_nothing_listening_is_one_line(fresh: tuple[str, ...]) -> None:
    with socket.socket() as bound:  # bound and not listening: surely refused
        bound.bind(("127.0.0.1", 0))
        host, port = address_of(bound)
        done = start(host, port, "/", *OPTIONS, *fresh)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"generate: {host}:{port}: cannot be reached: Connection refused\n"


def test_the_same_mistakes_raise_errors_of_ours() -> None:
    with pytest.raises(ConfigError, match="is not an IPv4 address"):
        run("::1", 80, "/", rate=1, connections=1, seconds=1, body_bytes=1)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(BenchError, match="Connection refused"):
            run(*address_of(bound), "/", rate=1, connections=1, seconds=1, body_bytes=1)


def test_the_limit_on_descriptors_is_raised_as_far_as_it_may_be() -> None:
    with Server(says(ANSWER)) as server:
        given_up = start(*server.address, "/", *OPTIONS, before=("sh", "-c", 'ulimit -n 20; exec "$@"', "sh"))
        raised = start(*server.address, "/", *OPTIONS, before=("sh", "-c", 'ulimit -Sn 20; exec "$@"', "sh"))
    assert raised.returncode == 0, raised.stderr
    assert given_up.returncode == 1
    assert given_up.stderr == "generate: 66 descriptors are needed and 20 allowed: raise the limit (ulimit -Hn)\n"


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_ends_it_at_once(number: signal.Signals, status: int) -> None:
    running = threading.Event()

    def reply(sock: socket.socket, _: int) -> bool:
        running.set()
        return True

    with Server(reply) as server:
        line = command(*server.address, "/", "--connections", 1, "--seconds", 600, "--body-bytes", 1, "--timeout", 600)
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert running.wait(TIMEOUT)
            process.send_signal(number)
            output = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait(TIMEOUT)
    assert (process.returncode, output) == (status, ("", ""))


def interrupt_when_asked() -> Reply:
    """Sends SIGINT to the thread that runs the load, as Ctrl-C would."""
    ident = threading.get_ident()

    def reply(sock: socket.socket, _: int) -> bool:
        signal.pthread_kill(ident, signal.SIGINT)
        return True

    return reply


def test_ctrl_c_raises_keyboard_interrupt_and_the_mask_is_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    descriptors = open_fds()
    with Server(interrupt_when_asked()) as server, pytest.raises(KeyboardInterrupt):
        load(server, rate=0, connections=1, seconds=60, timeout=60)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert open_fds() == descriptors


def test_a_signal_that_python_ignores_ends_the_load_with_an_error() -> None:
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with Server(interrupt_when_asked()) as server, pytest.raises(BenchError, match="ended by a signal"):
            load(server, rate=0, connections=1, seconds=60, timeout=60)
    finally:
        signal.signal(signal.SIGINT, previous)
