"""A cluster read through its API, and what is told where not everything may be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from istiod.analyze import Message, Options, World, analyze, cluster
from istiod.kube.errors import ServerFailure
from meshcore.errors import Unavailable
from tests.support.apiserver import KubeApi, api_server
from tests.unit.istiod.kube.support import client_of, control_of, run


def obj(kind: str, name: str, spec: dict[str, Any], version: str = "v1", namespace: str = "shop") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


SERVICE = obj("Service", "web", {"ports": [{"name": "web", "port": 80}]})
POLICY = obj(
    "AuthorizationPolicy",
    "p",
    {"selector": {"matchLabels": {"app": "gone"}}, "rules": [{}]},
    "security.istio.io/v1",
)
SERVER = {
    "port": {"number": 443, "name": "a", "protocol": "HTTPS"},
    "hosts": ["a.example"],
    "tls": {"mode": "SIMPLE", "credentialName": "gone"},
}
GATEWAY = obj("Gateway", "g", {"selector": {"istio": "gone"}, "servers": [SERVER]}, "networking.istio.io/v1")


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with api_server(token="admin-token") as found:
        yield found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WAIT_S", 0.01)


def analysed(api: KubeApi, namespace: str = "shop", read: list[str] | None = None) -> list[Message]:
    found: list[Message] = []
    progress = read if read is not None else []

    async def test() -> None:
        async with client_of(api) as client:
            world = World()
            await cluster.read(world, client, namespace=namespace, progress=progress.append)
            world.close()
            found.extend(analyze(world, Options(namespace)))

    run(test())
    return found


def test_objects_of_a_cluster_are_analysed_and_none_of_them_has_a_file(api: KubeApi) -> None:
    control_of(api).put_all([SERVICE, POLICY])
    read: list[str] = []
    found = [(one.code.id, one.name, one.place) for one in analysed(api, read=read)]
    assert found == [("IST0127", "shop/p", ""), ("IST0118", "shop/web", "")]
    assert {"services", "secrets", "deployments", "virtualservices"} <= set(read)
    assert "nodes" not in read


def test_only_the_namespace_asked_for_is_told_about(api: KubeApi) -> None:
    control_of(api).put(SERVICE)
    assert analysed(api, "default") == []
    assert len(analysed(api, "")) == 1


def test_kinds_that_the_cluster_does_not_have_are_empty() -> None:
    with api_server(token="admin-token", custom=()) as bare:
        assert analysed(bare) == []


def test_what_may_not_be_read_is_told_and_counts_as_there(api: KubeApi) -> None:
    control_of(api).put(GATEWAY)
    assert [one.code.id for one in analysed(api)] == ["IST0101", "IST0101"]
    control_of(api).fail_next(2, 403, "Forbidden", match="/secrets?")
    control_of(api).fail_next(2, 403, "Forbidden", match="/pods?")
    found = analysed(api)
    assert [one.code.id for one in found] == ["IST0141", "IST0141"]
    assert "what refers to pods is not analysed" in found[0].text


def test_a_namespace_alone_is_read_where_the_whole_may_not_be(api: KubeApi) -> None:
    control_of(api).put(SERVICE)
    control_of(api).fail_next(1, 403, "Forbidden", match="/services?")
    assert [one.code.id for one in analysed(api)] == ["IST0118"]
    assert control_of(api).requests("/namespaces/shop/services?")


@pytest.mark.parametrize(
    ("status", "reason"), [(429, "TooManyRequests"), (503, "ServiceUnavailable"), (410, "Expired")]
)
def test_a_busy_server_is_asked_again(api: KubeApi, status: int, reason: str) -> None:
    control_of(api).put(SERVICE)
    control_of(api).fail_next(cluster.ATTEMPTS - 1, status, reason, match="/services?")
    assert [one.code.id for one in analysed(api)] == ["IST0118"]


def test_a_waypoint_counts_once_it_was_ready(api: KubeApi) -> None:
    service = obj("Service", "web", {"ports": [{"name": "http", "port": 80}]})
    service["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
    listeners = [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
    spec = {"gatewayClassName": "istio-waypoint", "listeners": listeners}
    gateway = obj("Gateway", "wp", spec, "gateway.networking.k8s.io/v1")
    control_of(api).put_all([service, gateway])
    (one,) = analysed(api)
    assert (one.code.id, one.resource) == ("AMB0003", "Service web.shop")
    assert "has not been ready yet" in one.text
    address = {"type": "Hostname", "value": "wp.shop.svc.cluster.local"}
    control_of(api).put({**gateway, "status": {"addresses": [address]}})
    assert analysed(api) == []


def test_a_server_that_stays_broken_ends_the_analysis(api: KubeApi) -> None:
    control_of(api).fail_next(cluster.ATTEMPTS, 500, match="/services?")
    with pytest.raises(ServerFailure):
        analysed(api)


def test_a_server_that_is_not_there_ends_the_analysis(api: KubeApi) -> None:
    control_of(api).go_down()
    with pytest.raises(Unavailable):
        analysed(api)
    control_of(api).come_up()
