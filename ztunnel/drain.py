"""The orderly end: stop listening, let connections finish, then go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from meshcore.records import encode_drain
from ztunnel.supervisor import Supervisor
from ztunnel.workerlink import WorkerLink

log = logging.getLogger("ztunnel.drain")

GRACE_S: Final = 1.0
"""Past the deadline workers close what is left themselves; this is for their answer."""


class Drain:
    """Drains the workers once. `drained(link)` notes a REC_DRAINED, `lost(index)` a worker that ended instead."""

    def __init__(self, supervisor: Supervisor, close_listeners: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._close_listeners = close_listeners
        self._busy: set[int] = set()
        self._done = asyncio.Event()

    def drained(self, link: WorkerLink) -> None:
        self.lost(link.index)

    def lost(self, index: int) -> None:
        self._busy.discard(index)
        if not self._busy:
            self._done.set()

    def abandon(self) -> None:
        """Wait no longer."""
        self._busy.clear()
        self._done.set()

    async def run(self, deadline: float) -> bool:
        """Returns whether every connection ended by itself within `deadline` seconds; workers have ended then."""
        self._supervisor.hold()
        self._busy = {link.index for link in self._supervisor.ready_links}
        self._done.clear()  # a worker that crashed in earlier days has set it
        self._supervisor.broadcast(encode_drain(round(deadline * 1000)))
        self._close_listeners()
        began = asyncio.get_running_loop().time()
        in_time = not self._busy
        try:
            async with asyncio.timeout(deadline + GRACE_S if self._busy else 0):
                await self._done.wait()
            in_time = True
        except TimeoutError:
            log.warning("workers %s still had connections after %.1f s", sorted(self._busy), deadline)
        await self._supervisor.stop()
        log.info("drained in %.1f s", asyncio.get_running_loop().time() - began)
        return in_time
