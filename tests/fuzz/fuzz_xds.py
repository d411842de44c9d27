"""Fuzz entry of what istiod reads from gRPC peers: framing, delta xDS requests, certificate requests."""

from __future__ import annotations

import contextlib

from istiod.push import Published
from istiod.xds import certificates, discovery
from istiod.xds.generators import Generators, Subscription
from meshcore.errors import MeshError
from meshcore.model import ADDRESS_TYPE, Address, Workload
from meshcore.stream.grpc import Unframer
from meshcore.stream.messages import Node, frame

_NODE = b"\x0a\x17\x0a\x15ztunnel~1.1.1.1~z.n~d"
_TYPE = b"\x12" + bytes([len(ADDRESS_TYPE)]) + ADDRESS_TYPE.encode()
_STAR = b"\x1a\x01*"
SEEDS = (
    frame(_NODE + _TYPE),
    frame(_NODE + _TYPE + _STAR + b"\x22\x01*" + b"\x2a\x06\x0a\x01a\x12\x011"),
    frame(_NODE + _TYPE + _STAR) + frame(_TYPE + b"\x32\x011") + frame(_TYPE + b"\x32\x011\x3a\x04\x12\x02no"),
    frame(_TYPE + b"\x1a\x09/10.0.0.1"),
    frame(b"\x0a\x03csr\x18\x05\x22\x00"),
    b"\1\0\0\0\0",
    b"\0\xff\xff\xff\xff",
)
OBJECTS = {"a": Address(workload=Workload("a", "a", "n", (b"\x0a\0\0\1",), node="n1"))}


def fuzz_one(data: bytes) -> None:
    published = Published()
    published.update(ADDRESS_TYPE, OBJECTS)
    generators = Generators(published)
    open_: dict[str, Subscription] = {}
    with contextlib.suppress(MeshError):
        for message in Unframer(4096).feed(data):
            with contextlib.suppress(MeshError):
                certificates.decode(message)
            _request(message, generators, open_)


def _request(message: bytes, generators: Generators, open_: dict[str, Subscription]) -> None:
    request = discovery.decode_request(message)
    if request.type_url not in open_:
        open_[request.type_url] = generators.open(request.type_url, request.node or Node("ztunnel~", node="n1"))
    one = open_[request.type_url]
    one.state.request(request, one.store)
    response = one.state.next(one.store)
    if response is not None:
        discovery.encode_response(response)
