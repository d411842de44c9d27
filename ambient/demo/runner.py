"""Runs scenarios on a mesh, one after the other, each under a time limit, and collects what they observed."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from ambient.demo.admin import log_size
from ambient.demo.errors import CheckFailed
from ambient.demo.mesh import Mesh
from ambient.demo.processes import tail
from ambient.demo.scenarios.base import Scenario
from ambient.demo.table import Reporter
from meshcore.errors import DeadlineExceeded, MeshError

LIMIT: Final = 60.0  # seconds for one scenario with the preparation of the mesh for it
_LOG_LINES: Final = 12
_LOG_READ: Final = 1000


class Outcome(NamedTuple):
    """`observed` is a fact either way; `tails` are (process, last lines of its log) of a scenario that failed."""

    scenario: Scenario
    ok: bool
    observed: str
    seconds: float
    tails: tuple[tuple[str, list[str]], ...] = ()


class ScenarioTooLong(DeadlineExceeded, code="demo.too_long"):
    """A scenario did not end within its limit."""


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise ScenarioTooLong in the main thread once `seconds` have passed."""

    def ring(_: int, __: FrameType | None) -> None:
        raise ScenarioTooLong(f"not done within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def run(mesh: Mesh, scenarios: Sequence[Scenario], reporter: Reporter) -> list[Outcome]:
    """Run all of them; a failure does not keep the next one from running."""
    outcomes = []
    for scenario in scenarios:
        reporter.begin(scenario)
        outcome = _run_one(mesh, scenario)
        reporter.end(outcome.scenario, outcome.ok, outcome.observed, outcome.seconds)
        for process, lines in outcome.tails:
            reporter.log(process, lines)
        outcomes.append(outcome)
    return outcomes


def _run_one(mesh: Mesh, scenario: Scenario) -> Outcome:
    began = time.monotonic()
    offsets = {path: log_size(path) for path in mesh.logs.iterdir()}
    ok = False
    try:
        with _limit(LIMIT):
            mesh.prepare(scenario.enrolled)
            observed = scenario.check(mesh)
            ok = True
    except CheckFailed as error:
        observed = str(error)
    except MeshError as error:
        observed = f"{error.code}: {error}"
    except (OSError, LookupError, ValueError, AttributeError, TypeError) as error:
        observed = f"the check itself broke: {type(error).__name__}: {error}"
    tails = () if ok else tuple(_tails(mesh, scenario, offsets))
    return Outcome(scenario, ok, observed, time.monotonic() - began, tails)


def _tails(mesh: Mesh, scenario: Scenario, offsets: dict[Path, int]) -> Iterator[tuple[str, list[str]]]:
    # A ztunnel that was replaced meanwhile has a log too: ztunnel-1.log, ztunnel-1b.log, ...
    for path in sorted({path for name in scenario.logs for path in mesh.logs.glob(f"{name}*.log")}):
        lines = tail(path, offsets.get(path, 0), _LOG_READ)
        # What went well says nothing about a failure.
        if telling := [line for line in lines if "\tinfo\taccess\t" not in line][-_LOG_LINES:]:
            yield path.stem, telling
