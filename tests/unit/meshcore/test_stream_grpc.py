"""gRPC's framing, headers and statuses, without a connection."""

from __future__ import annotations

import asyncio
from typing import cast
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcore import errors
from meshcore.stream import grpc
from meshcore.stream.messages import frame
from meshcore.stream.server import ServerStream


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_survive_any_cut(messages: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    unframer = grpc.Unframer(40)
    found: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += unframer.feed(whole[begin:end])
    assert found == messages
    assert unframer.idle


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_in_a_typed_way(data: bytes) -> None:
    unframer = grpc.Unframer(16)
    try:
        for message in unframer.feed(data):
            assert len(message) <= 16
    except (grpc.Unimplemented, grpc.Exhausted, errors.ProtocolError):
        pass


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\1\0\0\0\1x", grpc.Unimplemented),
        (b"\2\0\0\0\1x", errors.ProtocolError),
        (b"\0\0\0\0\x11", grpc.Exhausted),
    ],
)
def test_what_is_not_spoken_is_refused_at_its_prefix(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(grpc.Unframer(16).feed(data))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("4m", 0.004),
        ("5u", 5e-6),
        ("6n", 6e-9),
        ("99999999S", 99999999),
    ],
)
def test_a_timeout_header_is_a_number_and_a_unit(header: str, seconds: float | None) -> None:
    assert grpc.timeout_of(header) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("header", ["1", "S", "1s", "-1S", "1.5S", "999999999S", "1S1S"])
def test_a_malformed_timeout_is_refused(header: str) -> None:
    with pytest.raises(errors.ProtocolError):
        grpc.timeout_of(header)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_status_text_is_printable_ascii_and_decodes_to_itself(text: str) -> None:
    encoded = grpc.encoded_text(text)
    assert all(0x20 <= ord(char) <= 0x7E for char in encoded)
    assert unquote(encoded) == text


def test_a_status_text_has_a_limit() -> None:
    assert len(grpc.encoded_text("\n" * 10**6)) == 3 * grpc.MESSAGE_CHARS_MAX


class Sink:
    """Stands for a stream: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.sent.append(data)


@pytest.mark.parametrize("parts", [[], [b"x"], [b"y" * 1000] * 500, [b"z" * grpc.PIECE_BYTES] * 3])
def test_a_message_goes_out_in_pieces_and_never_as_a_whole(parts: list[bytes]) -> None:
    sink = Sink()
    asyncio.run(grpc.send(cast(ServerStream, sink), parts, sum(map(len, parts))))
    assert b"".join(sink.sent) == frame(b"".join(parts))
    assert max(map(len, sink.sent)) <= 2 * grpc.PIECE_BYTES


@pytest.mark.parametrize(
    ("content_type", "yes"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc; charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/x-ambient-msgpack", False),
        ("", False),
    ],
)
def test_the_content_type_tells_grpc(content_type: str, yes: bool) -> None:
    assert grpc.is_grpc(content_type) is yes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AuthenticationError("x"), 16),
        (errors.AuthorizationError("x"), 7),
        (errors.ProtocolError("x"), 3),
        (errors.CertificateError("x"), 3),
        (errors.IdentityError("x"), 3),
        (errors.Unavailable("x"), 14),
        (errors.DeadlineExceeded("x"), 4),
        (grpc.Exhausted("x"), 8),
        (grpc.Unimplemented("x"), 12),
        (errors.MeshError("x"), 13),
    ],
)
def test_an_error_has_its_status(error: errors.MeshError, code: int) -> None:
    assert grpc.code_of(error) == code
    assert grpc.status(grpc.code_of(error), str(error)) == [("grpc-status", str(code)), ("grpc-message", "x")]
