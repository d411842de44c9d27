"""Published figures, where they find their counterparts, and the rows that come of it."""

from __future__ import annotations

from typing import Any

import pytest

from bench.published import CALCULATOR, PUBLISHED, RESERVATIONS, Counterpart, Found, Missing, Published
from bench.reporting.comparison import Row, compare
from bench.reporting.merging import merge
from bench.results import Document, Figure, Measured
from tests.unit.bench.support import added, direct, document, envoy, measured, ours, waypoint


def rows(*documents: Document) -> dict[str, Row]:
    named = [(f"{number}.json", each) for number, each in enumerate(documents)]
    return {row.title: row for row in compare(merge(named))}


def look(one: Counterpart, *results: Measured) -> Found | Missing:
    return one.look(document(results))


def test_the_figures_of_the_performance_page_are_what_it_says() -> None:
    said = {one.title: (one.value, one.scale.label) for one in PUBLISHED if "1.24" in one.source.title}
    assert said["ztunnel, CPU"] == (0.06, "vCPU")
    assert said["waypoint, CPU"] == (0.25, "vCPU")
    assert said["sidecar, CPU"] == (0.20, "vCPU")
    assert {said[f"{name}, memory (PSS)"][0] for name in ("waypoint", "sidecar")} == {60e6}
    assert said["ztunnel, memory (PSS)"] == (12e6, "MB")


def test_every_figure_has_a_source_with_conditions_and_a_title_of_its_own() -> None:
    assert all(one.source.title and one.source.conditions and one.value > 0 for one in PUBLISHED)
    assert len({one.title for one in PUBLISHED}) == len(PUBLISHED)


def test_the_calculator_follows_from_the_reservations() -> None:
    assert CALCULATOR.pods * RESERVATIONS["sidecar"].cores == CALCULATOR.sidecars_cores
    assert CALCULATOR.nodes * RESERVATIONS["ztunnel"].cores == CALCULATOR.ambient_cores[0]


def test_cpu_of_a_proxy_is_the_sum_of_its_parts_at_the_rate_and_the_dearest_counts() -> None:
    found = look(Counterpart("ambient-l4", "rate-1000-c4", "proxy", "vcpu"), ours(rate=990.0))
    assert isinstance(found, Found)
    assert found.reading.value == pytest.approx((10e-6 + 50e-6) * 990)
    assert found.reading.low == pytest.approx(60e-6 * 990 * 0.9)
    assert found.reading.detail == "ztunnel-1 0.0396, ztunnel-2 0.0594"


def test_memory_of_a_proxy_is_the_pss_of_all_its_parts_in_the_right_phase() -> None:
    loaded = look(Counterpart("ambient-l4", "rate-1000-c4", "proxy", "memory"), ours())
    idle = look(Counterpart("ambient-l4", "rate-1000-c4", "proxy", "idle memory"), ours())
    assert isinstance(loaded, Found)
    assert isinstance(idle, Found)
    assert loaded.reading.value == 24_000_000
    assert idle.reading.value == 21_600_000


def test_memory_counted_alone_is_a_figure_of_its_own() -> None:
    where = Counterpart("ambient-l4", "rate-1000-c4", "proxy", "memory alone")
    found = look(where, ours(alone={"ztunnel-1": 36_000_000, "ztunnel-2": 38_000_000}))
    assert isinstance(found, Found)
    assert found.reading.value == 38_000_000
    assert look(where, ours()) == Missing("memory alone of ambient-l4 under rate-1000-c4")


def test_proxies_beside_are_not_counted() -> None:
    found = look(Counterpart("envoy-waypoint-1", "rate-1000-c4", "proxy", "vcpu"), waypoint())
    assert isinstance(found, Found)
    assert found.reading.value == pytest.approx(0.25)
    assert "ztunnel" not in found.reading.detail


def test_tunnels_are_told_for_ten_thousand() -> None:
    result = measured(
        "ambient-l4",
        "idle-10000",
        {"ztunnel-1/worker-0": 0.0, "ztunnel-1/worker-1": 0.0},
        unit="tunnel",
        bytes_per_tunnel={"ztunnel-1/worker-0": 300.0, "ztunnel-1/worker-1": 350.0},
    )
    found = look(Counterpart("ambient-l4", "idle-10000", "proxy", "tunnels"), result)
    assert isinstance(found, Found)
    assert found.reading.value == pytest.approx(6_500_000)


def test_what_a_document_lacks_is_named_and_never_a_number() -> None:
    where = Counterpart("ambient-l4", "rate-1000-c4", "path", "added p90")
    assert look(where, ours("rate-500-c4", rate=500.0)) == Missing("ambient-l4 under rate-1000-c4")
    assert look(where, ours(added_us={})) == Missing("added p90 of ambient-l4 under rate-1000-c4")
    memory = Counterpart("ambient-l4", "rate-1000-c4", "proxy", "memory")
    assert look(memory, ours(memory={})) == Missing("memory of ambient-l4 under rate-1000-c4")
    row = rows(document([envoy("envoy-waypoint-1")]))["waypoint, CPU"]
    assert (row.ours.text, row.ours.state) == ("not measured", "missing")
    assert row.envoy.text == "0.100 [0.0900-0.110] vCPU"
    assert (row.over_published.text, row.over_envoy.text) == ("-", "-")


