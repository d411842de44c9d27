"""What is counted, and that Prometheus can read it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from istiod.convergence import Convergence
from istiod.metrics import METRICS, OTHER, SERIES_MAX, Metric, Metrics
from meshcore.model import ADDRESS_TYPE
from tests.unit.istiod.http_support import fetch, run
from tests.unit.istiod.support import Mesh, pod

DOCS = Path(__file__).parents[3] / "docs" / "istiod-metrics.md"

UPSTREAM = re.findall(
    r"\S+",
    """
pilot_xds pilot_xds_pushes pilot_xds_push_time pilot_xds_send_time pilot_xds_config_size_bytes
pilot_proxy_convergence_time pilot_proxy_queue_time pilot_push_triggers pilot_debounce_time pilot_inbound_updates
pilot_services pilot_virt_services pilot_total_xds_rejects pilot_xds_cds_reject pilot_xds_eds_reject
pilot_xds_lds_reject pilot_xds_rds_reject pilot_total_rejected_configs pilot_total_xds_internal_errors
pilot_xds_expired_nonce pilot_xds_write_timeout pilot_xds_recv_max pilot_conflict_inbound_listener
pilot_conflict_outbound_listener_tcp_over_current_tcp pilot_duplicate_envoy_clusters pilot_no_ip
pilot_eds_no_instances pilot_endpoint_not_ready pilot_dns_cluster_without_endpoints pilot_destrule_subsets
pilot_vservice_dup_domain pilot_envoy_filter_status pilot_jwks_resolver_network_fetch_success_total
pilot_jwks_resolver_network_fetch_fail_total pilot_sds_certificate_errors_total pilot_pushcontext_init_seconds
pilot_worker_queue_depth pilot_worker_queue_duration pilot_worker_queue_latency pilot_info istiod_uptime_seconds
istiod_managed_clusters istiod_remote_cluster_sync_status istiod_connection_failures istiod_connection_terminations
provider_lookup_cluster_failures remote_cluster_sync_timeouts_total galley_validation_passed galley_validation_failed
galley_validation_http_error galley_validation_config_updates galley_validation_config_update_error
galley_validation_config_load_error sidecar_injection_* controller_sync_errors_total xds_cache_reads xds_cache_size
xds_cache_evictions xds_cache_dependent_config_size auto_registration_* webhook_patch_*
""",
)
"""Names of upstream's istiod that people alert on."""


def families(text: str) -> dict[str, Family]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Family) -> dict[tuple[str, ...], float]:
    return {(sample.name.removeprefix(family.name), *sample.labels.values()): sample.value for sample in family.samples}


