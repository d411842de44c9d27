"""Fuzz entry of what an API server sends: lines of a watch, errors, and what the reflector makes of them."""

from __future__ import annotations

import contextlib

from istiod.kube.client import parse_events
from istiod.kube.errors import Request, decode_status, error_of
from istiod.kube.lines import LineSplitter
from meshcore.errors import MeshError

_POD = b'{"kind":"Pod","metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}'
SEEDS = (
    b'{"type":"ADDED","object":' + _POD + b"}\n",
    b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n{"type":"DELETED","object":' + _POD + b"}\n",
    b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n',
    b'{"kind":"Status","code":409,"reason":"Conflict","details":{"retryAfterSeconds":3}}',
)
_REQUEST = Request("watch", "pods", "", "")


def fuzz_one(data: bytes) -> None:
    """Typed errors, or events whose objects have names; in any cut of the bytes the same."""
    whole, pieces = LineSplitter(4096), LineSplitter(4096)
    with contextlib.suppress(MeshError):
        lines = whole.feed(data)
        middle = len(data) // 2
        assert [*pieces.feed(data[:middle]), *pieces.feed(data[middle:])] == lines
        events, failure = parse_events(_REQUEST, lines)
        assert len(events) <= len(lines) - (failure is not None)
    with contextlib.suppress(MeshError):
        error = error_of(_REQUEST, decode_status(data, 500))
        assert isinstance(error, MeshError)
        str(error)
