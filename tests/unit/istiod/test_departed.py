"""What a proxy that has gone leaves behind: nothing, and at once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import uvloop

from tests.unit.istiod.support import Mesh, pod

WAIT_S = 20.0


def test_a_subscriber_that_hangs_up_is_freed_without_the_collector(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    (mesh.config / "web.yaml").write_text(pod("web"))

    async def scenario() -> None:
        async with mesh.running() as istiod, asyncio.timeout(WAIT_S):
            departed: list[weakref.ref[Any]] = []
            async with mesh.subscriber() as subscriber:
                await subscriber.until(lambda: bool(subscriber.held))
                departed += map(weakref.ref, istiod.service.proxies.values())
                departed += map(weakref.ref, istiod.service.server.connections)
                assert len(departed) == 2
                gc.collect()
                gc.disable()
            while any(one() is not None for one in departed):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    try:
        uvloop.run(scenario())
    finally:
        gc.enable()
