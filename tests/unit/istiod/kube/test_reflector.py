"""A sink ends equal to the server, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from istiod.kube.ratelimit import Backoff
from istiod.kube.reflector import Reflector
from istiod.resources import Resource
from tests.support.apiserver import KubeApi
from tests.unit.istiod.kube.support import (
    CONFIG_MAP,
    DEFINITIONS,
    POD,
    SERVICE_ENTRY,
    Mirror,
    client_of,
    config_map,
    control_of,
    decoded,
    definition,
    new_namespace,
    reflecting,
    run,
    until,
)


class Pauses:
    """A sleep that takes no time and notes how long it should have taken."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        if seconds:
            self.taken.append(seconds)
        await asyncio.sleep(0.001)


def highest() -> Backoff:
    """Without the luck of the jitter: always the ceiling."""
    return Backoff(uniform=max)


def test_a_sink_follows_a_namespace(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            other = await new_namespace(client)
            await client.create(CONFIG_MAP, namespace, config_map("a", namespace, x="1"))
            await client.create(CONFIG_MAP, other, config_map("z", other))
            mirror = Mirror()
            async with reflecting(Reflector(client, CONFIG_MAP, mirror, namespace=namespace)) as reflector:
                await asyncio.wait_for(reflector.synced.wait(), 10)
                assert mirror.names == ["a"]
                await client.create(CONFIG_MAP, namespace, config_map("b", namespace))
                changed = await client.merge_patch(CONFIG_MAP, namespace, "a", {"data": {"x": "2"}})
                await until(lambda: len(mirror.told) == 3, "both changes")
                assert mirror.objects[namespace, "a"] == decoded(changed)
                await client.delete(CONFIG_MAP, namespace, "b")
                await until(lambda: mirror.names == ["a"], "the deletion")
                assert (len(reflector), reflector.present) == (1, True)
            stats = reflector.stats
            assert (stats.lists, stats.relists, stats.watches, stats.events, stats.errors) == (1, 0, 1, 3, 0)

    run(scenario())


def test_1201_objects_arrive_in_lots_of_at_most_500(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.put_all(config_map(f"a-{number}") for number in range(1201))

    async def scenario() -> None:
        mirror = Mirror()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, mirror)) as reflector,
        ):
            await asyncio.wait_for(reflector.synced.wait(), 30)
            assert [len(batch) for batch in mirror.batches] == [500, 500, 201]
            assert len(mirror.objects) == len(reflector) == 1201
            control.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "another"}})
            control.compact()
            control.drop_watches()
            await until(lambda: reflector.stats.relists == 1 and control.watches == 1, "the second list")
            assert len(mirror.batches) == 3, "nothing differs, nothing is told"

    run(scenario())


def test_a_cut_watch_resumes_where_it_was(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.put(config_map("a"))

    async def scenario() -> None:
        mirror = Mirror()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, mirror, sleep=Pauses())) as reflector,
        ):
            await until(lambda: control.watches == 1, "a watch")
            version = control.put(config_map("b"))["metadata"]["resourceVersion"]
            await until(lambda: mirror.names == ["a", "b"], "b")
            control.go_down()
            await until(lambda: reflector.stats.errors >= 2, "the server is missed")
            control.come_up()
            await until(lambda: control.watches == 1, "another watch")
            control.remove(config_map("a"))
            control.put(config_map("c"))
            await until(lambda: mirror.names == ["b", "c"], "what happened since")
            assert reflector.stats.relists == 0
            assert f"resourceVersion={version}" in control.requests("watch=true")[-1]

    run(scenario())


def test_what_happens_while_nobody_watches_is_told_once(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.put_all(config_map(name) for name in "ab")

    async def scenario() -> None:
        mirror = Mirror()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, mirror, sleep=Pauses())) as reflector,
        ):
            await until(lambda: control.watches == 1, "a watch")
            control.fail_next(1_000_000, 500, match="watch=true")
            control.drop_watches()
            await until(lambda: reflector.stats.errors > 0, "the failure")
            control.remove(config_map("a"))
            control.put(config_map("c"))
            control.clear_faults()
            await until(lambda: mirror.names == ["b", "c"], "the difference")
            assert mirror.told[2:] == [("a", True), ("c", False)]
            assert reflector.stats.relists == 0

    run(scenario())


