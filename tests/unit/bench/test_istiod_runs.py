"""The bench of istiod as a whole, with a cluster that is small enough for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.istiod import document
from bench.istiod.command import EXIT_UNUSABLE
from meshcore.model import ADDRESS_TYPE
from tests.support.processes import with_environment

COMMAND = [sys.executable, "-P", "-m", "bench", "istiod"]
SMALL = ["--pods=20", "--ztunnels=3", "--waypoints=2", "--starts=1", "--deaths=2", "--reconnects=1", "--rollout=4"]


def bench(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env=dict(os.environ) | {"TMPDIR": str(directory)},
    )


@pytest.mark.netns
@pytest.mark.slow
def test_a_small_cluster_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = bench(*SMALL, f"--json={file}", f"--html={tmp_path / 'page.html'}", directory=tmp_path)
    assert done.returncode in {0, EXIT_UNUSABLE}, done.stderr
    assert "every client holds what the cluster is" in done.stderr
    found = document.read(file)
    assert ADDRESS_TYPE in found.types
    (point,) = found.points
    (start,) = point.starts
    services = point.sizes.services
    assert services == point.sizes.namespaces == 2
    assert start.held == 3 * (20 + services + 2) + 2 * (10 + 1), "all for ztunnels, a namespace for waypoints"
    assert start.cost.connections == 5
    assert start.cost.message_bytes < start.cost.received
    assert point.deaths is not None
    assert point.deaths.total.low > found.debounce > point.deaths.after_debounce.low > 0
    assert point.deaths.pushes == 4
    assert point.reconnects is not None
    assert point.reconnects.costs[0].connections == 5
    assert point.reconnects.costs[0].received < start.cost.received
    assert point.rollout is not None
    assert point.rollout.pods == 4
    assert point.rollout.stale.samples == 8, "each comes and each goes"
    assert 0 < point.rollout.stale.low < point.rollout.stale.high < 30
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert not with_environment(f"{tmp_path}/")


def test_a_result_that_could_not_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    done = bench(f"--json={tmp_path}/nowhere/result.json", directory=tmp_path)
    assert done.returncode == 2
    assert "there is no directory" in done.stderr
