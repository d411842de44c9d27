"""From slices to figures: which rounds count, medians and ranges, ratios and latencies formed within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.measure import spread
from bench.results import FORMAT, Document, Figure, Measured, Memory, Phase
from bench.results import Scenario as Described
from bench.scenarios.catalog import DIRECT, Scenario
from bench.scenarios.runner import Look, Sample

_PHASES: Final[tuple[Phase, ...]] = ("idle", "load", "after")

Looks = Mapping[tuple[str, str], Look]
Rounds = dict[int, Sample]


def figure(values: Sequence[float]) -> Figure:
    found = spread(values)
    return Figure(found.median, found.low, found.high, found.samples)


def quiet_rounds(*needed: Rounds) -> tuple[list[int], bool]:
    """Rounds that all of `needed` have -> those that were quiet for each, or all when they are fewer than half.

    The second value says that it was so: the figures are not to be used.
    """
    common = sorted(set.intersection(*(set(each) for each in needed)))
    quiet = [number for number in common if not any(each[number].noisy for each in needed)]
    noisy = 2 * len(quiet) < len(common)
    return (common if noisy else quiet), noisy


def measured(samples: Sequence[Sample], looks: Looks) -> list[Measured]:
    """One entry per load and scenario, in the order they were measured."""
    groups: dict[str, dict[str, Rounds]] = {}
    for sample in samples:
        groups.setdefault(sample.load.name, {}).setdefault(sample.scenario, {})[sample.round] = sample
    return [_one(name, rounds, group, looks) for group in groups.values() for name, rounds in group.items()]


def _one(name: str, rounds: Rounds, group: Mapping[str, Rounds], looks: Looks) -> Measured:
    numbers, noisy = quiet_rounds(rounds)
    used = [rounds[number] for number in numbers]
    first = used[0]
    latency = list(first.outcome.latency_us)
    look = looks.get((name, first.load.name))
    memory = {phase: _memory(phase, used) for phase in _PHASES if first.memory.get(phase)}
    if look is not None:
        memory["load"] = {process: Memory(*held) for process, held in look.memory.items()}
    return Measured(
        scenario=name,
        load=first.load.name,
        unit=first.load.unit,
        rounds=len(used),
        noisy=noisy,
        foreign=statistics.median(sample.usage.foreign for sample in rounds.values()),
        errors=sum(sample.outcome.errors for sample in used),
        rate=figure([sample.outcome.rate for sample in used]),
        cpu={
            process: figure([sample.usage.cpu[process] / sample.outcome.work for sample in used])
            for process in first.usage.cpu
        },
        cpu_total=figure([sample.cost for sample in used]),
        vcpu=figure([_vcpu(sample) for sample in used]),
        over_origin=figure([sample.spent / sample.origin if sample.origin else 0.0 for sample in used]),
        latency_us={key: figure([sample.outcome.latency_us[key] for sample in used]) for key in latency},
        added_us=_added(rounds, group.get(DIRECT) if name != DIRECT else None, latency),
        memory=memory,
        alone={} if look is None else look.alone,
        syscalls={} if look is None else look.calls,
        ratio=_ratios(name, rounds, group),
        bytes_per_tunnel=_medians([sample.bytes_per_tunnel for sample in used]),
        growth_per_hour=_medians([sample.growth_per_hour for sample in used]),
    )


def _vcpu(sample: Sample) -> float:
    """Cores kept busy. Connections that carry nothing have no rate: the clock counts."""
    if sample.load.unit == "tunnel":
        return sample.spent / sample.usage.seconds
    return sample.cost * sample.outcome.rate


def _together(rounds: Rounds, other: Rounds, value: Callable[[Sample, Sample], float]) -> Figure | None:
    """A figure of both, formed within each round; None when they share no round."""
    numbers, _ = quiet_rounds(rounds, other)
    return figure([value(rounds[number], other[number]) for number in numbers]) if numbers else None


def _added(rounds: Rounds, direct: Rounds | None, names: Sequence[str]) -> dict[str, Figure]:
    if direct is None:
        return {}
    found = {}
    for name in names:

        def added(one: Sample, bare: Sample, name: str = name) -> float:
            return one.outcome.latency_us[name] - bare.outcome.latency_us[name]

        if (both := _together(rounds, direct, added)) is not None:
            found[name] = both
    return found


def _ratios(name: str, rounds: Rounds, group: Mapping[str, Rounds]) -> dict[str, Figure]:
    found = {}
    for other, theirs in group.items():
        if other == name or not all(sample.spent for sample in (*rounds.values(), *theirs.values())):
            continue
        if (both := _together(rounds, theirs, lambda one, rival: one.cost / rival.cost)) is not None:
            found[other] = both
    return found


def _memory(phase: Phase, used: Sequence[Sample]) -> dict[str, Memory]:
    held = [sample.memory[phase] for sample in used if phase in sample.memory]
    return {
        process: Memory(
            round(statistics.median(each[process].pss for each in held)),
            round(statistics.median(each[process].private for each in held)),
        )
        for process in held[0]
    }


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def document(
    machine: Mapping[str, Any],
    noise_limit: float,
    scenarios: Sequence[Scenario],
    samples: Sequence[Sample],
    looks: Looks,
) -> Document:
    """Everything that is known of a run."""
    return Document(
        format=FORMAT,
        machine=dict(machine),
        noise_limit=noise_limit,
        scenarios=[Described(each.name, each.title, list(each.kind.beside)) for each in scenarios],
        measured=measured(samples, looks),
        slices=[_slice(sample) for sample in samples],
    )


def _slice(sample: Sample) -> dict[str, Any]:
    return {
        "scenario": sample.scenario,
        "load": sample.load.name,
        "round": sample.round,
        "noisy": sample.noisy,
        "outcome": sample.outcome._asdict(),
        "usage": sample.usage._asdict(),
        "origin": sample.origin,
        "cost": sample.cost if sample.outcome.work else None,
        "memory": {
            phase: {process: each._asdict() for process, each in held.items()} for phase, held in sample.memory.items()
        },
    }
