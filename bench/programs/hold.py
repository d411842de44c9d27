"""Opens many connections that then do nothing. Each counts once the far end's first byte has come through.

Run as `python -I -S hold.py HOST PORT COUNT AT_ONCE`: prints one JSON line when all are open, holds them until its
standard input ends.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time

ROOM = 64  # descriptors besides the connections
TIMEOUT = 120.0

host, port, count, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if hard != resource.RLIM_INFINITY and count + ROOM > hard:
    count = hard - ROOM
poll = select.epoll()
pending: dict[int, socket.socket] = {}
held: list[socket.socket] = []
failed = 0
left = count
began = time.monotonic()
while (left or pending) and time.monotonic() - began < TIMEOUT:
    while left and len(pending) < at_once:
        sock = socket.create_connection((host, port), 10)
        sock.setblocking(False)
        pending[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
        left -= 1
    for fd, _ in poll.poll(1.0):
        sock = pending.pop(fd)
        poll.unregister(fd)
        try:
            alive = sock.recv(1) == b"x"
        except OSError:
            alive = False
        if alive:
            held.append(sock)
        else:
            failed += 1
            sock.close()
seconds = time.monotonic() - began
print(json.dumps({"open": len(held), "failed": failed + len(pending) + left, "seconds": seconds}), flush=True)
sys.stdin.read()
