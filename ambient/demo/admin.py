"""Reading what a ztunnel says about itself: admin port, metrics, readiness and access log."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import msgspec

from meshcore.errors import Unavailable
from meshcore.netns import inside, open_netns

ADMIN_PORT: Final = 15000
METRICS_PORT: Final = 15020
READY_PORT: Final = 15021
_TIMEOUT: Final = 3.0  # seconds


class _InsideConnection(HTTPConnection):
    """An HTTP connection whose socket belongs to another network namespace."""

    def __init__(self, netns: str, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self._netns = netns

    def connect(self) -> None:
        fd = open_netns(self._netns)
        try:
            with inside(fd):
                self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            os.close(fd)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))


def get(netns: str, port: int, path: str, timeout: float = _TIMEOUT) -> tuple[int, bytes]:
    """GET from 127.0.0.1 inside a namespace -> (status, body); raises Unavailable when nobody answers."""
    connection = _InsideConnection(netns, port, timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, HTTPException) as error:
        raise Unavailable(f"port {port} of {Path(netns).name}: {error}") from error
    finally:
        connection.close()


def is_ready(netns: str) -> bool:
    """Whether the ztunnel in this namespace says that it is ready."""
    with contextlib.suppress(Unavailable):
        return get(netns, READY_PORT, "/healthz/ready")[0] == 200
    return False


def config_dump(netns: str) -> dict[str, Any]:
    """The ztunnel's state as its admin port shows it; raises Unavailable."""
    status, body = get(netns, ADMIN_PORT, "/config_dump")
    if status != 200:
        raise Unavailable(f"config_dump of {Path(netns).name}: HTTP {status}")
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise Unavailable(f"config_dump of {Path(netns).name} is not JSON: {error}") from error
    return found


class LogLine(msgspec.Struct, frozen=True):
    """One access-log line: its fields with quotes removed, and the line itself."""

    fields: dict[str, str]
    text: str

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


def access_lines(log: Path, offset: int) -> list[LogLine]:
    """Complete access-log lines that stand after byte `offset` of a ztunnel's log."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return []
    whole = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    return [parse_access_line(line) for line in whole.splitlines() if "\taccess\t" in line]


def parse_access_line(line: str) -> LogLine:
    """Split `key=value key="quoted value"` fields; what stands before the last tab is time, level and target."""
    text = line.rpartition("\t")[2]
    fields: dict[str, str] = {}
    position = 0
    while (equals := text.find("=", position)) >= 0:
        key = text[position:equals].strip()
        if text[equals + 1 : equals + 2] == '"':
            end = text.find('"', equals + 2)
            end = len(text) if end < 0 else end
            fields[key] = text[equals + 2 : end]
            position = end + 1
        else:
            end = text.find(" ", equals)
            end = len(text) if end < 0 else end
            fields[key] = text[equals + 1 : end]
            position = end
    return LogLine(fields, line)


def log_size(log: Path) -> int:
    """Bytes in a log now: the offset from which later lines are new."""
    try:
        return log.stat().st_size
    except OSError:
        return 0
