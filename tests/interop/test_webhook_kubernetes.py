"""A real API server asks the webhook, and passes on what it says."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from istiod.kube.client import KubeClient
from istiod.kube.credentials import direct
from istiod.resources import BY_STORE_KIND
from istiod.schema import crd
from istiod.webhook import PATH, Webhook
from istiod.webhook_configuration import CONFIGURATION, ClusterConfigurations, Reconciler, for_unlabelled
from tests.support import kubernetes
from tests.support.kubernetes import JSON, ApiError, Json, Kubernetes
from tests.support.pki import self_signed_server
from tests.support.worker_harness import LOOPBACK, TIMEOUT, eventually

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]  # a start of the API server takes seconds

POLICY: Final = BY_STORE_KIND["AuthorizationPolicy"]
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STEP_S: Final = 30.0


class Said(NamedTuple):
    status: int
    message: str
    warnings: list[str]


@pytest.fixture(scope="module")
def kube(request: pytest.FixtureRequest) -> Kubernetes:
    """A server that serves AuthorizationPolicy."""
    found = kubernetes.shared(request.config)
    try:
        found.request("POST", CRDS, crd(POLICY))
    except ApiError as error:
        if error.reason != "AlreadyExists":  # the server is shared with other tests
            raise
    eventually(lambda: served(found), lambda: "the kind is served", STEP_S)
    return found


def served(kube: Kubernetes) -> bool:
    try:
        kube.request("GET", POLICY.path())
    except ApiError as error:
        if error.status not in (404, 429):  # not served yet; its storage is being made
            raise
        return False
    return True


def policy(name: str, spec: Json) -> Json:
    return {"apiVersion": POLICY.api_version, "kind": POLICY.kind, "metadata": {"name": name}, "spec": spec}


def create(kube: Kubernetes, namespace: str, obj: Json) -> Said:
    """With the warnings, which come in headers."""
    headers = {"Authorization": f"Bearer {kube.token}", "Content-Type": JSON}
    body = json.dumps(obj).encode()
    request = urllib.request.Request(kube.url + POLICY.path(namespace), body, headers, method="POST")
    tls = ssl.create_default_context(cafile=kube.ca_file)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=tls) as answer:
            return Said(answer.status, "", answer.headers.get_all("warning") or [])
    except urllib.error.HTTPError as error:
        with error:
            said = json.loads(error.read())
            return Said(error.code, said["message"], error.headers.get_all("warning") or [])


class Counts:
    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        del labels
        self.found[name] += int(amount)


@asynccontextmanager
async def registered(kube: Kubernetes, namespace: str, directory: Path) -> AsyncIterator[Counts]:
    """A webhook that the server asks about objects of one namespace."""
    certificate, key = self_signed_server()
    (directory / "crt").write_bytes(certificate)
    (directory / "key").write_bytes(key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "crt", directory / "key")
    counts = Counts()
    server = Webhook(counts)
    await server.start(LOOPBACK, 0, tls)
    configuration = for_unlabelled("default", "istio-system", "istiod", certificate)
    configuration["metadata"]["name"] = namespace
    (webhook,) = configuration["webhooks"]
    bundle = base64.b64encode(certificate).decode()
    webhook["clientConfig"] = {"url": f"https://{LOOPBACK}:{server.port}{PATH}", "caBundle": bundle}
    webhook["failurePolicy"] = "Fail"
    webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    await asyncio.to_thread(kube.request, "POST", CONFIGURATION.path(), configuration)
    try:
        yield counts
    finally:
        await asyncio.to_thread(kube.request, "DELETE", CONFIGURATION.path(name=namespace))
        await server.stop()


async def refused(kube: Kubernetes, namespace: str, obj: Json) -> Said:
    """The server learns of a configuration a moment after it was stored: until then it takes what is wrong."""
    async with asyncio.timeout(STEP_S):
        for attempt in range(10_000):
            name = f"{obj['metadata']['name']}-{attempt}"
            said = await asyncio.to_thread(create, kube, namespace, {**obj, "metadata": {"name": name}})
            if said.status != 201:
                return said
            await asyncio.sleep(0.05)
    raise AssertionError("it is never refused")


def test_the_server_refuses_what_the_webhook_refuses_and_passes_its_warnings_on(
    kube: Kubernetes, tmp_path: Path
) -> None:
    async def test() -> None:
        namespace = kube.create_namespace()
        async with registered(kube, namespace, tmp_path) as counts:
            said = await refused(kube, namespace, policy("bad", {"action": "DENY"}))
            assert said.status == 422
            assert 'admission webhook "validation.istio.io" denied the request: spec.rules: missing' in said.message
            said = await asyncio.to_thread(create, kube, namespace, policy("good", {"selector": {}, "rules": [{}]}))
            assert said.status == 201
            (warning,) = said.warnings
            assert "IST0133: spec.selector: has no labels" in warning
            labelled = policy("labelled", {"action": "DENY"})
            labelled["metadata"]["labels"] = {"istio.io/rev": "other"}
            assert (await asyncio.to_thread(create, kube, namespace, labelled)).status == 201
            assert counts.found["galley_validation_http_error"] == 0
            assert counts.found["galley_validation_passed"] == counts.found["galley_validation_failed"] == 1

    asyncio.run(test())


def test_a_configuration_in_a_cluster_is_brought_up_to_date(kube: Kubernetes) -> None:
    async def serving() -> bool:
        return True

    async def test() -> None:
        certificate, _ = self_signed_server()
        configuration: dict[str, Any] = for_unlabelled("default", "istio-system", "istiod", self_signed_server()[0])
        name = kube.create_namespace()
        configuration["metadata"]["name"] = name
        configuration["webhooks"][0]["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": name}}
        kube.request("POST", CONFIGURATION.path(), configuration)
        counts = Counts()
        try:
            async with KubeClient(direct(kube.url, token=kube.token, ca_file=str(kube.ca_file))) as client:
                kept = ClusterConfigurations(client)
                assert await Reconciler(kept, [name, "gone"], lambda: certificate, serving, counts).once()
            (webhook,) = kube.request("GET", CONFIGURATION.path(name=name))["webhooks"]
            assert base64.b64decode(webhook["clientConfig"]["caBundle"]) == certificate
            assert webhook["failurePolicy"] == "Fail"
            assert counts.found == {"galley_validation_config_updates": 1}
        finally:
            kube.request("DELETE", CONFIGURATION.path(name=name))

    asyncio.run(test())
