"""The pieces without I/O: lines, errors, the bucket of requests."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod.kube.errors import Forbidden, KubeError, NotFound, Request, ServerFailure, decode_status, error_of
from istiod.kube.lines import LineSplitter
from istiod.kube.ratelimit import TokenBucket
from meshcore.errors import MeshError, ProtocolError, Unavailable

LINES = st.lists(st.binary(min_size=1, max_size=40).filter(lambda line: b"\n" not in line), max_size=8)


@given(LINES, st.lists(st.integers(min_value=1, max_value=50), max_size=20))
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], sizes: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter()
    found: list[bytes] = []
    for size in sizes:
        found += splitter.feed(text[:size])
        text = text[size:]
    found += splitter.feed(text)
    assert found == lines
    assert splitter.pending == len(b"rest")


@pytest.mark.parametrize("cut", range(12))
def test_every_split_point(cut: int) -> None:
    text = b"one\n\ntwo\nend"
    splitter = LineSplitter()
    assert splitter.feed(text[:cut]) + splitter.feed(text[cut:]) == [b"one", b"two"]


def test_a_line_without_end_is_refused() -> None:
    splitter = LineSplitter(limit=10)
    assert splitter.feed(b"0123456789") == []
    with pytest.raises(ProtocolError, match="longer than 10 bytes"):
        splitter.feed(b"0")
    with pytest.raises(ProtocolError):
        LineSplitter(limit=3).feed(b"0123\n")


@given(st.binary(max_size=200), st.integers(min_value=400, max_value=599))
def test_any_body_of_a_refusal_becomes_a_typed_error(body: bytes, code: int) -> None:
    error = error_of(Request("get", "pods", "a", "b"), decode_status(body, code))
    assert isinstance(error, KubeError)
    assert error.status == code
    assert error.retryable == (code >= 500 or code == 429)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from(["Status", "Pod"]),
            "code": st.integers(),
            "reason": st.text(max_size=9),
            "message": st.text(max_size=2000),
            "details": st.fixed_dictionaries({}, optional={"retryAfterSeconds": st.integers()}),
        },
    )
)
def test_any_status_becomes_a_typed_error(status: dict[str, object]) -> None:
    error = error_of(Request("get", "pods"), decode_status(msgspec.json.encode(status), 500))
    assert 0 <= error.retry_after <= 60
    assert len(str(error)) < 1000


def test_the_hint_of_a_missing_role_names_it() -> None:
    refused = decode_status(b'{"kind":"Status","code":403,"reason":"Forbidden","message":"no"}', 403)
    error = error_of(Request("patch", "services/status", "a", "b"), refused)
    assert isinstance(error, Forbidden)
    assert str(error) == (
        "patch services/status a/b: no (HTTP 403, Forbidden); grant verb 'patch' on resource 'services/status' of "
        "apiGroup '' in a Role or ClusterRole bound to this account"
    )
    custom = error_of(Request("patch", "serviceentries.networking.istio.io/status"), refused)
    assert "resource 'serviceentries/status' of apiGroup 'networking.istio.io' in a ClusterRole" in str(custom)


def test_an_answer_of_something_else_is_told() -> None:
    lost = error_of(Request("list", "gauges.x"), decode_status(b"404 page not found\n", 404))
    assert isinstance(lost, NotFound)
    assert str(lost) == "list gauges.x: 404 page not found (HTTP 404)"
    assert isinstance(error_of(Request("get", "x"), decode_status(b"<html>", 502)), ServerFailure)


def test_codes_are_stable() -> None:
    codes = {leaf.__name__: leaf.code for leaf in KubeError.__subclasses__()}
    assert codes == {
        "AlreadyExists": "kube.already_exists",
        "Conflict": "kube.conflict",
        "Forbidden": "kube.forbidden",
        "Gone": "kube.gone",
        "Invalid": "kube.invalid",
        "NotFound": "kube.not_found",
        "ServerFailure": "kube.server",
        "TooManyRequests": "kube.too_many_requests",
        "Unauthorized": "kube.unauthorized",
    }
    assert issubclass(KubeError, MeshError)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    async def scenario() -> None:
        time = Time()
        bucket = TokenBucket(80, 160, clock=time, sleep=time.sleep)
        for _ in range(160):
            await bucket.acquire()
        assert time.now == 0
        for _ in range(80):
            await bucket.acquire()
        assert time.now == pytest.approx(1.0)
        time.now += 100
        for _ in range(160):
            await bucket.acquire()
        assert time.now == pytest.approx(101.0), "it does not save more than one burst"

    asyncio.run(scenario())


def test_a_queue_that_is_too_long_is_refused() -> None:
    async def scenario() -> None:
        held: list[float] = []

        async def note(seconds: float) -> None:
            held.append(seconds)

        bucket = TokenBucket(1, 1, clock=lambda: 0.0, sleep=note)
        for _ in range(31):
            await bucket.acquire()
        with pytest.raises(Unavailable, match="queue for 31 s at 1 per second"):
            await bucket.acquire()
        assert held == [float(wait) for wait in range(1, 31)], "in the order in which they came"

    asyncio.run(scenario())


def test_a_bucket_that_lets_nothing_through_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nothing"):
        TokenBucket(0, 1)
