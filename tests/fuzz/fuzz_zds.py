"""Fuzz entry of the ZDS codec: any input gives a message or a ProtocolError, and a message encodes again."""

from __future__ import annotations

from meshcore import zds
from meshcore.errors import ProtocolError


def fuzz_one(data: bytes) -> None:
    try:
        request = zds.decode_request(data)
    except ProtocolError:
        pass
    else:
        assert zds.decode_request(zds.encode_request(request)) == request
    for decode in (zds.decode_ack, zds.decode_hello):
        try:
            decode(data)
        except ProtocolError:
            continue