def test_a_bookmark_moves_the_place_to_resume(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.put(config_map("a"))

    async def scenario() -> None:
        mirror = Mirror()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, mirror, sleep=Pauses())) as reflector,
        ):
            await until(lambda: control.watches == 1, "a watch")
            for number in range(5):
                control.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"n{number}"}})
            version = control.bookmark()
            await until(lambda: reflector.stats.bookmarks == 1, "the bookmark")
            control.compact()
            control.drop_watches()
            await until(lambda: reflector.stats.watches == 2 and control.watches == 1, "another watch")
            control.put(config_map("b"))
            await until(lambda: mirror.names == ["a", "b"], "b")
            assert f"resourceVersion={version}" in control.requests("watch=true")[-1]
            assert reflector.stats.relists == 0, "without the bookmark, its version would be too old"

    run(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_after_410_only_differences_are_told_deletions_too(fake_api: KubeApi, at_once: bool) -> None:
    control = control_of(fake_api)
    control.refuse_old_at_once(at_once=at_once)
    control.put_all(config_map(name) for name in "abcd")

    async def scenario() -> None:
        mirror = Mirror()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, mirror, sleep=Pauses())) as reflector,
        ):
            await until(lambda: control.watches == 1, "a watch")
            control.fail_next(1_000_000, 503, match="watch=true")
            control.drop_watches()
            await until(lambda: reflector.stats.errors > 0, "the failure")
            control.remove(config_map("a"))
            control.put(config_map("b", x="2"))
            control.remove(config_map("c"))
            control.put(config_map("c", x="another"))
            control.put(config_map("e"))
            control.compact()
            control.clear_faults()
            await until(lambda: mirror.names == ["b", "c", "d", "e"], "the difference")
            assert mirror.told[4:] == [("b", False), ("c", False), ("e", False), ("a", True)]
            assert mirror.objects["default", "c"]["data"] == {"x": "another"}
            assert reflector.stats.relists == 1

    run(scenario())


def test_a_kind_is_absent_until_its_definition_comes_and_again_when_it_goes(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            group = f"{namespace}.ambient.test"
            gauges = Resource("Gauge", "gauges", group, ("v1", "v1beta1"))
            mirror = Mirror()
            async with reflecting(
                Reflector(client, gauges, mirror, absent_retry=0.05, backoff=Backoff(0.01, 0.1))
            ) as reflector:
                await asyncio.wait_for(reflector.synced.wait(), 10)
                assert (mirror.batches, reflector.present, reflector.stats.errors) == ([], False, 0)
                await client.create(DEFINITIONS, "", definition(group, "v1beta1"))
                await until(lambda: reflector.present, "the kind")
                body = {"apiVersion": f"{group}/v1beta1", "kind": "Gauge", "metadata": {"name": "g"}, "spec": {"a": 1}}
                await client.create(gauges, namespace, body, version="v1beta1")
                await until(lambda: mirror.names == ["g"], "the object")
                assert mirror.objects[namespace, "g"]["spec"] == {"a": 1}
                await client.delete(DEFINITIONS, "", f"gauges.{group}")
                await until(lambda: mirror.names == [], "the object is gone with its kind")
                await until(lambda: not reflector.present, "the kind is gone")
                await client.create(DEFINITIONS, "", definition(group, "v1", "v1beta1"))
                await until(lambda: reflector.present, "the kind is back")
                await client.create(gauges, namespace, body | {"apiVersion": f"{group}/v1"})
                await until(lambda: mirror.names == ["g"], "the new object")

    run(scenario())


def test_the_preferred_version_is_used_where_it_is_served(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.uninstall(SERVICE_ENTRY)
    control.install(SERVICE_ENTRY._replace(versions=("v1beta1", "v1alpha3")))

    async def scenario() -> None:
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, SERVICE_ENTRY, Mirror())) as reflector,
        ):
            await asyncio.wait_for(reflector.synced.wait(), 10)
            assert reflector.present
            assert control.requests("/serviceentries")[0].startswith("GET /apis/networking.istio.io/v1beta1/")

    run(scenario())


def test_an_absent_kind_is_asked_for_slowly(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.uninstall(SERVICE_ENTRY)

    async def scenario() -> None:
        pauses = Pauses()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, SERVICE_ENTRY, Mirror(), sleep=pauses)) as reflector,
        ):
            await until(lambda: len(pauses.taken) >= 3, "three attempts")
            assert set(pauses.taken) == {30.0}
            assert reflector.stats.errors == 0

    run(scenario())


