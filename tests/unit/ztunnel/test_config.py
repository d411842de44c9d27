"""Settings of ztunnel: upstream's names, defaults and refusals."""

from __future__ import annotations

import math

import pytest

from meshcore import records
from meshcore.errors import ConfigError
from ztunnel import config
from ztunnel.config import Settings, duration, host_port


def load(**environment: str) -> Settings:
    return config.load(environment, cores=8)


def test_defaults_are_upstreams() -> None:
    found = load()
    assert found.cluster_id == "Kubernetes"
    assert found.inpod_uds == "/var/run/ztunnel/ztunnel.sock"
    assert found.xds_address == found.ca_address == "https://localhost:15012"
    assert found.secret_ttl == 86400
    assert found.orig_src is None
    assert found.termination_deadline == 5
    assert (found.admin_port, found.stats_port, found.readiness_port) == (15000, 15020, 15021)
    record = found.worker_config(log_access=True)
    assert record["pool_idle_ms"] == 300_000
    assert record["stream_window"] == 4194304
    assert record["keepalive_idle_s"] == 180
    assert record["user_timeout_ms"] == 0
    assert record["packet_mark"] == 0x539


def test_what_workers_get_is_a_whole_record() -> None:
    settings = load(AMBIENT_BUFFER_MAX="4294967295", POOL_UNUSED_RELEASE_TIMEOUT="2400h", USER_TIMEOUT_ENABLED="true")
    record = records.encode_config(settings.worker_config(log_access=False))
    assert len(record) == records.CONFIG.size
    assert settings.worker_config(log_access=False)["user_timeout_ms"] == 1_800_000


def test_istiod_in_a_cluster() -> None:
    assert load(KUBERNETES_SERVICE_HOST="10.0.0.1").xds_address == "https://istiod.istio-system.svc:15012"
    assert load(PROXY_CONFIG='{"discoveryAddress": "istiod.x:15012"}').xds_address == "istiod.x:15012"
    assert load(PROXY_CONFIG="discoveryAddress: a.b:1\nconcurrency: 3").workers == 3
    assert load(XDS_ADDRESS="").xds_address == ""


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IPV6_ENABLED", "True"),
        ("KEEPALIVE_ENABLED", "1"),
        ("ENABLE_ORIG_SRC", "auto"),
        ("KEEPALIVE_TIME", "180"),
        ("SECRET_TTL", "1x"),
        ("SECRET_TTL", "0s"),
        ("AMBIENT_UPCALL_TIMEOUT", "0s"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "65536"),
        ("HTTP2_FRAME_SIZE", "100"),
        ("PACKET_MARK", "-1"),
        ("PACKET_MARK", "\u0663"),
        ("ZTUNNEL_WORKER_THREADS", "many"),
        ("ZTUNNEL_CPU_LIMIT", "2 cores"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30s"),
        ("LOG_FORMAT", "xml"),
        ("PROXY_MODE", "dedicated"),
        ("CRL_PATH", "/crl.pem"),
        ("FAKE_CA", "true"),
        ("CA_ADDRESS", ""),
        ("CA_ADDRESS", "http://istiod:15010"),
        ("XDS_ADDRESS", "https://istiod:port"),
        ("PROXY_CONFIG", "{"),
        ("PROXY_CONFIG", "a: [b"),
        ("PROXY_CONFIG", "[]"),
        ("PROXY_CONFIG", '{"concurrency": "two"}'),
        ("PROXY_CONFIG", '{"statsPort": 0}'),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{variable: value})
    assert variable in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "workers"),
    [
        ({}, 2),
        ({"ZTUNNEL_WORKER_THREADS": "3"}, 3),
        ({"ZTUNNEL_WORKER_THREADS": "0"}, 8),
        ({"ZTUNNEL_WORKER_THREADS": "30%"}, 3),
        ({"ZTUNNEL_WORKER_THREADS": "1%"}, 1),
        ({"ZTUNNEL_WORKER_THREADS": "0", "ZTUNNEL_RESOURCE_CPU_LIMIT": "1500m"}, 2),
        ({"PROXY_CONFIG": '{"concurrency": 0}'}, 8),
        ({"PROXY_CONFIG": '{"concurrency": 5}'}, 5),
        ({"ZTUNNEL_RESOURCE_CPU_LIMIT": "1"}, 1),
        ({"ZTUNNEL_RESOURCE_CPU_LIMIT": "2", "ZTUNNEL_RESOURCE_CPU_REQUEST": "3.5"}, 4),
        ({"ZTUNNEL_RESOURCE_CPU_REQUEST": "5"}, 5),
        ({"ZTUNNEL_CPU_LIMIT": "3"}, 3),
    ],
)
def test_the_number_of_workers(environment: dict[str, str], workers: int) -> None:
    assert load(**environment).workers == workers


@pytest.mark.parametrize(("grace", "deadline"), [("30", 25), ("11", 6), ("10", 9), ("1", 1), ("0", 1)])
def test_the_drain_deadline_follows_the_grace_period(grace: str, deadline: float) -> None:
    assert load(TERMINATION_GRACE_PERIOD_SECONDS=grace).termination_deadline == deadline
    both = load(TERMINATION_GRACE_PERIOD_SECONDS=grace, CONNECTION_TERMINATION_DEADLINE="2s")
    assert both.termination_deadline == 2


def test_durations() -> None:
    assert duration("1h30m") == 5400
    assert duration("250ms") == 0.25
    assert math.isclose(duration("1.5s"), 1.5)
    for wrong in ("", "5", "s", "5s ", "-5s", "5s5", "1h 30m"):
        with pytest.raises(ValueError, match="duration"):
            duration(wrong)


def test_addresses() -> None:
    assert host_port("https://istiod:1") == ("istiod", 1)
    assert host_port("istiod.istio-system.svc") == ("istiod.istio-system.svc", 15012)
    assert host_port("https://[::1]:15012") == ("::1", 15012)


def test_the_dump_has_durations_and_no_token() -> None:
    dump = load(AUTH_TOKEN="secret-token", AMBIENT_UPCALL_TIMEOUT="1500ms").dump()
    assert dump["upcallTimeout"] == {"secs": 1, "nanos": 500_000_000}
    assert "secret-token" not in str(dump)
