"""Part (b) of the gate: our CPU over Envoy's in one short interleaved run, against a bound with a margin for noise.

Both pairs stand on loopback as for `ambient bench bars`. Slices take turns and the ratio is formed within a round, so
a busy neighbour meets both. What is above its bound is measured once more before it counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from bench import config
from bench.bars import Comparison, compare
from bench.errors import BenchError
from bench.gate.baselines import Finding
from bench.suite import CASES, Progress, Suite

BASELINE: Final = config.ROOT / "bench" / "baselines" / "ratios.json"
ROUNDS: Final = 5
SECONDS: Final = 1.0  # of a slice
_PATIENCE: Final = 2.0  # seconds to wait for a quiet machine before a slice


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ratio of a case as it was on a quiet machine, and what it may come to before the gate fails."""

    measured: float
    bound: float


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reason` says how far the bounds lie above what was measured, and why."""

    reason: str
    cases: dict[str, Bound]


def read(path: Path = BASELINE) -> Baseline:
    """Raises BenchError that names the file and the field."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BenchError(f"{path}: {error}") from error
    for name, bound in found.cases.items():
        if name not in CASES:
            raise BenchError(f"{path}: cases.{name}: no such case; there are {', '.join(CASES)}")
        if not 0 < bound.measured <= bound.bound:
            raise BenchError(f"{path}: cases.{name}: the bound {bound.bound} is below what was measured")
    return found


def judge(case: str, bound: Bound, tries: list[Comparison]) -> Finding:
    """The last try counts: there is a second one only when the first was above the bound."""
    last = tries[-1]
    ok = last.ratio.median <= bound.bound and last.errors == 0
    text = (
        f"{last.ratio.median:.2f} x Envoy [{last.ratio.low:.2f}-{last.ratio.high:.2f}], bound {bound.bound:.2f}, "
        f"{bound.measured:.2f} on a quiet machine"
    )
    if last.noisy:
        text += "; noisy machine"
    if last.errors:
        text += f"; {last.errors} errors"
    if len(tries) > 1:
        text += f"; first try {tries[0].ratio.median:.2f}"
    return Finding(ok, case, text)


def check(directory: Path, progress: Progress, baseline: Baseline | None = None) -> list[Finding]:
    """Measure every case of the baseline, those above their bound twice."""
    bounds = (baseline or read()).cases
    with Suite(directory, progress, patience=_PATIENCE) as suite:
        return [judge(name, bound, _measure(suite, name, bound)) for name, bound in bounds.items()]


def _measure(suite: Suite, name: str, bound: Bound) -> list[Comparison]:
    case = CASES[name]._replace(seconds=SECONDS, subjects=("ours", "envoy"))
    tries: list[Comparison] = []
    while len(tries) < 2 and (not tries or tries[-1].ratio.median > bound.bound or tries[-1].errors):
        tries.append(compare(suite.run(case, ROUNDS, quick=False), "ours", "envoy"))
    return tries
