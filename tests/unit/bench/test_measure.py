"""Reading /proc: run time, memory, quiet moments."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench import measure
from bench.errors import BenchError
from bench.measure import Meter

GONE = 2**22 + 1  # above the largest pid


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_run_time_counts_what_a_process_ran() -> None:
    before = measure.run_time(os.getpid())
    burn(0.2)
    # The kernel brings the figure up to date at ticks and switches, so it may lag by a few milliseconds.
    assert 0.15 <= measure.run_time(os.getpid()) - before < 0.5


def test_a_process_that_has_ended_is_an_error_not_zero() -> None:
    with pytest.raises(BenchError, match=str(GONE)):
        measure.run_time(GONE)
    with pytest.raises(BenchError, match=str(GONE)):
        measure.memory([GONE])


def test_own_work_is_not_foreign() -> None:
    meter = Meter({})
    meter.start()
    burn(0.3)
    used = meter.stop()
    # What is ours is subtracted: the machine was at least as busy as we were.
    assert used.cpu == {}
    assert used.foreign <= (os.cpu_count() or 1) - 0.3 / used.seconds + 0.2


def test_a_process_alone_holds_what_is_resident() -> None:
    pid = os.getpid()
    rss = next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "Rss" in line
    )
    assert measure.memory_alone([pid]) == pytest.approx(rss * 1024, rel=0.05)


def test_file_pages_of_relatives_count_once() -> None:
    once = measure.memory_alone([os.getpid()])
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        both = measure.memory_alone([os.getpid(), child])
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    # All of the child's pages are shared with us: twice the resident size would be wrong by a factor of two.
    assert both < 1.2 * once


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_nearest_rank(share: float, value: int) -> None:
    assert measure.percentile(range(1, 101), share) == value


def test_waiting_for_quiet_ends_with_patience() -> None:
    began = time.monotonic()
    assert not measure.await_quiet(-1.0, 0.1)
    assert time.monotonic() - began < 5
