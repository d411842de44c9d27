"""The pages under /debug of a running istiod."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import msgspec
import pytest

from istiod.admin import Answer, Request
from istiod.debug import SUMMARIES, Debug
from istiod.monitoring import MetricsPage
from istiod.objects import Secret
from istiod.objects.base import Meta
from istiod.readable import REDACTED, each, manifest, readable
from istiod.subscribers import short_id, state_of
from meshcore.model import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Address,
    GatewayAddress,
    NamespacedHostname,
    NetworkAddress,
    Port,
    TunnelProtocol,
    Workload,
)
from meshcore.stream import Node
from meshcore.stream.delta import ServerType
from meshcore.stream.messages import DeltaRequest, Resource
from tests.unit.istiod.http_support import fetch, page, run
from tests.unit.istiod.support import Mesh, pod

DOCS = Path(__file__).parents[3] / "docs" / "istiod-debug.md"
PODS = 10_000
NODE = Node(
    "ztunnel~10.0.0.7~ztunnel-a.istio-system~cluster.local", namespace="istio-system", cluster_id="c1", version="1.2"
)
SECRET_TEXT = "c2VjcmV0LWtleQ=="
OBJECTS = f"""apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  clusterIP: 10.9.0.1
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Secret
metadata:
  name: tls
  namespace: default
  annotations: {{"kubectl.kubernetes.io/last-applied-configuration": "{SECRET_TEXT}"}}
