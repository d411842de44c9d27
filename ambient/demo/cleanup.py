"""Removing a laptop mesh that nobody looks after any more: after a crash, after --keep, at the end of a run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ambient.demo.errors import DemoError
from ambient.demo.processes import start_time, wait_until
from ambient.demo.state import State, marker_of, netns_inode, read

_GONE_WITHIN: Final = 5.0  # seconds from SIGKILL to the end of a process
_TERM_WAIT: Final = 1.0


def leftovers(run_dir: Path, state: State | None) -> dict[int, int]:
    """Processes of the mesh in `run_dir`: pid -> start time.

    A process belongs to it when the state file names it with this start time, when it carries the run directory
    in its environment, or when it lives in one of the namespaces whose pause process is still there.
    """
    recorded = [*state.namespaces.values(), *state.processes] if state else []
    found = {each.pid: each.started for each in recorded if each.alive}
    ours = netns_inode(os.getpid())
    inodes = {netns_inode(each.pid) for each in state.namespaces.values() if each.alive} if state else set()
    inodes -= {ours, None}
    own_line = set(_ancestors(os.getpid()))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or (pid := int(entry.name)) in own_line:
            continue
        if marker_of(pid) == str(run_dir) or netns_inode(pid) in inodes:
            started = start_time(pid)
            if started is not None:
                found[pid] = started
    return found


def _ancestors(pid: int) -> Iterable[int]:
    """`pid`, its parent and so on: what must not be killed whatever its environment says."""
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def end_processes(found: dict[int, int]) -> None:
    """SIGTERM, then SIGKILL; raises DemoError naming what did not go away."""
    for number, patience in ((signal.SIGTERM, _TERM_WAIT), (signal.SIGKILL, _GONE_WITHIN)):
        living = [pid for pid, started in found.items() if start_time(pid) == started]
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while any(start_time(pid) == found[pid] for pid in living) and time.monotonic() < deadline:
            time.sleep(0.02)
    stuck = [pid for pid, started in found.items() if start_time(pid) == started]
    if stuck:
        raise DemoError(f"processes of an earlier demo cannot be ended: {', '.join(map(str, stuck))}; kill them first")


def remove_mesh(run_dir: Path) -> int:
    """End every process of the mesh in `run_dir` and empty the directory -> how many processes there were."""
    found = leftovers(run_dir, read(run_dir))
    end_processes(found)
    # A process may have forked between the look and the kill.
    wait_until(lambda: _none_left(run_dir), "the last processes of the mesh to end", _GONE_WITHIN)
    empty(run_dir)
    return len(found)


def _none_left(run_dir: Path) -> bool:
    late = leftovers(run_dir, None)
    end_processes(late)
    return not late


def empty(run_dir: Path) -> None:
    """Delete everything in the run directory except its lock."""
    for entry in list(run_dir.iterdir()):
        if entry.name == "lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