def test_waits_grow_to_half_a_minute_and_start_anew_after_a_success(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.fail_next(8, 500, match="/configmaps")

    async def scenario() -> None:
        pauses = Pauses()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, Mirror(), backoff=highest(), sleep=pauses)) as reflector,
        ):
            await asyncio.wait_for(reflector.synced.wait(), 10)
            assert pauses.taken == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
            assert reflector.stats.errors == 8
            assert "HTTP 500" in reflector.stats.last_error
            await until(lambda: control.watches == 1, "a watch")
            control.put(config_map("a"))
            await until(lambda: reflector.stats.events == 1, "an event")
            control.fail_next(1, 500, match="watch=true")
            control.drop_watches()
            await until(lambda: len(pauses.taken) == 10, "the cut, and one refusal")
            assert pauses.taken[8:] == [0.8, 1.6]

    run(scenario())


def test_the_wait_that_the_server_asks_for_is_kept(fake_api: KubeApi) -> None:
    control_of(fake_api).fail_next(1, 429, "TooManyRequests", headers={"retry-after": "17"}, match="/configmaps")

    async def scenario() -> None:
        pauses = Pauses()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, Mirror(), sleep=pauses)) as reflector,
        ):
            await asyncio.wait_for(reflector.synced.wait(), 10)
            assert pauses.taken == [17.0]

    run(scenario())


def test_watches_that_end_at_once_are_not_repeated_at_once(fake_api: KubeApi) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        pauses = Pauses()
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, Mirror(), backoff=highest(), sleep=pauses)),
        ):
            await until(lambda: control.watches == 1, "a watch")
            control.end_watches()
            await until(lambda: len(pauses.taken) == 1 and control.watches == 1, "another watch")
            control.end_watches()
            await until(lambda: len(pauses.taken) == 2, "the second end")
            assert pauses.taken == [0.8, 1.6]

    run(scenario())


def test_the_wait_is_anywhere_below_its_ceiling() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(500)]
    assert all(0 <= wait <= 30 for wait in waits)
    assert min(waits[10:]) < 10 < 20 < max(waits[10:])


def test_a_kind_that_may_not_be_read_is_never_synced_and_says_why(
    fake_api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    control_of(fake_api).fail_next(1_000_000, 403, "Forbidden", match="/configmaps")

    async def scenario() -> None:
        async with (
            client_of(fake_api) as client,
            reflecting(Reflector(client, CONFIG_MAP, Mirror(), sleep=Pauses())) as reflector,
        ):
            await until(lambda: reflector.stats.errors > 3, "several refusals")
            assert not reflector.synced.is_set()
            assert "grant verb 'list' on resource 'configmaps'" in reflector.stats.last_error

    run(scenario())
    assert [record.levelname for record in caplog.records if "grant verb" in record.message] == ["WARNING"]


def test_selectors_reach_the_server(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    for name, node in (("a", "n1"), ("b", "n2")):
        metadata = {"namespace": "default", "name": name, "labels": {"app": name}}
        control.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}})

    async def scenario() -> None:
        mirror = Mirror()
        async with client_of(fake_api) as client:
            reflector = Reflector(client, POD, mirror, field_selector="spec.nodeName=n1", label_selector="app=a")
            async with reflecting(reflector):
                await asyncio.wait_for(reflector.synced.wait(), 10)
                assert mirror.names == ["a"]
                gone = {"namespace": "default", "name": "a", "labels": {"app": "c"}}
                control.put({"apiVersion": "v1", "kind": "Pod", "metadata": gone, "spec": {"nodeName": "n1"}})
                await until(lambda: mirror.names == [], "it left the selection")

    run(scenario())


def test_a_sink_that_fails_ends_the_reflector(fake_api: KubeApi) -> None:
    control_of(fake_api).put(config_map("a"))

    def broken(changes: object) -> None:
        raise ValueError("a defect")

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            with pytest.raises(ValueError, match="a defect"):
                await Reflector(client, CONFIG_MAP, broken).run(asyncio.Event())

    run(scenario())


def test_many_reflectors_share_a_client(fake_api: KubeApi) -> None:
    """One connection per watch, and none of them waits for another."""
    control = control_of(fake_api)
    count = 40

    async def scenario() -> None:
        mirrors = [Mirror() for _ in range(count)]
        async with client_of(fake_api) as client, contextlib.AsyncExitStack() as stack:
            for mirror in mirrors:
                await stack.enter_async_context(reflecting(Reflector(client, CONFIG_MAP, mirror)))
            await until(lambda: control.watches == count, "all watches")
            control.put(config_map("a"))
            await until(lambda: all(mirror.names == ["a"] for mirror in mirrors), "everybody is told")

    run(scenario())
