"""Objects of a cluster: each kind is listed once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from istiod.analyze.message import Message, message
from istiod.analyze.world import World
from istiod.kube.changes import RawChange
from istiod.kube.client import KubeClient, Selection
from istiod.kube.errors import Forbidden, Gone, NotFound
from istiod.resources import RESOURCES, Resource, store_kind
from meshcore.errors import MeshError

ATTEMPTS: Final = 3
"""Of a list, when the server is busy or lost the place in it."""
WAIT_S: Final = 1.0
"""Before the second attempt; twice as long before each further one."""

_UNREAD: Final = frozenset({"Node", "EndpointSlice", "ServiceAccount"})
"""Kinds that no analyzer looks at."""
_MAKERS: Final = (
    Resource("Deployment", "deployments", "apps", ("v1",)),
    Resource("StatefulSet", "statefulsets", "apps", ("v1",)),
    Resource("DaemonSet", "daemonsets", "apps", ("v1",)),
    Resource(
        "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", ("v1",), namespaced=False
    ),
)
"""Kinds that istiod does not read, but that analysis looks at."""

Progress = Callable[[str], None]
"""Told what is being read, in the plural."""


async def read(world: World, client: KubeClient, *, namespace: str = "", progress: Progress = lambda _: None) -> None:
    """Add every object of the cluster; those of `namespace` alone where the account may not read all.

    A kind that cannot be read becomes a message, one that the server does not have counts as empty. Raises MeshError
    when the server cannot be asked at all.
    """
    world.live = True
    for resource in (*RESOURCES, *_MAKERS):
        if resource.kind not in _UNREAD:
            progress(resource.plural)
            await _read_kind(world, client, resource, namespace)


async def _read_kind(world: World, client: KubeClient, resource: Resource, namespace: str) -> None:
    kind = store_kind(resource)
    selection = Selection()
    if kind == "ConfigMap":  # no other is looked at, and they are large
        selection = Selection(world.settings.root_namespace, field_selector="metadata.name=istio")
    try:
        items = await _listed(client, resource, selection)
    except NotFound:
        return
    except Forbidden as error:
        world.unseen.add(kind)
        if not namespace or not resource.namespaced:
            world.faults.append(_not_allowed(resource, error))
            return
        try:
            items = await _listed(client, resource, selection._replace(namespace=namespace))
        except Forbidden as inner:
            world.faults.append(_not_allowed(resource, inner))
            return
    world.add_items(resource, items)


def _not_allowed(resource: Resource, error: Forbidden) -> Message:
    text = f"{error}; what refers to {resource.plural} is not analysed"
    return message("IST0141", None, text=text)


async def _listed(client: KubeClient, resource: Resource, selection: Selection) -> list[RawChange]:
    """All objects of one moment, at most `ATTEMPTS` times from the start."""
    version = await client.served_version(resource) if len(resource.versions) > 1 else resource.version
    if version is None:
        return []
    wait = WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        items: list[RawChange] = []
        try:
            async for page in client.list_pages(resource, selection, version=version):
                items += [RawChange(one.namespace, one.name, one.raw, one.resource_version) for one in page.items]
            return items
        except MeshError as error:
            if attempt == ATTEMPTS or not (error.retryable or isinstance(error, Gone)):
                raise
        await asyncio.sleep(wait)
        wait *= 2
    return []
