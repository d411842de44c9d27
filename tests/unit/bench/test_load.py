"""What the load generators print, and the one of our own against servers that behave and that do not."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import load
from bench.errors import BenchError

WRK = """\
Running 3s test @ http://127.1.0.1:15001/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.61ms  512.00us  12.00ms   90.00%
    Req/Sec    39.60k     1.20k   41.00k    75.00%
  Latency Distribution
     50%  612.00us
     75%    1.90ms
     90%    2.25ms
     99%    1.10s
  118338 requests in 3.00s, 138.40MB read
Requests/sec:  39446.00
Transfer/sec:     46.10MB
"""


def test_wrk_output_is_read() -> None:
    found = load.parse_wrk(WRK)
    assert (found.work, found.errors, found.seconds) == (118338, 0, 3.0)
    assert found.latency_us == {"p50": 612.0, "p90": 2250.0, "p99": 1.1e6}
    assert found.rate == pytest.approx(39446)


def test_wrk_errors_of_both_kinds_are_counted() -> None:
    text = WRK + "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    assert load.parse_wrk(text).errors == 54321


@pytest.mark.parametrize(
    "text", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", "0 requests in 1.00s, 0B"]
)
def test_wrk_that_measured_nothing_is_an_error(text: str) -> None:
    with pytest.raises(BenchError, match="no request"):
        load.parse_wrk(text)


@contextmanager
def server(reply: bytes) -> Iterator[int]:
    """Answers every request on every connection with `reply` -> its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve(sock: socket.socket) -> None:
            with sock:
                sock.settimeout(10)
                while sock.recv(4096):
                    # In two pieces: the client must put them together.
                    sock.sendall(reply[:30])
                    sock.sendall(reply[30:])

        def accept() -> None:
            while True:
                try:
                    sock = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def open_loop(port: int) -> dict[str, object]:
    command = load.program("openloop", "127.0.0.1", port, "/1k", 200, 2, 0.5, 10)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_open_loop_sends_what_was_due_and_counts_every_answer() -> None:
    with server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + b"x" * 10) as port:
        found = open_loop(port)
    assert (found["requests"], found["errors"]) == (100, 0)
    latencies = found["latencies_us"]
    assert isinstance(latencies, list)
    assert len(latencies) == 100


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\n" + b"x" * 10,
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b"x" * 11,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + b"x" * 11,
    ],
    ids=["status", "length", "too much"],
)
def test_open_loop_counts_a_wrong_answer_as_an_error(reply: bytes) -> None:
    with server(reply) as port:
        found = open_loop(port)
    assert found["requests"] == 0
    assert found["errors"] == 100
