"""Watching a link: what is in clear, and what is TLS, judged from the bytes that crossed it.

An AF_PACKET socket is opened inside a node's namespace, so no other program and no kernel module is needed.
Streams are put together by sequence number and then read as TLS records, so that a marker which happens to be
split over two segments is still found and a stream that is only half TLS is not taken for TLS.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading
from typing import Final, NamedTuple, Self

from ambient.demo.errors import DemoError
from meshcore.netns import inside, open_netns

_ETH_P_ALL: Final = 3  # linux/if_ether.h; a socket for one protocol would not see what leaves the interface
_IPV4: Final = b"\x08\x00"  # EtherType
_ETHERNET: Final = 14  # bytes of an Ethernet header
_TCP: Final = 6
_SYN: Final = 0x02
_SNAPLEN: Final = 65_600  # a segment on a veth may be as large as GSO makes it
_RECEIVE_BUFFER: Final = 32 * 2**20
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_IDLE: Final = 0.05  # seconds without a packet after which a link counts as quiet

_TLS_TYPES: Final = range(20, 24)  # RFC 8446 section 5.1
_TLS_VERSIONS: Final = (0x0301, 0x0303)
_TLS_RECORD_MAX: Final = 2**14 + 256  # RFC 8446 section 5.2
_HANDSHAKE: Final = 22


class Endpoint(NamedTuple):
    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


class Stream(NamedTuple):
    """One direction of a TCP connection, as far as it was seen. `whole` is False when a segment is missing."""

    source: Endpoint
    target: Endpoint
    data: bytes
    whole: bool

    @property
    def tls_records(self) -> int | None:
        """How many TLS records the stream consists of; None when it is something else."""
        return count_tls_records(self.data) if self.whole else None

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def count_tls_records(data: bytes) -> int | None:
    """Number of TLS records that `data` consists of, a last incomplete one included; None when it is not TLS."""
    position = records = 0
    while position < len(data):
        header = data[position : position + 5]
        if header[0] not in _TLS_TYPES:
            return None
        if len(header) == 5:
            _, version, length = struct.unpack("!BHH", header)
            if version not in _TLS_VERSIONS or not 0 < length <= _TLS_RECORD_MAX:
                return None
            position += length
        position += 5
        records += 1
    return records


class Seen(NamedTuple):
    """The result of a capture."""

    packets: int
    streams: tuple[Stream, ...]

    def between(self, *addresses: str) -> list[Stream]:
        """Streams with data of which both ends are among `addresses`."""
        return [each for each in self.streams if each.data and {each.source.ip, each.target.ip} <= set(addresses)]

    def holding(self, marker: bytes) -> list[Stream]:
        """Streams that carry `marker` in clear."""
        return [each for each in self.streams if marker in each.data]


class Capture:
    """Records what crosses one interface between `with` and the end of the block; then `seen` holds it."""

    def __init__(self, netns: str, interface: str) -> None:
        fd = open_netns(netns)
        try:
            with inside(fd):
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        finally:
            os.close(fd)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # in a user namespace the machine's limit holds
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.settimeout(_IDLE)
        self._frames: list[bytes] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"capture-{interface}", daemon=True)
        self.seen = Seen(0, ())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)
        lost = self._lost()
        self._socket.close()
        if lost:
            raise DemoError(f"the capture lost {lost} packets, so that it proves nothing")
        self.seen = Seen(len(self._frames), tuple(assemble(self._frames)))

    def _run(self) -> None:
        while True:
            try:
                self._frames.append(self._socket.recv(_SNAPLEN))
            except TimeoutError:
                if self._stop.is_set():  # and nothing is waiting to be read
                    return
            except OSError:
                return

    def _lost(self) -> int:
        raw = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS: struct tpacket_stats
        return int(struct.unpack("II", raw)[1])


class _Segment(NamedTuple):
    source: Endpoint
    target: Endpoint
    sequence: int
    starts: bool
    payload: bytes


def _segment(frame: bytes) -> _Segment | None:
    """The TCP segment in an Ethernet frame with IPv4 in it; None for anything else."""
    ip = frame[_ETHERNET:]
    if frame[12:_ETHERNET] != _IPV4 or len(ip) < 20 or ip[0] >> 4 != 4 or ip[9] != _TCP:
        return None
    header, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4])
    tcp = ip[header : total or None]  # 0 stands for a segment beyond 64 KiB
    if len(tcp) < 20:
        return None
    source_port, target_port, sequence = struct.unpack("!HHI", tcp[:8])
    starts = bool(tcp[13] & _SYN)
    return _Segment(
        Endpoint(str(ipaddress.IPv4Address(ip[12:16])), source_port),
        Endpoint(str(ipaddress.IPv4Address(ip[16:20])), target_port),
        (sequence + starts) % 2**32,
        starts,
        tcp[(tcp[12] >> 4) * 4 :],
    )


def assemble(frames: list[bytes]) -> list[Stream]:
    """Streams in the order of their first packet. A SYN begins a new one, even for the same pair of endpoints."""
    current: dict[tuple[Endpoint, Endpoint], list[_Segment]] = {}
    every: list[list[_Segment]] = []
    for frame in frames:
        segment = _segment(frame)
        if segment is None:
            continue
        key = (segment.source, segment.target)
        known = current.get(key)
        if known is None or (segment.starts and segment.sequence != known[0].sequence):
            known = current[key] = []
            every.append(known)
        known.append(segment)
    return [_stream(segments) for segments in every]


def _stream(segments: list[_Segment]) -> Stream:
    first = segments[0]
    data, whole = bytearray(), True

    def offset(segment: _Segment) -> int:
        distance = (segment.sequence - first.sequence) % 2**32
        return distance - 2**32 if distance >= 2**31 else distance

    for segment in sorted(segments, key=offset):
        position = offset(segment)
        if not segment.payload or position + len(segment.payload) <= len(data):
            continue  # nothing new: an acknowledgement or a retransmission
        if position > len(data):
            whole = False
            data += segment.payload
        else:
            data += segment.payload[len(data) - position :]
    return Stream(first.source, first.target, bytes(data), whole)


def is_handshake(stream: Stream) -> bool:
    """Whether the stream begins with a TLS handshake, as a new connection's does."""
    return stream.data[:1] == bytes((_HANDSHAKE,))
