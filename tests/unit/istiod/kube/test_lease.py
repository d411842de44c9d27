"""One leader at a time, and soon another when it goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from istiod.kube.client import KubeClient
from istiod.kube.lease import LEASE, LeaderElection
from meshcore.errors import ConfigError
from tests.support.apiserver import KubeApi
from tests.unit.istiod.kube.support import (
    Obj,
    client_of,
    control_of,
    decoded,
    new_namespace,
    run,
    until,
)

NAME = "istio-status-leader"
DURATION_S = 2
DEADLINE_S = 1.0
RETRY_S = 0.05


class Candidate:
    """An election whose work waits to be cancelled, and a log of what happened."""

    def __init__(self, client: KubeClient, namespace: str, identity: str, log: list[str]) -> None:
        self.election = LeaderElection(
            client,
            namespace=namespace,
            name=NAME,
            identity=identity,
            lease_duration=DURATION_S,
            renew_deadline=DEADLINE_S,
            retry=RETRY_S,
        )
        self.stop = asyncio.Event()
        self._identity = identity
        self._log = log

    async def lead(self) -> None:
        self._log.append(f"{self._identity} leads")
        try:
            await asyncio.Event().wait()
        finally:
            self._log.append(f"{self._identity} is cancelled")

    async def stopped(self) -> None:
        self._log.append(f"{self._identity} stops")

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[LeaderElection]:
        task = asyncio.create_task(self.election.run(self.stop, self.lead, self.stopped))
        try:
            yield self.election
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 10)


async def spec(client: KubeClient, namespace: str) -> Obj:
    obj = decoded(await client.get(LEASE, namespace, NAME))
    held: Obj = obj["spec"]
    return held


def test_the_second_candidate_leads_when_the_first_stops(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        log: list[str] = []
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            first, second = (Candidate(client, namespace, name, log) for name in ("a", "b"))
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(first.standing())
                await until(lambda: first.election.is_leader, "the first leads")
                await stack.enter_async_context(second.standing())
                await until(lambda: second.election.holder == "a", "the second saw the first")
                held = await spec(client, namespace)
                assert (held["holderIdentity"], held["leaseDurationSeconds"]) == ("a", DURATION_S)
                assert held["leaseTransitions"] == 0
                await until_renewed(client, namespace, held["renewTime"])
                assert not second.election.is_leader
                first.stop.set()
                await until(lambda: second.election.is_leader, "the second leads", DURATION_S)
                assert not first.election.is_leader
                after = await spec(client, namespace)
                assert (after["holderIdentity"], after["leaseTransitions"]) == ("b", 1)
                assert after["acquireTime"] > held["acquireTime"]
            assert log == ["a leads", "a is cancelled", "a stops", "b leads", "b is cancelled", "b stops"]
            assert (await spec(client, namespace)).get("holderIdentity", "") == "", "released"

    run(scenario())


async def until_renewed(client: KubeClient, namespace: str, before: str) -> None:
    async with asyncio.timeout(10):
        while True:
            if (await spec(client, namespace))["renewTime"] != before:
                return
            await asyncio.sleep(RETRY_S)


def test_a_lease_of_a_dead_holder_is_taken_when_it_expired(kube_api: KubeApi) -> None:
    """Its times are those of another clock: what counts is how long it has not changed."""

    async def scenario() -> None:
        log: list[str] = []
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            future = "2999-01-01T00:00:00.000000Z"
            dead = {
                "holderIdentity": "dead",
                "leaseDurationSeconds": 1,
                "acquireTime": future,
                "renewTime": future,
                "leaseTransitions": 4,
            }
            head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            metadata = {"name": NAME, "labels": {"kept": "yes"}}
            await client.create(LEASE, namespace, head | {"metadata": metadata, "spec": dead})
            loop = asyncio.get_running_loop()
            started = loop.time()
            candidate = Candidate(client, namespace, "a", log)
            async with candidate.standing() as election:
                await until(lambda: election.is_leader, "it leads")
                assert loop.time() - started >= 1.0
                obj = decoded(await client.get(LEASE, namespace, NAME))
                assert obj["spec"]["leaseTransitions"] == 5
                assert obj["metadata"]["labels"] == {"kept": "yes"}

    run(scenario())


def test_a_leader_that_cannot_renew_stops_before_another_starts(fake_api: KubeApi) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        log: list[str] = []
        loop = asyncio.get_running_loop()
        async with client_of(fake_api) as client, contextlib.AsyncExitStack() as stack:
            first, second = (Candidate(client, "default", name, log) for name in ("a", "b"))
            election = await stack.enter_async_context(first.standing())
            await until(lambda: election.is_leader, "the first leads")
            await stack.enter_async_context(second.standing())
            await until(lambda: second.election.holder == "a", "the second saw the first")
            control.fail_next(1_000_000, 503, match="PUT ")
            cut = loop.time()
            await until(lambda: not election.is_leader, "the first gives up")
            assert loop.time() - cut <= DEADLINE_S + RETRY_S + 0.5
            await until(lambda: "a stops" in log, "its work is over")
            assert not second.election.is_leader
            first.stop.set()
            control.clear_faults()
            await until(lambda: "b leads" in log, "the second leads")
            assert log == ["a leads", "a is cancelled", "a stops", "b leads"]

    run(scenario())


def test_a_leader_whose_requests_hang_gives_up_in_time(fake_api: KubeApi) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        log: list[str] = []
        loop = asyncio.get_running_loop()
        async with client_of(fake_api) as client, Candidate(client, "default", "a", log).standing() as election:
            await until(lambda: election.is_leader, "it leads")
            control.delay_next(1_000_000, 20.0, match="/leases")
            cut = loop.time()
            await until(lambda: "a stops" in log, "it gives up")
            assert loop.time() - cut <= DEADLINE_S + 0.5
            control.clear_faults()
            await until(lambda: log.count("a leads") == 2, "it leads again")

    run(scenario())


def test_a_leader_does_not_stand_again_before_its_work_has_ended(
    fake_api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        log: list[str] = []
        slow = asyncio.Event()

        class Slow(Candidate):
            async def lead(self) -> None:
                try:
                    await super().lead()
                finally:
                    await slow.wait()

        async with client_of(fake_api) as client, Slow(client, "default", "a", log).standing() as election:
            await until(lambda: election.is_leader, "it leads")
            control.fail_next(1_000_000, 503, match="PUT ")
            await until(lambda: "does not end in time" in caplog.text, "the complaint")
            assert not election.is_leader
            control.clear_faults()
            asked = len(control.requests("/leases"))
            await asyncio.sleep(4 * RETRY_S)  # would be time for several attempts
            assert (log[-1], len(control.requests("/leases"))) == ("a is cancelled", asked)
            slow.set()
            await until(lambda: log[-1] == "a leads", "it leads again")

    run(scenario())


def test_a_leader_that_was_asleep_does_not_believe_to_lead(fake_api: KubeApi) -> None:
    now = 1000.0

    async def scenario() -> None:
        nonlocal now
        async with client_of(fake_api) as client:
            election = LeaderElection(client, namespace="default", name=NAME, identity="a", clock=lambda: now)
            stop = asyncio.Event()

            async def nothing() -> None:
                return

            task = asyncio.create_task(election.run(stop, nothing, nothing))
            await until(lambda: election.is_leader, "it leads")
            answers = []
            for passed in (14.9, 0.1):
                now += passed
                answers.append(election.is_leader)
            assert answers == [True, False]
            stop.set()
            await asyncio.wait_for(task, 10)

    run(scenario())


def test_work_that_fails_ends_the_election_and_hands_the_lease_back(fake_api: KubeApi) -> None:
    async def scenario() -> None:
        stopped: list[str] = []

        async def fail() -> None:
            raise ValueError("a defect")

        async def note() -> None:
            stopped.append("stopped")

        async with client_of(fake_api) as client:
            election = LeaderElection(client, namespace="default", name=NAME, identity="a")
            with pytest.raises(ValueError, match="a defect"):
                await election.run(asyncio.Event(), fail, note)
            assert stopped == ["stopped"]
            assert (await spec(client, "default"))["holderIdentity"] == ""

    run(scenario())


def test_a_lease_that_somebody_else_took_is_lost_at_once(fake_api: KubeApi) -> None:
    async def scenario() -> None:
        log: list[str] = []
        async with client_of(fake_api) as client, Candidate(client, "default", "a", log).standing() as election:
            await until(lambda: election.is_leader, "it leads")
            await client.merge_patch(
                LEASE, "default", NAME, {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}}
            )
            await until(lambda: "a stops" in log, "it noticed", DEADLINE_S)
            assert election.holder == "thief"
            await client.merge_patch(LEASE, "default", NAME, {"spec": {"holderIdentity": ""}})
            await until(lambda: election.is_leader, "it leads again")

    run(scenario())


@pytest.mark.parametrize(("duration", "deadline", "retry"), [(10, 10.0, 2.0), (30, 2.0, 2.0), (30, 15.0, 0.0)])
def test_times_that_allow_two_leaders_are_refused(
    fake_api: KubeApi, duration: int, deadline: float, retry: float
) -> None:
    async def scenario() -> None:
        async with client_of(fake_api) as client:
            with pytest.raises(ConfigError, match="must grow in this order"):
                LeaderElection(
                    client,
                    namespace="default",
                    name=NAME,
                    identity="a",
                    lease_duration=duration,
                    renew_deadline=deadline,
                    retry=retry,
                )

    run(scenario())
