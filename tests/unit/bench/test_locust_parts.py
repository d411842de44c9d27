"""What needs no locust: its output read, the arguments' types, the users' schedule and the sweep's steps."""

from __future__ import annotations

import argparse
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import locustload
from bench.errors import BenchError
from bench.users import arguments, sweep
from bench.users.schedule import BACKLOG_MAX, Schedule, rounded


def line(name: str, **changed: Any) -> dict[str, Any]:
    """As `locust --json` prints it."""
    return {
        "name": name,
        "method": "GET",
        "last_request_timestamp": 110.0,
        "start_time": 100.0,
        "num_requests": 1000,
        "num_none_requests": 0,
        "num_failures": 0,
        "total_response_time": 512.5,
        "max_response_time": 40.1,
        "min_response_time": 0.2,
        "total_content_length": 1024000,
        "response_times": {"0.25": 500, "0.9": 400, "2.0": 90, "31.0": 9, "40.1": 1},
        "num_reqs_per_sec": {"100": 100},
        "num_fail_per_sec": {},
    } | changed


def of(*lines: dict[str, Any], users: int = 16) -> Any:
    return locustload.outcome(locustload.parse_statistics(json.dumps(lines)), users, "/1k")


def test_a_run_is_read() -> None:
    found = of(line("/1k"))
    assert (found.work, found.errors, found.seconds) == (1000, 0, 10.0)
    assert found.latency_us == {"p50": 250.0, "p90": 900.0, "p99": 2000.0, "p999": 31000.0}
    assert found.rate == 100.0


def test_requests_that_opened_a_connection_count_as_work_but_not_in_the_latency() -> None:
    opened = line("/1k (new connection)", num_requests=16, response_times={"90.0": 16}, start_time=99.0)
    found = of(line("/1k"), opened)
    assert (found.work, found.errors, found.seconds) == (1016, 0, 11.0)
    assert found.latency_us["p999"] == 31000.0


def test_a_connection_beyond_one_per_user_is_an_error() -> None:
    opened = line("/1k (new connection)", num_requests=20, response_times={"90.0": 20})
    assert of(line("/1k"), opened).errors == 4


def test_a_failure_is_an_error_and_no_work() -> None:
    found = of(line("/1k", num_failures=30), line("/1k (new connection)", num_requests=5, num_failures=5))
    assert (found.work, found.errors) == (970, 35)


@pytest.mark.parametrize("lines", [(), (line("/1k", num_failures=1000),)], ids=["nothing asked", "all failed"])
def test_a_run_without_an_answer_is_an_error(lines: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(BenchError, match="no request was answered"):
        of(*lines)


@pytest.mark.parametrize("text", ["", "locust: error: no", "{}}", '["x"]', '[{"name": "/1k"}]', "3", '{"a": 1}'])
def test_what_is_not_statistics_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="locust printed no statistics"):
        locustload.parse_statistics(text)


def test_an_entry_that_was_never_asked_ends_when_it_began() -> None:
    (entry,) = locustload.parse_statistics(json.dumps([line("/1k", last_request_timestamp=None)]))
    assert (entry.began, entry.ended) == (100.0, 100.0)


def test_the_commonest_failure_is_named() -> None:
    assert locustload.commonest_failure('{"reset": 3, "status 503": 40, "timed out": 7}') == "status 503"
    assert locustload.commonest_failure("{}") == ""


