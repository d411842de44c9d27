"""Flow table, timer wheel and byte queue against plain models of themselves."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshcore.coreprobe import FlowTableProbe, QueueProbe, WheelProbe
from meshcore.records import Mask

TICK_MS = 64
CHUNK = 16384

FIELD_OF = {
    Mask.SRC_IP: "src_ip",
    Mask.DST_IP: "dst_ip",
    Mask.DST_PORT: "dst_port",
    Mask.PEER: "peer",
    Mask.HOST: "host",
    Mask.FORWARDED: "forwarded",
    Mask.LOCAL_IP: "local_ip",
    Mask.BAGGAGE: "baggage",
}

ips = st.integers(0, 2).map(lambda n: bytes(15) + bytes((n,)))
texts = st.sampled_from(["", "a", "spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/c"])
keys = st.fixed_dictionaries(
    {
        "pod_id": st.integers(1, 2),
        "direction": st.integers(1, 3),
        "flags": st.integers(0, 1),
        "dst_port": st.integers(1, 2),
        "src_ip": ips,
        "dst_ip": ips,
        "local_ip": ips,
        "peer": texts,
        "host": texts,
        "forwarded": texts,
        "baggage": texts,
    }
)
masks = st.sampled_from([0, 1, 2, 6, 7, 14, 72, 255])


def masked(key: dict[str, Any], mask: int) -> tuple[Any, ...]:
    """What an entry under `mask` is found by."""
    always = (key["pod_id"], key["direction"], key["flags"])
    return always + tuple(key[name] if mask & bit else None for bit, name in FIELD_OF.items())


@given(st.lists(st.tuples(keys, masks), max_size=30), st.lists(keys, max_size=30))
@settings(max_examples=200, deadline=None)
def test_an_entry_serves_exactly_the_flows_that_agree_in_the_consulted_fields(
    entries: list[tuple[dict[str, Any], int]], flows: list[dict[str, Any]]
) -> None:
    table = FlowTableProbe(1000)
    live: dict[tuple[int, tuple[Any, ...]], int] = {}
    for verdict_id, (key, mask) in enumerate(entries, start=1):
        asked = table.ask(key)
        assert asked is not None
        assert table.settle(asked[0], verdict_id, mask) == verdict_id
        live[mask, masked(key, mask)] = verdict_id
    for flow in flows + [key for key, _ in entries]:
        expected = {verdict_id for (mask, wanted), verdict_id in live.items() if masked(flow, mask) == wanted}
        found = table.find(flow)
        assert (found in expected) if expected else (found is None)


def key_of(n: int) -> dict[str, Any]:
    return {"dst_ip": n.to_bytes(16, "big")}


def test_waiters_of_one_flow_share_one_question() -> None:
    table = FlowTableProbe(10)
    first = table.ask(key_of(1))
    assert first is not None
    assert first[1]
    assert table.ask(key_of(1)) == (first[0], False)


def test_an_answer_nobody_waits_for_is_not_kept() -> None:
    assert FlowTableProbe(10).settle(12345, 1, 0) is None


def test_a_pending_entry_answers_no_lookup() -> None:
    table = FlowTableProbe(10)
    table.ask(key_of(1))
    assert table.find(key_of(1)) is None


def test_an_entry_with_a_time_to_live_expires() -> None:
    table = FlowTableProbe(10)
    asked = table.ask(key_of(1))
    assert asked is not None
    table.settle(asked[0], 7, 255, ttl_ms=1000, now_ms=5000)
    assert table.find(key_of(1), now_ms=5999) == 7
    assert table.find(key_of(1), now_ms=6000) is None
    assert table.take_evicted() == [7]


def test_the_table_stays_at_its_limit_and_reports_what_left() -> None:
    table = FlowTableProbe(100)
    for n in range(150):
        asked = table.ask(key_of(n))
        assert asked is not None
        table.settle(asked[0], n + 1, int(Mask.DST_IP))
    assert table.count == 100
    gone = table.take_evicted()
    assert len(gone) == 50
    assert [n for n in range(150) if table.find(key_of(n)) is None] == sorted(n - 1 for n in gone)


def test_a_table_full_of_questions_takes_no_more() -> None:
    table = FlowTableProbe(3)
    assert all(table.ask(key_of(n)) for n in range(3))
    assert table.ask(key_of(3)) is None


def test_a_dropped_entry_is_found_no_more() -> None:
    table = FlowTableProbe(10)
    asked = table.ask(key_of(1))
    assert asked is not None
    table.settle(asked[0], 9, 255)
    assert table.drop(9)
    assert table.find(key_of(1)) is None
    assert not table.drop(9)


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 200_000)), max_size=60),
    st.lists(st.integers(1, 30_000), max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_timers_fire_once_never_early_and_at_most_a_tick_late(sets: list[tuple[int, int]], steps: list[int]) -> None:
    wheel = WheelProbe(20, now_ms=1000)
    due: dict[int, int] = {}
    now = 1000
    for (index, delay), step in zip(sets, steps, strict=False):
        wheel.set(index, now + delay)
        due[index] = now + delay
        now += step
        for fired in wheel.run(now):
            assert due.pop(fired) <= now
        assert all(at + 2 * TICK_MS > now for at in due.values())
    while due:
        wait = wheel.wait(now)
        assert wait >= 0
        now += max(wait, 1)
        for fired in wheel.run(now):
            assert due.pop(fired) <= now
        assert all(at + 2 * TICK_MS > now for at in due.values())
    assert wheel.wait(now) == -1


def test_a_cleared_timer_does_not_fire() -> None:
    wheel = WheelProbe(2)
    wheel.set(0, 100)
    wheel.set(1, 100)
    wheel.clear(0)
    assert wheel.run(1000) == [1]


@given(st.lists(st.binary(max_size=50_000), max_size=8), st.integers(1, 100_000))
@settings(max_examples=60, deadline=None)
def test_a_queue_gives_back_what_it_took_however_little_the_socket_takes(pieces: list[bytes], step: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        queue = QueueProbe(1 << 20)
        for piece in pieces:
            queue.append(piece)
        wanted, got = b"".join(pieces), b""
        while queue.size or len(got) < len(wanted):
            assert queue.write(ours.fileno()) >= 0
            try:
                got += theirs.recv(step)
            except BlockingIOError:
                pytest.fail("nothing was written and nothing is left to read")
        assert got == wanted
        assert queue.chunks == 0


def test_a_broken_socket_is_told_apart_from_a_full_one() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.close()
    queue = QueueProbe(1 << 20)
    queue.append(b"x")
    assert queue.write(ours.fileno()) == -errno.EPIPE
    ours.close()


def test_an_empty_queue_holds_no_buffer() -> None:
    queue = QueueProbe(1 << 20)
    assert queue.chunks == 0
    queue.append(bytes(CHUNK + 1))
    assert queue.chunks == 2
