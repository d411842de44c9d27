"""The arithmetic of the fleet, with its numbers on the table."""

from __future__ import annotations

from typing import Any

import pytest

from bench import fleet
from bench.fleet import Estimate, Fleet, Option, Prices
from bench.results import Figure, Measured
from tests.unit.bench.support import direct, document, envoy, measured, ours, waypoint

PRICES = Prices(vcpu=100.0, gigabyte=10.0)


def estimate(*results: Measured, rate: float = 70_000, sizes: Fleet | None = None) -> Estimate:
    return fleet.estimate(document(results), sizes or Fleet(), rate, PRICES)


def option(found: Estimate, title: str) -> Option:
    return next(each for each in found.options if each.title == title)


def idle(scenario: str, cores: float, *proxies: str) -> Measured:
    processes = {f"{proxy}/part": 0.0 for proxy in proxies}
    return measured(scenario, "idle-10000", processes, unit="tunnel", vcpu=Figure(cores, cores, cores, 1), rounds=1)


# What the calculator counts


def test_sidecars_reserve_a_thousand_cores() -> None:
    sidecars = fleet.reserved(Fleet(), PRICES)[0]
    cpu, memory, cost = sidecars.term("CPU"), sidecars.term("memory"), sidecars.term("cost")
    assert (cpu.numbers, cpu.value, cpu.text) == ("10,000 x 0.1 vCPU", 1000, "1,000 vCPU")
    assert (memory.numbers, memory.text) == ("10,000 x 128 MiB", "1,250 GiB")
    assert cost.value == pytest.approx(1000 * 100 + 10_000 * 128 * 1024**2 / 1e9 * 10)


def test_ambient_reserves_twenty_and_with_waypoints_forty() -> None:
    _, layer4, waypoints = fleet.reserved(Fleet(), PRICES)
    assert layer4.term("CPU").value == pytest.approx(20)
    assert layer4.term("memory").text == "50.0 GiB"
    assert waypoints.term("CPU").value == pytest.approx(100 * 0.2 + 100 * 0.1 + 50 * 2 * 0.1)
    assert waypoints.term("CPU").numbers == "100 x 0.2 vCPU + 100 x 0.1 vCPU + 100 x 0.1 vCPU"


def test_the_totals_imply_a_price_and_a_waypoint() -> None:
    each, price = fleet.implied()
    assert each.value == pytest.approx(1.08)
    assert price.value == pytest.approx(432_674 / 926)
    assert price.numbers == "$432,674 / (1,000 - 74) vCPU = $0.0533 an hour x 8,760"
    assert fleet.default_prices() == Prices(432_674 / 926, 0.0)


def test_the_fleet_has_other_sizes_when_told() -> None:
    sidecars, layer4, _ = fleet.reserved(Fleet(pods=500, namespaces=5, nodes=10), PRICES)
    assert (sidecars.term("CPU").text, layer4.term("CPU").text) == ("50.0 vCPU", "2.00 vCPU")


# From measured numbers


def test_cpu_is_the_rate_times_the_cost_of_the_pair() -> None:
    found = estimate(ours(), envoy("envoy-sidecar", cost=400e-6))
    theirs, mine = option(found, "Envoy sidecars"), option(found, "Our ztunnels, L4 only")
    traffic = theirs.term("CPU, traffic")
    assert traffic.formula == "rate x CPU per request of a pair of sidecars"
    assert traffic.numbers == "70,000/s x 400 us"
    assert traffic.value == pytest.approx(28.0)
    assert mine.term("CPU, traffic").numbers == "70,000/s x 100 us"
    assert mine.term("CPU, traffic").value == pytest.approx(7.0)


def test_memory_is_per_pod_for_sidecars_and_per_node_for_ztunnels() -> None:
    found = estimate(ours(), envoy("envoy-sidecar", size=31_000_000))
    theirs = option(found, "Envoy sidecars").term("memory")
    mine = option(found, "Our ztunnels, L4 only").term("memory")
    assert (theirs.numbers, theirs.text) == ("10,000 x 31 MB", "310 GB")
    # The mean of 20 and 24 MB: a fleet has clients and servers.
    assert (mine.numbers, mine.text) == ("100 x 22 MB", "2.20 GB")


def test_who_stands_alone_on_its_node_is_counted_alone() -> None:
    alone = {"ztunnel-1": 36_000_000, "ztunnel-2": 38_000_000}
    sidecar = envoy("envoy-sidecar", alone={"client": 70_000_000, "server": 70_000_000})
    found = estimate(ours(alone=alone), sidecar)
    assert option(found, "Our ztunnels, L4 only").term("memory").numbers == "100 x 37 MB"
    assert option(found, "Our ztunnels, L4 only").term("memory").formula.endswith("(alone)")
    assert option(found, "Envoy sidecars").term("memory").numbers == "10,000 x 50 MB"


