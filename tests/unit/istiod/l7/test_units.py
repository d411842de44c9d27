"""Durations, shares and the wire form of the model."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istiod.translate.l7.retry import TOKENS, retry_on
from istiod.translate.l7.units import MILLISECONDS_MAX, milliseconds, percent_share
from meshcore import l7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, -7),
        ("", -7),
        ("0", 0),
        ("0s", 0),
        ("1s", 1000),
        ("1.5s", 1500),
        (".5s", 500),
        ("1h2m3s4ms", 3_723_004),
        ("1us", 1),  # what is not 0 never becomes "no limit"
        ("9999999h", MILLISECONDS_MAX),
        (f"{'9' * 400}h", MILLISECONDS_MAX),
        ("1", -7),
        ("1d", -7),
        ("-1s", -7),
        ("1s x", -7),
    ],
)
def test_durations(text: str | None, expected: int) -> None:
    assert milliseconds(text, -7) == expected


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_the_default(text: str) -> None:
    assert milliseconds(text, -1) == -1 or 0 <= milliseconds(text, -1) <= MILLISECONDS_MAX


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_share_is_between_nothing_and_all(percent: float) -> None:
    assert 0 <= percent_share(percent) <= l7.PPM


def test_every_cause_of_a_retry_has_a_word() -> None:
    assert set(TOKENS.values()) == set(l7.RetryOn)


@given(st.lists(st.sampled_from([*TOKENS, "418", "503", "unknown"])))
def test_causes_and_statuses(words: list[str]) -> None:
    causes, statuses = retry_on(",".join(words))
    assert set(statuses) == {int(word) for word in words if word.isdigit()}
    assert all(TOKENS[word] in causes for word in words if word in TOKENS)


text = st.text(max_size=4)
numbers = st.integers(0, 2**31)
matches = st.builds(l7.TextMatch, st.sampled_from(l7.TextKind), text, st.booleans())
named = st.builds(l7.NamedMatch, text, matches, st.booleans())
http_matches = st.builds(l7.HttpMatch, path=st.none() | matches, headers=st.lists(named, max_size=2).map(tuple))
backends = st.builds(l7.Backend, text, numbers, text, numbers)
actions = st.one_of(
    st.builds(l7.Forward, st.lists(backends, max_size=2).map(tuple), st.just(None), text),
    st.builds(l7.Redirect, numbers, text, text, numbers),
    st.builds(l7.DirectResponse, numbers, st.binary(max_size=4)),
)
rules = st.builds(l7.HttpRule, text, actions, st.none() | http_matches, timeout_ms=numbers)
policies = st.builds(l7.TrafficPolicy)
destinations = st.builds(
    l7.Destination,
    text,
    st.lists(st.tuples(numbers, st.sampled_from(l7.Protocol)), max_size=2).map(tuple),
    policies,
    subsets=st.lists(st.builds(l7.Subset, text, st.dictionaries(text, text, max_size=2), policies), max_size=2).map(
        tuple
    ),
)
ports = st.builds(l7.ServicePort, numbers, st.sampled_from(l7.Protocol), st.lists(rules, max_size=2).map(tuple))
services = st.builds(
    l7.Service,
    text,
    text,
    text,
    st.lists(ports, max_size=2).map(tuple),
    st.lists(destinations, max_size=2).map(tuple),
)


@given(services)
def test_a_service_survives_the_wire(service: l7.Service) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(service), type=l7.Service) == service


@given(services, st.integers(0, 500))
def test_half_a_service_is_refused_not_misread(service: l7.Service, length: int) -> None:
    raw = msgspec.msgpack.encode(service)
    if length < len(raw):
        with pytest.raises(msgspec.DecodeError):
            msgspec.msgpack.decode(raw[:length], type=l7.Service)


@pytest.mark.parametrize("known", [l7.Service("a", "b", "c/d"), l7.Waypoint("a", "b"), l7.Gateway("a", "b")])
def test_a_field_that_a_newer_istiod_appends_is_ignored(known: l7.Service | l7.Waypoint | l7.Gateway) -> None:
    kind = type(known)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(known))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*fields, "new"]), type=kind) == known
