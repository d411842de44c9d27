"""What an istiod over an API server says about its sources and its lease."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from istiod.app import open_istiod
from istiod.config import Settings
from tests.support.apiserver import KubeApi, api_server
from tests.unit.istiod.http_support import fetch, page, run
from tests.unit.istiod.kube.support import until

TOKEN = "admin-token"


def settings_of(api: KubeApi, folder: Path) -> Settings:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": api.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return Settings(
        kubeconfig=str(path),
        address="127.0.0.1",
        port=0,
        http_port=0,
        monitoring_port=0,
        debounce_after=0.01,
        shutdown=0.5,
        api_qps=1000,
        api_burst=1000,
    )


def test_sources_readiness_and_the_lease(tmp_path: Path) -> None:
    async def scenario(api: KubeApi) -> None:
        assert api.control is not None
        api.control.fail_next(1000, 503, match="GET /api/v1/services?")
        istiod = await open_istiod(settings_of(api, tmp_path))
        await istiod.http.start("127.0.0.1", 0)
        await istiod.monitoring.start("127.0.0.1", 0)
        port, stop = istiod.http.port, asyncio.Event()
        try:
            starting = asyncio.create_task(istiod.start())
            services = "not ready: waiting for the first list of services\n"
            await until(lambda: istiod.waiting_for == services.removeprefix("not ready: ").strip(), "all but services")
            assert await fetch(port, "/ready") == (503, services)
            by_name = {one["resource"]: one for one in (await page(port, "/debug/statusz"))["sources"]}
            assert by_name["pods"]["synced"] is True
            assert by_name["services"]["synced"] is False
            assert "services" in by_name["services"]["lastError"]
            api.control.clear_faults()
            await asyncio.wait_for(starting, 20)
            assert await fetch(port, "/ready") == (200, "ready\n")

            running = asyncio.create_task(istiod.run(stop))
            election = istiod.election
            assert election is not None
            await until(lambda: election.is_leader, "the only candidate leads")
            body = (await fetch(istiod.monitoring.port, "/metrics"))[1]
            assert (await page(port, "/debug/statusz"))["leader"] == {"leads": True, "holder": election.identity}
            assert TOKEN not in (await fetch(port, "/debug/statusz"))[1]
            stop.set()
            await asyncio.wait_for(running, 20)
            assert not election.is_leader
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await istiod.close()
        found = {family.name: family for family in text_string_to_metric_families(body)}
        lists = {one.labels["resource"]: one.value for one in found["istiod_reflector_lists"].samples}
        errors = {one.labels["resource"]: one.value for one in found["istiod_reflector_errors"].samples}
        assert lists["namespaces"] == 1
        assert lists["services"] >= 2
        assert errors["services"] >= 1
        assert {one.value for one in found["istiod_reflector_synced"].samples} == {1}
        assert "virtualservices.networking.istio.io" in lists
        assert [one.value for one in found["istiod_leader"].samples] == [1]
        assert [one.labels for one in found["istiod_managed_clusters"].samples] == [{"cluster_type": "local"}]

    with api_server(token=TOKEN) as api:
        run(scenario(api), timeout=60)
