"""What the demo says about a capture decides whether the mesh is said to encrypt: it must not be fooled."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from ambient.demo import capture
from ambient.demo.admin import parse_access_line
from ambient.demo.traffic import Reply

CLIENT = ("10.77.1.11", 40000)
SERVER = ("10.77.2.12", 15008)
SYN = 2
RECORD = b"\x17\x03\x03\x00\x14" + bytes(20)


def frame(source: tuple[str, int], target: tuple[str, int], sequence: int, payload: bytes, flags: int = 16) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], sequence % 2**32, 0, 5 << 4, flags, 0, 0, 0) + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp


def stream(*frames: bytes) -> capture.Stream:
    (only,) = capture.assemble(list(frames))
    return only


@pytest.mark.parametrize("start", [1, 2**32 - 7])
def test_segments_in_any_order_and_twice_give_the_bytes_once(start: int) -> None:
    data = RECORD * 3 + b"\x16\x03\x01\x00\x02ab"
    pieces = [(start + at, data[at : at + 10]) for at in range(0, len(data), 10)]
    shuffled = [*pieces, *pieces[2:5]]
    random.Random(7).shuffle(shuffled)
    frames = [frame(CLIENT, SERVER, start - 1, b"", SYN), *(frame(CLIENT, SERVER, *piece) for piece in shuffled)]
    found = stream(*frames)
    assert (found.data, found.whole, found.tls_records) == (data, True, 4)


def test_a_marker_split_over_two_segments_is_found() -> None:
    seen = capture.Seen(2, (stream(frame(CLIENT, SERVER, 1, b"GET /mar"), frame(CLIENT, SERVER, 9, b"ker HTTP")),))
    assert seen.holding(b"marker")


def test_a_stream_with_a_hole_is_not_called_tls() -> None:
    found = stream(frame(CLIENT, SERVER, 1, RECORD), frame(CLIENT, SERVER, 1 + 2 * len(RECORD), RECORD))
    assert not found.whole
    assert found.tls_records is None


@pytest.mark.parametrize(
    "data, records",
    [
        (b"", 0),
        (RECORD, 1),
        (RECORD + RECORD[:7], 2),  # the last one is still under way
        (RECORD + RECORD[:3], 2),
        (b"GET / HTTP/1.1\r\n", None),
        (RECORD + b"GET / HTTP/1.1\r\n", None),  # clear text after a handshake
        (b"\x17\x03\x02\x00\x01a", None),  # a version that no TLS 1.3 record carries
        (b"\x17\x03\x03\xff\xff", None),  # longer than a record may be
        (b"\x17\x03\x03\x00\x00", None),
    ],
)
def test_only_whole_tls_counts(data: bytes, records: int | None) -> None:
    assert capture.count_tls_records(data) == records


def test_a_new_connection_on_the_same_ports_is_a_stream_of_its_own() -> None:
    frames = [
        frame(CLIENT, SERVER, 100, b"", SYN),
        frame(CLIENT, SERVER, 101, b"first"),
        frame(CLIENT, SERVER, 9000, b"", SYN),
        frame(CLIENT, SERVER, 9001, b"second"),
    ]
    assert [each.data for each in capture.assemble(frames)] == [b"first", b"second"]


@pytest.mark.parametrize(
    "octets", [b"", bytes(13), bytes(12) + b"\x86\xdd" + bytes(60), frame(CLIENT, SERVER, 1, b"")[:40]]
)
def test_what_is_no_tcp_over_ipv4_is_left_out(octets: bytes) -> None:
    assert capture.assemble([octets]) == []


def test_padding_of_a_short_frame_is_no_payload() -> None:
    found = stream(frame(CLIENT, SERVER, 1, b"ab") + bytes(20))
    assert found.data == b"ab"


def test_an_access_line_gives_its_fields() -> None:
    line = parse_access_line(
        "2026-01-01T00:00:00.000000Z\tinfo\taccess\tconnection complete\t"
        'src.addr=10.0.0.5:41000 src.identity="spiffe://cluster.local/ns/a/sa/c" dst.addr=10.0.1.7:15008 '
        'direction="outbound" bytes_sent=67 error="a = b, c"'
    )
    assert line["src.identity"] == "spiffe://cluster.local/ns/a/sa/c"
    assert line["dst.addr"] == "10.0.1.7:15008"
    assert line["direction"] == "outbound"
    assert line["bytes_sent"] == "67"
    assert line["error"] == "a = b, c"
    assert not line["dst.service"]


def test_a_reply_says_what_nginx_saw() -> None:
    reply = Reply(200, "pod=web-1 client=10.77.1.11 asked=/x\n", 0, "")
    assert (reply.ok, reply.pod, reply.client) == (True, "web-1", "10.77.1.11")
    refused = Reply(0, "", 52, "Empty reply from server")
    assert str(refused) == "curl error 52 (Empty reply from server)"
    assert not refused.ok
