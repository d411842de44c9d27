"""Scenarios, loads, and how slices become figures."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from bench import results
from bench.errors import BenchError
from bench.load import Outcome
from bench.measure import Memory, Usage
from bench.scenarios import catalog, loads, summary, tables
from bench.scenarios.paths import POLICIES, AmbientPolicies
from bench.scenarios.runner import Look, Sample, slope

MB = 1024 * 1024
LOOK = Look({"a/worker-0": Memory(4 * MB, 3 * MB)}, {"a": 9 * MB}, {"a/worker-0": 2.0})


def sample(
    scenario: str,
    number: int,
    cpu: dict[str, float],
    *,
    load: str = "rate-1000-c4",
    foreign: float = 0.0,
    p50: float = 100.0,
    measured: frozenset[str] | None = None,
    lag: float = 0.0,
) -> Sample:
    """A slice of 1,000 units in two seconds."""
    memory = {name: Memory(2 * MB, MB) for name in cpu}
    return Sample(
        scenario,
        loads.LOADS[load],
        number,
        Outcome(1000, 0, 2.0, {"p50": p50, "p999": 10 * p50}, lag),
        Usage(2.5, cpu, foreign, 0.0),
        0.05,
        {"idle": memory, "after": memory},
        frozenset(cpu) if measured is None else measured,
    )


def test_every_pod_of_every_scenario_has_an_address_of_its_own() -> None:
    pods = [pod for each in catalog.SCENARIOS.values() for pod in each.path().place]
    assert len({pod.ip for pod in pods}) == len(pods)
    assert len({pod.name for pod in pods}) == len(pods)
    assert all(ipaddress.ip_address(pod.ip) in ipaddress.ip_network("10.77.0.0/16") for pod in pods)


def test_direct_is_always_measured_and_the_order_is_that_of_the_catalogue() -> None:
    assert [each.name for each in catalog.choose(["relay"])] == ["direct", "relay"]
    assert [each.name for each in catalog.choose(["envoy-hbone", "ambient-l4"])] == [
        "direct",
        "ambient-l4",
        "envoy-hbone",
    ]
    assert [each.name for each in catalog.choose(["all"])] == list(catalog.SCENARIOS)


@pytest.mark.parametrize("name", ["Ambient", "", "envoy"])
def test_an_unknown_scenario_lists_what_there_is(name: str) -> None:
    with pytest.raises(BenchError, match="ambient-l4-policies"):
        catalog.choose([name])


def test_groups_of_loads_name_loads_and_the_soak_wants_to_be_asked_for() -> None:
    for members in loads.GROUPS.values():
        assert set(members) <= set(loads.LOADS)
    assert loads.SOAK not in {each.name for each in loads.choose(["all"])}
    assert [each.name for each in loads.choose(["closed-64", "sweep", "rate-500-c4"])] == [
        *loads.GROUPS["sweep"],
        "closed-64",
    ]
    with pytest.raises(BenchError, match="soak"):
        loads.choose(["fast"])


def test_only_the_last_of_the_policies_lets_the_client_in() -> None:
    path = catalog.SCENARIOS["ambient-l4-policies"].path()
    assert isinstance(path, AmbientPolicies)
    policies = path.policies()
    assert len(policies) == POLICIES
    admitting = [each for each in policies if path.place.client.principal in str(each["spec"]["rules"])]
    assert admitting == [policies[-1]]
    assert policies[-1]["spec"]["action"] == "ALLOW"
    assert {each["spec"]["selector"]["matchLabels"]["app"] for each in policies} == {path.place.server.app}


@pytest.mark.parametrize("name", list(catalog.SCENARIOS))
def test_every_scenario_with_a_proxy_can_show_its_configuration(name: str) -> None:
    texts = catalog.SCENARIOS[name].path().describe()
    assert bool(texts) is (name != "direct")
    assert all(text.strip() for text in texts.values())


def test_costs_are_told_by_process_and_ratios_formed_within_a_round() -> None:
    # The second round was twice as slow for everybody.
    samples = []
    for number, slow in enumerate((1.0, 2.0)):
        samples.append(sample("direct", number, {}, p50=100 * slow))
        samples.append(sample("ambient-l4", number, {"a/worker-0": 0.03 * slow, "a/control": 0.01 * slow}, p50=150))
        samples.append(sample("envoy-hbone", number, {"c/envoy": 0.08 * slow}))
    direct, ours, _ = summary.measured(samples, {("ambient-l4", "rate-1000-c4"): LOOK})
    assert ours.cpu_total.low == pytest.approx(40e-6)
    assert ours.cpu_total.high == pytest.approx(80e-6)
    assert ours.cpu["a/control"].low == pytest.approx(10e-6)
    assert ours.ratio["envoy-hbone"].low == ours.ratio["envoy-hbone"].high == pytest.approx(0.5)
    # 1,000 requests in two seconds at 40 us each.
    assert ours.vcpu.low == pytest.approx(0.02)
    assert (ours.added_us["p50"].low, ours.added_us["p50"].high) == (-50, 50)
    assert ours.syscalls == {"a/worker-0": 2.0}
    assert ours.memory["load"] == {"a/worker-0": results.Memory(4 * MB, 3 * MB)}
    assert ours.memory["idle"]["a/control"] == results.Memory(2 * MB, MB)
    assert ours.alone == {"a": 9 * MB}
    assert not direct.cpu
    assert not direct.ratio
    assert not direct.added_us


def test_what_stands_beside_is_told_and_not_counted() -> None:
    cpu = {"waypoint/envoy": 0.2, "client/envoy": 0.1}
    found = summary.measured([sample("envoy-waypoint-1", 0, cpu, measured=frozenset({"waypoint/envoy"}))], {})[0]
    assert found.cpu_total.median == pytest.approx(200e-6)
    assert found.cpu["client/envoy"].median == pytest.approx(100e-6)


def test_noisy_rounds_are_left_out_while_half_are_quiet() -> None:
    samples = [sample("relay", number, {"c/relay": 0.05}) for number in range(2)]
    samples.append(sample("relay", 2, {"c/relay": 9.0}, foreign=1.0))
    found = summary.measured(samples, {})[0]
    assert not found.noisy
    assert found.rounds == 2
    assert found.cpu_total.high == pytest.approx(50e-6)


def test_a_result_says_when_it_is_too_noisy_to_use() -> None:
    samples = [sample("relay", number, {"c/relay": 0.05}, foreign=float(number > 0)) for number in range(3)]
    found = summary.measured(samples, {})[0]
    assert found.noisy
    assert found.rounds == 3
    assert "not to be used" in tables._note(found)


def test_a_generator_that_was_late_makes_a_slice_noisy() -> None:
    assert not sample("relay", 0, {"c/relay": 0.05}, lag=200).noisy
    assert sample("relay", 0, {"c/relay": 0.05}, lag=20_000).noisy


def test_workers_are_summed_apart_from_the_control_process() -> None:
    values = {"z/control": 1.0, "z/worker-0": 2.0, "z/worker-1": 3.0, "y/envoy": 4.0}
    assert tables.by_part(values) == {"z control": 1.0, "z workers": 5.0, "y envoy": 4.0}
    assert tables.by_proxy(values) == {"z": 6.0, "y": 4.0}


def test_growth_is_the_slope_through_all_readings() -> None:
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    assert slope([0, 10, 20], [4, 4, 4]) == pytest.approx(0)


@pytest.mark.parametrize(
    "growth, said",
    [
        ({}, ""),
        ({"c/relay": 0.0, "s/relay": -20_000.0}, "no growth"),
        ({"c/relay": 999.0, "s/relay": 8_192.0}, "s/relay grows 8 KB/h"),
    ],
)
def test_memory_that_shrinks_does_not_grow(growth: dict[str, float], said: str) -> None:
    soaked = sample("relay", 0, {"c/relay": 0.05, "s/relay": 0.05}, load=loads.SOAK)._replace(growth_per_hour=growth)
    assert tables._note(summary.measured([soaked], {})[0]) == said


def test_a_document_survives_its_file(tmp_path: Path) -> None:
    samples = [sample("direct", 0, {}), sample("relay", 0, {"c/relay": 0.05})]
    chosen = catalog.choose(["relay"])
    document = summary.document({"cores": 2}, 0.15, chosen, samples, {})
    results.write(tmp_path / "run.json", document)
    again = results.read(tmp_path / "run.json")
    assert again.measured == document.measured
    assert [each.name for each in again.scenarios] == ["direct", "relay"]
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no result"),
        ("[]", "no result"),
        ("{}", "format none"),
        ('{"format": 1}', "format 1 is not 2"),
        ('{"format": 2, "machine": {}, "noise_limit": "loud", "scenarios": [], "measured": []}', "noise_limit"),
    ],
)
def test_a_file_that_is_no_result_is_named_with_the_cause(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=said) as caught:
        results.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nowhere\.json cannot be read: No such file"):
        results.read(tmp_path / "nowhere.json")
