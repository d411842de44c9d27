"""An open-loop HTTP/1.1 load: requests at a constant rate, evenly spaced, whatever the answers do.

Run as `python -I -S openloop.py HOST PORT PATH RATE CONNECTIONS SECONDS BODY_BYTES`; prints one JSON object. Latency
counts from the moment a request was due, so a stalled proxy pays for what it delayed. A request that finds every
connection busy waits for the next free one. Only `select` has microseconds in Python 3.11, and 16 connections are few.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque

HEAD_MAX = 4096


def expected_length(head: bytes, body_bytes: int) -> int | None:
    """Check the head of an answer -> the length of the whole; None when it is not what was asked for."""
    if not head.startswith(b"HTTP/1.1 200 "):
        return None
    end = head.find(b"\r\n\r\n")
    if b"content-length: %d\r\n" % body_bytes not in head[: end + 2].lower():
        return None
    return end + 4 + body_bytes


def main(host: str, port: int, path: str, rate: float, connections: int, seconds: float, body_bytes: int) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    socks = [socket.create_connection((host, port), 5) for _ in range(connections)]
    free = deque(socks)
    began: dict[socket.socket, float] = {}
    got: dict[socket.socket, bytes] = {}
    waiting: deque[float] = deque()
    latencies = []
    errors = 0
    gc.disable()
    clock = time.perf_counter
    start = clock()
    stop = start + seconds
    sent = 0
    interval = 1.0 / rate
    while True:
        now = clock()
        due = start + sent * interval
        while due <= now and due < stop:
            waiting.append(due)
            sent += 1
            due = start + sent * interval
        while waiting and free:
            sock = free.popleft()
            began[sock] = waiting.popleft()
            got[sock] = b""
            sock.send(request)
        if due >= stop and not waiting and not began:
            break
        if now > stop + 5:
            errors += len(waiting) + len(began)
            break
        wait = due - clock() if due < stop else 0.5
        ready = select.select(list(began), (), (), max(0, wait))[0]
        for sock in ready:
            try:
                data = sock.recv(65536)
            except OSError:
                data = b""
            whole = got[sock] + data
            length = expected_length(whole, body_bytes) if b"\r\n\r\n" in whole else HEAD_MAX
            if not data or length is None or len(whole) > length:
                errors += 1
                del began[sock]
                sock.close()
                replacement = socket.create_connection((host, port), 5)
                free.append(replacement)
            elif len(whole) == length:
                latencies.append(clock() - began.pop(sock))
                free.append(sock)
            else:
                got[sock] = whole
    elapsed = clock() - start
    for sock in list(free) + list(began):
        sock.close()
    micros = [round(value * 1e6, 1) for value in latencies]
    print(json.dumps({"requests": len(micros), "errors": errors, "seconds": elapsed, "latencies_us": micros}))


host, port, path, rate, connections, seconds, body_bytes = sys.argv[1:]
main(host, int(port), path, float(rate), int(connections), float(seconds), int(body_bytes))
