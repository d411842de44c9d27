"""What a fleet costs: as the published calculator counts it, and from measured figures, with every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.published import CALCULATOR, RESERVATIONS, TUNNELS
from bench.reporting import names, readings
from bench.reporting.units import GB, GIB, MB, MICROSECONDS, VCPU, Scale, show, significant, stated
from bench.results import Document, Measured

WAYPOINT_REPLICAS: Final = 2
"""Waypoints of a namespace: one alone would be a single point of failure."""
IDLE_LOAD: Final = f"idle-{TUNNELS}"
"""The load in which nothing moves while connections stand open: what a proxy burns without traffic, or more."""
REFERENCE_LOAD: Final = "rate-1000-c4"
"""The published conditions; another open-loop load stands in when no run has it."""

_DIGITS: Final = 4  # of numbers in a formula, so that a reader who recomputes it gets what is printed
_HOURS: Final = 8760  # of a year
_DOLLARS: Final = Scale(1.0, "a year")


class Fleet(NamedTuple):
    """Sizes of the fleet; by default the calculator's."""

    pods: int = CALCULATOR.pods
    namespaces: int = CALCULATOR.namespaces
    nodes: int = CALCULATOR.nodes


class Prices(NamedTuple):
    """Dollars a year for a vCPU, and for a GB of memory."""

    vcpu: float
    gigabyte: float


class Term(NamedTuple):
    """One step. `value` is None when something is missing, which `missing` names; `numbers` is `formula` filled in."""

    label: str
    formula: str
    numbers: str
    value: float | None
    scale: Scale
    missing: str = ""

    @property
    def text(self) -> str:
        """The result: "27.1 vCPU", "$12,655 a year", or what is not measured."""
        if self.value is None:
            return f"not measured: {self.missing}"
        if self.scale is _DOLLARS:
            return f"${self.value:,.0f} a year"
        return show(self.value, self.scale)


class Option(NamedTuple):
    """One way to run the fleet."""

    title: str
    terms: list[Term]

    def term(self, label: str) -> Term:
        """The step of this label; KeyError if there is none."""
        found = {each.label: each for each in self.terms}
        return found[label]


class Estimate(NamedTuple):
    """The fleet under a rate of requests, from measured numbers."""

    load: str
    options: list[Option]
    remarks: list[str]


def implied_price() -> float:
    """Dollars per vCPU-year behind the calculator's saving, at the upper of its two figures for ambient."""
    return CALCULATOR.saved / (CALCULATOR.sidecars_cores - CALCULATOR.ambient_cores[1])


def default_prices() -> Prices:
    """The implied price. It is that of a whole machine per core, so memory is already in it and costs nothing more."""
    return Prices(implied_price(), 0.0)


# What the calculator counts: reservations


def reserved(fleet: Fleet, prices: Prices) -> list[Option]:
    """The calculator's arithmetic from the charts' reservations; nothing in it was measured by anybody."""
    return [
        _reserving("Sidecars", prices, [("pods", fleet.pods, "sidecar")]),
        _reserving("Ambient, L4 only", prices, [("nodes", fleet.nodes, "ztunnel")]),
        _reserving(
            "Ambient, with node agents and waypoints",
            prices,
            [
                ("nodes", fleet.nodes, "ztunnel"),
                ("nodes", fleet.nodes, "istio-cni"),
                (f"namespaces x {WAYPOINT_REPLICAS}", fleet.namespaces * WAYPOINT_REPLICAS, "waypoint"),
            ],
        ),
    ]


def _reserving(title: str, prices: Prices, parts: Sequence[tuple[str, int, str]]) -> Option:
    cores = sum(count * RESERVATIONS[name].cores for _, count, name in parts)
    memory = sum(count * RESERVATIONS[name].memory for _, count, name in parts)
    formula = " + ".join(f"{what} x {name}" for what, _, name in parts)
    cpu_numbers = " + ".join(f"{count:,} x {RESERVATIONS[name].cores:g} vCPU" for _, count, name in parts)
    memory_numbers = " + ".join(
        f"{count:,} x {RESERVATIONS[name].memory / 1024**2:,.0f} MiB" for _, count, name in parts
    )
    cpu = Term("CPU", formula, cpu_numbers, cores, VCPU)
    held = Term("memory", formula, memory_numbers, float(memory), GIB)
    return Option(title, [cpu, held, _cost(cpu, held, prices)])


def implied() -> list[Term]:
    """What follows from the calculator's quoted totals: the waypoint it must assume, and the price."""
    low, high = CALCULATOR.ambient_cores
    each = (high - low) / CALCULATOR.namespaces
    return [
        Term(
            "waypoints of a namespace behind the upper figure",
            "(upper - lower) / namespaces",
            f"({high:g} - {low:g}) vCPU / {CALCULATOR.namespaces}",
            each,
            VCPU,
        ),
        Term(
            "price of a vCPU behind the saving",
            "saving / (sidecars - upper)",
            f"${CALCULATOR.saved:,.0f} / ({CALCULATOR.sidecars_cores:,g} - {high:g}) vCPU = "
            f"${implied_price() / _HOURS:.4f} an hour x {_HOURS:,}",
            implied_price(),
            _DOLLARS,
        ),
    ]


