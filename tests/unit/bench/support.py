"""Result documents for tests of the report: small, complete, and with figures that are easy to compute with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.results import FORMAT, Document, Figure, Measured, Memory, Scenario, Unit

MACHINE: dict[str, Any] = {
    "date": "2026-11-23T10:00:00+00:00",
    "cpu": "Example CPU",
    "cores": 2,
    "memory_gb": 7.8,
    "kernel": "6.18.0",
    "python": "3.11.2",
    "load_before": 0.04,
}
BESIDE = {"envoy-waypoint-1": ["ztunnel-1", "ztunnel-2"], "ambient-waypoint": ["ztunnel-1", "ztunnel-2"]}


def figure(value: float, spread: float = 0.1, samples: int = 5) -> Figure:
    """A figure around a median; `spread` is the share by which its ends are off."""
    return Figure(value, value * (1 - spread), value * (1 + spread), samples)


def measured(
    scenario: str,
    load: str,
    cpu: Mapping[str, float],
    *,
    rate: float = 1000.0,
    unit: Unit = "request",
    memory: Mapping[str, int] | None = None,
    beside: Sequence[str] = (),
    **more: Any,
) -> Measured:
    """One result. `cpu` is seconds per unit by process, `memory` PSS under load; a tenth less before, more after."""
    counted = sum(value for process, value in cpu.items() if process.partition("/")[0] not in beside)
    held = {name: Memory(size, size // 2) for name, size in (memory or {}).items()}
    phases = {
        "idle": {name: Memory(one.pss * 9 // 10, one.private) for name, one in held.items()},
        "load": held,
        "after": {name: Memory(one.pss * 11 // 10, one.private) for name, one in held.items()},
    }
    fields: dict[str, Any] = {
        "rounds": 5,
        "noisy": False,
        "foreign": 0.01,
        "errors": 0,
        "rate": figure(rate, 0.001),
        "cpu": {process: figure(value) for process, value in cpu.items()},
        "cpu_total": figure(counted),
        "vcpu": figure(counted * rate),
        "over_origin": figure(1.5),
        "memory": phases if held else {},
    }
    return Measured(scenario=scenario, load=load, unit=unit, **(fields | more))


def added(p50: float, p90: float, p99: float, p999: float) -> dict[str, Figure]:
    """Latency in microseconds by percentile."""
    return {
        name: figure(value) for name, value in zip(("p50", "p90", "p99", "p999"), (p50, p90, p99, p999), strict=True)
    }


def ours(load: str = "rate-1000-c4", scenario: str = "ambient-l4", **more: Any) -> Measured:
    """Two ztunnels: 40 and 60 us per request, 20 and 24 MB."""
    cpu = {
        "ztunnel-1/control": 0.0,
        "ztunnel-1/worker-0": 40e-6,
        "ztunnel-2/control": 10e-6,
        "ztunnel-2/worker-0": 50e-6,
    }
    memory = {
        "ztunnel-1/control": 18_000_000,
        "ztunnel-1/worker-0": 2_000_000,
        "ztunnel-2/control": 21_000_000,
        "ztunnel-2/worker-0": 3_000_000,
    }
    usual: dict[str, Any] = {"cpu": cpu, "memory": memory, "added_us": added(90, 100, 240, 900)}
    return measured(scenario, load, **(usual | more))


def envoy(
    scenario: str, load: str = "rate-1000-c4", *, cost: float = 200e-6, size: int = 50_000_000, **more: Any
) -> Measured:
    """A pair of Envoys that share the cost evenly."""
    cpu = {"client/envoy": cost / 2, "server/envoy": cost / 2}
    memory = {"client/envoy": size, "server/envoy": size}
    usual: dict[str, Any] = {"cpu": cpu, "memory": memory, "added_us": added(150, 200, 400, 1500)}
    return measured(scenario, load, **(usual | more))


def waypoint(scenario: str = "envoy-waypoint-1", load: str = "rate-1000-c4", **more: Any) -> Measured:
    """A waypoint of 250 us per request and 60 MB, with two ztunnels of 50 us beside it."""
    cpu = {"ztunnel-1/worker-0": 50e-6, "waypoint/envoy": 250e-6, "ztunnel-2/worker-0": 50e-6}
    memory = {"ztunnel-1/worker-0": 20_000_000, "waypoint/envoy": 60_000_000, "ztunnel-2/worker-0": 20_000_000}
    usual: dict[str, Any] = {"cpu": cpu, "memory": memory, "beside": BESIDE["envoy-waypoint-1"]}
    return measured(scenario, load, **(usual | more))


def direct(load: str = "rate-1000-c4", **more: Any) -> Measured:
    """No proxy."""
    return measured("direct", load, {}, **more)


def document(
    results: Iterable[Measured], *, machine: Mapping[str, Any] = MACHINE, scenarios: Sequence[Scenario] | None = None
) -> Document:
    """A run with these results; scenarios are described by their names unless given."""
    every = list(results)
    names = dict.fromkeys(each.scenario for each in every)
    described = [Scenario(name, f"what {name} is", BESIDE.get(name, [])) for name in names]
    return Document(FORMAT, dict(machine), 0.15, described if scenarios is None else list(scenarios), every)
