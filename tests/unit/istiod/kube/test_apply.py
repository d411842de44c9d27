"""Server-side apply: who owns what, on our API server as on the real one."""

from __future__ import annotations

import pytest

from istiod.kube.client import KubeClient
from istiod.kube.errors import Conflict, NotFound
from istiod.resources import Resource
from tests.support.apiserver import KubeApi
from tests.unit.istiod.kube.support import (
    CONFIG_MAP,
    DEFINITIONS,
    SERVICE,
    Obj,
    client_of,
    config_map,
    decoded,
    definition,
    new_namespace,
    run,
    until_served,
)

Entry = tuple[str, str, str]


def owners(obj: Obj) -> dict[Entry, Obj]:
    """managedFields by (manager, operation, subresource)."""
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", "")): entry["fieldsV1"]
        for entry in obj["metadata"]["managedFields"]
    }


async def gauges(client: KubeClient) -> tuple[str, Resource]:
    """-> (a namespace, a new custom kind with a status)."""
    namespace = await new_namespace(client)
    group = f"{namespace}.ambient.test"
    resource = Resource("Gauge", "gauges", group, ("v1",))
    await client.create(DEFINITIONS, "", definition(group, "v1"))
    await until_served(client, resource)
    return namespace, resource


def conditions(**status: str) -> Obj:
    return {"status": {"conditions": [{"type": name, "status": value} for name, value in status.items()]}}


def test_apply_creates_and_owns_what_it_says(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            obj = config_map("a", namespace, x="1")
            obj["metadata"]["labels"] = {"app": "a"}
            made = decoded(await client.apply(CONFIG_MAP, namespace, "a", obj, manager="one"))
            assert made["data"] == {"x": "1"}
            assert owners(made) == {
                ("one", "Apply", ""): {"f:data": {"f:x": {}}, "f:metadata": {"f:labels": {"f:app": {}}}}
            }
            again = decoded(await client.apply(CONFIG_MAP, namespace, "a", obj, manager="one"))
            assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "nothing changed"

    run(scenario())


def test_a_field_of_another_manager_is_a_conflict_unless_forced(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, x="1", y="1"), manager="one")
            same = decoded(
                await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, x="1"), manager="two")
            )
            assert owners(same)["two", "Apply", ""] == owners(same)["one", "Apply", ""] | {"f:data": {"f:x": {}}}
            wanted = config_map("a", namespace, x="2")
            with pytest.raises(
                Conflict, match=r'2 conflicts: conflicts with "one": - \.data\.x conflicts with "two": - \.data\.x'
            ):
                await client.apply(CONFIG_MAP, namespace, "a", wanted, manager="three")
            taken = decoded(await client.apply(CONFIG_MAP, namespace, "a", wanted, manager="three", force=True))
            assert taken["data"] == {"x": "2", "y": "1"}
            assert owners(taken) == {
                ("one", "Apply", ""): {"f:data": {"f:y": {}}},
                ("three", "Apply", ""): {"f:data": {"f:x": {}}},
            }

    run(scenario())


def test_what_a_manager_no_longer_applies_goes_unless_another_wants_it(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            full = config_map("a", namespace, x="1", y="1", z="1")
            await client.apply(CONFIG_MAP, namespace, "a", full, manager="one")
            await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, y="1"), manager="two")
            left = decoded(
                await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, x="1"), manager="one")
            )
            assert left["data"] == {"x": "1", "y": "1"}
            assert owners(left) == {
                ("one", "Apply", ""): {"f:data": {"f:x": {}}},
                ("two", "Apply", ""): {"f:data": {"f:y": {}}},
            }

    run(scenario())


def test_an_update_takes_ownership_of_what_it_changes(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, x="1", y="1"), manager="one")
            patched = decoded(await client.merge_patch(CONFIG_MAP, namespace, "a", {"data": {"x": "2", "y": None}}))
            assert owners(patched) == {("istiod", "Update", ""): {"f:data": {"f:x": {}}}}
            with pytest.raises(Conflict, match='conflict with "istiod"'):
                await client.apply(CONFIG_MAP, namespace, "a", config_map("a", namespace, x="1"), manager="one")

    run(scenario())


