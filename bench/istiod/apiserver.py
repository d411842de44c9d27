"""The API server of the bench, as a process of its own, so that its CPU and memory are not istiod's.

    python -P -m bench.istiod.apiserver PORT SIZES

serves a cluster of these sizes (the JSON of `Sizes`) on loopback until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

import msgspec
import uvloop

from bench.istiod.fleet import Fleet, Sizes
from istiod.resources import resource_of
from tests.support.apiserver import kinds
from tests.support.apiserver.api import Api
from tests.support.apiserver.objects import Target
from tests.support.apiserver.server import Server
from tests.support.apiserver.store import Store

HISTORY: Final = 20_000
"""Changes for watches to catch up with: a rollout of 1,000 pods makes 5,000."""


async def serve(port: int, sizes: Sizes) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = Server(Api(Store(kinds.builtin(kinds.CUSTOM), history=HISTORY), {}, ""), None)
    by_name = {(kind.group, kind.kind): kind for kind in server.api.store.kinds.values()}
    for obj in Fleet(sizes).objects():
        resource = resource_of(obj["kind"], obj["apiVersion"])
        assert resource is not None
        kind = by_name[resource.group, resource.kind]
        namespace = obj["metadata"].get("namespace", "")
        server.api.objects.force(Target(kind, resource.version, namespace, obj["metadata"]["name"]), obj)
    server.port = port
    await server.start()
    try:
        await stop.wait()
    finally:
        await server.stop()


def main() -> None:
    uvloop.run(serve(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Sizes)))


if __name__ == "__main__":
    main()
