"""What is done to istiod and what is read meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.istiod import protocol
from bench.istiod.document import Cost, Deaths, Reconnects, Rollout, Start, spread
from bench.istiod.fleet import Fleet, Member
from bench.istiod.protocol import State, Truth
from bench.istiod.world import World
from bench.measure import Meter, memory, run_time

Progress = Callable[[str], None]

_SYNC_S: Final = 600.0
_DEATH_S: Final = 60.0
_UNREAD: Final = 25
"""Deaths that are counted without a look at istiod's metrics, which costs it as much as some of its pushes."""
_SETTLE_S: Final = 120.0
_QUIET_S: Final = 1.0
"""Between two stages: status writes and the like end."""
_STILL_S: Final = 12.0
"""Longer than PILOT_DEBOUNCE_MAX: changes that never pause are pushed that late."""
_QUIET_MAX_S: Final = 300.0
_LOOK_S: Final = 0.5
_NAME: Final = "istiod"
_DEBOUNCE: Final = "pilot_debounce_time_sum"
_PUSHES: Final = "pilot_debounce_time_count"
_COMPUTE: Final = "pilot_pushcontext_init_seconds_sum"


class _Stretch:
    """Counts from its creation to `end`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._meter = Meter({_NAME: world.istiod.pid}, world.others)

    async def begin(self) -> _Stretch:
        self._counts = await self._world.all(protocol.Report(), protocol.Counts)
        self._meter.start()
        return self

    async def end(self) -> Cost:
        usage = self._meter.stop()
        now = await self._world.all(protocol.Report(), protocol.Counts)

        def grown(of: Callable[[protocol.Counts], int]) -> int:
            return sum(map(of, now)) - sum(map(of, self._counts))

        if refused := grown(lambda one: one.rejected):
            raise BenchError(f"clients refused {refused} resources")
        return Cost(
            usage.seconds,
            usage.cpu[_NAME],
            usage.foreign,
            grown(lambda one: one.messages),
            grown(lambda one: one.message_bytes),
            grown(lambda one: one.received),
            grown(lambda one: one.sent),
            grown(lambda one: one.connections),
        )


async def start(world: World) -> Start:
    """A new istiod and new clients, from nothing to everybody in sync."""
    await world.stop_clients()
    await world.stop_istiod()
    await world.start_clients()
    ready = await world.start_istiod()
    pid = world.istiod.pid
    ready_cpu = run_time(pid)
    ready_pss = memory([pid]).pss
    stretch = await _Stretch(world).begin()
    began = time.monotonic()
    times = await world.all(protocol.Connect(_SYNC_S), protocol.Times, _SYNC_S * 1.1)
    _require(times, "in sync")
    at = sorted(moment for one in times for moment in one.at)
    cost = await stretch.end()
    held = sum(verdict.held for verdict in await verify(world))
    status = _status(pid)
    return Start(
        ready=ready,
        ready_cpu=ready_cpu,
        ready_pss=ready_pss,
        sync=at[-1] - began,
        first_half=at[len(at) // 2] - began,
        cost=cost,
        pss=memory([pid]).pss,
        rss=status["VmRSS"],
        peak_rss=status["VmHWM"],
        held=held,
    )


async def quiet(world: World) -> float:
    """Wait until istiod has not recomputed anything for a while -> seconds until the last time it did.

    After a start it writes statuses and trust bundles, and hears of every one of its own writes.
    """
    began = last = time.monotonic()
    seen = -1.0
    while True:
        pushes = (await world.metrics()).get(_PUSHES, 0.0)
        now = time.monotonic()
        if pushes != seen:
            seen, last = pushes, now
        if now - last > _STILL_S:
            return last - began
        if now - began > _QUIET_MAX_S:
            raise BenchError(f"istiod still recomputes {_QUIET_MAX_S:g} s after its start, and nobody changes anything")
        await asyncio.sleep(_LOOK_S)


async def deaths(world: World, count: int, seed: int, progress: Progress) -> Deaths:
    """`count` pods fail and recover, one after the other; then some more, with nobody reading metrics, for the cost."""
    chance = random.Random(seed)
    totals, afters, debounces, computes = [], [], [], []
    for number in range(count):
        service, position = _anyone(world, chance)
        before = await world.metrics()
        total = await _turn(world, service, position, ready=False)
        seen = await world.metrics()
        debounce = seen[_DEBOUNCE] - before.get(_DEBOUNCE, 0.0)
        totals.append(total)
        debounces.append(debounce)
        afters.append(total - debounce)
        computes.append(seen[_COMPUTE] - before.get(_COMPUTE, 0.0))
        await _turn(world, service, position, ready=True)
        if (number + 1) % 50 == 0:
            progress(f"{number + 1} deaths: {1000 * spread(afters).median:.0f} ms after debounce for half of them")
    stretch = await _Stretch(world).begin()
    unread = min(count, _UNREAD)
    for _ in range(unread):
        service, position = _anyone(world, chance)
        await _turn(world, service, position, ready=False)
        await _turn(world, service, position, ready=True)
    cost = await stretch.end()
    return Deaths(spread(totals), spread(afters), spread(debounces), spread(computes), cost, 2 * unread)


def _anyone(world: World, chance: random.Random) -> tuple[int, int]:
    """A service and one of its pods."""
    service = chance.randrange(len(world.fleet.members))
    return service, chance.randrange(len(world.fleet.members[service]))


async def _turn(world: World, service: int, position: int, *, ready: bool) -> float:
    """Change a pod and its slice -> seconds until the last client knew."""
    member = world.fleet.set_ready(service, position, ready)
    states: dict[str, State] = {world.fleet.uid(service, member): "up" if ready else "down"}
    await world.all(protocol.Expect(states), protocol.Done)
    began = time.monotonic()
    await world.cluster.set_status(service, member)
    await world.cluster.set_slice(service)
    times = await world.all(protocol.Await(_DEATH_S), protocol.Times, 2 * _DEATH_S)
    _require(times, f"told of {member.name}")
    return max(moment for one in times for moment in one.at) - began


async def reconnects(world: World, count: int) -> Reconnects:
    """Everybody leaves and comes back, `count` times."""
    seconds, costs = [], []
    for _ in range(count):
        await world.all(protocol.Disconnect(), protocol.Done)
        await asyncio.sleep(_QUIET_S)
        stretch = await _Stretch(world).begin()
        began = time.monotonic()
        times = await world.all(protocol.Connect(_SYNC_S), protocol.Times, _SYNC_S * 1.1)
        _require(times, "back")
        seconds.append(max(moment for one in times for moment in one.at) - began)
        costs.append(await stretch.end())
    return Reconnects(spread(seconds), spread([one.cpu for one in costs]), costs, memory([world.istiod.pid]).pss)


async def rollout(world: World, pods: int, rate: float) -> Rollout:
    """Replace `pods` pods, service after service, `rate` of them a second."""
    fleet = world.fleet
    pods = min(pods, fleet.sizes.pods)
    plan: list[tuple[int, Member, Member]] = []
    for service, members in enumerate(fleet.members):
        for position, old in enumerate(members):
            plan.append((service, old, fleet.successor(service, position)))
    plan = plan[:pods]
    states: dict[str, State] = {}
    follow: dict[str, list[str]] = {}
    for service, old, new in plan:
        states |= {fleet.uid(service, old): "gone", fleet.uid(service, new): "up"}
        follow.setdefault(fleet.namespace_of(service), []).append(fleet.uid(service, new))
    await world.all(protocol.Follow(follow), protocol.Done)
    await asyncio.sleep(_QUIET_S)
    await world.all(protocol.Expect(states), protocol.Done)
    moments: dict[str, float] = {}
    stretch = await _Stretch(world).begin()
    began = time.monotonic()
    for number, (service, old, new) in enumerate(plan):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        fleet.add(service, new)
        moments[fleet.uid(service, new)] = time.monotonic()
        await world.cluster.create(service, new)
        await world.cluster.set_slice(service)
        fleet.drop(service, old)
        moments[fleet.uid(service, old)] = time.monotonic()
        await world.cluster.delete(service, old)
        await world.cluster.set_slice(service)
    changed = time.monotonic()
    times = await world.all(protocol.Await(_SETTLE_S, each=True), protocol.Times, 2 * _SETTLE_S)
    _require(times, "told of the whole rollout")
    last = max(moment for one in times for moment in one.at)
    cost = await stretch.end()
    stale = spread([max(one.last.get(name, 0.0) for one in times) - moment for name, moment in moments.items()])
    pss = memory([world.istiod.pid]).pss
    return Rollout(pods, rate, changed - began, max(0.0, last - changed), stale, cost, pss)


def truth(fleet: Fleet) -> dict[str, Truth]:
    """Every pod as it is, by the name of its resource."""
    return {
        fleet.uid(service, member): Truth(member.ip, member.node, fleet.service_key(service), member.ready)
        for service, members in enumerate(fleet.members)
        for member in members
    }


async def verify(world: World) -> list[protocol.Verdict]:
    """Compare what every client holds with the cluster as it is."""
    fleet = world.fleet
    command = protocol.Verify(sorted(fleet.names()), truth(fleet), fleet.sizes.namespaces)
    verdicts = await world.all(command, protocol.Verdict)
    digests = {verdict.digest for verdict in verdicts}
    problems = [problem for verdict in verdicts for problem in verdict.problems]
    if len(digests) > 1:
        problems.append("clients of two processes hold different contents")
    if problems:
        raise BenchError(f"clients hold what is not so: {'; '.join(problems[:5])}")
    return verdicts


def _require(times: list[protocol.Times], what: str) -> None:
    late = [title for one in times for title in one.late]
    if late:
        raise BenchError(f"{len(late)} clients are not {what} in time: {', '.join(late[:5])}")


def _status(pid: int) -> Mapping[str, int]:
    """Sizes in /proc/PID/status, in bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