@given(st.dictionaries(st.floats(0.001, 1e4), st.integers(1, 50), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_the_least_time_that_enough_requests_took(times: dict[float, int], share: float) -> None:
    found = locustload.percentile(times, share)
    total = sum(times.values())
    assert sum(count for time, count in times.items() if time <= found) >= share * total
    assert sum(count for time, count in times.items() if time < found) < share * total


# --- arguments ---


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (arguments.positive, "62.5", 62.5),
        (arguments.count, "0", 0),
        (arguments.whole, "4", 4),
        (arguments.rates, "500, 750,1000", [500, 750, 1000]),
        (arguments.path, "/a?b=c", "/a?b=c"),
        (arguments.target, "10.0.0.7:8080", "10.0.0.7:8080"),
        (arguments.target, "[fd00::7]:80", "[fd00::7]:80"),
        (arguments.proxy, "10.0.0.7", ("10.0.0.7", 15008)),
        (arguments.proxy, "hbone://10.0.0.7:9/", ("10.0.0.7", 9)),
        (arguments.proxy, "[fd00::7]", ("fd00::7", 15008)),
        (arguments.base_url, "http://[::1]:8080", "http://[::1]:8080"),
        (arguments.base_url, "https://shop.example", "https://shop.example"),
        (arguments.spiffe, "spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b"),
    ],
)
def test_an_argument_is_read(kind: Any, text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((arguments.positive, text) for text in ("0", "-1", "nan", "inf", "x", "")),
        *((arguments.count, text) for text in ("-1", "1.5", "", "²")),
        *((arguments.whole, text) for text in ("0", "-4")),
        *((arguments.rates, text) for text in ("", "500,", "500,0", "500;600")),
        *((arguments.path, text) for text in ("1k", "", "//x", "/a b", "/a\r\nX: y", "/ä")),
        *((arguments.target, text) for text in ("10.0.0.7", "fd00::7:80", "[fd00::7]", ":80", "a:0", "a:65536", "a:x")),
        *((arguments.proxy, text) for text in ("", "hbone://", "fd00::7", "a:", "[::1]x", "[::1")),
        *((arguments.base_url, text) for text in ("", "10.0.0.7:80", "ftp://a", "http://", "http://a:b")),
        *((arguments.spiffe, text) for text in ("", "td/ns/a/sa/b", "spiffe://td/ns/a")),
    ],
)
def test_a_wrong_argument_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert arguments.file(str(tmp_path / "here")) == tmp_path / "here"
    with pytest.raises(argparse.ArgumentTypeError, match="gone: No such file"):
        arguments.file(str(tmp_path / "gone"))
    with pytest.raises(argparse.ArgumentTypeError, match="Is a directory"):
        arguments.file(str(tmp_path))


# --- schedule ---


def slots(users: int, rate: float, seconds: float) -> list[float]:
    """When `users` that start at odd moments ask within `seconds`, each as soon as it is due."""
    chance = random.Random(7)
    due = []
    for index in range(users):
        now = 1000 + chance.random() / rate
        schedule = Schedule(now, rate, index / users)
        while schedule.due < 1001 + seconds:
            now = schedule.due
            due.append(now)
            schedule.advance(now, rate, index / users)
    return sorted(moment for moment in due if moment >= 1001)


@pytest.mark.parametrize(("users", "rate"), [(1, 100.0), (4, 375.0), (16, 62.5)])
def test_the_requests_of_all_users_are_evenly_spaced_at_the_asked_rate(users: int, rate: float) -> None:
    due = slots(users, rate, 2.0)
    assert len(due) == pytest.approx(2 * users * rate, abs=1)
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert max(gaps) == pytest.approx(1 / (users * rate), rel=0.01)


def test_a_hiccup_is_made_up_for_without_losing_the_spacing() -> None:
    schedule = Schedule(0.0, 100.0, 0.5)
    assert schedule.due == pytest.approx(0.005)
    waits = [schedule.advance(0.042, 100.0, 0.5) for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 0.003, 0.013])


def test_a_long_stall_is_not_made_up_for() -> None:
    schedule = Schedule(0.0, 100.0, 0.5)
    now = 0.042 + 5 * BACKLOG_MAX
    assert schedule.advance(now, 100.0, 0.5) == pytest.approx(0.003, abs=1e-6)


def test_a_new_rate_holds_from_the_next_slot_on_the_new_grid() -> None:
    schedule = Schedule(0.0, 100.0, 0.25)
    assert schedule.advance(0.0025, 200.0, 0.25) == pytest.approx(0.00375, abs=1e-9)
    assert schedule.advance(0.00625, 200.0, 0.25) == pytest.approx(0.005, abs=1e-9)


@pytest.mark.parametrize(
    ("exact", "kept"),
    [(0.0, 0.0), (0.0004, 0.0), (0.5374, 0.537), (0.01234, 0.012), (5.378, 5.38), (53.78, 53.8), (5378.0, 5380.0)],
)
def test_a_time_is_kept_to_three_digits_and_a_microsecond(exact: float, kept: float) -> None:
    assert rounded(exact) == pytest.approx(kept)


# --- sweep ---


def test_the_sweep_goes_through_the_published_rates_and_ends() -> None:
    assert sweep.RATES == (500, 750, 1000, 1250, 1500)
    assert sweep.CONNECTIONS == 4
    steps = [sweep.step_at(second, sweep.RATES, 30) for second in (0, 29.9, 30, 60, 90, 149.9, 150, 1e9)]
    assert steps == [0, 0, 1, 2, 3, 4, None, None]