def test_the_cost_is_both_prices() -> None:
    mine = option(estimate(ours(), envoy("envoy-sidecar")), "Our ztunnels, L4 only")
    assert mine.term("cost").numbers == "7.000 x $100.00 + 2.200 x $10.00"
    assert mine.term("cost").value == pytest.approx(7 * 100 + 2.2 * 10)
    assert mine.term("cost").text == "$722 a year"


def test_waypoints_are_added_with_two_for_each_namespace() -> None:
    found = estimate(ours(), envoy("envoy-sidecar"), waypoint())
    theirs = option(found, "Our ztunnels and Envoy waypoints")
    assert theirs.term("CPU, traffic").numbers == "70,000/s x 100 us + 70,000/s x 250 us"
    assert theirs.term("CPU, traffic").value == pytest.approx(24.5)
    assert theirs.term("memory").numbers == "100 x 22 MB + 100 x 60 MB"
    mine = option(found, "Our ztunnels and our waypoints")
    assert mine.term("CPU, traffic").value is None
    assert mine.term("CPU, traffic").text == "not measured: ambient-waypoint under rate-1000-c4"
    assert mine.term("cost").text == "not measured: ambient-waypoint under rate-1000-c4"
    assert "?" in mine.term("CPU, traffic").numbers


def test_idle_cpu_counts_for_every_proxy_of_the_fleet() -> None:
    found = estimate(
        ours(),
        envoy("envoy-sidecar"),
        idle("ambient-l4", 0.004, "ztunnel-1", "ztunnel-2"),
        idle("envoy-sidecar", 0.002, "client", "server"),
    )
    theirs = option(found, "Envoy sidecars")
    assert theirs.term("CPU, idle").numbers == "10,000 x 0.001 vCPU"
    assert theirs.term("CPU").value == pytest.approx(70_000 * 200e-6 + 10_000 * 0.001)
    assert theirs.term("CPU").numbers == "14 vCPU + 10 vCPU"
    assert option(found, "Our ztunnels, L4 only").term("CPU").value == pytest.approx(7 + 100 * 0.002)
    assert any("upper bound" in remark for remark in found.remarks)


def test_idle_cpu_counts_for_none_when_it_is_not_known_for_all() -> None:
    found = estimate(ours(), envoy("envoy-sidecar"), idle("envoy-sidecar", 0.002, "client", "server"))
    theirs = option(found, "Envoy sidecars")
    assert theirs.term("CPU, idle").value == pytest.approx(10.0)
    assert theirs.term("CPU").value == pytest.approx(14.0)
    mine = option(found, "Our ztunnels, L4 only").term("CPU, idle")
    assert mine.text == "not measured: ambient-l4 under idle-10000"


@pytest.mark.parametrize("flaw", [{"noisy": True}, {"errors": 2}])
def test_a_result_that_must_not_be_used_is_not_used(flaw: dict[str, Any]) -> None:
    found = estimate(ours(), envoy("envoy-sidecar", **flaw))
    cpu = option(found, "Envoy sidecars").term("CPU")
    assert cpu.value is None
    assert cpu.text.startswith("not measured: envoy-sidecar under rate-1000-c4 is unusable (")
    assert option(found, "Our ztunnels, L4 only").term("CPU").value == pytest.approx(7.0)


def test_missing_memory_leaves_cpu_alone() -> None:
    found = option(estimate(ours(memory={}), envoy("envoy-sidecar")), "Our ztunnels, L4 only")
    assert found.term("CPU").value == pytest.approx(7.0)
    assert found.term("memory").text == "not measured: memory of ambient-l4 under rate-1000-c4"
    assert found.term("cost").value is None


def test_another_rate_stands_in_when_both_sides_have_it() -> None:
    chosen = fleet.choose_load(
        document(
            [
                direct(),
                ours(noisy=True),
                envoy("envoy-sidecar"),
                ours("rate-500-c4", rate=500.0),
                envoy("envoy-sidecar", "rate-500-c4", rate=500.0),
                ours("rate-750-c4", rate=750.0),
                envoy("envoy-sidecar", "rate-750-c4", rate=750.0),
                ours("rate-1500-c4", rate=1500.0),
                envoy("envoy-sidecar", "rate-1500-c4", rate=1500.0),
                ours("closed-64"),
                envoy("envoy-sidecar", "closed-64"),
            ]
        )
    )
    assert chosen == "rate-750-c4"
    assert fleet.choose_load(document([ours()])) == fleet.REFERENCE_LOAD


def test_a_document_without_results_costs_nothing_that_could_be_named() -> None:
    for each in estimate().options:
        assert all(term.value is None and term.text.startswith("not measured: ") for term in each.terms)


def test_the_remarks_say_how_far_the_measured_rate_is_from_the_fleets() -> None:
    found = estimate(ours(), envoy("envoy-sidecar"), rate=50_000)
    assert "1,000/s through one pair" in found.remarks[0]
    assert "a ztunnel would carry 1,000/s and a sidecar 10.0/s" in found.remarks[0]
