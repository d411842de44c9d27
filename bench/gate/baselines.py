"""What the gate compares with: counts that were accepted once, with the reason for every change of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench import config
from bench.errors import BenchError
from bench.gate.counts import CASES, Count
from bench.gate.environment import Environment, differences

FILE: Final = config.ROOT / "bench" / "baselines" / "instructions.json"
LIMIT: Final = 0.03
"""Growth that fails. Counts repeat within 0.2 %, so what is above is a change of the code."""
_CULPRITS: Final = 3  # object files to name


class Change(msgspec.Struct, frozen=True):
    """One update of a baseline. `percent`: change of each total, None for a case that was not there before."""

    date: str
    reason: str
    percent: dict[str, float | None]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accepted counts, the environment they were taken in, and how they came about, oldest first."""

    environment: dict[str, str]
    cases: dict[str, Count]
    reasons: list[Change]


class Finding(NamedTuple):
    """What the gate says of one case. `ok` is None when nothing could be compared: the text says why."""

    ok: bool | None
    case: str
    text: str


def read(path: Path = FILE) -> Baseline:
    """Raises BenchError when the file is missing or is no baseline."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except FileNotFoundError:
        raise BenchError(f"{path}: there is no baseline: record one with --update-baseline --reason") from None
    except (OSError, msgspec.DecodeError) as error:
        raise BenchError(f"{path}: {error}") from None


def compare(found: Mapping[str, Count], here: Environment, baseline: Baseline) -> list[Finding]:
    """One finding per case.

    Totals are compared where the environment is the baseline's as far as the case depends on it. Where it is not, a
    library may count differently for no fault of ours: then only instructions of our own modules are compared, if the
    same compilers made them.
    """
    findings = [_finding(name, count, here, baseline) for name, count in found.items()]
    gone = sorted(baseline.cases.keys() - CASES.keys())
    return findings + [Finding(False, name, "stands in the baseline, but there is no such case") for name in gone]


def _finding(name: str, count: Count, here: Environment, baseline: Baseline) -> Finding:
    accepted = baseline.cases.get(name)
    if accepted is None:
        return Finding(False, name, "has no baseline: record one with --update-baseline --reason")
    parts, grown, shrunk = [], False, False
    for label, value, base, needs in (
        ("total", count.total, accepted.total, CASES[name].total_needs),
        ("ours", count.ours, accepted.ours, CASES[name].ours_needs),
    ):
        if value is None or base is None:
            continue
        if other := differences(here, baseline.environment, needs):
            parts.append((False, f"{label} {value:,.0f} not compared: {'; '.join(other)}"))
            continue
        change = value / base - 1
        grown |= change > LIMIT
        shrunk |= change < -LIMIT
        over = f", limit +{LIMIT:.0%}" if change > LIMIT else ""
        parts.append((True, f"{label} {value:,.0f} ({change:+.1%}{over})"))
    text = ", ".join(part for _, part in sorted(parts, key=lambda each: not each[0]))
    if grown:
        return Finding(False, name, f"{text}; {_culprits(count.objects, accepted.objects)}")
    if shrunk:
        text += "; improved: update the baseline, so that it cannot be lost unseen"
    return Finding(True if any(compared for compared, _ in parts) else None, name, text)


def _culprits(found: Mapping[str, float], accepted: Mapping[str, float]) -> str:
    """The object files that have grown most."""
    growth = {name: value - accepted.get(name, 0.0) for name, value in found.items()}
    worst = sorted(growth, key=lambda name: -growth[name])[:_CULPRITS]
    return "grown most: " + ", ".join(f"{name} {growth[name]:+,.0f}" for name in worst if growth[name] >= 0.5)


def update(found: Mapping[str, Count], here: Environment, reason: str, path: Path = FILE) -> Baseline:
    """Accept these counts and write the file. Raises BenchError.

    Some cases alone may be updated, but then in the environment of the others: a file has one.
    """
    if not reason.strip():
        raise BenchError("a baseline is updated for a reason: --reason TEXT")
    old = read(path) if path.exists() else Baseline({}, {}, [])
    kept = {name: old.cases[name] for name in CASES if name in old.cases and name not in found}
    if kept and (other := differences(here, old.environment, tuple({**old.environment, **here}))):
        raise BenchError(f"update all cases together, not only {', '.join(found)}: {'; '.join(other)}")
    percent = {
        name: round((count.total / old.cases[name].total - 1) * 100, 2) if name in old.cases else None
        for name, count in found.items()
    }
    change = Change(datetime.now(UTC).date().isoformat(), " ".join(reason.split()), percent)
    cases = {name: {**kept, **found}[name] for name in CASES if name in kept or name in found}
    new = Baseline(dict(here), cases, [*old.reasons, change])
    _write(path, new)
    return new


def _write(path: Path, baseline: Baseline) -> None:
    text = msgspec.json.format(msgspec.json.encode(baseline), indent=2)
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(text + b"\n")
        fresh.replace(path)
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None


def failed(findings: Iterable[Finding]) -> bool:
    """Does one of them fail the gate?"""
    return any(finding.ok is False for finding in findings)