# From measured numbers


class _Price(NamedTuple):
    """What one scenario says about its proxies under one load; None and a reason where it does not."""

    scenario: str
    cpu: float | None
    """CPU seconds per request, all proxies that are measured."""
    idle: float | None
    """Cores of one proxy while nothing moves."""
    memory: float | None
    """Bytes of one proxy under load: the mean of those that are measured."""
    counted: str
    """How its memory was counted."""
    proxies: int
    why: dict[str, str]


class _Part(NamedTuple):
    """One kind of proxy of an option: how many there are, in words and in number, and what one costs."""

    what: str
    number: int
    name: str
    price: _Price


def choose_load(document: Document, scenarios: Sequence[str] = ("ambient-l4", "envoy-sidecar")) -> str:
    """The published conditions if all scenarios have them to be used, else the rate nearest to them that all have."""

    def usable(load: str) -> bool:
        found = [readings.find(document, each, load) for each in scenarios]
        return all(one is not None and not readings.flaws(one) for one in found)

    candidates = [load for load in names.ordered(each.load for each in document.measured) if names.rated(load)]
    return min(filter(usable, candidates), key=_distance, default=REFERENCE_LOAD)


def _distance(load: str) -> tuple[int, int]:
    """From the published conditions."""
    one, wanted = names.rated(load), names.rated(REFERENCE_LOAD)
    if one is None or wanted is None:
        raise ValueError(f"{load} offers no rate")
    return abs(one.rate - wanted.rate), abs(one.connections - wanted.connections)


def estimate(document: Document, fleet: Fleet, rate: float, prices: Prices) -> Estimate:
    """The fleet at `rate` requests/s through the whole mesh. What no usable result says is named, not guessed."""
    load = choose_load(document)
    found = {
        name: _price(document, name, load, many=name == "envoy-sidecar")
        for name in ("envoy-sidecar", "ambient-l4", "ambient-waypoint", "envoy-waypoint-1")
    }
    sidecars, ztunnels = found["envoy-sidecar"], found["ambient-l4"]
    tunnels = [_Part("nodes", fleet.nodes, "ztunnel", ztunnels)]

    def waypoints(price: _Price) -> list[_Part]:
        what = f"namespaces x {WAYPOINT_REPLICAS}"
        return [*tunnels, _Part(what, fleet.namespaces * WAYPOINT_REPLICAS, "waypoint", price)]

    parts: dict[str, list[_Part]] = {
        "Envoy sidecars": [_Part("pods", fleet.pods, "sidecar", sidecars)],
        "Our ztunnels, L4 only": tunnels,
        "Our ztunnels and our waypoints": waypoints(found["ambient-waypoint"]),
        "Our ztunnels and Envoy waypoints": waypoints(found["envoy-waypoint-1"]),
    }
    # Idle CPU counts for all or for none: otherwise whoever was not measured idle would look cheaper.
    priced = [[part.price for part in each] for each in parts.values() if all(part.price.cpu for part in each)]
    idle = bool(priced) and all(price.idle is not None for each in priced for price in each)
    options = [_option(title, rate, prices, each, idle=idle) for title, each in parts.items()]
    return Estimate(load, options, _remarks(document, fleet, rate, load))


def _price(document: Document, scenario: str, load: str, *, many: bool) -> _Price:
    """`many` stand on each node and share their program's pages; of the others a node has one, which pays for all."""
    why: dict[str, str] = {}
    one = _usable(document, scenario, load, why, "load")
    cpu = memory = None
    counted = "PSS"
    proxies: list[str] = []
    if one is not None:
        proxies = readings.proxies(document, one)
        if readings.priced(one):
            cpu = one.cpu_total.median
        else:
            why["cpu"] = f"CPU of {scenario} under {load}"
        alone = not many and all(readings.alone_of(one, proxy) is not None for proxy in proxies)
        sizes = [
            readings.alone_of(one, proxy) if alone else readings.memory_of(one, proxy, "load") for proxy in proxies
        ]
        held = [each for each in sizes if each is not None]
        counted = "alone" if alone else "PSS"
        if held:
            memory = sum(held) / len(held)
        else:
            why["memory"] = f"memory of {scenario} under {load}"
    quiet = _usable(document, scenario, IDLE_LOAD, why, "idle")
    count = len(readings.proxies(document, quiet)) if quiet is not None else 0
    idle = quiet.vcpu.median / count if quiet is not None and count else None
    return _Price(scenario, cpu, idle, memory, counted, len(proxies), why)


def _usable(document: Document, scenario: str, load: str, why: dict[str, str], key: str) -> Measured | None:
    """The result if it may be used; the reason goes to `why` if not."""
    found = readings.find(document, scenario, load)
    if found is None:
        why[key] = f"{scenario} under {load}"
        return None
    if flaws := readings.flaws(found):
        why[key] = f"{scenario} under {load} is unusable ({', '.join(flaws)})"
        return None
    return found


