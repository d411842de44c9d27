"""`ambient demo` as a user runs it: every scenario holds, and nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ambient.demo.scenarios import ALL
from ambient.demo.state import marker_of

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]

AMBIENT = [sys.executable, "-P", "-m", "ambient"]
WHOLE_RUN = 200.0  # seconds; 90 on an idle machine
DEADLINE = 30.0


def processes_of(run_dir: Path) -> list[int]:
    """Every process on this machine that belongs to the demo of `run_dir`."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in numbers if marker_of(pid) == str(run_dir)]


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"did not happen within {DEADLINE:g} s: {what}"
        time.sleep(0.05)
    return found


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("d") / "demo"
    yield path
    subprocess.run([*AMBIENT, "demo", "--stop", "--run-dir", path], timeout=DEADLINE, capture_output=True, check=False)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("d") / "demo"
    try:
        done = subprocess.run(
            [*AMBIENT, "demo", "--json", "--run-dir", path],
            timeout=WHOLE_RUN,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        left = processes_of(path)
        subprocess.run([*AMBIENT, "demo", "--stop", "--run-dir", path], timeout=DEADLINE, check=False)
    assert done.stdout.count("\n") == 1, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    found |= {"status": done.returncode, "left": left, "stderr": done.stderr, "run_dir_left": path.exists()}
    return found


@pytest.mark.parametrize("name", [each.name for each in ALL])
def test_scenario(outcome: dict[str, Any], name: str) -> None:
    (entry,) = (each for each in outcome["scenarios"] if each["name"] == name)
    assert entry["ok"], f"{entry['observed']}\n{outcome['stderr'][-6000:]}"
    assert entry["observed"]


def test_the_whole_run_is_ok_and_leaves_nothing(outcome: dict[str, Any]) -> None:
    assert (outcome["ok"], outcome["status"]) == (True, 0)
    assert outcome["left"] == []
    assert not outcome["run_dir_left"]


def start(run_dir: Path, *options: str) -> subprocess.Popen[str]:
    """A demo that has built its pods."""
    demo = subprocess.Popen(
        [*AMBIENT, "demo", "--only", "not-enrolled", "--run-dir", run_dir, *options], stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(processes_of(run_dir)) > 9, "pods and nginx are there")
    return demo


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_everything(run_dir: Path, number: int) -> None:
    demo = start(run_dir)
    demo.send_signal(number)
    demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + number
    assert processes_of(run_dir) == []
    assert not run_dir.exists()


def test_after_a_crash_the_next_start_removes_what_was_left(run_dir: Path) -> None:
    demo = start(run_dir)
    demo.kill()
    demo.communicate(timeout=DEADLINE)
    left = processes_of(run_dir)
    assert left, "a killed demo cannot have cleaned up"
    done = subprocess.run(
        [*AMBIENT, "demo", "--only", "not-enrolled", "--run-dir", run_dir],
        timeout=DEADLINE * 2,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "an earlier demo left behind" in done.stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert processes_of(run_dir) == []


def test_keep_leaves_it_running_and_exec_enters_a_pod(run_dir: Path) -> None:
    options = ["--run-dir", str(run_dir)]
    subprocess.run([*AMBIENT, "demo", "--keep", "--only", "enrolled", *options], timeout=DEADLINE * 3, check=True)
    url = "http://10.77.96.10/hello"
    done = subprocess.run(
        [*AMBIENT, "exec", *options, "frontend", "--", "curl", "-sS", "--max-time", "5", url],
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "client=10.77.1.11" in done.stdout
    subprocess.run([*AMBIENT, "demo", "--stop", *options], timeout=DEADLINE, check=True)
    assert processes_of(run_dir) == []
    assert not run_dir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user, which takes root")
def test_without_root_it_runs_in_a_user_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")
    for each in (home, *home.parents):  # pytest's directories are closed to others
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(0o755)
    os.chown(home, 65534, 65534)
    nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "env",
        f"HOME={home}",
        "PYTHONDONTWRITEBYTECODE=1",
    ]
    done = subprocess.run(
        [
            *nobody,
            *AMBIENT,
            "demo",
            "--json",
            "--only",
            "not-enrolled",
            "--only",
            "tls-only",
            "--run-dir",
            home / "demo",
        ],
        timeout=DEADLINE * 3,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if "user namespaces, which are not available" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    assert processes_of(home / "demo") == []
