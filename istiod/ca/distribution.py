"""Trust in the CA, handed out in Kubernetes: every namespace has a ConfigMap of the roots, and one of revocations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import msgspec

from istiod.ca.authority import Authority
from istiod.ca.sources import pause
from meshcore.errors import DeadlineExceeded, MeshError

log = logging.getLogger("istiod.ca")

ROOT_CONFIG_MAP: Final = "istio-ca-root-cert"
ROOT_KEY: Final = "root-cert.pem"
CRL_CONFIG_MAP: Final = "istio-ca-crl"
CRL_KEY: Final = "ca-crl.pem"
LABELS: Final[Mapping[str, str]] = {"istio.io/config": "true"}
IGNORED_NAMESPACES: Final = frozenset(("kube-public", "kube-node-lease", "local-path-storage"))

PARALLEL_MAX: Final = 16
"""Writes at the same time: a new root in a cluster of 5000 namespaces must not starve others of the API server."""
CALL_TIMEOUT_S: Final = 10.0
RESYNC_S: Final = 600.0
"""Drift that no event told of is found after this long."""
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
QUIET_S: Final = 0.2
"""After a trigger, so that a burst of them is one reading."""


class ConfigMap(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    data: dict[str, str]
    labels: dict[str, str]


class ConfigMaps(Protocol):
    """ConfigMaps of the cluster. Every call raises Unavailable if the API server cannot be asked."""

    async def list(self, name: str) -> Iterable[ConfigMap]:
        """Those of this name in all namespaces."""

    async def apply(self, wanted: ConfigMap) -> None:
        """Create it, or make it say this; other keys and labels of it stay (server-side apply)."""


def wanted(namespaces: Iterable[str], root_pem: str, crl_pem: str = "") -> dict[tuple[str, str], ConfigMap]:
    """The ConfigMaps there should be, by (namespace, name), in all namespaces given but the ignored ones.

    Without revocations there is no second ConfigMap, and one of before is left alone: a proxy that still refuses what
    it was told to refuse errs on the safe side.
    """
    contents = {ROOT_CONFIG_MAP: {ROOT_KEY: root_pem}}
    if crl_pem:
        contents[CRL_CONFIG_MAP] = {CRL_KEY: crl_pem}
    return {
        (namespace, name): ConfigMap(namespace, name, data, dict(LABELS))
        for namespace in namespaces
        if namespace not in IGNORED_NAMESPACES
        for name, data in contents.items()
    }


def in_order(held: ConfigMap | None, want: ConfigMap) -> bool:
    """What is wanted stands in it; what else stands there is no matter."""
    return held is not None and held.data.items() >= want.data.items() and held.labels.items() >= want.labels.items()


class Distributor:
    """Keeps the ConfigMaps as they should be. One istiod of a cluster runs it: the elected one.

    `trigger` it when a namespace, one of the ConfigMaps, the selectors or the CA changed.
    """

    def __init__(
        self,
        maps: ConfigMaps,
        namespaces: Callable[[], Iterable[str]],
        authority: Callable[[], Authority],
        *,
        publish_crl: bool = True,
        resync: float = RESYNC_S,
        retry: float = RETRY_FIRST_S,
        quiet: float = QUIET_S,
    ) -> None:
        self._maps = maps
        self._namespaces = namespaces
        self._authority = authority
        self._publish_crl = publish_crl
        self._resync = resync
        self._retry = retry
        self._quiet = quiet
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(PARALLEL_MAX)

    def trigger(self) -> None:
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile now, on every trigger and from time to time until `stop` is set; after a failure again, later."""
        ending = asyncio.create_task(self._wake_at(stop))
        failures = 0
        try:
            while not stop.is_set():
                self._wake.clear()
                failures = 0 if await self._tried() else failures + 1
                again = self._resync if not failures else min(self._retry * 2 ** min(failures - 1, 10), RETRY_MAX_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(again):
                        await self._wake.wait()
                await pause(self._quiet, stop)
        finally:
            ending.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def reconcile(self) -> int:
        """Correct what is not as it should be; how many ConfigMaps were written.

        Raises the first MeshError met, after every other ConfigMap was tried.
        """
        authority = self._authority()
        crl_pem = authority.crl_pem if self._publish_crl else ""
        want = wanted(self._namespaces(), authority.root_pem, crl_pem)
        names = sorted({name for _, name in want})
        held: dict[tuple[str, str], ConfigMap] = {}
        for name in names:
            async with _limit(f"listing ConfigMaps {name}"):
                held |= {(found.namespace, found.name): found for found in await self._maps.list(name)}
        stale = [config_map for key, config_map in want.items() if not in_order(held.get(key), config_map)]
        results = await asyncio.gather(*(self._apply(config_map) for config_map in stale), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(stale)

    async def _apply(self, config_map: ConfigMap) -> None:
        async with self._room, _limit(f"writing ConfigMap {config_map.namespace}/{config_map.name}"):
            await self._maps.apply(config_map)

    async def _tried(self) -> bool:
        try:
            written = await self.reconcile()
        except MeshError as exc:
            log.warning("the roots could not be handed out everywhere, another try follows: %s", exc)
            return False
        if written:
            log.info("roots handed out: %d ConfigMaps written", written)
        return True


@asynccontextmanager
async def _limit(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"{what}: no answer within {CALL_TIMEOUT_S:g} s") from None
