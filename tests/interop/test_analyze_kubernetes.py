"""Analysis of what a real API server holds."""

from __future__ import annotations

import asyncio

import pytest

from istiod.analyze import Message, Options, World, analyze, cluster
from istiod.kube.client import KubeClient
from istiod.kube.credentials import direct
from tests.support import kubernetes
from tests.support.kubernetes import Kubernetes

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]  # a start of the API server takes seconds

STEP_S = 60.0


async def analysed(kube: Kubernetes, namespace: str) -> list[Message]:
    world = World()
    async with asyncio.timeout(STEP_S):
        async with KubeClient(direct(kube.url, token=kube.token, ca_file=str(kube.ca_file))) as client:
            await cluster.read(world, client, namespace=namespace)
    world.close()
    return analyze(world, Options(namespace))


def test_objects_that_the_server_took_are_analysed(request: pytest.FixtureRequest) -> None:
    kube = kubernetes.shared(request.config)
    namespace = kube.create_namespace()
    spec = {"ports": [{"name": "web", "port": 80}], "selector": {"app": "web"}}
    kube.request("POST", f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "web"}, "spec": spec})
    kube.create_pod(namespace, "web-1", labels={"app": "web", "istio.io/use-waypoint": "gone"})
    found = [(one.code.id, one.resource, one.field) for one in asyncio.run(analysed(kube, namespace))]
    assert found == [
        ("IST0101", f"Pod web-1.{namespace}", "metadata.labels.istio.io/use-waypoint"),
        ("IST0118", f"Service web.{namespace}", "spec.ports[0].name"),
    ]
