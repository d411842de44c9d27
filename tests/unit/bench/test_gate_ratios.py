"""The gate's bounds on ratios: what passes, what fails, and when a second try is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.bars import Comparison
from bench.errors import BenchError
from bench.gate import ratios
from bench.gate.ratios import Bound
from bench.measure import Spread


def comparison(ratio: float, *, noisy: bool = False, errors: int = 0) -> Comparison:
    return Comparison(Spread(1, 1, 1, 3), Spread(1, 1, 1, 3), Spread(ratio, ratio, ratio, 3), noisy, errors)


BOUND = Bound(0.7, 0.9)


def test_at_the_bound_passes_and_above_it_fails() -> None:
    assert ratios.judge("closed", BOUND, [comparison(0.9)]).ok
    found = ratios.judge("closed", BOUND, [comparison(0.95), comparison(0.91)])
    assert found.ok is False
    assert "0.91 x Envoy" in found.text
    assert "first try 0.95" in found.text


def test_a_load_with_errors_fails_however_cheap_it_was() -> None:
    assert ratios.judge("closed", BOUND, [comparison(0.1, errors=1)]).ok is False


def test_a_noisy_machine_is_told() -> None:
    assert "noisy" in ratios.judge("closed", BOUND, [comparison(0.8, noisy=True)]).text


class FakeSuite:
    """Gives the prepared results of `compare` in turn; counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, *_: Any, **__: Any) -> list[Any]:
        self.runs += 1
        return []


@pytest.mark.parametrize(
    ("found", "runs", "ok"),
    [([0.5], 1, True), ([1.5, 0.5], 2, True), ([1.5, 1.4, 0.5], 2, False)],
    ids=["first try", "second try", "no third try"],
)
def test_what_is_above_its_bound_is_measured_once_more(
    found: list[float], runs: int, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(found)
    monkeypatch.setattr(ratios, "compare", lambda *_: comparison(next(left)))
    suite = FakeSuite()
    tries = ratios._measure(suite, "closed", BOUND)  # type: ignore[arg-type]
    assert suite.runs == runs
    assert ratios.judge("closed", BOUND, tries).ok is ok


def test_the_bounds_in_force_can_be_read() -> None:
    found = ratios.read()
    assert {"constant", "closed", "fresh"} <= set(found.cases)
    assert found.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"reason": "", "cases": {"slow": {"measured": 1, "bound": 2}}}', "no such case"),
        ('{"reason": "", "cases": {"closed": {"measured": 0.9, "bound": 0.5}}}', "below what was measured"),
        ('{"reason": "", "cases": {"closed": {"measured": 0.9}}}', "bound"),
        ('{"reason": "", "cases": {}, "margin": 3}', "margin"),
        ("", "truncated"),
    ],
)
def test_a_file_of_bounds_that_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "ratios.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=said) as caught:
        ratios.read(path)
    assert str(path) in str(caught.value)
