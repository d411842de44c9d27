"""ZDS: our bytes against the protobuf runtime's, hostile bytes, and descriptors that must not leak."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcore import zds
from meshcore.errors import DeadlineExceeded, ProtocolError, Unavailable
from tests.support.processes import open_fds

Pair = tuple[socket.socket, socket.socket]

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
INFO = st.builds(zds.WorkloadInfo, TEXT, TEXT, TEXT)
REQUEST = st.one_of(
    st.builds(zds.AddWorkload, TEXT, INFO),
    st.builds(zds.KeepWorkload, TEXT),
    st.builds(zds.DelWorkload, TEXT),
    st.just(zds.SnapshotSent()),
)
ADD = zds.AddWorkload("u-1", zds.WorkloadInfo("web-0", "shop", "web"))

# Serialised by the google protobuf runtime; the next test derives them again where it is installed.
GOLDEN = [
    (ADD, "0a190a03752d3112120a057765622d30120473686f701a03776562"),
    (zds.DelWorkload("x"), "1203120178"),
    (zds.KeepWorkload("x"), "2a030a0178"),
    (zds.SnapshotSent(), "1a00"),
]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.settimeout(5)
    with left, right:
        yield left, right


@pytest.mark.parametrize("request_, wire", GOLDEN)
def test_golden_bytes(request_: zds.Request, wire: str) -> None:
    assert zds.encode_request(request_).hex() == wire
    assert zds.decode_request(bytes.fromhex(wire)) == request_


@given(REQUEST)
def test_a_request_survives_the_wire(request: zds.Request) -> None:
    assert zds.decode_request(zds.encode_request(request)) == request


@given(REQUEST)
def test_every_cut_is_refused(request: zds.Request) -> None:
    wire = zds.encode_request(request)
    for cut in range(len(wire)):
        with pytest.raises(ProtocolError):
            zds.decode_request(wire[:cut])


@given(st.binary(max_size=80))
def test_garbage_raises_only_protocol_errors(data: bytes) -> None:
    decoders: list[Callable[[bytes], object]] = [zds.decode_request, zds.decode_ack, zds.decode_hello]
    for decode in decoders:
        try:
            decode(data)
        except ProtocolError:
            continue


@given(TEXT)
def test_an_ack_survives_the_wire(error: str) -> None:
    assert zds.decode_ack(zds.encode_ack(error)) == error


def test_a_long_refusal_is_cut_at_a_character_to_fit_a_packet() -> None:
    wire = zds.encode_ack("ü" * 5000 + "x")
    assert len(wire) <= zds.PACKET_MAX
    assert set(zds.decode_ack(wire)) == {"ü"}


def test_hello() -> None:
    assert zds.encode_hello() == b"\x08\x01"
    assert zds.decode_hello(b"\x08\x01") == zds.HELLO_V1
    assert zds.decode_hello(b"") == 0


@pytest.mark.parametrize(
    "wire, text",
    [
        (b"", "none of the payloads"),
        (b"\x22\x00", "none of the payloads"),  # field 4 is reserved
        (b"\x0a\x03\x0a\x01x", "no workload_info"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x02\x00", "field number 0"),
        (b"\xff" * 11, "more than 10 bytes"),
        (b"\x0a\x7f", "127 bytes, 0 are left"),
        (b"\x12\x03\x12\x01\xff", "not UTF-8"),
        (b"\x1a\x01\x0f", "wire type 7"),
        (bytes(2000), "over the limit"),
    ],
)
def test_a_refusal_says_what_is_wrong(wire: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        zds.decode_request(wire)


def test_unknown_fields_are_skipped() -> None:
    later = b"\x50\x96\x01" + b"\x59" + bytes(8) + b"\x5d" + bytes(4) + b"\x62\x02hi"  # fields 10 to 12, all wire types
    for request, wire in GOLDEN:
        assert zds.decode_request(later + bytes.fromhex(wire) + later) == request


def test_names_too_long_for_a_packet_are_refused_before_sending() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 1024"):
        zds.encode_request(zds.AddWorkload("u", zds.WorkloadInfo("n" * 1100, "ns", "sa")))


def _runtime() -> dict[str, Any]:
    """The messages of zds.proto in the google runtime, from the field numbers alone."""
    why = "the protobuf runtime is not installed; golden bytes were checked"
    descriptor_pb2, descriptor_pool, message_factory = (
        pytest.importorskip(f"google.protobuf.{name}", reason=why)
        for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )

    file = descriptor_pb2.FileDescriptorProto(
        name="zds_under_test.proto", package="istio.workload.zds", syntax="proto3"
    )
    string, message = 9, 11
    shapes: dict[str, list[tuple[str, int, str | None]]] = {
        "WorkloadInfo": [("name", 1, None), ("namespace", 2, None), ("service_account", 3, None)],
        "AddWorkload": [("uid", 1, None), ("workload_info", 2, "WorkloadInfo")],
        "KeepWorkload": [("uid", 1, None)],
        "DelWorkload": [("uid", 2, None)],
        "SnapshotSent": [],
        "Ack": [("error", 1, None)],
        "WorkloadRequest": [
            ("add", 1, "AddWorkload"),
            ("del", 2, "DelWorkload"),
            ("snapshot_sent", 3, "SnapshotSent"),
            ("keep", 5, "KeepWorkload"),
        ],
        "WorkloadResponse": [("ack", 1, "Ack")],
    }
    for name, fields in shapes.items():
        shape = file.message_type.add(name=name)
        if name in ("WorkloadRequest", "WorkloadResponse"):
            shape.oneof_decl.add(name="payload")
        for field, number, of in fields:
            added = shape.field.add(name=field, number=number, label=1, type=message if of else string)
            if of:
                added.type_name = f".istio.workload.zds.{of}"
            if shape.oneof_decl:
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"istio.workload.zds.{name}"))
        for name in shapes
    }


def test_the_protobuf_runtime_agrees() -> None:
    messages = _runtime()
    whole, answer = messages["WorkloadRequest"], messages["WorkloadResponse"]

    @given(REQUEST)
    def requests(request: zds.Request) -> None:
        theirs = whole()
        match request:
            case zds.AddWorkload(uid, info):
                theirs.add.uid = uid
                theirs.add.workload_info.SetInParent()
                theirs.add.workload_info.name = info.name
                theirs.add.workload_info.namespace = info.namespace
                theirs.add.workload_info.service_account = info.service_account
            case zds.DelWorkload(uid):
                getattr(theirs, "del").uid = uid
                getattr(theirs, "del").SetInParent()
            case zds.KeepWorkload(uid):
                theirs.keep.uid = uid
                theirs.keep.SetInParent()
            case zds.SnapshotSent():
                theirs.snapshot_sent.SetInParent()
        assert zds.encode_request(request) == theirs.SerializeToString()
        assert zds.decode_request(theirs.SerializeToString()) == request

    @given(TEXT)
    def acks(error: str) -> None:
        theirs = answer()
        theirs.ack.SetInParent()
        theirs.ack.error = error
        assert zds.encode_ack(error) == theirs.SerializeToString()

    @given(st.binary(max_size=60))
    def ours_accepts_nothing_that_theirs_refuses(data: bytes) -> None:
        try:
            ours = zds.decode_request(data)
        except ProtocolError:
            return
        theirs = whole.FromString(data)
        kinds = {"add": zds.AddWorkload, "del": zds.DelWorkload, "keep": zds.KeepWorkload}
        assert isinstance(ours, kinds.get(theirs.WhichOneof("payload"), zds.SnapshotSent))

    requests()
    acks()
    ours_accepts_nothing_that_theirs_refuses()


def test_a_descriptor_travels_and_is_closed_on_exec(pair: Pair) -> None:
    left, right = pair
    with Path("/dev/null").open() as null:
        zds.send_packet(left, zds.encode_request(ADD), (null.fileno(),))
        data, fds = zds.recv_packet(right)
        assert zds.decode_request(data) == ADD
        assert os.path.sameopenfile(fds[0], null.fileno())
        assert not os.get_inheritable(fds[0])
        zds.close_all(fds)


def test_a_full_packet_passes_and_a_longer_one_is_an_error_that_leaks_nothing(pair: Pair) -> None:
    left, right = pair
    zds.send_packet(left, bytes(zds.PACKET_MAX))
    assert zds.recv_packet(right) == (bytes(zds.PACKET_MAX), [])
    before = open_fds()
    zds.send_packet(left, bytes(zds.PACKET_MAX + 1), (left.fileno(), right.fileno()))
    with pytest.raises(ProtocolError, match="longer than 1024"):
        zds.recv_packet(right)
    assert open_fds() == before


def test_too_many_descriptors_are_an_error_that_leaks_nothing(pair: Pair) -> None:
    left, right = pair
    before = open_fds()
    zds.send_packet(left, b"x", [left.fileno()] * 40)
    with pytest.raises(ProtocolError, match="too many descriptors"):
        zds.recv_packet(right)
    assert open_fds() == before


@pytest.mark.parametrize("request_, count", [(ADD, 0), (ADD, 2), (zds.DelWorkload("x"), 1), (zds.SnapshotSent(), 1)])
def test_a_wrong_number_of_descriptors_closes_them_all(request_: zds.Request, count: int) -> None:
    before = open_fds()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    with pytest.raises(ProtocolError, match=f"came with {count} descriptors"):
        zds.take_netns(request_, fds)
    assert open_fds() == before


def test_take_netns_gives_the_descriptor_of_an_add_only() -> None:
    assert zds.take_netns(ADD, [7]) == 7
    assert zds.take_netns(zds.KeepWorkload("x"), []) is None


def test_a_closed_peer(pair: Pair) -> None:
    left, right = pair
    right.close()
    with pytest.raises(Unavailable):
        zds.send_packet(left, b"x")
    assert zds.recv_packet(left) == (b"", [])


def test_a_silent_peer_runs_into_the_deadline(pair: Pair) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(DeadlineExceeded):
        zds.recv_packet(pair[0])


def test_a_non_blocking_caller_sees_would_block(pair: Pair) -> None:
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        zds.recv_packet(pair[0])