def test_a_document_without_results_measures_nothing() -> None:
    for row in rows(document([])).values():
        assert {row.ours.text, row.envoy.text} == {"not measured"}
        assert {row.over_published.text, row.over_envoy.text} == {"-"}


def test_a_row_holds_both_ratios() -> None:
    row = rows(document([direct(), ours(), envoy("envoy-hbone"), envoy("envoy-sidecar", cost=400e-6)]))
    assert row["ztunnel, CPU"].published.text == "0.06 vCPU"
    assert row["ztunnel, CPU"].ours.text == "0.0600 [0.0540-0.0660] vCPU"
    assert row["ztunnel, CPU"].envoy.text == "0.100 [0.0900-0.110] vCPU"
    assert row["ztunnel, CPU"].over_published.text == "1.00 x"
    assert row["ztunnel, CPU"].over_envoy.text == "0.600 x"
    assert row["ztunnel, memory (PSS)"].over_published.text == "2.00 x"
    assert row["ztunnel, memory (PSS)"].over_envoy.text == "0.480 x"
    assert row["sidecar, CPU"].over_published.text == "0.300 x"
    assert row["sidecar, CPU"].over_envoy.text == "0.300 x"
    latency = row["two ztunnels, P90, 4 connections here"]
    assert (latency.published.text, latency.ours.text) == ("0.17 ms", "0.100 [0.0900-0.110] ms")
    assert latency.over_published.text == "0.588 x"
    assert row["two ztunnels, P90, 16 connections here"].ours.text == "not measured"


def test_reservations_are_set_beside_what_a_container_is_charged_with() -> None:
    row = rows(document([ours(alone={"ztunnel-1": 2**25, "ztunnel-2": 2**24})]))["ztunnel, memory reserved"]
    assert (row.published.text, row.ours.text, row.over_published.text) == ("512 MiB", "32.0 MiB", "0.0625 x")


def test_throughput_says_that_more_is_better() -> None:
    row = rows(document([measured("ambient-l4", "upload-1", {"ztunnel-1/worker-0": 1.5}, rate=1.4375, unit="GB")]))
    found = row["one stream up, two ztunnels"]
    assert found.better == "higher is better"
    assert found.ours.text.endswith("Gbit/s")
    assert found.over_published.text == "1.00 x"


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"noisy": True}, "noisy"),
        ({"errors": 1}, "1 error"),
        ({"errors": 1200}, "1,200 errors"),
        ({"rate": 870.0}, "rate not held: 870/s of 1,000/s"),
    ],
)
def test_a_result_that_must_not_be_used_is_shown_as_such_and_gives_no_ratio(flaw: dict[str, Any], said: str) -> None:
    row = rows(document([direct(), ours(**flaw), envoy("envoy-hbone")]))["ztunnel, CPU"]
    assert row.ours.state == "unusable"
    assert row.ours.text.endswith(f"; unusable: {said}")
    assert (row.over_published.text, row.over_published.state) == ("unusable", "unusable")
    assert row.over_envoy.text == "unusable"
    assert row.envoy.state == ""


def test_a_flawed_envoy_spoils_only_its_own_ratio() -> None:
    row = rows(document([direct(), ours(), envoy("envoy-hbone", noisy=True)]))["ztunnel, CPU"]
    assert row.over_published.text == "1.00 x"
    assert (row.envoy.state, row.over_envoy.text) == ("unusable", "unusable")


def test_added_latency_is_no_better_than_the_path_it_is_over() -> None:
    row = rows(document([direct(noisy=True), ours()]))
    assert row["two ztunnels, P90, 4 connections here"].ours.text.endswith("unusable: direct: noisy")
    assert row["ztunnel, CPU"].ours.state == ""


def test_latency_below_zero_has_no_ratio() -> None:
    row = rows(document([ours(added_us=added(-9, -20, 5, 9)), envoy("envoy-hbone")]))
    latency = row["two ztunnels, P90, 4 connections here"]
    assert latency.ours.text.startswith("-0.0200")
    assert (latency.over_published.text, latency.over_envoy.text) == ("-", "-")


def test_the_ratio_of_the_same_rounds_is_noted() -> None:
    paired = ours(ratio={"envoy-hbone": Figure(0.61, 0.58, 0.64, 5)})
    row = rows(document([paired, envoy("envoy-hbone")]))["ztunnel, CPU"]
    assert any("0.610 [0.580-0.640]" in note for note in row.notes)
    noisy = rows(document([paired, envoy("envoy-hbone", noisy=True)]))["ztunnel, CPU"]
    assert not any("0.610" in note for note in noisy.notes)


def test_a_ratio_across_runs_is_noted() -> None:
    apart = rows(document([ours()]), document([envoy("envoy-hbone")]))["ztunnel, CPU"]
    together = rows(document([ours(), envoy("envoy-hbone")]))["ztunnel, CPU"]
    note = "ours and Envoy were measured in different runs"
    assert note in apart.notes
    assert note not in together.notes


def test_envoy_here_over_the_published_envoy_tells_the_machines_apart() -> None:
    row = rows(document([envoy("envoy-sidecar", cost=800e-6)]))["sidecar, CPU"]
    assert "Envoy here is 2.00 x the published Envoy" in row.notes


def test_the_order_is_that_of_the_list() -> None:
    chosen: list[Published] = [PUBLISHED[3], PUBLISHED[0]]
    assert [row.title for row in compare(merge([("a", document([]))]), chosen)] == [one.title for one in chosen]
