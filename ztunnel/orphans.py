"""Workers whose control process died: they serve what they know until a successor tells them to drain.

A worker is an orphan when its parent is no longer a zygote. Which node it serves stands in its environment, so
several ztunnels of one machine (a laptop mesh, an upgrade) leave each other's workers alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Container
from pathlib import Path
from typing import Final

log = logging.getLogger("ztunnel.orphans")

MARK: Final = "INPOD_UDS"
"""Environment variable that tells one ztunnel's workers from another's."""
WORKER_NAME: Final = "zt-worker-"
ZYGOTE_NAME: Final = "zt-zygote"


def find(inpod_uds: str, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of orphaned workers that served the node agent at `inpod_uds`."""
    wanted = f"{MARK}={inpod_uds}".encode()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end while it is looked at, and others may not be readable: neither is ours.
        with contextlib.suppress(OSError, ValueError):
            if not (entry / "comm").read_text().startswith(WORKER_NAME):
                continue
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (proc / str(parent) / "comm").read_text().strip() != ZYGOTE_NAME:
                found.append(int(entry.name))
    return found


def drain(inpod_uds: str, keep: Container[int] = ()) -> int:
    """Tell every orphan of this node to drain -> how many there were.

    `keep` are our own workers: one whose zygote died looks like an orphan, and is none.
    """
    pids = [pid for pid in find(inpod_uds) if pid not in keep]
    for pid in pids:
        log.info("worker %d has lost its control process: told to drain", pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return len(pids)
