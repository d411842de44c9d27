"""Statuses are brought where they belong: once, again after a failure, and taken back when nothing asks for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from istiod import status as module
from istiod.kube.client import KubeClient
from istiod.kube.credentials import direct
from istiod.kube.errors import Forbidden, NotFound, ServerFailure
from istiod.metrics import Metrics
from istiod.resources import BY_STORE_KIND
from istiod.status import DirectoryStatus, KubernetesStatus, StatusKeeper
from istiod.translate.statuses import StatusPatch, Verdict, condition
from meshcore.errors import MeshError
from meshcore.manifests import write_status
from tests.support.apiserver import running_api_server


def patch(
    name: str = "s", reason: str = "R", manager: str = "m", kind: str = "Service", *, ok: bool = True
) -> StatusPatch:
    conditions = [condition("istio.io/X", Verdict(ok, reason, "text"), 3)]
    return StatusPatch(kind, "default", name, manager, {"conditions": conditions})


def titled(*patches: StatusPatch) -> dict[str, StatusPatch | None]:
    return {one.title: one for one in patches}


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


class Writer:
    """Notes what is written; `failures` are raised first, one an attempt."""

    def __init__(self, *failures: MeshError) -> None:
        self.written: list[StatusPatch] = []
        self.failures = list(failures)
        self.held = asyncio.Event()
        self.held.set()
        self.parallel = 0
        self.most = 0

    async def write(self, wanted: StatusPatch) -> None:
        self.parallel += 1
        self.most = max(self.most, self.parallel)
        try:
            await self.held.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.written.append(wanted)
        finally:
            self.parallel -= 1

    async def until(self, count: int) -> None:
        while len(self.written) < count:  # noqa: ASYNC110 - what is awaited is a call, which sets no event
            await asyncio.sleep(0.001)


class Running:
    def __init__(self, writer: Writer) -> None:
        self.metrics = Metrics()
        self.keeper = StatusKeeper(writer, self.metrics)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> StatusKeeper:
        self._task = asyncio.create_task(self.keeper.run(self._stop))
        return self.keeper

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await self._task


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)


def test_a_status_is_written_once_and_taken_back() -> None:
    async def scenario() -> None:
        writer = Writer()
        async with Running(writer) as keeper:
            keeper.update(titled(patch()))
            await writer.until(1)
            keeper.update({patch().title: None})
            await writer.until(2)
            assert [one.status for one in writer.written] == [patch().status, {}]
            keeper.update({patch().title: None})  # nothing stands there any more
            assert keeper.idle

    run(scenario())


def test_what_waits_is_written_when_this_istiod_begins_to_lead_and_again_when_it_leads_again() -> None:
    async def scenario() -> None:
        writer = Writer()
        running = Running(writer)
        running.keeper.update(titled(patch("a"), patch("b")))
        async with running:
            await writer.until(2)
        second = asyncio.Event()
        task = asyncio.create_task(running.keeper.run(second))
        await writer.until(4)
        second.set()
        await task
        assert sorted(one.name for one in writer.written) == ["a", "a", "b", "b"]

    run(scenario())


@pytest.mark.usefixtures("quick")
def test_a_failure_that_may_pass_is_tried_again_and_a_newer_patch_ends_the_attempts() -> None:
    async def scenario() -> None:
        writer = Writer(ServerFailure("busy"), ServerFailure("busy"))
        async with Running(writer) as keeper:
            keeper.update(titled(patch()))
            await writer.until(1)
        writer = Writer(ServerFailure("busy"))
        writer.held.clear()
        async with Running(writer) as keeper:
            keeper.update(titled(patch(reason="Old")))
            while not writer.parallel:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            keeper.update(titled(patch(reason="New")))
            writer.held.set()
            await writer.until(1)
        assert [one.status["conditions"][0]["reason"] for one in writer.written] == ["New"]

    run(scenario())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("failures", "counted"),
    [([NotFound("gone")], 0), ([Forbidden("no")], 1), ([ServerFailure("busy")] * module.ATTEMPTS, 1)],
)
def test_what_cannot_be_written_is_counted_and_delays_nobody(failures: list[MeshError], counted: int) -> None:
    async def scenario() -> None:
        writer = Writer(*failures)
        running = Running(writer)
        async with running as keeper:
            keeper.update(titled(patch("bad")))
            while writer.failures:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            keeper.update(titled(patch("good")))
            await writer.until(1)
        assert [one.name for one in writer.written] == ["good"]
        assert running.metrics.get("controller_sync_errors_total") == counted

    run(scenario())


def test_only_so_many_are_written_at_once() -> None:
    async def scenario() -> None:
        writer = Writer()
        writer.held.clear()
        async with Running(writer) as keeper:
            keeper.update(titled(*(patch(f"s{number}") for number in range(50))))
            while writer.parallel < module.PARALLEL:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            writer.held.set()
            await writer.until(50)
        assert writer.most == module.PARALLEL

    run(scenario())


def read(folder: Path, name: str = "s") -> Any:
    return json.loads((folder / f"Service.default.{name}.json").read_text())["status"]


def test_a_directory_holds_what_all_managers_want(tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = DirectoryStatus(str(tmp_path))
        await writer.write(patch(manager="one"))
        other = {"addresses": [{"value": "1.1.1.1"}], "conditions": [condition("Y", Verdict(False, "N"), 1)]}
        await writer.write(StatusPatch("Service", "default", "s", "two", other))
        held = read(tmp_path)
        assert [one["type"] for one in held["conditions"]] == ["istio.io/X", "Y"]
        assert held["addresses"] == [{"value": "1.1.1.1"}]
        await writer.write(patch(manager="one")._replace(status={}))
        assert [one["type"] for one in read(tmp_path)["conditions"]] == ["Y"]
        await writer.write(StatusPatch("Service", "default", "s", "two", {}))

    run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_condition_outlives_a_restart_and_changes_with_its_status(tmp_path: Path) -> None:
    old = {"type": "istio.io/X", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    write_status(tmp_path, "Service", "default", "s", {"status": {"conditions": [old]}})

    async def scenario() -> None:
        writer = DirectoryStatus(str(tmp_path))
        await writer.write(patch())
        assert read(tmp_path)["conditions"][0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
        await writer.write(patch(ok=False))
        assert read(tmp_path)["conditions"][0]["lastTransitionTime"] > "2026"

    run(scenario())


def test_a_status_of_an_earlier_run_can_be_taken_back(tmp_path: Path) -> None:
    write_status(tmp_path, "Service", "default", "s", {"status": {"conditions": []}})
    run(DirectoryStatus(str(tmp_path)).write(patch()._replace(status={})))
    assert list(tmp_path.iterdir()) == []


def test_the_api_is_written_to_only_when_something_changes() -> None:
    service = BY_STORE_KIND["Service"]

    async def scenario() -> None:
        async with (
            running_api_server() as api,
            KubeClient(direct(api.url, token=api.token), qps=1e6, burst=1000) as client,
        ):
            await client.create(service, "default", {"metadata": {"name": "s", "namespace": "default"}, "spec": {}})
            writer = KubernetesStatus(client)
            await writer.write(patch(manager="one"))
            await writer.write(patch(manager="two", reason="R")._replace(status={"loadBalancer": {}}))
            first = await client.get(service, "default", "s")
            await writer.write(patch(manager="one"))
            assert (await client.get(service, "default", "s")).resource_version == first.resource_version
            await writer.write(patch(manager="one")._replace(status={}))
            assert b"istio.io/X" not in bytes((await client.get(service, "default", "s")).raw)
            with pytest.raises(NotFound):
                await writer.write(patch("missing"))

    run(scenario())


def test_a_server_that_has_an_older_version_only_is_written_to_in_that() -> None:
    route = BY_STORE_KIND["TCPRoute"]
    older = route._replace(versions=route.versions[-1:])

    async def scenario() -> None:
        async with (
            running_api_server() as api,
            KubeClient(direct(api.url, token=api.token), qps=1e6, burst=1000) as client,
        ):
            assert api.control is not None
            api.control.uninstall(route)
            api.control.install(older)
            await client.create(older, "default", {"metadata": {"name": "s", "namespace": "default"}, "spec": {}})
            await KubernetesStatus(client).write(patch(kind="TCPRoute"))
            assert b"istio.io/X" in bytes((await client.get(older, "default", "s")).raw)

    run(scenario())
