"""`ambient bench run` as a user runs it: figures of every kind, and nothing is left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import results
from bench.results import Document, Measured
from tests.support.processes import with_environment

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)]

BENCH = [sys.executable, "-P", "-m", "bench"]
WHOLE_RUN = 150.0  # seconds; 40 on an idle machine
DEADLINE = 30.0


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*BENCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WHOLE_RUN, check=False)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """One short slice of each kind of load over a path of each kind of proxy."""
    path = tmp_path_factory.mktemp("run") / "run.json"
    scenarios = ("ambient-l4-policies", "envoy-hbone", "envoy-waypoint-1")
    names = ("rate-1000-c4", "upload-1", "idle-10000")
    options = ["--rounds", 1, "--seconds", 1, "--patience", 0, "--retries", 0, "--json", path]
    done = bench("run", *scenarios, *(part for name in names for part in ("--load", name)), *options)
    # A test machine is rarely quiet enough for the figures to be used, which has an exit status of its own.
    assert done.returncode in {0, 3}, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return results.read(path)


def one(document: Document, scenario: str, load: str) -> Measured:
    (found,) = [each for each in document.measured if (each.scenario, each.load) == (scenario, load)]
    return found


def test_requests_get_through_every_path_at_the_rate_asked_for(document: Document) -> None:
    for scenario in document.scenarios:
        found = one(document, scenario.name, "rate-1000-c4")
        assert found.errors == 0
        assert found.rate.median == pytest.approx(1000, rel=0.1)
        assert bool(found.cpu) is (scenario.name != "direct")
        assert found.latency_us["p50"].median <= found.latency_us["p999"].median


def test_whole_ztunnels_are_measured_part_by_part(document: Document) -> None:
    found = one(document, "ambient-l4-policies", "rate-1000-c4")
    parts = {name.partition("/")[2] for name in found.cpu}
    assert parts == {"control", "zygote", "worker-0", "worker-1"}
    assert {name.partition("/")[0] for name in found.cpu} == {"ztunnel-1", "ztunnel-2"}
    assert found.cpu_total.median == pytest.approx(sum(each.median for each in found.cpu.values()))
    # Each ztunnel handles a request: neither is free, and both together cost what they cost at that rate.
    for proxy in ("ztunnel-1", "ztunnel-2"):
        assert sum(each.median for name, each in found.cpu.items() if name.startswith(proxy)) > 5e-6
        assert found.alone[proxy] > found.memory["load"][f"{proxy}/control"].private
    assert set(found.memory) == {"idle", "load", "after"}


def test_only_the_waypoint_is_the_price_of_its_scenario(document: Document) -> None:
    found = one(document, "envoy-waypoint-1", "rate-1000-c4")
    assert set(found.cpu) == {"client/envoy", "server/envoy", "waypoint/envoy"}
    assert found.cpu_total.median == pytest.approx(found.cpu["waypoint/envoy"].median)


def test_rivals_and_direct_are_compared_within_the_run(document: Document) -> None:
    found = one(document, "ambient-l4-policies", "upload-1")
    assert set(found.ratio) == {"envoy-hbone", "envoy-waypoint-1"}
    assert all(each.median > 0 for each in found.ratio.values())
    assert found.cpu_total.median > 0.1  # seconds per GB: encrypting twice is not free
    assert set(one(document, "envoy-hbone", "rate-1000-c4").added_us) == {"p50", "p90", "p99", "p999"}


def test_system_calls_are_counted_where_the_kernel_lets_us(document: Document) -> None:
    from bench.scenarios import syscalls

    found = one(document, "ambient-l4-policies", "rate-1000-c4")
    if why := syscalls.unavailable():
        assert not found.syscalls, why
        return
    # Through both workers of each node: a wake-up, a read and a write in each direction.
    workers = sum(value for name, value in found.syscalls.items() if "worker" in name)
    assert 8 <= workers <= 16


def test_idle_tunnels_are_all_open_and_cost_memory(document: Document) -> None:
    for name in ("ambient-l4-policies", "envoy-hbone"):
        found = one(document, name, "idle-10000")
        assert found.errors == 0
        assert sum(found.bytes_per_tunnel.values()) > 0
    ours = sum(one(document, "ambient-l4-policies", "idle-10000").bytes_per_tunnel.values())
    assert ours < sum(one(document, "envoy-hbone", "idle-10000").bytes_per_tunnel.values())


def test_a_mistake_is_one_line_and_says_what_there_is() -> None:
    for arguments, said in (
        (("run", "ambient-l5"), "ambient-l4"),
        (("run", "relay", "--load", "quick"), "closed-64"),
        (("run", "relay", "--json", "/nowhere/run.json"), "/nowhere"),
        (("show", "ambient-l5"), "ambient-l4"),
    ):
        done = bench(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name leaves room for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_everything(number: signal.Signals, tmp_path: Path, short_dir: Path) -> None:
    environment = dict(os.environ) | {"TMPDIR": str(short_dir)}
    log = tmp_path / "log"
    with log.open("w+") as output:
        process = subprocess.Popen(
            [*BENCH, "run", "ambient-l4", "relay", "--load", "closed-16", "--patience", "0"],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + DEADLINE
            while "closed-16 1/5" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does
            else:
                process.send_signal(number)
            status = process.wait(DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(5)
    assert status == (130 if number is signal.SIGINT else -number), log.read_text()
    assert "Traceback" not in log.read_text()
    deadline = time.monotonic() + DEADLINE
    while left := with_environment(str(short_dir / "ambient-bench-")):
        assert time.monotonic() < deadline, f"processes are left: {left}"
        time.sleep(0.05)
    if number is signal.SIGINT:
        assert not list(short_dir.glob("ambient-bench-*"))