def test_managers_have_their_own_conditions_of_one_status(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace, resource = await gauges(client)
            head = {"apiVersion": resource.api_version, "kind": "Gauge"}
            made = decoded(
                await client.create(resource, namespace, head | {"metadata": {"name": "g"}, "spec": {"a": 1}})
            )

            async def apply(manager: str, status: Obj, *, force: bool = False) -> Obj:
                body = head | status
                return decoded(
                    await client.apply(
                        resource, namespace, "g", body, manager=manager, force=force, subresource="status"
                    )
                )

            await apply("one", conditions(Ready="True", Bound="True"))
            both = await apply("two", conditions(Accepted="True"))
            assert [c["type"] for c in both["status"]["conditions"]] == ["Ready", "Bound", "Accepted"]
            assert owners(both)["two", "Apply", "status"] == {
                "f:status": {"f:conditions": {'k:{"type":"Accepted"}': {".": {}, "f:status": {}, "f:type": {}}}}
            }
            assert both["metadata"]["generation"] == made["metadata"]["generation"] == 1
            with pytest.raises(Conflict, match=r'conditions\[type="Ready"\]\.status'):
                await apply("two", conditions(Accepted="True", Ready="False"))
            one = await apply("one", conditions(Ready="True"))
            assert [c["type"] for c in one["status"]["conditions"]] == ["Ready", "Accepted"]
            none = await apply("two", {})
            assert [c["type"] for c in none["status"]["conditions"]] == ["Ready"]

    run(scenario())


def test_a_plain_list_belongs_to_one_manager(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace, resource = await gauges(client)
            head = {"apiVersion": resource.api_version, "kind": "Gauge"}
            await client.create(resource, namespace, head | {"metadata": {"name": "g"}})
            first = head | {"status": {"addresses": ["240.240.0.1", "2001:2::1"]}}
            made = decoded(await client.apply(resource, namespace, "g", first, manager="one", subresource="status"))
            assert owners(made)["one", "Apply", "status"] == {"f:status": {"f:addresses": {}}}
            other = head | {"status": {"addresses": ["240.240.0.2"]}}
            with pytest.raises(Conflict, match=r"\.status\.addresses"):
                await client.apply(resource, namespace, "g", other, manager="two", subresource="status")

    run(scenario())


def test_a_status_is_written_apart_from_its_object(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace, resource = await gauges(client)
            head = {"apiVersion": resource.api_version, "kind": "Gauge"}
            body = head | {"metadata": {"name": "g"}, "spec": {"a": 1}} | conditions(Ready="True")
            made = decoded(await client.create(resource, namespace, body))
            assert "status" not in made
            ready = {**made, "spec": {"a": 2}, **conditions(Ready="True")}
            told = decoded(await client.replace(resource, namespace, "g", ready, subresource="status"))
            assert (told["spec"], told["metadata"]["generation"]) == ({"a": 1}, 1)
            assert told["status"]["conditions"][0]["status"] == "True"
            changed = {**told, "spec": {"a": 2}, "status": {}}
            after = decoded(await client.replace(resource, namespace, "g", changed))
            assert (after["spec"], after["metadata"]["generation"]) == ({"a": 2}, 2)
            assert after["status"] == told["status"]
            labelled = decoded(await client.merge_patch(resource, namespace, "g", {"metadata": {"labels": {"a": "b"}}}))
            assert labelled["metadata"]["generation"] == 2
            with pytest.raises(NotFound):
                await client.apply(resource, namespace, "h", head, manager="one", subresource="status")

    run(scenario())


def test_conditions_of_a_service_are_a_list_by_type(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            head = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
            spec = {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
            await client.create(SERVICE, namespace, head | {"spec": spec})
            condition = {"reason": "WaypointAccepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for name, manager in (("istio.io/WaypointBound", "istio-ambient-service"), ("Other", "other")):
                status = {"conditions": [condition | {"type": name, "status": "True"}]}
                await client.apply(
                    SERVICE, namespace, "s", head | {"status": status}, manager=manager, subresource="status"
                )
            bound = decoded(await client.get(SERVICE, namespace, "s"))
            assert [c["type"] for c in bound["status"]["conditions"]] == ["istio.io/WaypointBound", "Other"]
            pruned = decoded(
                await client.apply(SERVICE, namespace, "s", head, manager="istio-ambient-service", subresource="status")
            )
            assert [c["type"] for c in pruned["status"]["conditions"]] == ["Other"]

    run(scenario())
