"""How slices become a verdict."""

from __future__ import annotations

import json

import pytest

from bench import bars, report
from bench.bars import BARS, Row, compare
from bench.load import Outcome
from bench.measure import Memory, Usage
from bench.suite import CASES, Slice


def piece(subject: str, number: int, cpu: float, *, foreign: float = 0.0, errors: int = 0) -> Slice:
    """A slice of 1,000 requests that cost `cpu` seconds."""
    usage = Usage(1.0, {"client": cpu / 2, "server": cpu / 2}, foreign, 0.0)
    cells = {"client": dict.fromkeys(report._CELLS, 2000)} if subject == "ours" else {}
    outcome = Outcome(1000, errors, 1.0, {"p50": 100.0, "p90": 200.0, "p99": 300.0})
    return Slice("constant", subject, number, outcome, usage, 0.02, {"client": Memory(2, 1)}, cells)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was twice as slow in the second round: both ratios are 0.5 all the same.
    slices = [piece("ours", 0, 0.1), piece("envoy", 0, 0.2), piece("envoy", 1, 0.4), piece("ours", 1, 0.2)]
    found = compare(slices, "ours", "envoy")
    assert (found.ratio.median, found.ratio.low, found.ratio.high) == (0.5, 0.5, 0.5)
    assert not found.noisy


def test_a_noisy_round_does_not_count() -> None:
    slices = [piece(name, number, 0.1) for number in range(3) for name in ("ours", "envoy")]
    slices += [piece("ours", 3, 9.0, foreign=1.0), piece("envoy", 3, 0.1)]
    found = compare(slices, "ours", "envoy")
    assert found.ratio == (1.0, 1.0, 1.0, 3)
    assert not found.noisy


def test_a_noisy_machine_is_said_so() -> None:
    slices = [piece(name, number, 0.1, foreign=1.0) for number in range(3) for name in ("ours", "envoy")]
    slices += [piece("ours", 3, 0.2), piece("envoy", 3, 0.1)]
    found = compare(slices, "ours", "envoy")
    assert found.noisy
    assert found.ratio.samples == 4
    assert "noisy machine" in found.note


def test_errors_are_told() -> None:
    found = compare([piece("ours", 0, 0.1, errors=3), piece("envoy", 0, 0.1, errors=1)], "ours", "envoy")
    assert found.errors == 4
    assert "4 errors" in found.note


def test_every_bar_names_cases_that_exist() -> None:
    for bar in BARS.values():
        assert set(bar.cases) <= set(CASES)
        for case in bar.cases:
            assert {"ours", "envoy"} <= set(CASES[case].subjects)


def test_calls_per_request_come_from_the_counters() -> None:
    found = report.syscalls_per_work([piece("ours", 0, 0.1), piece("ours", 1, 0.1), piece("envoy", 0, 0.1)])
    assert [(case, role) for case, role, _ in found] == [("constant", "client")]
    assert found[0][2]["READ"] == pytest.approx(2.0)


def test_the_document_is_json_and_has_every_slice() -> None:
    row = Row("request", "what", "1 us", "2 us", 0.5, "<= 0.65 x", True)
    document = json.loads(json.dumps(report.as_object({"cores": 2}, [row], [piece("ours", 0, 0.1)])))
    assert document["format"] == report.FORMAT
    assert document["bars"][0]["ok"] is True
    assert document["slices"][0]["cost"] == pytest.approx(1e-4)


def test_the_limit_of_bulk_follows_the_cipher_library() -> None:
    import os
    import ssl

    major, minor = ssl.OPENSSL_VERSION_INFO[:2]
    assert bars.openssl_of(os.getpid()) == (major, minor)
