"""Splits the body of a watch into its lines, without I/O."""

from __future__ import annotations

from typing import Final

from meshcore.errors import ProtocolError

LINE_BYTES_MAX: Final = 16 * 2**20
"""Of one event. An object has at most 1.5 MiB in etcd's default; JSON of a binary value is a few times larger."""


class LineSplitter:
    """Feed it what arrives, get the lines that became whole, without their line feeds. Empty lines are dropped."""

    def __init__(self, limit: int = LINE_BYTES_MAX) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ProtocolError when a line grows beyond the limit."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._parts, whole[0]))
            self._parts, self._size = [], 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        if self._size > self._limit or any(len(line) > self._limit for line in whole):
            raise ProtocolError(f"an event of the API server is longer than {self._limit} bytes")
        return [line for line in whole if line]

    @property
    def pending(self) -> int:
        """Bytes of a line that is not yet whole."""
        return self._size
