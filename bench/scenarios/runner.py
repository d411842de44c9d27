"""Runs loads over scenarios: all of them stand at once and slices take turns, so that a busy minute meets them all."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from bench import config, probes
from bench.errors import BenchError
from bench.load import Outcome
from bench.measure import Memory, Meter, Usage, await_quiet, memory, memory_alone
from bench.results import Phase
from bench.scenarios import loads, syscalls
from bench.scenarios.loads import Load, Run, Target
from bench.scenarios.world import Progress, Standing, World
from bench.subjects.base import Address

_WARM_UP: Final = 1.0  # seconds of each load on each scenario before anything counts, at most a slice's
_LOOKED: Final = 2.0  # seconds of a slice in which memory is read and system calls are counted, at most a slice's
_OTHER_FILES: Final = 256  # descriptors that a proxy has besides its connections
_SETTLE: Final = 1.0  # seconds after opening idle tunnels until their memory is read
_SOAK_LOOK: Final = 10.0  # seconds between two readings of the soak
_LAG_LIMIT_US: Final = 1000.0
"""P99 of the generator's own lateness above which a slice counts as noisy: it did not offer the load it should."""


class Options(NamedTuple):
    """How to measure. `seconds` replaces the length of every load's slice."""

    rounds: int
    seconds: float | None = None
    retries: int = 1
    patience: float = 5.0
    count_syscalls: bool = True


class Sample(NamedTuple):
    """One slice: one load on one scenario, once."""

    scenario: str
    load: Load
    round: int
    outcome: Outcome
    usage: Usage
    """`cpu` holds the proxies only, those beside included."""
    origin: float
    """Seconds of CPU of the origin."""
    memory: dict[Phase, dict[str, Memory]]
    measured: frozenset[str]
    """Names of the processes that are the price of the scenario."""
    bytes_per_tunnel: Mapping[str, float] = {}
    growth_per_hour: Mapping[str, float] = {}

    @property
    def noisy(self) -> bool:
        return self.usage.foreign > config.NOISE_LIMIT or self.outcome.lag_us > _LAG_LIMIT_US

    @property
    def spent(self) -> float:
        """CPU seconds of the proxies that are measured."""
        return sum(value for key, value in self.usage.cpu.items() if key in self.measured)

    @property
    def cost(self) -> float:
        """The same per unit."""
        return self.spent / self.outcome.work


class Look(NamedTuple):
    """What is looked at while a load runs, in a slice that is not timed: looking holds a proxy up for milliseconds."""

    memory: dict[str, Memory]
    alone: dict[str, int]
    """By proxy: bytes if nothing else mapped its files."""
    calls: dict[str, float]
    """System calls per unit (bulk: per MB), by process; empty where they cannot be counted."""


