"""Fuzz entry of the answers that the load generator judges: however they are cut, the verdict is the same."""

from __future__ import annotations

from bench.answer import VERDICT_NAMES, judge

SEEDS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nxxxx",
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length:  4 \r\nConnection: keep-alive, close\r\n\r\nxxxx",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nxxxx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nxxxx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
)
BODY = 4


def fuzz_one(data: bytes) -> None:
    whole = judge([data], BODY)
    assert whole in VERDICT_NAMES
    middle = len(data) // 2
    for pieces in ([data[:middle], data[middle:]], [data[at : at + 1] for at in range(len(data))]):
        found = judge(pieces, BODY)
        # What follows a complete answer is too much when it comes with it, and is never looked at when it comes later.
        assert found == whole or (whole, found) == ("length", "done")
