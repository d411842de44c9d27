"""Clients, objects and sinks for the tests of the Kubernetes client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from istiod.kube.changes import RawChange
from istiod.kube.client import Item, KubeClient
from istiod.kube.credentials import direct
from istiod.kube.reflector import Reflector
from istiod.resources import BY_STORE_KIND, Resource
from tests.support.apiserver import Control, KubeApi

CONFIG_MAP = BY_STORE_KIND["ConfigMap"]
NAMESPACE = BY_STORE_KIND["Namespace"]
POD = BY_STORE_KIND["Pod"]
SERVICE = BY_STORE_KIND["Service"]
SERVICE_ENTRY = BY_STORE_KIND["ServiceEntry"]
GATEWAY_CLASS = BY_STORE_KIND["GatewayClass"]
DEFINITIONS = Resource(
    "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", ("v1",), namespaced=False
)

Obj = dict[str, Any]

DEADLINE_S = 30.0
UNLIMITED = 1e6  # requests per second


def client_of(api: KubeApi, *, timeout: float = DEADLINE_S, token: str | None = None) -> KubeClient:
    """A client without a limit of requests."""
    credentials = direct(api.url, token=api.token if token is None else token, ca_file=api.ca_file)
    return KubeClient(credentials, qps=UNLIMITED, burst=10_000, timeout=timeout)


def control_of(api: KubeApi) -> Control:
    assert api.control is not None
    return api.control


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await test

    asyncio.run(limited())


async def new_namespace(client: KubeClient) -> str:
    return (await client.create(NAMESPACE, "", {"metadata": {"generateName": "test-"}})).name


def decoded(item: Item | RawChange) -> Obj:
    assert item.raw is not None
    return msgspec.json.decode(item.raw, type=Obj)


def config_map(name: str, namespace: str = "default", **data: str) -> Obj:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def definition(group: str, *versions: str, plural: str = "gauges", kind: str = "Gauge") -> Obj:
    """A CustomResourceDefinition with a status whose conditions are a list by type, and any spec."""
    condition = {"type": "object", "properties": {"type": {"type": "string"}, "status": {"type": "string"}}}
    conditions = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": condition | {"required": ["type"]},
    }
    addresses = {"type": "array", "items": {"type": "string"}}
    properties = {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "status": {"type": "object", "properties": {"conditions": conditions, "addresses": addresses}},
    }
    made = [
        {
            "name": version,
            "served": True,
            "storage": version == versions[0],
            "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        }
        for version in versions
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": made,
        },
    }


async def until(condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S) -> None:
    """Wait for a condition; fail naming it."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout} s: {what}") from None


class Mirror:
    """A sink that holds what it was told, and every batch as (name, is gone)."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Obj] = {}
        self.batches: list[list[tuple[str, bool]]] = []

    def __call__(self, changes: Sequence[RawChange]) -> None:
        self.batches.append([(change.name, change.raw is None) for change in changes])
        for change in changes:
            if change.raw is None:
                del self.objects[change.namespace, change.name]
            else:
                self.objects[change.namespace, change.name] = decoded(change)

    @property
    def names(self) -> list[str]:
        return sorted(name for _, name in self.objects)

    @property
    def told(self) -> list[tuple[str, bool]]:
        return [change for batch in self.batches for change in batch]


@contextlib.asynccontextmanager
async def reflecting(reflector: Reflector) -> AsyncIterator[Reflector]:
    stop = asyncio.Event()
    task = asyncio.create_task(reflector.run(stop))
    try:
        yield reflector
    finally:
        stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


async def until_served(client: KubeClient, resource: Resource) -> None:
    """A definition takes effect a little after it was created."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if await client.served_version(resource) is not None:
                return
            await asyncio.sleep(0.02)
