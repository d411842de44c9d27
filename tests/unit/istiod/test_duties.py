"""What istiod writes: again for an object that is there anew, not for those of others, and never because it wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from istiod.duties import Duties
from istiod.intake import Intake
from istiod.kube.changes import RawChange
from istiod.metrics import Metrics
from istiod.objects import Service, ServiceEntry
from istiod.resources import BY_STORE_KIND
from istiod.status import DirectoryStatus
from istiod.store import Change, Store
from istiod.translate.common import MeshConfig
from istiod.translate.indexes import ENTRIES_BY_HOST
from istiod.translate.mesh import INDEXES, Translator
from istiod.translate.statuses import OUTPUT, StatusPatch, Verdict, condition
from meshcore.model import ADDRESS_TYPE
from tests.unit.istiod.http_support import run
from tests.unit.istiod.support import Mesh
from tests.unit.istiod.test_entries import entry
from tests.unit.istiod.test_waypoints import USE, gateway, service
from tests.unit.istiod.translate_support import parsed

OTHER_REVISION = "istio.io/rev: other"
SECURITY = "security.istio.io/v1"


class Writer:
    """Notes what is written, by title."""

    def __init__(self) -> None:
        self.written: list[StatusPatch] = []

    async def write(self, patch: StatusPatch) -> None:
        self.written.append(patch)


class World:
    """A store, its translator and the duties; a batch is what one push takes over."""

    def __init__(self) -> None:
        self.store = Store(INDEXES)
        self.intake = Intake(self.store)
        self.translator = Translator(self.store, MeshConfig())
        self.writer = Writer()
        self.duties = Duties(self.store, self.intake, self.writer, Metrics())

    def batch(self, *steps: str | tuple[str, str, str]) -> None:
        """Each step is YAML to put, or the key of an object to remove."""
        changes: list[Change | None] = []
        for step in steps:
            if isinstance(step, tuple):
                changes.append(self.store.put(step, None))
            else:
                changes += [self.store.put(key, value) for key, value in parsed(step)]
        self.take([change for change in changes if change is not None])

    def take(self, changes: list[Change]) -> None:
        self.duties.changed(changes, self.translator.apply(changes))
        self.duties.findings()

    def raw(self, kind: str, value: dict[str, Any]) -> None:
        resource = BY_STORE_KIND[kind]
        meta = value["metadata"]
        body = msgspec.Raw(msgspec.json.encode(value))
        self.take(self.intake.raw(resource, [RawChange(meta["namespace"], meta["name"], body, "1")]))

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        self.duties.statuses.take_back([MARK])
        task = asyncio.create_task(self.duties.run(stop))
        try:
            await until(lambda: MARK in self.writer.written)
            self.writer.written.remove(MARK)
            yield
        finally:
            stop.set()
            await task

    async def written(self) -> list[tuple[str, bool]]:
        """What was written since the last call: title, and whether anything is wanted there."""
        self.duties.statuses.take_back([MARK])  # the last of those that wait
        await until(lambda: MARK in self.writer.written)
        found = sorted((one.title, bool(one.status)) for one in self.writer.written if one != MARK)
        self.writer.written.clear()
        return found


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is awaited sets no event
            await asyncio.sleep(0.005)


MARK = StatusPatch("Service", "default", "none", "mark", {})
BOUND = "Service/default/s/istio-ambient-service"
ALLOCATED = "ServiceEntry/default/e/istio-ip-autoallocate"
VISIBLE = "ServiceEntry/default/e/istio-ambient-service"
SERVICE = ("Service", "default", "s")
ENTRY = ("ServiceEntry", "default", "e")


def test_an_object_that_was_removed_and_made_again_gets_its_status_again() -> None:
    async def scenario() -> None:
        world = World()
        async with world.leading():
            world.batch(service(USE))
            assert await world.written() == [(BOUND, True)]
            world.batch(SERVICE, service(USE))
            assert await world.written() == [(BOUND, True)]
            again = service(USE).replace("name: s,", "name: s, uid: another,", 1)
            world.batch(again)  # nobody saw it go
            assert await world.written() == [(BOUND, True)]
            world.batch(again.replace("10.1.0.1", "10.1.0.2"))
            assert await world.written() == []

    run(scenario())


def test_one_that_does_not_lead_keeps_nothing_of_objects_that_are_gone() -> None:
    async def scenario() -> None:
        world = World()
        world.batch(service(USE) + entry("resolution: DNS"))
        world.batch(SERVICE, ENTRY)
        assert world.duties.statuses.idle
        world.batch(service(USE))
        world.batch(service())  # it is there, and the one that leads may not have been told of the change
        async with world.leading():
            assert await world.written() == [(BOUND, False)]

    run(scenario())


def test_the_status_of_an_object_that_goes_to_another_revision_is_left_to_it() -> None:
    async def scenario() -> None:
        world = World()
        async with world.leading():
            world.batch(entry("resolution: DNS"))
            assert await world.written() == [(VISIBLE, True), (ALLOCATED, True)]
            world.batch(entry("resolution: DNS", meta=f"labels: {{{OTHER_REVISION}}}"))
            assert await world.written() == []
            world.batch(ENTRY)
            assert await world.written() == []
            world.batch(entry("resolution: DNS"))
            assert await world.written() == [(VISIBLE, True), (ALLOCATED, True)]
            world.batch(ENTRY)
            assert await world.written() == [(VISIBLE, False), (ALLOCATED, False)]

    run(scenario())


def test_what_the_checks_say_about_objects_of_another_revision_is_not_written() -> None:
    def policy(rules: list[Any], **labels: str) -> dict[str, Any]:
        meta = {"name": "x", "namespace": "default", "labels": labels}
        return {"apiVersion": SECURITY, "metadata": meta, "spec": {"action": "DENY", "rules": rules}}

    async def scenario() -> None:
        world = World()
        async with world.leading():
            world.raw("AuthorizationPolicy", policy([]))
            assert await world.written() == [("AuthorizationPolicy/default/x/istio-analysis", True)]
            world.raw("AuthorizationPolicy", policy([], **{"istio.io/rev": "other"}))
            assert await world.written() == []
        async with world.leading():
            assert await world.written() == []
            world.raw("AuthorizationPolicy", policy([1], **{"istio.io/rev": "other"}))
            assert await world.written() == []

    run(scenario())


def test_an_address_that_another_istiod_allocated_is_not_changed_by_the_next_leader() -> None:
    async def scenario() -> None:
        world = World()
        world.batch(entry("resolution: DNS"))  # allocated here and not written: another one leads
        status = "addresses: [{value: 240.240.0.7, host: db.example}, {value: '2001:2::7', host: db.example}]"
        world.batch(entry("resolution: DNS", status=status))
        async with world.leading():
            assert await world.written() == [(VISIBLE, True)]

    run(scenario())


def test_conditions_of_earlier_leaders_are_taken_back() -> None:
    def conditions(*types: str) -> str:
        return ", ".join(f"{{type: {one}, status: 'True'}}" for one in types)

    def told(kind: str, *types: str, group: str = SECURITY, spec: str = "") -> str:
        return (
            f"---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"
            f"status: {{conditions: [{conditions(*types)}]}}\n"
        )

    async def scenario() -> None:
        world = World()
        world.batch(
            told("RequestAuthentication", "WaypointAccepted", "Foreign"),
            told("PeerAuthentication", "istio.io/Valid"),
            told("Telemetry", "WaypointAccepted", group="telemetry.istio.io/v1"),
            told("Service", "istio.io/WaypointBound", "istio.io/Valid", group="v1"),
            told("AuthorizationPolicy", "ZtunnelAccepted", "istio.io/Valid"),
            told("WorkloadEntry", "istio.io/WaypointBound", group="networking.istio.io/v1", spec="address: 1.1.1.1"),
            told("VirtualService", "Foreign", group="networking.istio.io/v1", spec="hosts: [a.example]"),
        )
        async with world.leading():
            assert await world.written() == [
                ("AuthorizationPolicy/default/x/istio-ambient-ztunnel-policy", True),
                ("AuthorizationPolicy/default/x/istio-analysis", False),
                ("PeerAuthentication/default/x/istio-analysis", False),
                ("RequestAuthentication/default/x/istio-ambient-waypoint-policy", False),
                ("Service/default/x/istio-ambient-service", False),
                ("Telemetry/default/x/istio-ambient-waypoint-policy", False),
                ("WorkloadEntry/default/x/istio-ambient-workloadentry", False),
            ]

    run(scenario())


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())["status"]


def patch(kind: str, manager: str, name: str = "x", **status: Any) -> StatusPatch:
    conditions = [condition("X", Verdict(True, "R"), 1)]
    return StatusPatch(kind, "default", name, manager, status or {"conditions": conditions})


def test_what_one_manager_wrote_outlives_a_restart_and_the_writes_of_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        addresses = [{"value": "240.240.0.7", "host": "a"}]
        await DirectoryStatus(str(tmp_path)).write(patch("ServiceEntry", "one", addresses=addresses))
        second = DirectoryStatus(str(tmp_path))
        await second.write(patch("ServiceEntry", "two"))
        file = "ServiceEntry.default.x.json"
        assert read(tmp_path, file)["addresses"] == addresses
        third = DirectoryStatus(str(tmp_path))
        await third.write(patch("ServiceEntry", "two")._replace(status={}))
        assert read(tmp_path, file) == {"addresses": addresses}
        before = (tmp_path / file).stat()
        await third.write(patch("ServiceEntry", "one", addresses=addresses))
        assert (tmp_path / file).stat() == before  # equal is not written
        await third.write(patch("ServiceEntry", "one")._replace(status={}))

    run(scenario())
    assert not list(tmp_path.iterdir())


def test_two_kinds_of_gateway_with_one_name_have_each_its_own_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = DirectoryStatus(str(tmp_path))
        await writer.write(patch("Gateway", "one", addresses=[{"type": "Hostname", "value": "h"}]))
        await writer.write(patch("Gateway.networking.istio.io", "two"))
        await writer.write(patch("Gateway.networking.istio.io", "two")._replace(status={}))

    run(scenario())
    (file,) = tmp_path.iterdir()
    assert read(tmp_path, file.name) == {"addresses": [{"type": "Hostname", "value": "h"}]}


READY = """---
apiVersion: v1
kind: Service
metadata: {name: w, namespace: default}
spec: {clusterIP: 10.1.0.9, ports: [{port: 15008}]}
---
apiVersion: v1
kind: Pod
metadata: {name: w, namespace: default, labels: {gateway.networking.k8s.io/gateway-name: w}}
spec: {nodeName: n1, serviceAccountName: w}
status: {podIP: 10.0.0.9}
"""


def test_a_waypoint_stays_bound_over_a_restart_without_its_pods(tmp_path: Path) -> None:
    key = "default/s.default.svc.cluster.local"
    api = "---\napiVersion: v1\n"

    def bound(mesh: Mesh) -> bool:
        found = mesh.istiod.published.objects(ADDRESS_TYPE).get(key)
        return found is not None and found.service.waypoint is not None

    async def scenario() -> None:
        first = Mesh(tmp_path)
        (first.config / "mesh.yaml").write_text(gateway(address="") + service(USE).replace("---\n", api))
        (first.config / "ready.yaml").write_text(READY)
        async with first.running():
            await until(lambda: bound(first))
        (first.config / "ready.yaml").unlink()
        second = Mesh(tmp_path)
        async with second.running():
            assert bound(second)
            await until(lambda: "AddressNotAssigned" in (second.status / "Gateway.default.w.json").read_text())
            status = read(second.status, "Gateway.default.w.json")
            assert [one["value"] for one in status["addresses"]] == ["w.default.svc.cluster.local"]
        third = Mesh(tmp_path)
        async with third.running():
            assert bound(third)

    run(scenario())


def test_what_istiod_writes_itself_pushes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        mesh = Mesh(tmp_path)
        (mesh.config / "s.yaml").write_text(service(USE).replace("---\n", "---\napiVersion: v1\n"))
        async with mesh.running() as istiod:
            assert istiod.translator is not None
            first, computed = istiod.pusher.last, istiod.translator.graph.computed.copy()
            await until(lambda: istiod.store.of(Service)["default", "s"].status.conditions)
            assert not istiod.pusher.pending
            assert istiod.metrics.get("pilot_push_triggers", type="service") == 0
            (mesh.config / "t.yaml").write_text(service(name="t").replace("---\n", "---\napiVersion: v1\n"))
            await until(lambda: istiod.pusher.last is not first)
            assert istiod.pusher.last is not None
            assert istiod.pusher.last.causes == {"service": 1}
            assert istiod.translator.graph.computed["service_addresses"] == computed["service_addresses"] + 1

    run(scenario())


def test_an_allocated_address_is_a_change_and_its_condition_is_none() -> None:
    world = World()
    world.batch(entry("resolution: DNS"))
    world.translator.graph.computed.clear()
    address = "addresses: [{value: 240.240.0.7, host: db.example}]"
    world.batch(entry("resolution: DNS", status=address))
    computed = world.translator.graph.computed.copy()
    assert computed["entry_addresses"] == 1
    conditions = "conditions: [{type: istio.io/VisibilityApplied, status: 'True'}]"
    world.batch(entry("resolution: DNS", status=f"{address}, {conditions}"))
    assert world.translator.graph.computed == computed
    assert world.store.of(ServiceEntry)["default", "e"].status.conditions
    assert [entry.status.conditions for entry in world.store.find(ENTRIES_BY_HOST, ("default", "db.example")).values()]
    assert set(world.translator.resources(OUTPUT)) == {VISIBLE}
