"""A server that accepts, says one byte and holds the connection: the far end of idle tunnels.

Run as `python -I -S sink.py HOST PORT`.
"""

from __future__ import annotations

import select
import socket
import sys

listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
listener.setblocking(False)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
held = {}
while True:
    for fd, _ in poll.poll():
        if fd == listener.fileno():
            try:
                connection = listener.accept()[0]
            except OSError:
                continue
            connection.setblocking(False)
            connection.send(b"x")
            held[connection.fileno()] = connection
            poll.register(connection, select.EPOLLIN)
        else:
            try:
                gone = not held[fd].recv(65536)
            except OSError:
                gone = True
            if gone:
                poll.unregister(fd)
                held.pop(fd).close()
