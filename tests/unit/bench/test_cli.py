"""The command line, and that nothing outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import config
from tests.support.processes import with_environment

COMMAND = [sys.executable, "-P", "-m", "bench"]
needs_programs = pytest.mark.skipif(
    any(shutil.which(name, path=config.search_path()) is None for name in ("nginx", "iperf3", "wrk")),
    reason="nginx, iperf3 or wrk is not installed",
)


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=dict(os.environ) | environment,
    )


def marked(directory: Path) -> set[int]:
    """Everything that runs in a namespace of a bench whose files go to `directory`."""
    return with_environment(f"{config.INSIDE}={directory}/")


def test_help_needs_no_namespace() -> None:
    done = bench("bars", "--help")
    assert done.returncode == 0
    assert "--only" in done.stdout


@pytest.mark.netns
def test_a_bar_that_does_not_exist_is_a_usage_error() -> None:
    done = bench("bars", "--only", "speed")
    assert done.returncode == 2
    assert "flow-hit" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.netns
@needs_programs
def test_a_bar_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    done = bench("bars", "--quick", "--only", "identity", "--no-profile", TMPDIR=str(tmp_path))
    assert done.returncode in {0, 1}, done.stderr
    assert "one more service account" in done.stdout
    assert not marked(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.netns
@needs_programs
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_everything(number: signal.Signals, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [*COMMAND, "bars", "--quick", "--only", "closed"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 20
            while "starting envoy" not in (tmp_path / "log").read_text():
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does
            else:
                process.send_signal(number)
                if number is signal.SIGTERM:
                    time.sleep(0.01)  # impatience: a second one, in the middle of the clean-up
                    process.send_signal(number)
            status = process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(5)
    assert status == (130 if number is signal.SIGINT else 143 if number is signal.SIGTERM else -number)
    deadline = time.monotonic() + 10
    while marked(tmp_path):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)
    if number is not signal.SIGKILL:
        assert not list(tmp_path.glob("ambient-bench-*"))
