"""How the API server is told about the webhook: the wanted configuration, and who keeps it right.

A configuration starts with failurePolicy Ignore. Once the webhook can be reached it becomes Fail, and it stays so: a
webhook that is away for a moment must not let wrong objects in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from istiod.kube.client import KubeClient
from istiod.kube.errors import Conflict, NotFound
from istiod.resources import EXTENSIONS, NETWORKING, SECURITY, TELEMETRY, Resource
from istiod.webhook import PATH, Counters
from meshcore.errors import MeshError

log = logging.getLogger("istiod.webhook")

CHECK_S: Final = 60.0
"""How often the configurations are compared with what they should be: somebody may have changed them."""
RETRY_S: Final = 2.0
CONFLICTS_MAX: Final = 5
CONFIGURATION: Final = Resource(
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    "admissionregistration.k8s.io",
    ("v1",),
    namespaced=False,
)
DEFAULT_NAME: Final = "istiod-default-validator"
"""Upstream's configuration for objects without a revision."""
_GROUPS: Final = (SECURITY, NETWORKING, TELEMETRY, EXTENSIONS)
_REVISION: Final = "istio.io/rev"

Json = dict[str, Any]


def revision_name(revision: str, namespace: str) -> str:
    return f"istio-validator-{revision}-{namespace}" if revision != "default" else f"istio-validator-{namespace}"


def for_revision(revision: str, namespace: str, service: str, ca_bundle: bytes) -> Json:
    """The configuration for objects labelled with a revision. `ca_bundle` is PEM."""
    selector = {"matchExpressions": [{"key": _REVISION, "operator": "In", "values": [revision]}]}
    return _configuration(
        revision_name(revision, namespace), "rev.validation.istio.io", selector, namespace, service, ca_bundle, revision
    )


def for_unlabelled(revision: str, namespace: str, service: str, ca_bundle: bytes) -> Json:
    """The configuration for objects without the label of a revision."""
    selector = {"matchExpressions": [{"key": _REVISION, "operator": "DoesNotExist"}]}
    return _configuration(DEFAULT_NAME, "validation.istio.io", selector, namespace, service, ca_bundle, revision)


def patched(configuration: Json, ca_bundle: bytes, *, serving: bool) -> Json | None:
    """The configuration with the right caBundle, and failurePolicy Fail if the webhook serves; None if it is right.

    The argument is not changed. Webhooks that go by URL to another server are left alone.
    """
    wanted = copy.deepcopy(configuration)
    encoded = base64.b64encode(ca_bundle).decode()
    for webhook in wanted.get("webhooks") or ():
        client = webhook.setdefault("clientConfig", {})
        if "service" not in client and "url" in client:
            continue
        client["caBundle"] = encoded
        if serving:
            webhook["failurePolicy"] = "Fail"
    return wanted if wanted != configuration else None


class Configurations(Protocol):
    """Where configurations are kept."""

    async def get(self, name: str) -> Json | None:
        """None if there is none of that name."""

    async def replace(self, name: str, obj: Json) -> None:
        """Raises Conflict if it changed since it was got."""


class ClusterConfigurations:
    """Those of a cluster."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def get(self, name: str) -> Json | None:
        try:
            item = await self._client.get(CONFIGURATION, "", name)
        except NotFound:
            return None
        return msgspec.json.decode(item.raw, type=Json)

    async def replace(self, name: str, obj: Json) -> None:
        await self._client.replace(CONFIGURATION, "", name, obj)


class Reconciler:
    """Keeps configurations by name; one that does not exist is left to whoever installs the mesh.

    `ca_bundle` gives the PEM of the moment, `serving` whether the API server reaches the webhook.
    """

    def __init__(
        self,
        configurations: Configurations,
        names: Sequence[str],
        ca_bundle: Callable[[], bytes],
        serving: Callable[[], Awaitable[bool]],
        counters: Counters,
        *,
        check: float = CHECK_S,
        retry: float = RETRY_S,
    ) -> None:
        self._configurations = configurations
        self._names = tuple(names)
        self._ca_bundle = ca_bundle
        self._serving = serving
        self._counters = counters
        self._check = check
        self._retry = retry
        self._wake = asyncio.Event()

    def trigger(self) -> None:
        """Look now: the bundle changed."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what the API server refuses is told and tried again."""
        halt = asyncio.create_task(self._stopped(stop))
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    delay = self._check if await self.once() else self._retry
                except MeshError as exc:
                    self._counters.add("galley_validation_config_update_error", reason=exc.code)
                    log.warning("webhook configuration: %s", exc)
                    delay = self._retry
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
        finally:
            halt.cancel()

    async def once(self) -> bool:
        """Bring all up to date; True once they are final. Raises MeshError."""
        serving = await self._serving()
        for name in self._names:
            await self._update(name, serving=serving)
        return serving

    async def _update(self, name: str, *, serving: bool) -> None:
        for attempt in range(1, CONFLICTS_MAX + 1):
            found = await self._configurations.get(name)
            wanted = patched(found, self._ca_bundle(), serving=serving) if found is not None else None
            if wanted is None:
                return
            try:
                await self._configurations.replace(name, wanted)
            except Conflict:
                if attempt == CONFLICTS_MAX:
                    raise
                continue
            self._counters.add("galley_validation_config_updates")
            log.info("webhook configuration %s updated", name)
            return

    async def _stopped(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()


def _configuration(
    name: str, webhook: str, selector: Json, namespace: str, service: str, ca_bundle: bytes, revision: str
) -> Json:
    return {
        "apiVersion": CONFIGURATION.api_version,
        "kind": CONFIGURATION.kind,
        "metadata": {"name": name, "labels": {"app": "istiod", "istio": "istiod", _REVISION: revision}},
        "webhooks": [
            {
                "name": webhook,
                "clientConfig": {
                    "service": {"name": service, "namespace": namespace, "path": PATH},
                    "caBundle": base64.b64encode(ca_bundle).decode(),
                },
                "rules": [
                    {
                        "operations": ["CREATE", "UPDATE"],
                        "apiGroups": list(_GROUPS),
                        "apiVersions": ["*"],
                        "resources": ["*"],
                    }
                ],
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "objectSelector": selector,
            }
        ],
    }
