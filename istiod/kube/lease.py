"""Leader election on a Lease, by the rules of client-go, so that both kinds of candidate can share one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from istiod.kube.client import Item, KubeClient
from istiod.kube.errors import AlreadyExists, Conflict, NotFound
from istiod.kube.ratelimit import Clock, Sleep
from istiod.kube.tasks import until_stopped
from istiod.resources import Resource
from meshcore.errors import ConfigError, MeshError, ProtocolError

log = logging.getLogger("istiod.kube")

LEASE: Final = Resource("Lease", "leases", "coordination.k8s.io", ("v1",))
LEASE_DURATION_S: Final = 30
RENEW_DEADLINE_S: Final = 15.0
RETRY_S: Final = 2.0
"""Upstream's election has client-go's rule of thumb: deadline half the duration, several attempts before it."""
JITTER: Final = 1.2
"""A candidate that waits adds up to this share of RETRY_S, so that candidates do not ask in step (client-go)."""
RELEASE_S: Final = 5.0
"""For handing the lease back at the end; if that fails it just expires."""

Callback = Callable[[], Coroutine[Any, Any, None]]


class _Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: msgspec.Raw
    """Is written back as it was read: labels and owners are other people's, the version detects their writes."""

    spec: _Spec = msgspec.field(default_factory=_Spec)


