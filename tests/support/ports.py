"""Ports for servers that must be told theirs."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_ports(count: int) -> list[int]:
    """Below the range that the kernel takes client ports from, so nobody's connection is given one meanwhile."""
    ports: list[int] = []
    for port in random.sample(range(15_100, 30_000), 200):
        with suppress(OSError), socket.create_server(("", port)):
            ports.append(port)
        if len(ports) == count:
            break
    return ports
