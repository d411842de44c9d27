"""Tokens of Kubernetes service accounts, judged by the API server that issued them (TokenReview)."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from istiod.auth.callers import Caller
from istiod.auth.pods import PodIndex
from meshcore.errors import AuthenticationError, DeadlineExceeded, Unavailable
from meshcore.identity import Identity

AUDIENCES: Final = ("istio-ca",)
CLUSTER_HEADER: Final = "clusterid"
CACHE_S: Final = 10.0
"""How long a revoked token may still work. A node proxy that starts asks for every pod's certificate with one token."""
CACHE_ENTRIES: Final = 4096
REVIEWS_MAX: Final = 32
"""At the same time, so that a flood of bad tokens does not become one on the API server."""
REVIEWS_WAITING_MAX: Final = 1024
"""Beyond, a caller is refused at once and comes back; it would not be served within the time limit anyway."""
REVIEW_TIMEOUT_S: Final = 5.0
_USER: Final = "system:serviceaccount:"


class ReviewResult(msgspec.Struct, frozen=True):
    """The status of a TokenReview. Pod and node stand in `user.extra`, authentication.kubernetes.io/pod-name etc."""

    authenticated: bool
    username: str = ""
    audiences: tuple[str, ...] = ()
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""
    error: str = ""


class TokenReviewer(Protocol):
    async def review(self, token: str, audiences: Sequence[str]) -> ReviewResult:
        """Ask the API server; raises Unavailable if it cannot be asked."""


class _Asked(NamedTuple):
    ends: float
    answer: asyncio.Task[ReviewResult]


class KubernetesTokens:
    """The method of service account tokens. Reviewers and pods by cluster id; the empty id is istiod's own cluster.

    A caller gets its node from the pod that its token is bound to, if that pod is known with the same UID.
    """

    name = "Kubernetes token"

    def __init__(
        self,
        reviewers: Mapping[str, TokenReviewer],
        pods: Mapping[str, PodIndex],
        *,
        trust_domain: str,
        cluster_id: str,
        audiences: Sequence[str] = AUDIENCES,
        cache_s: float = CACHE_S,
        cache_entries: int = CACHE_ENTRIES,
        timeout: float = REVIEW_TIMEOUT_S,
    ) -> None:
        self._reviewers = reviewers
        self._pods = pods
        self._trust_domain = trust_domain
        self._cluster_id = cluster_id
        self._audiences = tuple(audiences)
        self._cache_s = cache_s
        self._cache_entries = cache_entries
        self._timeout = timeout
        self._cache: OrderedDict[bytes, _Asked] = OrderedDict()
        self._room = asyncio.Semaphore(REVIEWS_MAX)
        self._waiting = 0

    async def caller(self, token: str, headers: Mapping[str, str]) -> Caller:
        cluster = headers.get(CLUSTER_HEADER, "")
        cluster = "" if cluster == self._cluster_id else cluster
        result = await self._reviewed(cluster, token)
        if not result.authenticated:
            raise AuthenticationError(f"not accepted: {result.error}")
        if not set(result.audiences) & set(self._audiences):
            # An API server that does not know of audiences answers with none: the token may be meant for anybody.
            raise AuthenticationError(f"made for {result.audiences}, not for {self._audiences}")
        namespace, _, account = result.username.removeprefix(_USER).partition(":")
        if not result.username.startswith(_USER) or not namespace or not account or ":" in account:
            raise AuthenticationError(f"{result.username!r} is no service account")
        return Caller(Identity(self._trust_domain, namespace, account), self._node(cluster, namespace, result), cluster)

    def _node(self, cluster: str, namespace: str, result: ReviewResult) -> str:
        """The node of the caller's pod; empty if the token is bound to no pod, or to one that is not there."""
        pods = self._pods.get(cluster)
        place = pods.place(namespace, result.pod_name) if pods is not None and result.pod_name else None
        if place is None or not result.pod_uid or place.uid != result.pod_uid:
            return ""
        return place.node if result.node_name in ("", place.node) else ""

    async def _reviewed(self, cluster: str, token: str) -> ReviewResult:
        reviewer = self._reviewers.get(cluster)
        if reviewer is None:
            raise AuthenticationError(f"unknown cluster {cluster!r}")
        now = asyncio.get_running_loop().time()
        key = hashlib.sha256(f"{cluster}\0{token}".encode()).digest()
        asked = self._cache.get(key)
        if asked is None or now >= asked.ends:
            asked = _Asked(now + self._cache_s, asyncio.create_task(self._review(reviewer, token)))
            asked.answer.add_done_callback(lambda task: self._forget_failure(key, task))
            self._cache.pop(key, None)
            self._cache[key] = asked
            while len(self._cache) > self._cache_entries or next(iter(self._cache.values())).ends <= now:
                self._cache.popitem(last=False)
        return await asyncio.shield(asked.answer)  # one waiter that goes away does not disturb the others

    async def _review(self, reviewer: TokenReviewer, token: str) -> ReviewResult:
        if self._waiting >= REVIEWS_WAITING_MAX:
            raise Unavailable("too many tokens wait for the API server")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout), self._room:
                return await reviewer.review(token, self._audiences)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from the API server within {self._timeout:g} s") from None
        finally:
            self._waiting -= 1

    def _forget_failure(self, key: bytes, task: asyncio.Task[ReviewResult]) -> None:
        """Only answers are kept: an API server that could not be asked is asked again."""
        if not task.cancelled() and task.exception() is None:
            return
        asked = self._cache.get(key)
        if asked is not None and asked.answer is task:
            del self._cache[key]
