"""Reads, writes and watches, against our API server and the real one."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from istiod.kube.client import EVERYTHING, KubeClient, Selection, WatchEvent
from istiod.kube.credentials import direct
from istiod.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ServerFailure,
    TooManyRequests,
    Unauthorized,
)
from istiod.resources import Resource
from meshcore.errors import DeadlineExceeded, Unavailable
from tests.support import kubernetes
from tests.support.apiserver import KubeApi, TokenUser
from tests.unit.istiod.kube.support import (
    CONFIG_MAP,
    POD,
    SERVICE_ENTRY,
    client_of,
    config_map,
    control_of,
    decoded,
    new_namespace,
    run,
)


def test_an_object_lives_from_create_to_delete(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            made = await client.create(CONFIG_MAP, namespace, config_map("a", namespace, x="1"))
            assert (made.namespace, made.name, decoded(made)["data"]) == (namespace, "a", {"x": "1"})
            with pytest.raises(AlreadyExists, match=f"create configmaps {namespace}: .*already exists"):
                await client.create(CONFIG_MAP, namespace, config_map("a", namespace))
            assert (await client.get(CONFIG_MAP, namespace, "a")).resource_version == made.resource_version
            patched = await client.merge_patch(CONFIG_MAP, namespace, "a", {"data": {"x": None, "y": "2"}})
            assert decoded(patched)["data"] == {"y": "2"}
            await client.delete(CONFIG_MAP, namespace, "a")
            with pytest.raises(NotFound, match=f"get configmaps {namespace}/a: .*not found") as caught:
                await client.get(CONFIG_MAP, namespace, "a")
            assert (caught.value.status, caught.value.reason) == (404, "NotFound")
            with pytest.raises(NotFound):
                await client.delete(CONFIG_MAP, namespace, "a")

    run(scenario())


def test_a_write_of_an_old_version_is_a_conflict(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            old = decoded(await client.create(CONFIG_MAP, namespace, config_map("a", namespace, x="1")))
            new = await client.replace(CONFIG_MAP, namespace, "a", old | {"data": {"x": "2"}})
            with pytest.raises(Conflict, match="has been modified"):
                await client.replace(CONFIG_MAP, namespace, "a", old | {"data": {"x": "3"}})
            with pytest.raises(Conflict):
                await client.merge_patch(
                    CONFIG_MAP, namespace, "a", {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
                )
            with pytest.raises(Conflict):
                await client.delete(CONFIG_MAP, namespace, "a", uid="00000000-0000-0000-0000-000000000000")
            same = await client.replace(CONFIG_MAP, namespace, "a", decoded(new))
            assert same.resource_version == new.resource_version, "a write that changes nothing is none"
            await client.delete(CONFIG_MAP, namespace, "a", uid=old["metadata"]["uid"])

    run(scenario())


def test_a_wrong_object_is_invalid_and_not_worth_another_try(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            with pytest.raises(Invalid) as caught:
                await client.create(CONFIG_MAP, namespace, config_map("a", "another"))
            assert not caught.value.retryable
            with pytest.raises(NotFound, match="namespaces"):
                await client.create(CONFIG_MAP, "nowhere", config_map("a", "nowhere"))

    run(scenario())


def test_1201_objects_come_in_three_pages_of_one_moment(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            gate = asyncio.Semaphore(16)

            async def create(number: int) -> None:
                async with gate:
                    await client.create(CONFIG_MAP, namespace, config_map(f"a-{number:04}", namespace))

            await asyncio.gather(*(create(number) for number in range(1201)))
            sizes: list[int] = []
            names: list[str] = []
            versions: set[str] = set()
            async for page in client.list_pages(CONFIG_MAP, Selection(namespace)):
                sizes.append(len(page.items))
                names += [item.name for item in page.items]
                versions.add(page.resource_version)
                if len(sizes) == 1:
                    await client.delete(CONFIG_MAP, namespace, "a-1200")
            assert sizes == [500, 500, 201]
            assert names == [f"a-{number:04}" for number in range(1201)], "also what was deleted meanwhile"
            assert len(versions) == 1

    run(scenario())


def test_selectors_choose_objects(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            for name, labels in (("a", {"app": "x"}), ("b", {"app": "y", "tier": "1"}), ("c", {})):
                obj = config_map(name, namespace)
                obj["metadata"]["labels"] = labels
                await client.create(CONFIG_MAP, namespace, obj)

            async def named(labels: str = "", fields: str = "") -> str:
                pages = client.list_pages(CONFIG_MAP, Selection(namespace, labels, fields))
                return "".join([item.name async for page in pages for item in page.items])

            assert await named() == "abc"
            assert await named("app") == "ab"
            assert await named("!app") == "c"
            assert await named("app=x") == "a"
            assert await named("app!=x") == "bc"
            assert await named("app in (x, y),tier") == "b"
            assert await named("app notin (x)") == "bc"
            assert await named("", "metadata.name=b") == "b"
            assert await named("", "metadata.name!=b") == "ac"
            with pytest.raises(Invalid, match=r"data\.x"):
                await named("", "data.x=1")

    run(scenario())


def test_a_watch_tells_what_happened_after_a_version(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            first = await client.create(CONFIG_MAP, namespace, config_map("a", namespace))
            second = await client.create(CONFIG_MAP, namespace, config_map("b", namespace))
            async with client.watch(CONFIG_MAP, first.resource_version, Selection(namespace)) as lots:
                seen: list[WatchEvent] = []

                async def read(count: int) -> None:
                    while len(seen) < count:
                        seen.extend(await anext(lots))

                await read(1)
                changed = await client.merge_patch(CONFIG_MAP, namespace, "a", {"data": {"x": "1"}})
                await client.delete(CONFIG_MAP, namespace, "b")
                await read(3)
            assert [(event.type, event.item.name) for event in seen] == [
                ("ADDED", "b"),
                ("MODIFIED", "a"),
                ("DELETED", "b"),
            ]
            assert seen[1].item.resource_version == changed.resource_version
            assert int(seen[2].item.resource_version) > int(second.resource_version), "the version of the deletion"
            assert decoded(seen[2].item)["kind"] == "ConfigMap"

    run(scenario())


def test_what_leaves_a_selection_is_deleted_for_its_watch(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            made = await client.create(CONFIG_MAP, namespace, config_map("a", namespace))
            chosen = Selection(namespace, "app=x")
            async with client.watch(CONFIG_MAP, made.resource_version, chosen) as lots:
                await client.merge_patch(CONFIG_MAP, namespace, "a", {"metadata": {"labels": {"app": "x"}}})
                left = await client.merge_patch(CONFIG_MAP, namespace, "a", {"metadata": {"labels": {"app": "y"}}})
                seen = list(await anext(lots))
                while len(seen) < 2:
                    seen += await anext(lots)
            assert [event.type for event in seen] == ["ADDED", "DELETED"]
            assert seen[1].item.resource_version == left.resource_version

    run(scenario())


def test_the_server_ends_a_watch_in_time(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            namespace = await new_namespace(client)
            made = await client.create(CONFIG_MAP, namespace, config_map("a", namespace))
            async with client.watch(CONFIG_MAP, made.resource_version, Selection(namespace), seconds=1) as lots:
                assert [event.type async for lot in lots for event in lot if event.type != "BOOKMARK"] == []

    run(scenario())


def test_the_first_served_version_is_found(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            assert await client.served_version(CONFIG_MAP) == "v1"
            leases = Resource("Lease", "leases", "coordination.k8s.io", ("v7", "v1"))
            assert await client.served_version(leases) == "v1"
            assert await client.served_version(leases._replace(plural="rents")) is None
            assert await client.served_version(leases._replace(group="example.org")) is None

    run(scenario())


def test_a_token_that_is_none_is_not_authenticated(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api) as client:
            review = await client.review_token("not.a.token", ("istio-ca",))
            assert not review.authenticated
            assert "invalid bearer token" in review.error
            assert review.username == ""

    run(scenario())


def test_a_callers_own_wrong_token_is_unauthorized_and_never_told(kube_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(kube_api, token="wrong-secret") as client:
            with pytest.raises(Unauthorized, match="expired or belongs to another cluster") as caught:
                await client.get(CONFIG_MAP, "default", "a")
            assert "wrong-secret" not in str(caught.value)

    run(scenario())


def test_token_review_tells_account_and_pod_for_the_audience_asked(fake_api: KubeApi) -> None:
    extra = {"authentication.kubernetes.io/pod-name": ("z-1",), "authentication.kubernetes.io/node-name": ("n1",)}
    account = "system:serviceaccount:istio-system:ztunnel"
    user = TokenUser(account, uid="7", groups=("system:serviceaccounts",), extra=extra, audiences=("istio-ca", "x"))
    control_of(fake_api).add_token("good", user)

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            review = await client.review_token("good", ("istio-ca",))
            assert (review.authenticated, review.username, review.uid) == (True, account, "7")
            assert (review.extra, review.audiences, review.error) == (extra, ("istio-ca",), "")
            other = await client.review_token("good", ("vault",))
            assert not other.authenticated
            assert "invalid for the target audiences" in other.error
            assert not (await client.review_token("good")).authenticated, "the server's own audience is another"

    run(scenario())


@pytest.mark.interop
@pytest.mark.timeout(120)
def test_the_real_server_tells_account_pod_and_node_of_a_token(request: pytest.FixtureRequest) -> None:
    server = kubernetes.shared(request.config)
    namespace = server.create_namespace()
    server.create_service_account(namespace, "ztunnel")
    pod = server.create_pod(namespace, "z-1", service_account="ztunnel", node="n1")
    token = server.service_account_token(namespace, "ztunnel", pod=pod)

    async def scenario() -> None:
        api = KubeApi(server.url, server.token, str(server.ca_file))
        async with client_of(api) as client:
            review = await client.review_token(token, ("istio-ca",))
            assert (review.authenticated, review.audiences) == (True, ("istio-ca",))
            assert review.username == f"system:serviceaccount:{namespace}:ztunnel"
            assert review.extra["authentication.kubernetes.io/pod-name"] == ("z-1",)
            assert review.extra["authentication.kubernetes.io/pod-uid"] == (pod["metadata"]["uid"],)
            other = await client.review_token(token, ("vault",))
            assert not other.authenticated
            assert "audience" in other.error
        powerless = server.service_account_token(namespace, "ztunnel", audience=kubernetes.ISSUER)
        async with client_of(api, token=powerless) as client:
            with pytest.raises(Forbidden, match="grant verb 'get' on resource 'configmaps' of apiGroup '' in a Role"):
                await client.get(CONFIG_MAP, namespace, "a")

    run(scenario())


def test_pods_are_chosen_by_node_and_phase(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    for name, node, phase in (("a", "n1", "Running"), ("b", "n1", "Failed"), ("c", "n2", "Running")):
        metadata = {"namespace": "default", "name": name}
        head = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        control.put(head | {"spec": {"nodeName": node}, "status": {"phase": phase}})

    async def scenario() -> None:
        async with client_of(fake_api) as client:

            async def named(fields: str) -> str:
                pages = client.list_pages(POD, Selection("", "", fields))
                return "".join([item.name async for page in pages for item in page.items])

            assert await named("spec.nodeName=n1") == "ab"
            assert await named("spec.nodeName=n1,status.phase!=Failed") == "a"

    run(scenario())


@pytest.mark.parametrize(
    ("code", "reason", "error", "text"),
    [
        (403, "Forbidden", Forbidden, "'get' on resource 'serviceentries' of apiGroup 'networking.istio.io'"),
        (410, "Expired", Gone, "injected"),
        (422, "Invalid", Invalid, "injected"),
        (409, "Conflict", Conflict, "injected"),
        (500, "InternalError", ServerFailure, "HTTP 500, InternalError"),
        (504, "Timeout", ServerFailure, "injected"),
    ],
)
def test_a_refusal_is_an_error_of_its_own(
    fake_api: KubeApi, code: int, reason: str, error: type[Exception], text: str
) -> None:
    control_of(fake_api).fail_next(1, code, reason)

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            with pytest.raises(error, match=text) as caught:
                await client.get(SERVICE_ENTRY, "default", "a")
            assert str(caught.value).startswith("get serviceentries.networking.istio.io default/a: ")

    run(scenario())


def test_the_server_says_how_long_to_wait(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.fail_next(1, 429, "TooManyRequests", headers={"retry-after": "7"})
    control.fail_next(1, 429, "TooManyRequests", headers={"retry-after": "86400"})
    control.fail_next(1, 429, "TooManyRequests", headers={"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})

    async def scenario() -> None:
        waits = []
        async with client_of(fake_api) as client:
            for _ in range(3):
                with pytest.raises(TooManyRequests) as caught:
                    await client.get(CONFIG_MAP, "default", "a")
                waits.append(caught.value.retry_after)
        assert waits == [7.0, 60.0, 0.0]

    run(scenario())


def test_silence_is_a_missed_deadline(fake_api: KubeApi) -> None:
    control_of(fake_api).delay_next(1, 20.0)

    async def scenario() -> None:
        async with client_of(fake_api, timeout=0.1) as client:
            with pytest.raises(DeadlineExceeded, match="get configmaps default/a"):
                await client.get(CONFIG_MAP, "default", "a")

    run(scenario())


def test_a_watch_that_is_silent_for_too_long_ends(fake_api: KubeApi) -> None:
    async def scenario() -> None:
        async with client_of(fake_api) as client:
            with pytest.raises(DeadlineExceeded, match="watch configmaps"):
                async with client.watch(CONFIG_MAP, "1", EVERYTHING, idle=0.1) as lots:
                    await anext(lots)

    run(scenario())


def test_a_server_that_is_down_is_unavailable_and_usable_again_later(fake_api: KubeApi) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            await client.create(CONFIG_MAP, "default", config_map("a"))
            control.go_down()
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as caught:
                await client.get(CONFIG_MAP, "default", "a")
            assert caught.value.retryable
            control.come_up()
            assert (await client.get(CONFIG_MAP, "default", "a")).name == "a"

    run(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_a_watch_from_a_forgotten_version_is_gone(fake_api: KubeApi, at_once: bool) -> None:
    control = control_of(fake_api)
    control.put(config_map("a"))
    control.compact()
    control.refuse_old_at_once(at_once=at_once)

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            with pytest.raises(Gone, match="too old resource version"):
                async with client.watch(CONFIG_MAP, "1") as lots:
                    await anext(lots)

    run(scenario())


def test_a_list_that_was_forgotten_half_read_is_gone(fake_api: KubeApi) -> None:
    control = control_of(fake_api)
    control.put_all(config_map(name) for name in "abc")

    async def scenario() -> None:
        async with client_of(fake_api) as client:
            pages = client.list_pages(CONFIG_MAP, Selection("default"), limit=2)
            async with contextlib.aclosing(pages):
                assert len((await anext(pages)).items) == 2
                control.compact()
                with pytest.raises(Gone, match="continue"):
                    await anext(pages)

    run(scenario())


def test_a_watch_that_is_cut_says_so(fake_api: KubeApi) -> None:
    control = control_of(fake_api)

    async def scenario() -> None:
        async with (
            client_of(fake_api) as client,
            client.watch(CONFIG_MAP, "0", Selection("default")) as lots,
        ):
            control.put(config_map("a"))
            assert [event.item.name for event in await anext(lots)] == ["a"]
            control.drop_watches()
            with pytest.raises(Unavailable):
                await anext(lots)

    run(scenario())


def test_requests_wait_for_their_turn(fake_api: KubeApi) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        credentials = direct(fake_api.url, token=fake_api.token)
        async with KubeClient(credentials, qps=20, burst=2) as client:
            started = loop.time()
            await asyncio.gather(*(client.served_version(CONFIG_MAP) for _ in range(6)))
            assert loop.time() - started >= 4 / 20 - 0.01

    run(scenario())
