"""Whether this ztunnel can take traffic, and the port that says so."""

from __future__ import annotations

import logging
from typing import Final

from ztunnel.http import Request, Response

log = logging.getLogger("ztunnel.readiness")

STATE: Final = "state manager"
PROXY: Final = "proxy"
WORKLOADS: Final = "workload proxy manager"


class Readiness:
    """Tasks that are still pending; ready when there are none."""

    def __init__(self, *tasks: str) -> None:
        self._pending = dict.fromkeys(tasks, True)
        self._said = False

    @property
    def pending(self) -> list[str]:
        return [task for task, pending in self._pending.items() if pending]

    def set(self, task: str, *, ready: bool) -> None:
        """Note that a task is done, or that it is pending again."""
        self._pending[task] = not ready
        now = not self.pending
        if now != self._said:
            self._said = now
            log.info("ready" if now else f"no longer ready, pending: {', '.join(self.pending)}")

    async def serve(self, request: Request) -> Response:
        """GET /healthz/ready."""
        if request.method not in {"GET", "HEAD"}:
            return Response.text("method not allowed\n", 405)
        pending = self.pending
        if pending:
            return Response.text(f"not ready, pending: {', '.join(pending)}\n", 500)
        return Response.text("ready\n")
