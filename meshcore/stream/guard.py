"""Looks at frame heads before `h2` does.

`h2` waits for the whole of a frame before it judges its length (16 MiB at most, from a peer nobody knows yet), and
recurses once for every frame of an unknown type. Both are stopped here.
"""

from __future__ import annotations

from typing import Final

from meshcore.errors import ProtocolError

HEAD_BYTES: Final = 9
PREFACE_BYTES: Final = 24
FRAME_BYTES_MAX: Final = 2**14
"""SETTINGS_MAX_FRAME_SIZE as announced: the smallest that RFC 9113 allows."""
KNOWN_TYPES: Final = range(10)
UNKNOWN_MAX: Final = 100
"""Unknown frames in one read; a peer with an extension sends a few."""


class FrameGuard:
    """Follows the frames of one direction; `feed` raises ProtocolError at the first one that is too long."""

    def __init__(self, *, preface: bool) -> None:
        self._skip = PREFACE_BYTES if preface else 0
        self._head = b""

    def feed(self, data: bytes) -> None:
        position, end, unknown = 0, len(data), 0
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            piece = data[position : position + HEAD_BYTES - len(self._head)]
            self._head += piece
            position += len(piece)
            if len(self._head) < HEAD_BYTES:
                return
            length = int.from_bytes(self._head[:3])
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"HTTP/2: a frame of {length} bytes is larger than the limit of {FRAME_BYTES_MAX}")
            if self._head[3] not in KNOWN_TYPES:
                unknown += 1
                if unknown > UNKNOWN_MAX:
                    raise ProtocolError("HTTP/2: a flood of frames of an unknown type")
            self._head = b""
            self._skip = length
