"""What the loads and the report need to know of a subject."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from bench import config
from bench.errors import BenchError


class Address(NamedTuple):
    """Where a client connects."""

    host: str
    port: int


class Subject(Protocol):
    """A chain of processes. `start` returns when requests get through; `stop` leaves nothing behind."""

    name: str

    @property
    def http(self) -> Address:
        """Leads to the nginx of the origin."""

    @property
    def bulk(self) -> Address:
        """Leads to the iperf3 of the origin."""

    @property
    def sink(self) -> Address:
        """Leads to the server that holds connections."""

    @property
    def processes(self) -> dict[str, int]:
        """Name -> pid of every process whose CPU is the price of this subject."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def trim(self) -> None:
        """Empty the access logs: called between slices, so that a long run does not fill the disk."""


def await_answer(address: Address, what: str) -> None:
    """Return when a request to `address` gets the origin's page; raises BenchError after START_TIMEOUT."""
    deadline = time.monotonic() + config.START_TIMEOUT
    seen = "no connection"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, 2) as sock:
                sock.settimeout(2)
                sock.sendall(f"GET /1k HTTP/1.1\r\nHost: {address.host}\r\nConnection: close\r\n\r\n".encode())
                reply = b""
                while data := sock.recv(65536):
                    reply += data
        except OSError as error:
            seen = str(error)
        else:
            if reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"x" * config.BODY_BYTES):
                return
            seen = reply[:80].decode("latin-1") or "closed without an answer"
        time.sleep(0.05)
    raise BenchError(f"{what} does not answer: {seen}")


def truncate(log: Path) -> None:
    """Empty a log that is written in append mode."""
    if log.exists():
        with log.open("r+b") as file:
            file.truncate()