def small(kind: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metrics:
    return Metrics({"x": Metric(kind, "Help.", labels, buckets)})


def test_a_metric_without_labels_is_there_from_the_start() -> None:
    metrics = Metrics()
    assert "\ncitadel_server_csr_count 0\n" in metrics.render()
    assert "pilot_xds_pushes" not in metrics.render()


def test_counters_and_gauges() -> None:
    metrics = Metrics()
    metrics.add("pilot_xds_pushes", type="wds")
    metrics.add("pilot_xds_pushes", 2, type="wds")
    metrics.add("pilot_xds_pushes", type="wads")
    metrics.peak("pilot_xds_recv_max", 5)
    metrics.peak("pilot_xds_recv_max", 3)
    found = families(metrics.render())
    assert found["pilot_xds_pushes"].type == "counter"
    assert values(found["pilot_xds_pushes"]) == {("_total", "wds"): 3, ("_total", "wads"): 1}
    assert values(found["pilot_xds_recv_max"]) == {("",): 5}
    assert metrics.get("pilot_xds_pushes", type="wads") == 1
    assert metrics.get("pilot_xds_pushes") == 4


def test_a_histogram_counts_up_to_each_bound() -> None:
    metrics = small("histogram", buckets=(0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        metrics.observe("x", value)
    (family,) = families(metrics.render()).values()
    assert family.type == "histogram"
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name == "x_bucket"}
    assert buckets == {"0.1": 2, "1": 3, "+Inf": 4}
    assert values(family)["_count",] == metrics.get("x") == 4
    assert values(family)["_sum",] == pytest.approx(7.65)


@given(st.lists(st.floats(0, 100), max_size=30), st.text(max_size=20))
def test_whatever_is_observed_can_be_read_back(observed: list[float], label: str) -> None:
    metrics = small("histogram", "l", buckets=(1, 10))
    for value in observed:
        metrics.observe("x", value, l=label)
    found = families(metrics.render())
    if not observed:
        assert found == {}
        return
    samples = {(s.name, s.labels.get("le", "")): s for s in found["x"].samples}
    assert samples["x_bucket", "+Inf"].value == samples["x_count", ""].value == len(observed)
    assert samples["x_bucket", "10"].value == sum(value <= 10 for value in observed)
    assert samples["x_sum", ""].value == pytest.approx(sum(observed))
    assert {s.labels["l"] for s in found["x"].samples} == {label}


def test_labels_are_those_of_the_metric() -> None:
    metrics = small("counter", "a")
    with pytest.raises(ValueError, match="BUG"):
        metrics.add("x")
    with pytest.raises(KeyError):
        metrics.add("x", b="1")


def test_labels_that_proxies_choose_do_not_fill_the_memory() -> None:
    metrics = small("counter", "a")
    for number in range(SERIES_MAX + 50):
        metrics.add("x", a=f"{number}" + "y" * 1000)
    (family,) = families(metrics.render()).values()
    assert len(family.samples) == SERIES_MAX + 1
    assert metrics.get("x", a=OTHER) == 50
    assert max(len(sample.labels["a"]) for sample in family.samples) == 128


def test_series_that_are_gone_are_not_shown() -> None:
    metrics = small("gauge", "a")
    metrics.replace("x", {"1": 1, "2": 2})
    metrics.replace("x", {"2": 3})
    assert values(families(metrics.render())["x"]) == {("", "2"): 3}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sums(metrics: Metrics, names: Iterable[str] = ("pilot_proxy_queue_time", "pilot_proxy_convergence_time")) -> object:
    found = families(metrics.render())
    return [values(found[name])["_sum",] if name in found else None for name in names]


def test_convergence_is_from_the_change_to_the_acknowledgement() -> None:
    metrics, clock = Metrics(), Clock()
    one = Convergence(metrics, clock)
    one.responded(more=False)
    one.answered(accepted=True)  # the first response: what the proxy asked for
    assert sums(metrics) == [None, None]
    one.changed(99)
    clock.now = 101
    one.changed(100.5)  # merged into the same response
    one.responded(more=False)
    one.changed(101)  # while that is under way
    clock.now = 103
    one.answered(accepted=True)
    assert sums(metrics) == [1, 4]
    one.responded(more=True)
    clock.now = 105
    one.answered(accepted=True)
    assert sums(metrics) == [3, 4]
    one.responded(more=False)
    one.answered(accepted=True)
    assert sums(metrics) == [3, 8]


def test_what_is_refused_or_makes_no_difference_does_not_converge() -> None:
    metrics, clock = Metrics(), Clock()
    one = Convergence(metrics, clock)
    one.changed(99)
    one.nothing()
    one.responded(more=False)
    one.answered(accepted=True)
    one.changed(99)
    one.responded(more=False)
    one.answered(accepted=False)
    one.responded(more=False)
    one.answered(accepted=True)
    assert metrics.get("pilot_proxy_convergence_time") == 0


def test_the_page_of_a_running_istiod(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh = Mesh(tmp_path)
        (mesh.config / "a.yaml").write_text(pod("web"))
        metrics = mesh.istiod.metrics
        await mesh.istiod.monitoring.start("127.0.0.1", 0)
        async with mesh.running(), mesh.subscriber() as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            await subscriber.until(lambda: metrics.get("pilot_xds_send_time") == 2)
            assert metrics.get("pilot_proxy_convergence_time") == 0
            (mesh.config / "a.yaml").write_text(pod("web", ip="10.0.0.9"))
            await subscriber.until(lambda: metrics.get("pilot_proxy_convergence_time") == 1)
            status, body = await fetch(mesh.istiod.monitoring.port, "/metrics")
            assert status == 200
            assert '"version"' in (await fetch(mesh.istiod.monitoring.port, "/version"))[1]
        found = families(body)
        assert values(found["pilot_xds"]) == {("", "unknown"): 1}
        assert values(found["pilot_xds_pushes"])["_total", "wds"] == 2
        assert values(found["pilot_push_triggers"]) == {("_total", "endpoint"): 1}
        assert values(found["pilot_inbound_updates"]) == {("_total", "eds"): 2}
        assert (
            0.01
            <= values(found["pilot_debounce_time"])["_sum",]
            <= values(found["pilot_proxy_convergence_time"])["_sum",]
        )
        assert values(found["istiod_objects"])["", "Pod"] == 1
        assert values(found["istiod_translations"])["_total", "pod_addresses", "computed"] == 2
        assert values(found["istiod_leader"]) == {("",): 1}
        assert values(found["citadel_server_root_cert_expiry_seconds"])["",] > 3e8
        assert metrics.get("pilot_xds") == 0  # the subscriber has gone

    run(scenario())


def test_a_refusal_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh = Mesh(tmp_path)
        (mesh.config / "a.yaml").write_text(pod("web"))
        metrics = mesh.istiod.metrics
        async with mesh.running():
            subscriber = mesh.subscriber()
            subscriber.refuse["Kubernetes//Pod/default/web"] = "no"
            async with subscriber:
                await subscriber.until(lambda: metrics.get("pilot_total_xds_rejects", type="wds") == 1)
                await asyncio.sleep(0)
                (proxy,) = mesh.istiod.proxies.values()
                assert "no" in proxy.last_refusals[ADDRESS_TYPE]

    run(scenario())


def test_every_metric_and_every_name_of_upstream_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z_*]+)`", DOCS.read_text(), re.MULTILINE))
    assert METRICS.keys() - explained == set()
    assert set(UPSTREAM) - explained == set()
    present = {
        line.split("`")[1]
        for line in DOCS.read_text().splitlines()
        if re.match(r"\| `[a-z_]+` \| (gauge|counter|histogram)", line)
    }
    assert present == set(METRICS)
