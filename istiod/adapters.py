"""What the CA and the authenticator want of Kubernetes, over the API client and the store."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from istiod.auth import Place, ReviewResult
from istiod.ca import Secret as CaSecret
from istiod.ca import SecretConflict
from istiod.ca.distribution import ConfigMap
from istiod.kube.client import KubeClient, Selection
from istiod.kube.errors import AlreadyExists, Conflict, NotFound
from istiod.objects import Pod
from istiod.resources import BY_STORE_KIND
from istiod.store import Store
from istiod.translate.indexes import PODS_BY_ACCOUNT
from meshcore.errors import ConfigError

CA_MANAGER: Final = "istiod-ca"
_EXTRA: Final = "authentication.kubernetes.io/"
_SECRET: Final = BY_STORE_KIND["Secret"]
_CONFIG_MAP: Final = BY_STORE_KIND["ConfigMap"]


class StorePods:
    """The pod index of the node authorizer: constant time, straight from the store's index."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def running(self, node: str, namespace: str, service_account: str) -> bool:
        return bool(self._store.find(PODS_BY_ACCOUNT, (node, namespace, service_account)))

    def place(self, namespace: str, name: str) -> Place | None:
        pod = self._store.get(Pod, namespace, name)
        return Place(pod.metadata.uid, pod.spec.node_name) if pod is not None else None


class KubernetesReviewer:
    """TokenReview."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def review(self, token: str, audiences: Sequence[str]) -> ReviewResult:
        review = await self._client.review_token(token, tuple(audiences))

        def extra(name: str) -> str:
            return next(iter(review.extra.get(_EXTRA + name, ())), "")

        return ReviewResult(
            review.authenticated,
            review.username,
            review.audiences,
            extra("pod-name"),
            extra("pod-uid"),
            extra("node-name"),
            review.error,
        )


class KubernetesSecrets:
    """The Secrets of one namespace, for the CA's key."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def get(self, name: str) -> CaSecret | None:
        try:
            item = await self._client.get(_SECRET, self._namespace, name)
        except NotFound:
            return None
        held = msgspec.json.decode(item.raw, type=dict[str, Any])
        try:
            data = {key: base64.b64decode(text, validate=True) for key, text in (held.get("data") or {}).items()}
        except (binascii.Error, ValueError):
            raise ConfigError(f"Secret {self._namespace}/{name}: its data is not base64") from None
        return CaSecret(name, held.get("type", ""), data, item.resource_version)

    async def create(self, secret: CaSecret) -> None:
        try:
            await self._client.create(_SECRET, self._namespace, self._body(secret))
        except AlreadyExists:
            raise SecretConflict(f"Secret {self._namespace}/{secret.name} was created meanwhile") from None

    async def update(self, secret: CaSecret) -> None:
        try:
            await self._client.replace(_SECRET, self._namespace, secret.name, self._body(secret))
        except Conflict:
            raise SecretConflict(f"Secret {self._namespace}/{secret.name} was changed meanwhile") from None

    def _body(self, secret: CaSecret) -> dict[str, Any]:
        meta = {"name": secret.name, "namespace": self._namespace}
        if secret.version:
            meta["resourceVersion"] = secret.version
        data = {key: base64.b64encode(value).decode() for key, value in secret.data.items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": secret.type, "data": data}


class KubernetesConfigMaps:
    """The ConfigMaps that carry the mesh's roots to every namespace."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def list(self, name: str) -> Iterable[ConfigMap]:
        found: list[ConfigMap] = []
        selection = Selection(field_selector=f"metadata.name={name}")
        async for page in self._client.list_pages(_CONFIG_MAP, selection):
            for item in page.items:
                held: Mapping[str, Any] = msgspec.json.decode(item.raw, type=dict[str, Any])
                labels = held["metadata"].get("labels") or {}
                found.append(ConfigMap(item.namespace, item.name, held.get("data") or {}, labels))
        return found

    async def apply(self, wanted: ConfigMap) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": wanted.name, "namespace": wanted.namespace, "labels": wanted.labels},
            "data": wanted.data,
        }
        await self._client.apply(_CONFIG_MAP, wanted.namespace, wanted.name, body, manager=CA_MANAGER, force=True)
