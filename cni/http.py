"""Metrics and health of the agent: GET only, one answer a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from meshcore.errors import ConfigError

log = logging.getLogger(__name__)

HEAD_MAX: Final = 8192  # bytes
TIMEOUT_S: Final = 5.0

Handler = Callable[[], tuple[int, str]]
"""-> status and body."""

_REASONS: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


async def serve(port: int, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Listen on every address. Raises ConfigError when the port cannot be had."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(head, handlers))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a client that does not ask properly gets no answer
        finally:
            writer.close()

    try:
        return await asyncio.start_server(on_connection, None, port, limit=HEAD_MAX)
    except OSError as error:
        raise ConfigError(f"port {port} for {', '.join(handlers)} cannot be used: {error.strerror}") from error


def _answer(head: bytes, handlers: Mapping[str, Handler]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
    if method != b"GET":
        status, body = 405, "only GET is served here\n"
    elif path in handlers:
        status, body = handlers[path]()
    else:
        status, body = 404, f"try one of: {' '.join(handlers)}\n"
    data = body.encode()
    fields = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        f"content-length: {len(data)}",
        "connection: close",
    )
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + data


class Metrics:
    """Counters of the agent, named as upstream's."""

    def __init__(self, connected: Callable[[], int]) -> None:
        self._connected = connected
        self._events = {"add": 0, "update": 0, "delete": 0}

    def event(self, kind: str) -> None:
        self._events[kind] += 1

    def render(self) -> str:
        lines = [
            "# HELP nodeagent_reconcile_events_total Pod events that the agent has looked at.",
            "# TYPE nodeagent_reconcile_events_total counter",
            *(f'nodeagent_reconcile_events_total{{type="{kind}"}} {count}' for kind, count in self._events.items()),
            "# HELP ztunnel_connected Number of ztunnels connected to this agent.",
            "# TYPE ztunnel_connected gauge",
            f"ztunnel_connected {self._connected()}",
        ]
        return "\n".join(lines) + "\n"
