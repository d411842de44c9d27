"""The connections that users share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from bench.users.channel import HboneError
from bench.users.hbone import Connection

STREAMS: Final = 100  # tunnels on one connection, as ztunnel has it
_DIAL_WAITS: Final = 4  # connect, handshake and settings may each take a timeout; one more to be fair


class Pool:
    """Connections to one server, shared as ztunnel's pool shares them: a new one when all have their tunnels.

    `dial` makes one and raises HboneError. While one user dials, those who would have to dial wait for it.
    """

    def __init__(self, dial: Callable[[], Connection], timeout: float, streams: int = STREAMS) -> None:
        self._dial = dial
        self._patience = _DIAL_WAITS * timeout
        self._streams = streams
        self._dialing = threading.Lock()
        self._connections: list[Connection] = []

    def reserve(self) -> Connection:
        """A connection with a place for one more tunnel; its `open` uses it up. Raises HboneError."""
        if not self._dialing.acquire(timeout=self._patience):
            raise HboneError(f"another user has been dialing for {self._patience:g} s")
        try:
            self._connections = [each for each in self._connections if each.alive]
            for connection in self._connections:
                if connection.reserve(self._streams):
                    return connection
            connection = self._dial()
            self._connections.append(connection)
            if not connection.reserve(self._streams):
                raise HboneError("the server allows no stream on a new connection")
            return connection
        finally:
            self._dialing.release()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
