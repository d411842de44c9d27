"""Processes of this machine, told by the environment they were started with, and descriptors of this one."""

from __future__ import annotations

import gc
from pathlib import Path


def with_environment(text: str) -> set[int]:
    """Pids of those in whose environment the text stands; those we may not look into are left out."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if text.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def open_fds() -> set[str]:
    """Descriptors of this process. What earlier tests dropped goes first: it could close its own at any moment."""
    gc.collect()
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}
