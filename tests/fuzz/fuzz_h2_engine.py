"""Fuzz entry of the worker's HTTP/2 engine: any bytes, cut anywhere, in either role, never break it."""

from __future__ import annotations

from meshcore.h2probe import H2Probe

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
CONNECT = b"\x10\x07:method\x07CONNECT\x10\x0a:authority\x0b10.0.0.1:80"
SEEDS = (
    b"\x01\x07" + SETTINGS + len(CONNECT).to_bytes(3, "big") + b"\1\4\0\0\0\1" + CONNECT,
    b"\x01\xff" + SETTINGS + b"\0\0\4\x08\0\0\0\0\0\0\0\xff\xff" + b"\0\0\x08\6\0\0\0\0\0abcdefgh",
    b"\x00\x03" + SETTINGS + b"\0\0\4\1\5\0\0\0\1\x88\0\0\0" + b"\0\0\3\0\x09\0\0\0\1\1a\0",
    b"\x00\x10" + SETTINGS + b"\0\0\x08\7\0\0\0\0\0\0\0\0\1\0\0\0\0" + b"\0\0\4\3\0\0\0\0\1\0\0\0\x08",
)


def fuzz_one(data: bytes) -> None:
    """The first byte chooses the role, the second the size of the pieces; the rest comes from the peer."""
    if len(data) < 2:
        return
    server, step, data = bool(data[0] & 1), data[1] % 64 + 1, data[2:]
    probe = H2Probe(server, window=70_000, conn_window=100_000, frame_max=20_000, header_max=2_000, streams_max=4)
    if server:
        assert probe.feed(PREFACE)
    else:
        probe.open([(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80")])
    for at in range(0, len(data), step):
        if not probe.feed(data[at : at + step], now_ms=at):
            assert probe.error, "a connection ends for a reason"
            break
    assert probe.streams <= 4
    for event in probe.take_events():
        assert event.kind != "data" or len(event.data) <= 20_000
    probe.take_output()