class LeaderElection:
    """One candidate for a lease. `identity` must be unique among the candidates, `NAME_UUID` for example.

    A holder's lease is valid for its duration after *we* last saw it change: clocks of machines are not compared. Our
    own is given up `renew_deadline` seconds after the last successful renewal was sent, before it expires for others.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_duration: int = LEASE_DURATION_S,
        renew_deadline: float = RENEW_DEADLINE_S,
        retry: float = RETRY_S,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not 0 < retry * JITTER < renew_deadline < lease_duration:
            raise ConfigError(
                f"lease {namespace}/{name}: a retry of {retry:g} s (x {JITTER}), a renew deadline of "
                f"{renew_deadline:g} s and a duration of {lease_duration:g} s must grow in this order"
            )
        self.identity = identity
        self._client = client
        self._namespace = namespace
        self._name = name
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry = retry
        self._clock = clock
        self._sleep = sleep
        self._leads = False
        self._renewed = 0.0
        self._seen: _Lease | None = None
        self._seen_at = 0.0
        self._last_error = ""

    @property
    def is_leader(self) -> bool:
        """Also False once the deadline has passed, even if this process was too busy to notice."""
        return self._leads and self._clock() - self._renewed < self._renew_deadline

    @property
    def holder(self) -> str:
        """Who was last seen to hold the lease, expired or not; "" for nobody."""
        return (self._seen.spec.holder_identity or "") if self._seen is not None else ""

    async def run(self, stop: asyncio.Event, on_started: Callback, on_stopped: Callback) -> None:
        """Stand for election until `stop`. While leading, `on_started` runs; it is cancelled when the lead is lost or
        `stop` is set, and may also return earlier. Then `on_stopped` runs. Raises what either raises.
        """
        try:
            await until_stopped(stop, self._campaign(on_started, on_stopped))
        finally:
            await self._release()

    async def _campaign(self, on_started: Callback, on_stopped: Callback) -> None:
        while True:
            while not await self._attempt():
                await self._sleep(self._retry * (1 + random.random() * JITTER))
            self._leads = True
            log.info("lease %s/%s: %s leads", self._namespace, self._name, self.identity)
            try:
                await self._lead(on_started)
            finally:
                self._leads = False
                log.info("lease %s/%s: %s no longer leads", self._namespace, self._name, self.identity)
                await on_stopped()

    async def _lead(self, on_started: Callback) -> None:
        """Renew beside `on_started`, until renewing fails."""
        work = asyncio.create_task(on_started())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled() and work.exception() is None:
                await asyncio.wait((renewing,))
        finally:
            self._leads = False
            renewing.cancel()
            work.cancel()
            # Others may lead after this.
            _, late = await asyncio.wait((work, renewing), timeout=self._lease_duration - self._renew_deadline)
            if late:
                log.error("lease %s/%s: the work of the leader does not end in time", self._namespace, self._name)
                await asyncio.wait(late)  # without a limit: to stand again now could mean to lead twice
        for task in (work, renewing):
            if not task.cancelled():
                task.result()

    async def _renew(self) -> None:
        """Returns when the lease is lost."""
        while True:
            await self._sleep(self._retry)
            left = self._renewed + self._renew_deadline - self._clock()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    while not await self._attempt():
                        if self.holder not in {"", self.identity}:
                            log.warning("lease %s/%s: %s took it", self._namespace, self._name, self.holder)
                            return
                        await self._sleep(self._retry)
            except TimeoutError:
                log.warning(
                    "lease %s/%s: not renewed within %g s; giving it up",
                    self._namespace,
                    self._name,
                    self._renew_deadline,
                )
                return

    async def _attempt(self) -> bool:
        """Acquire or renew once; False if another holds the lease or the server does not agree right now."""
        started = self._clock()
        try:
            async with asyncio.timeout(self._renew_deadline):
                if not await self._acquire_or_renew():
                    return False
        except (Conflict, AlreadyExists):
            return False  # somebody was faster; the next attempt reads what they wrote
        except (MeshError, TimeoutError) as error:
            said = str(error) or f"no answer within {self._renew_deadline:g} s"
            if said != self._last_error:  # a server that is down would fill the log
                log.warning("lease %s/%s: %s", self._namespace, self._name, said)
            self._last_error = said
            return False
        self._renewed = started
        self._last_error = ""
        return True

    async def _acquire_or_renew(self) -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = _Spec(self.identity, self._lease_duration, now, now, 0)
        if self.is_leader and self._seen is not None:
            ours.acquire_time = self._seen.spec.acquire_time
            ours.lease_transitions = self._seen.spec.lease_transitions
            with contextlib.suppress(Conflict):
                await self._write(ours, self._seen.metadata)
                return True
        try:
            held = self._observe(await self._client.get(LEASE, self._namespace, self._name))
        except NotFound:
            metadata = {"namespace": self._namespace, "name": self._name}
            self._observe(await self._client.create(LEASE, self._namespace, self._body(ours, metadata)))
            return True
        spec = held.spec
        if spec.holder_identity == self.identity:
            ours.acquire_time = spec.acquire_time
            ours.lease_transitions = spec.lease_transitions
        elif spec.holder_identity and self._seen_at + (spec.lease_duration_seconds or 0) > self._clock():
            return False
        else:
            ours.lease_transitions = (spec.lease_transitions or 0) + 1
        await self._write(ours, held.metadata)
        return True

    async def _release(self) -> None:
        """Empty the holder, so that the next candidate need not wait for the lease to expire."""
        held = self._seen
        if held is None or held.spec.holder_identity != self.identity:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = _Spec("", 1, now, now, held.spec.lease_transitions)
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._write(spec, held.metadata)
        except (MeshError, TimeoutError) as error:
            log.info("lease %s/%s: not released, it will expire: %s", self._namespace, self._name, error)

    async def _write(self, spec: _Spec, metadata: msgspec.Raw) -> None:
        """Raises Conflict if anybody wrote since `metadata` was read."""
        body = self._body(spec, metadata)
        self._observe(await self._client.replace(LEASE, self._namespace, self._name, body))

    def _body(self, spec: _Spec, metadata: msgspec.Raw | dict[str, str]) -> dict[str, Any]:
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    def _observe(self, item: Item) -> _Lease:
        """Note what the lease says, and when it last said something new."""
        try:
            lease = msgspec.json.decode(item.raw, type=_Lease)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"lease {self._namespace}/{self._name} cannot be read: {error}") from error
        if self._seen is None or self._seen.spec != lease.spec:
            self._seen_at = self._clock()
        self._seen = lease
        return lease