data: {{tls.key: {SECRET_TEXT}}}
stringData: {{tls.crt: plain-text}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data: {{mesh: "trustDomainAliases: [old.example]"}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only-web, namespace: default}}
spec:
  rules:
  - from: [{{source: {{ipBlocks: [10.0.0.0/8]}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: way, namespace: default}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    made = Mesh(tmp_path)
    (made.config / "web.yaml").write_text(pod("web") + "---\n" + pod("other", ip="10.0.0.2"))
    (made.config / "more.yaml").write_text(OBJECTS)
    return made


async def listening(mesh: Mesh) -> int:
    await mesh.istiod.http.start("127.0.0.1", 0)
    return mesh.istiod.http.port


def test_every_page_answers_and_none_shows_a_secret(mesh: Mesh) -> None:
    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running(), mesh.subscriber(node=NODE) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            listed = [one["path"] for one in await page(port, "/debug/list")]
            assert listed == list(SUMMARIES)
            assert set(listed) == set(Debug(mesh.istiod).routes())
            for path in set(listed) - {"/debug/force_disconnect"}:
                status, body = await fetch(port, path)
                assert status == 200, path
                assert SECRET_TEXT not in body, path
                assert "plain-text" not in body, path
                assert "PRIVATE KEY" not in body, path
                assert await fetch(port, path, method="HEAD") == (200, "")
            status, body = await fetch(port, "/debug/krtz")
            assert status == 404
            assert "/debug/graphz" in body

    run(scenario())


def test_what_was_read_and_what_became_of_it(mesh: Mesh) -> None:
    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running():
            secrets = await page(port, "/debug/configz?kind=secret")
            assert secrets[0]["data"] == {"tls.crt": REDACTED, "tls.key": REDACTED}
            (policy,) = await page(port, "/debug/configz?kind=AuthorizationPolicy&namespace=default")
            assert policy["apiVersion"] == "security.istio.io/v1"
            assert policy["spec"]["rules"][0]["from"][0]["source"]["ipBlocks"] == ["10.0.0.0/8"]
            assert await page(port, "/debug/configz?namespace=nowhere") == []

            ambient = await page(port, "/debug/ambientz")
            assert [one["name"] for one in ambient["workloads"]] == ["other", "web"]
            assert ambient["workloads"][1]["addresses"] == ["10.0.0.1"]
            assert ambient["services"][0]["addresses"] == ["/10.9.0.1"]
            assert ambient["policies"][0]["rules"][0]["clauses"][0]["matches"][0]["sourceIps"] == [
                {"address": "10.0.0.0", "length": 8}
            ]
            assert [one["name"] for one in ambient["waypoints"]] == ["way"]
            assert await page(port, "/debug/ambientz?namespace=x") == {
                "workloads": [],
                "services": [],
                "policies": [],
                "waypoints": [],
            }
            (service,) = await page(port, "/debug/endpointz")
            assert service["svc"] == "default/web.default.svc.cluster.local"
            assert [one["uid"] for one in service["ep"]] == ["Kubernetes//Pod/default/web"]
            assert (await page(port, "/debug/registryz"))[0]["hostname"] == "web.default.svc.cluster.local"
            found = (await page(port, "/debug/authorizationz"))["authorization_policies"]
            assert [one["metadata"]["name"] for one in found["namespace_to_policies"]["default"]] == ["only-web"]
            dump = await page(port, "/debug/config_dump")
            assert dump[ADDRESS_TYPE]["Kubernetes//Pod/default/web"]["workload"]["name"] == "web"
            assert (await page(port, "/debug/mesh"))["trustDomainAliases"] == ["old.example"]

    run(scenario())


def test_how_it_was_computed(mesh: Mesh) -> None:
    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running(), mesh.subscriber(node=NODE) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            graph = await page(port, "/debug/graphz")
            assert graph["outputs"][ADDRESS_TYPE] == 3
            assert graph["derivations"]["pod_addresses"] == {"computed": 2, "kept": 0}
            assert (graph["failures"], graph["nodes"] > 2) == (0, True)
            status = await page(port, "/debug/statusz")
            assert (status["ready"], status["refusedObjects"], status["leader"]["leads"]) == (True, 0, True)
            (mesh.config / "web.yaml").write_text(pod("web", ip="10.0.0.3"))
            await subscriber.until(lambda: "Kubernetes//Pod/default/other" not in subscriber.held)
            push = await page(port, "/debug/push_status")
            assert push["last"]["causes"]["endpoint"] == 1
            assert push["last"]["changed"][ADDRESS_TYPE] == 2
            assert push["last"]["waited"] >= 0.01

    run(scenario())


def test_proxies_and_what_they_have(mesh: Mesh) -> None:
    uid = "Kubernetes//Pod/default/web"

    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running(), mesh.subscriber(node=NODE) as subscriber:
            await subscriber.client.ready(AUTHORIZATION_TYPE, 5)
            await subscriber.until(lambda: mesh.istiod.metrics.get("pilot_xds_pushes") == 2)
            (proxy,) = await page(port, "/debug/syncz")
            assert (proxy["proxy"], proxy["cluster"], proxy["version"]) == (NODE.id, "c1", "1.2")
            assert proxy["identity"] == "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
            assert {one["name"]: one["held"] for one in proxy["types"].values()} == {"WDS": 3, "WADS": 1}
            key = proxy["connectionId"]
            assert key.startswith("ztunnel-a.istio-system-")
            for name in (NODE.id, "ztunnel-a.istio-system", key):
                assert len(await page(port, f"/debug/connections?proxyID={name}")) == 2
            assert (await page(port, "/debug/adsz"))["clients"][0]["watches"][ADDRESS_TYPE] == ["*"]
            assert uid in (await page(port, "/debug/resourcesz"))[key][ADDRESS_TYPE]
            held = await page(port, f"/debug/config_dump?proxyID={key}")
            (web,) = [one for one in held[key][ADDRESS_TYPE] if one["name"] == uid]
            assert web["resource"]["workload"]["addresses"] == ["10.0.0.1"]
            assert await fetch(port, "/debug/syncz?proxyID=nobody") == (
                400,
                "proxyID: no proxy 'nobody' is connected to this istiod\n",
            )
            subscriber.refuse[uid] = "cannot use it"
            (mesh.config / "web.yaml").write_text(pod("web", ip="10.0.0.4"))
            await subscriber.until(lambda: mesh.istiod.metrics.get("pilot_total_xds_rejects") == 1)
            (proxy,) = await page(port, "/debug/syncz")
            assert proxy["types"][ADDRESS_TYPE]["state"] == "ERROR"
            assert "cannot use it" in proxy["types"][ADDRESS_TYPE]["rejected"]
            subscriber.refuse.clear()
            (mesh.config / "web.yaml").write_text(pod("web", ip="10.0.0.5"))
            await subscriber.until(lambda: mesh.istiod.metrics.get("pilot_proxy_convergence_time") == 1)
            (proxy,) = await page(port, "/debug/syncz")
            assert (proxy["types"][ADDRESS_TYPE]["state"], proxy["types"][ADDRESS_TYPE]["rejected"]) == ("SYNCED", "")
            assert "cannot use it" in proxy["types"][ADDRESS_TYPE]["lastRejected"]

    run(scenario())


def test_a_proxy_can_be_sent_away(mesh: Mesh) -> None:
    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running(), mesh.subscriber(node=NODE) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            path = "/debug/force_disconnect"
            assert (await fetch(port, path))[0] == 400
            assert (await fetch(port, f"{path}?proxyID={NODE.id}", method="HEAD"))[0] == 405
            assert subscriber.client.stats.connections == 1
            status, body = await fetch(port, f"{path}?proxyID={NODE.id}")
            assert (status, body.startswith("disconnected ztunnel-a.istio-system-")) == (200, True)
            await subscriber.until(lambda: subscriber.client.stats.connections == 2)

    run(scenario())


def test_the_services_of_a_proxys_own_pod(mesh: Mesh) -> None:
    node = Node("waypoint~10.0.0.1~web.default~cluster.local", namespace="istio-system")

    async def scenario() -> None:
        port = await listening(mesh)
        async with mesh.running(), mesh.subscriber(node=node) as subscriber:
            await subscriber.client.ready(ADDRESS_TYPE, 5)
            (services,) = (await page(port, "/debug/instancesz")).values()
            assert services == {"default/web.default.svc.cluster.local": [{"servicePort": 80, "targetPort": 8080}]}

    run(scenario())


def test_the_monitoring_port_has_the_same_pages(mesh: Mesh) -> None:
    async def scenario() -> None:
        await mesh.istiod.monitoring.start("127.0.0.1", 0)
        async with mesh.running():
            assert (await page(mesh.istiod.monitoring.port, "/debug/statusz"))["ready"] is True

    run(scenario())


def test_before_anything_was_read(mesh: Mesh) -> None:
    async def scenario() -> None:
        port = await listening(mesh)
        assert await fetch(port, "/ready") == (503, "not ready: starting\n")
        assert (await fetch(port, "/debug/graphz"))[0] == 503
        assert (await fetch(port, "/debug/mesh"))[0] == 503
        assert (await page(port, "/debug/ambientz"))["waypoints"] == []
        assert "pilot_services 0" in MetricsPage(mesh.istiod)(Request("GET", "/metrics")).body.decode()
        await mesh.istiod.close()
        assert mesh.istiod.waiting_for == "shutting down"

    run(scenario())


def test_a_large_dump_leaves_the_loop_to_others(tmp_path: Path) -> None:
    workloads = {
        f"uid-{number}": Address(
            workload=Workload(
                f"uid-{number}",
                f"web-{number}",
                "default",
                (bytes((10, 0, number >> 8, number & 255)),),
                tunnel_protocol=TunnelProtocol.HBONE,
                service_account="web",
                node="n1",
                services={"default/web": (Port(80, 8080),)},
            )
        )
        for number in range(PODS)
    }

    async def scenario() -> None:
        istiod = Mesh(tmp_path).istiod
        istiod.published.update(ADDRESS_TYPE, workloads)
        made = Debug(istiod).routes()["/debug/ambientz"](Request("GET", "/"))
        assert not isinstance(made, Answer)
        dump = asyncio.ensure_future(made)
        longest, turns = 0.0, 0
        while not dump.done():
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest, turns = max(longest, time.thread_time() - begun), turns + 1
        assert len(msgspec.json.decode(dump.result().body)["workloads"]) == PODS
        assert turns > PODS // 1000
        assert longest < 0.2
        await istiod.close()

    run(scenario())


def test_each_sees_a_state_of_one_moment() -> None:
    async def scenario() -> None:
        items = dict.fromkeys(range(1000))

        async def clear() -> None:
            items.clear()

        clearing = asyncio.ensure_future(clear())
        assert len(await each(items, str)) == 1000
        await clearing
        assert not items

    run(scenario())


def test_readable_forms() -> None:
    assert readable(GatewayAddress(NamespacedHostname("ns", "host"))) == {
        "destination": "ns/host",
        "hboneMtlsPort": 15008,
    }
    assert readable(GatewayAddress(address=NetworkAddress("n", b"\x0a\0\0\1"))) == {
        "destination": "n/10.0.0.1",
        "hboneMtlsPort": 15008,
    }
    assert readable(NetworkAddress("", b"\x0a\0\0\0", 8)) == "/10.0.0.0/8"
    assert readable((b"\0" * 15 + b"\1", b"\xff", TunnelProtocol.HBONE, None)) == ["::1", "ff", "HBONE", None]
    secret = Secret(Meta("s"), data={"k": SECRET_TEXT})
    assert SECRET_TEXT not in str(manifest(("Secret", "default", "s"), secret))
    assert SECRET_TEXT not in str(readable([{"deep": secret}]))


@pytest.mark.parametrize(
    ("node_id", "name"), [("ztunnel~1.1.1.1~a.b~x", "a.b"), ("odd", "odd"), ("", ""), ("a~b~c~d~e", "a~b~c~d~e")]
)
def test_the_name_in_a_node_id(node_id: str, name: str) -> None:
    assert short_id(node_id) == name


def test_the_state_of_a_subscription() -> None:
    store = {"a": Resource("a", "1", b"")}
    subscription = ServerType("t")
    assert state_of(subscription) == "NOT SENT"
    subscription.request(DeltaRequest("t"), store)
    response = subscription.next(store)
    assert response is not None
    assert state_of(subscription) == "STALE"
    subscription.request(DeltaRequest("t", nonce=response.nonce), store)
    assert state_of(subscription) == "SYNCED"
    store["a"] = Resource("a", "2", b"")
    subscription.changed(["a"])
    assert state_of(subscription) == "STALE"
    response = subscription.next(store)
    assert response is not None
    subscription.request(DeltaRequest("t", nonce=response.nonce, error="no"), store)
    assert state_of(subscription) == "ERROR"


def test_the_table_of_pages_is_complete() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)`", DOCS.read_text(), re.MULTILINE))
    assert {path.removeprefix("/debug/") for path in SUMMARIES} - {"/debug", "list"} == documented - {"list"}