def _option(title: str, rate: float, prices: Prices, parts: Sequence[_Part], *, idle: bool) -> Option:
    traffic = Term(
        "CPU, traffic",
        " + ".join(f"rate x CPU per request of {_whole(part)}" for part in parts),
        " + ".join(f"{rate:,.0f}/s x {_number(part.price.cpu, MICROSECONDS)}" for part in parts),
        _sum([None if part.price.cpu is None else rate * part.price.cpu for part in parts]),
        VCPU,
        _reasons("cpu", parts),
    )
    resting = Term(
        "CPU, idle",
        " + ".join(f"{part.what} x idle CPU of a {part.name}" for part in parts),
        " + ".join(f"{part.number:,} x {_number(part.price.idle, VCPU)}" for part in parts),
        _sum([None if part.price.idle is None else part.number * part.price.idle for part in parts]),
        VCPU,
        _reasons("idle", parts),
    )
    cpu = _total(traffic, resting if idle else None)
    memory = Term(
        "memory",
        " + ".join(f"{part.what} x memory of a {part.name} ({part.price.counted})" for part in parts),
        " + ".join(f"{part.number:,} x {_number(part.price.memory, MB)}" for part in parts),
        _sum([None if part.price.memory is None else part.number * part.price.memory for part in parts]),
        GB,
        _reasons("memory", parts),
    )
    return Option(title, [traffic, resting, cpu, memory, _cost(cpu, memory, prices)])


def _whole(part: _Part) -> str:
    """A request crosses as many proxies of a kind as its scenario has: "a pair of sidecars", "one waypoint"."""
    one, several = part.name, f"{part.name}s"
    count = part.price.proxies
    return {0: f"the {several} in its way", 1: f"one {one}", 2: f"a pair of {several}"}.get(count, f"{count} {several}")


def _number(value: float | None, scale: Scale) -> str:
    return "?" if value is None else stated(value, scale, _DIGITS)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _reasons(key: str, parts: Sequence[_Part]) -> str:
    """What is missing for this term, each thing once: the load as a whole, or this part of it."""
    keys = (key,) if key == "idle" else ("load", key)
    return ", ".join(dict.fromkeys(part.price.why[each] for part in parts for each in keys if each in part.price.why))


def _total(traffic: Term, idle: Term | None) -> Term:
    """Traffic and, where it counts, what is burnt without it."""
    if traffic.value is None:
        return Term("CPU", "traffic + idle", "", None, VCPU, traffic.missing)
    if idle is None or idle.value is None:
        numbers = f"{_number(traffic.value, VCPU)} (idle CPU is not known for every line, so it counts in none)"
        return Term("CPU", "traffic", numbers, traffic.value, VCPU)
    numbers = f"{_number(traffic.value, VCPU)} + {_number(idle.value, VCPU)}"
    return Term("CPU", "traffic + idle", numbers, traffic.value + idle.value, VCPU)


def _cost(cpu: Term, memory: Term, prices: Prices) -> Term:
    formula = "CPU x price of a vCPU + memory x price of a GB"
    if cpu.value is None or memory.value is None:
        missing = ", ".join(dict.fromkeys(each.missing for each in (cpu, memory) if each.value is None))
        return Term("cost", formula, "", None, _DOLLARS, missing)
    size = memory.value * GB.factor
    numbers = (
        f"{significant(cpu.value, _DIGITS)} x ${prices.vcpu:,.2f} + "
        f"{significant(size, _DIGITS)} x ${prices.gigabyte:,.2f}"
    )
    return Term("cost", formula, numbers, cpu.value * prices.vcpu + size * prices.gigabyte, _DOLLARS)


def _remarks(document: Document, fleet: Fleet, rate: float, load: str) -> list[str]:
    """What the numbers leave out, and which way it pulls."""
    offered = names.rated(load)
    found = []
    if offered is not None:
        found.append(
            f"CPU per request is taken at {offered.rate:,}/s through one pair. In this fleet a ztunnel would carry "
            f"{significant(2 * rate / fleet.nodes)}/s and a sidecar {significant(2 * rate / fleet.pods)}/s: sparse "
            "work costs more per request, so sidecars come out cheaper here than they would be."
        )
    found.append(
        "Sidecars share their program's pages on a node, so PSS counts for them; a ztunnel or waypoint may be the only "
        "one on its node, so it is counted alone where the run did. Memory is of a small mesh. It grows with pods, "
        "services and policies, for a sidecar with the whole configuration it is sent; that is not measured here."
    )
    if any(each.load == IDLE_LOAD for each in document.measured):
        found.append(
            "Idle CPU was measured while 10,000 connections stood open. No single pod holds that many, so for sidecars "
            "it is an upper bound; without it read the line for traffic."
        )
    found.append(
        "Sidecars parse HTTP and ztunnels do not: against the lines with waypoints, which every request crosses there, "
        "like is set beside like."
    )
    found.append("istiod and the node agents are the same in both worlds or small, and are left out.")
    return found
