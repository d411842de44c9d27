"""The performance gate fails on defects that are there on purpose, and on nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import config
from bench.gate import baselines, environment, memory
from bench.gate.baselines import Baseline, Finding, failed
from bench.gate.counts import Count
from tests.support import gate

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = config.ROOT
SEEDED = ROOT / "build" / "seeded" / "lib"
CASES = ("request", "bulk")
BUILD_WAIT = 300.0  # seconds; ten on an idle machine


@contextmanager
def build_lock() -> Iterator[None]:
    """The lock that the Makefile takes: two builds at once would write the same files."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "lock").open("a") as file:
        deadline = time.monotonic() + BUILD_WAIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "another build does not end"
                time.sleep(0.1)
        yield


def build(variant: str, *options: str) -> None:
    with build_lock():
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", *options],
            cwd=ROOT,
            env=dict(os.environ) | {"AMBIENT_BUILD": variant},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_WAIT,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module", autouse=True)
def builds() -> None:
    build("release", "--inplace")
    build("seeded")


@pytest.fixture(scope="module")
def baseline(builds: None, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """The release, as it is here and now: what a gate on this machine would have accepted."""
    place = tmp_path_factory.mktemp("release")
    found = gate.count(CASES, ROOT, place)
    return baselines.update(found, environment.describe(), "the release", place / "instructions.json")


def judge_counts(found: dict[str, Count], baseline: Baseline) -> dict[str, Finding]:
    return {finding.case: finding for finding in baselines.compare(found, environment.describe(), baseline)}


def modules_with(mark: bytes, root: Path) -> set[str]:
    """Names of the extension modules that contain `mark`."""
    modules = [path for package in ("meshcore", "ztunnel") for path in (root / package).glob("*.so")]
    assert modules, f"nothing is built in {root}"
    return {path.name.partition(".")[0] for path in modules if mark in path.read_bytes()}


def test_a_seed_is_in_no_other_build() -> None:
    assert modules_with(config.SEED.encode(), SEEDED) == {"tls", "_flow"}
    assert modules_with(config.SEED.encode(), ROOT) == set()
    assert modules_with(b"getenv", ROOT) == set()


def test_with_nothing_turned_on_the_gate_passes(baseline: Baseline, tmp_path: Path) -> None:
    findings = judge_counts(gate.count(CASES, SEEDED, tmp_path), baseline)
    assert [finding.ok for finding in findings.values()] == [True] * len(CASES), findings
    held = memory.judge(gate.hold(SEEDED, tmp_path), memory.read())
    assert len(held) == 4
    assert all(finding.ok for finding in held), held


def test_a_copy_of_every_record_fails_the_counts(baseline: Baseline, tmp_path: Path) -> None:
    findings = judge_counts(gate.count(CASES, SEEDED, tmp_path, seed="copy"), baseline)
    for name in CASES:
        assert findings[name].ok is False, findings[name]
        assert "grown most: meshcore/tls" in findings[name].text


def test_a_leak_per_connection_fails_the_memory(tmp_path: Path) -> None:
    findings = memory.judge(gate.hold(SEEDED, tmp_path, seed="leak"), memory.read())
    growth = [finding for finding in findings if "growth" in finding.text]
    assert [finding.ok for finding in growth] == [False, False], findings
    assert failed(findings)
