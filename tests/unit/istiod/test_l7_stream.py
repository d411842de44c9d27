"""A waypoint's view of the native stream: the L7 types by name, and what changes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from meshcore import l7
from meshcore.identity import Identity
from meshcore.stream import DeltaClient, Node, Resource
from tests.unit.istiod.support import Mesh

WAYPOINT = Identity("cluster.local", "default", "w")
KEY = "default/s.default.svc.cluster.local"
TYPES: dict[str, Any] = {l7.WAYPOINT_TYPE: l7.Waypoint, l7.SERVICE_TYPE: l7.Service}

OBJECTS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: w.default.svc.cluster.local}]}
---
apiVersion: v1
kind: Service
metadata: {name: s, labels: {istio.io/use-waypoint: w}}
spec: {selector: {app: s}, clusterIP: 10.1.0.1, ports: [{name: http, port: 80}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [s]
  http: [{match: [{uri: {prefix: /old}}], redirect: {uri: /new}}, {route: [{destination: {host: s}}]}]
"""


def test_a_waypoint_follows_its_services_and_their_routes(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh = Mesh(tmp_path)
        (mesh.config / "objects.yaml").write_text(OBJECTS)
        held: dict[str, Any] = {}
        changed = asyncio.Event()

        def update(type_url: str, resources: list[Resource], removed: list[str]) -> dict[str, str]:
            for resource in resources:
                held[resource.name] = msgspec.msgpack.decode(resource.body, type=TYPES[type_url])
            for name in removed:
                held.pop(name, None)
            changed.set()
            return {}

        async def until(holds: Callable[[], object]) -> None:
            async with asyncio.timeout(10):
                while not holds():
                    changed.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), 0.05)

        async with mesh.running():
            client = DeltaClient(
                address=mesh.address,
                tls=mesh.tls(WAYPOINT),
                server_name="localhost",
                node=Node("waypoint~10.0.0.9~w-1.default~x"),
                types=tuple(TYPES),
                by_name=tuple(TYPES),
                on_update=update,
            )
            await client.subscribe(l7.WAYPOINT_TYPE, ["default/w"])
            stop = asyncio.Event()
            task = asyncio.create_task(client.run(stop))
            await until(lambda: "default/w" in held)
            assert held["default/w"].services == (KEY,)
            await client.subscribe(l7.SERVICE_TYPE, [KEY])
            await until(lambda: KEY in held)
            assert held[KEY].waypoint == "default/w"
            (port,) = held[KEY].ports
            assert len(port.http) == 1
            (mesh.config / "route.yaml").write_text(ROUTE)
            await until(lambda: len(held[KEY].ports[0].http) == 2)
            (mesh.config / "objects.yaml").write_text(
                OBJECTS.replace("labels: {istio.io/use-waypoint: w}", "labels: {}")
            )
            await until(lambda: KEY not in held and held["default/w"].services == ())
            stop.set()
            await task

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())