class Runner:
    """Runs slices in a world that stands."""

    def __init__(self, world: World, options: Options, progress: Progress) -> None:
        self._world = world
        self._options = options
        self._progress = progress
        self._idle: dict[str, dict[str, Memory]] = {}
        self.samples: list[Sample] = []
        self.looks: dict[tuple[str, str], Look] = {}
        """(scenario, load) -> what was seen."""

    def run(self, wanted: Sequence[Load]) -> None:
        for each in self._world.standing:
            self._idle[each.scenario.name] = _held(each)
        for one in wanted:
            self._run_load(one)

    def _run_load(self, one: Load) -> None:
        once = one.name in loads.ONCE
        rounds = 1 if once else self._options.rounds
        # What holds or grows is a proxy's: without one there is nothing to see.
        standing = [each for each in self._world.standing if each.proxies or not once]
        if one.run is not None:
            for each in standing:
                one.run(_target(each), min(_WARM_UP, self._seconds(one)), None)
        for number in range(rounds):
            # Every other round runs backwards: nobody always follows the same neighbour.
            for each in standing[:: 1 if number % 2 == 0 else -1]:
                sample = self._quietest(each, one, number)
                self.samples.append(sample)
                self._progress(f"{one.name} {number + 1}/{rounds}  {line(sample)}")
        if one.run is not None and one.name != loads.SOAK:
            for each in standing:
                if each.proxies:
                    self.looks[each.scenario.name, one.name] = self._look(each, one.run, one)

    def _quietest(self, each: Standing, one: Load, number: int) -> Sample:
        """A slice that the machine did not disturb, or the least disturbed of a few."""
        tries: list[Sample] = []
        repeats = 0 if one.name in loads.ONCE else self._options.retries
        while not tries or (tries[-1].noisy and len(tries) <= repeats):
            if self._options.patience:
                await_quiet(config.NOISE_LIMIT, self._options.patience)
            tries.append(self._slice(each, one, number))
        return min(tries, key=lambda sample: (sample.noisy, sample.usage.foreign))

    def _slice(self, each: Standing, one: Load, number: int) -> Sample:
        seconds = self._seconds(one)
        held: dict[Phase, dict[str, Memory]] = {"idle": self._idle[each.scenario.name]}
        tunnels: dict[str, float] = {}
        growth: dict[str, float] = {}
        meter = self._meter(each)
        if one.run is None:
            outcome, usage = self._hold(each, seconds, meter, held, tunnels)
        else:
            meter.start()
            if one.name == loads.SOAK:
                with _Growth(each) as watch:
                    outcome = one.run(_target(each), seconds, None)
                growth = watch.per_hour()
            else:
                outcome = one.run(_target(each), seconds, None)
            usage = meter.stop()
        held["after"] = _held(each)
        self._world.trim()
        origin = sum(usage.cpu.pop(key) for key in list(usage.cpu) if key not in each.proxies)
        return Sample(
            each.scenario.name,
            one,
            number,
            outcome,
            usage,
            origin,
            held,
            frozenset(each.measured),
            tunnels,
            growth,
        )

    def _seconds(self, one: Load) -> float:
        return self._options.seconds or one.seconds

    def _meter(self, each: Standing) -> Meter:
        """Counts this scenario's proxies and origin by name; whatever else is ours is not foreign either."""
        named = {**each.proxies, **{f"origin of {name}": pid for name, pid in each.origin.pids.items()}}
        taken = set(named.values())
        others = {process.pid for process in self._world.processes}
        for other in self._world.standing:
            others |= {*other.proxies.values(), *other.origin.pids.values()}
        return Meter(named, sorted(others - taken))

    def _hold(
        self,
        each: Standing,
        seconds: float,
        meter: Meter,
        held: dict[Phase, dict[str, Memory]],
        tunnels: dict[str, float],
    ) -> tuple[Outcome, Usage]:
        """Open idle tunnels, and look at memory and CPU while nothing moves."""
        before = _held(each)
        target = _target(each)
        address = Address(target.host, config.SINK_PORT)
        with probes.held(address, _tunnels(), netns=target.netns) as found:
            time.sleep(_SETTLE)
            held["load"] = _held(each)
            meter.start()
            time.sleep(seconds)
            usage = meter.stop()
        opened = int(found["open"])
        if opened == 0:
            raise BenchError(f"{each.scenario.name} opened no tunnel")
        tunnels |= {name: (held["load"][name].private - before[name].private) / opened for name in sorted(each.proxies)}
        return Outcome(opened, int(found["failed"]), 1.0, {}), usage

    def _look(self, each: Standing, run: Run, one: Load) -> Look:
        seconds = min(_LOOKED, self._seconds(one))
        held: dict[str, Memory] = {}
        alone: dict[str, int] = {}

        def halfway() -> None:
            held.update(_held(each))
            alone.update(_alone(each))

        def work() -> Outcome:
            return run(_target(each), seconds, halfway)

        calls: dict[str, float] = {}
        if self._options.count_syscalls:
            outcome, counts = syscalls.count(each.proxies, work, self._world.directory(each.scenario.name))
            # A megabyte is the readable unit of bulk.
            units = outcome.work * (1000 if one.unit == "GB" else 1)
            calls = {name: value / units for name, value in counts.items()}
        else:
            work()
        self._world.trim()
        return Look(held, alone, calls)


class _Growth:
    """Reads private memory now and then while a block runs; the slope of a straight line is the growth."""

    def __init__(self, each: Standing) -> None:
        self._proxies = each.proxies
        self._stop = threading.Event()
        self._readings: list[tuple[float, dict[str, int]]] = []
        self._thread = threading.Thread(target=self._watch, name="growth", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SOAK_LOOK):
            now = {name: memory([pid]).private for name, pid in self._proxies.items()}
            self._readings.append((time.monotonic(), now))

    def per_hour(self) -> dict[str, float]:
        """Bytes per hour by process; empty when the soak was too short for two readings."""
        if len(self._readings) < 2:
            return {}
        times = [moment for moment, _ in self._readings]
        return {name: 3600 * slope(times, [held[name] for _, held in self._readings]) for name in self._proxies}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of the line of least squares through the points; `xs` are not all equal."""
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    top = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return top / sum((x - middle_x) ** 2 for x in xs)


def _held(each: Standing) -> dict[str, Memory]:
    return {name: memory([pid]) for name, pid in each.proxies.items()}


def _alone(each: Standing) -> dict[str, int]:
    groups: dict[str, list[int]] = {}
    for name, pid in each.proxies.items():
        groups.setdefault(name.partition("/")[0], []).append(pid)
    return {proxy: memory_alone(pids) for proxy, pids in groups.items()}


def _tunnels() -> int:
    """As many as every proxy has descriptors for: one towards either side."""
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES) // 2
    return min(config.IDLE_TUNNELS, room)


def _target(each: Standing) -> Target:
    return Target(each.netns, each.host)


def line(sample: Sample) -> str:
    """One slice on one line of progress."""
    unit = sample.load.unit
    if not sample.measured:
        cost = ""
    elif unit == "GB":
        cost = f"{sample.cost:.2f} s/GB"
    elif unit == "tunnel":
        cost = f"{sum(sample.bytes_per_tunnel.values()):.0f} B/tunnel"
    else:
        cost = f"{sample.cost * 1e6:.1f} us/{unit}"
    rate = f"{sample.outcome.rate * 8:.1f} Gbit/s" if unit == "GB" else f"{sample.outcome.rate:.0f}/s"
    if unit == "tunnel":
        rate = f"{sample.outcome.work:.0f} open"
    errors = f", {sample.outcome.errors} errors" if sample.outcome.errors else ""
    noise = f", foreign {sample.usage.foreign:.2f}" + (" NOISY" if sample.noisy else "")
    return f"{sample.scenario:<22} {cost:>20} {rate:>14}{noise}{errors}"
