"""A whole istiod over a Kubernetes API server: the real one where `make kube` built it, and the one of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from cryptography import x509

from istiod import schema
from istiod.admission import probe
from istiod.app import Istiod, open_istiod
from istiod.config import Settings
from istiod.kube.client import KubeClient
from istiod.kube.credentials import direct
from istiod.kube.errors import AlreadyExists, KubeError
from istiod.resources import BY_STORE_KIND, Resource
from istiod.webhook import PATH
from istiod.webhook_configuration import CONFIGURATION, for_unlabelled
from meshcore.errors import AuthenticationError, AuthorizationError
from meshcore.model import ADDRESS_TYPE, AUTHORIZATION_TYPE, Address, TunnelProtocol, WorkloadStatus
from meshcore.stream import DeltaClient, Node, SigningClient, client_context
from meshcore.stream import Resource as Received
from tests.support import kubernetes
from tests.support.apiserver import TokenUser, api_server
from tests.support.build import ROOT
from tests.support.ports import free_ports
from tests.unit.istiod.support import new_csr

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

DEADLINE_S = 30.0
RBAC = ROOT / "deploy/istiod/rbac.yaml"
DEFINITIONS = Resource(
    "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", ("v1",), namespaced=False
)
Obj = dict[str, Any]


class Cluster(NamedTuple):
    """An API server, and the token of its administrator. `mint(namespace, account, pod)` gives a token bound to a pod,
    `login(namespace)` that of an istiod which runs in a namespace, with the rights of deploy/istiod/rbac.yaml.
    """

    url: str
    token: str
    ca_file: str
    mint: Callable[[str, str, str], str]
    login: Callable[[str], str]

    def client(self) -> KubeClient:
        credentials = direct(self.url, token=self.token, ca_file=self.ca_file)
        return KubeClient(credentials, qps=1e6, burst=10_000)

    def kubeconfig(self, folder: Path, namespace: str) -> str:
        path = folder / "kubeconfig"
        cluster: Obj = {"server": self.url}
        if self.ca_file:
            cluster["certificate-authority"] = self.ca_file
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": self.login(namespace)}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return str(path)


@pytest.fixture(params=["fake", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "real":
        server = kubernetes.shared(request.config)

        def requested(namespace: str, account: str, pod: str) -> str:
            held = server.request("GET", BY_STORE_KIND["Pod"].path(namespace, pod))
            return server.service_account_token(namespace, account, pod=held)

        def login(namespace: str) -> str:
            grant(server, namespace)
            return server.service_account_token(namespace, "istiod", audience=kubernetes.ISSUER)

        yield Cluster(server.url, server.token, str(server.ca_file), requested, login)
        return
    with api_server(token="admin-token") as api:

        def mint(namespace: str, account: str, pod: str) -> str:
            assert api.control is not None
            (held,) = [
                one
                for one in api.control.select(BY_STORE_KIND["Pod"])
                if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, pod)
            ]
            prefix = "authentication.kubernetes.io/"
            extra = {
                f"{prefix}pod-name": (pod,),
                f"{prefix}pod-uid": (held["metadata"]["uid"],),
                f"{prefix}node-name": (held["spec"]["nodeName"],),
            }
            user = TokenUser(f"system:serviceaccount:{namespace}:{account}", extra=extra, audiences=("istio-ca",))
            token = f"token-{namespace}-{account}-{pod}"
            api.control.add_token(token, user)
            return token

        yield Cluster(api.url, api.token, api.ca_file, mint, lambda _: api.token)


def grant(server: kubernetes.Kubernetes, namespace: str) -> None:
    """Create what deploy/istiod/rbac.yaml says, for an istiod in another namespace; once is enough."""
    for text in RBAC.read_text().split("\n---\n"):
        named = text.replace("namespace: istio-system", f"namespace: {namespace}")
        obj = yaml.safe_load(named.replace("name: ambient-istiod", f"name: ambient-istiod-{namespace}"))
        group = "api/v1" if obj["apiVersion"] == "v1" else f"apis/{obj['apiVersion']}"
        scope = f"/namespaces/{namespace}" if "namespace" in obj["metadata"] else ""
        try:
            server.request("POST", f"/{group}{scope}/{obj['kind'].lower()}s", obj)
        except kubernetes.ApiError as error:
            if error.reason != "AlreadyExists":
                raise


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def wrapper(cluster: Cluster, tmp_path: Path) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(100):
                await test(cluster, tmp_path)

        asyncio.run(bounded())

    return wrapper


class World:
    """Two namespaces of their own on the server (istiod's and the workloads'), and objects in them."""

    def __init__(self, cluster: Cluster, client: KubeClient, folder: Path, root: str, space: str) -> None:
        self.cluster = cluster
        self.client = client
        self.folder = folder
        self.root = root
        self.space = space

    def settings(self, **extra: Any) -> Settings:
        values: Obj = {
            "kubeconfig": self.cluster.kubeconfig(self.folder, self.root),
            "root_namespace": self.root,
            "trusted_node_accounts": (f"{self.root}/ztunnel",),
            "address": "127.0.0.1",
            "port": 0,
            "http_port": 0,
            "monitoring_port": 0,
            "webhook_port": 0,
            "debounce_after": 0.01,
            "drain": 0.0,
            "shutdown": 0.5,
            "handover": 0.0,
            "api_qps": 1000.0,
            "api_burst": 1000,
        }
        return Settings(**(values | extra))

    @contextlib.asynccontextmanager
    async def istiod(self, **extra: Any) -> AsyncIterator[Istiod]:
        istiod = await open_istiod(self.settings(**extra))
        stop = asyncio.Event()
        try:
            await istiod.start()
            task = asyncio.create_task(istiod.run(stop))
            try:
                yield istiod
            finally:
                stop.set()
                await task
        finally:
            await istiod.close()

    async def create(self, kind: str, name: str, obj: Obj, *, namespace: str = "", status: Obj | None = None) -> None:
        resource = BY_STORE_KIND[kind]
        namespace = (namespace or self.space) if resource.namespaced else ""
        meta = {"name": name, **({"namespace": namespace} if namespace else {}), **obj.pop("metadata", {})}
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, **obj}
        await self.client.create(resource, namespace, body)
        if status is not None:
            await self.client.merge_patch(resource, namespace, name, {"status": status}, subresource="status")

    async def patch(self, kind: str, name: str, patch: Obj, *, subresource: str = "") -> None:
        await self.client.merge_patch(BY_STORE_KIND[kind], self.space, name, patch, subresource=subresource)

    async def read(self, kind: str, name: str, namespace: str = "") -> Obj:
        item = await self.client.get(BY_STORE_KIND[kind], namespace or self.space, name)
        return msgspec.json.decode(item.raw, type=Obj)

    async def pod(self, name: str, account: str, ip: str, *, namespace: str = "", **meta: Any) -> None:
        spec = {"nodeName": "n1", "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]}
        conditions = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
        with contextlib.suppress(AlreadyExists):
            await self.create("ServiceAccount", account, {}, namespace=namespace)
        await self.create("Pod", name, {"metadata": meta, "spec": spec}, namespace=namespace, status=status)

    async def condition(self, kind: str, name: str, condition: str) -> Obj:
        """Wait for a condition to appear in the status."""
        found: list[Obj] = []

        async def there() -> bool:
            status = (await self.read(kind, name)).get("status") or {}
            found[:] = [one for one in status.get("conditions") or () if one["type"] == condition]
            return bool(found)

        await eventually(there, f"{condition} of {kind} {name}")
        return found[0]


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():  # noqa: ASYNC110 - the server is asked, it does not tell
            await asyncio.sleep(0.05)
    del what


@contextlib.asynccontextmanager
async def world(cluster: Cluster, folder: Path) -> AsyncIterator[World]:
    async with cluster.client() as client:
        await install(client)
        names = [
            (await client.create(BY_STORE_KIND["Namespace"], "", {"metadata": {"generateName": prefix}})).name
            for prefix in ("root-", "space-")
        ]
        made = World(cluster, client, folder, *names)
        await made.pod("ztunnel-n1", "ztunnel", "10.0.0.250", namespace=made.root)
        yield made


async def install(client: KubeClient) -> None:
    """The definitions of every custom kind; served a moment after they were created."""
    for definition in schema.definitions().values():
        with contextlib.suppress(AlreadyExists):
            await client.create(DEFINITIONS, "", definition)
    for resource in BY_STORE_KIND.values():
        if resource.custom:

            async def served(resource: Resource = resource) -> bool:
                try:
                    async for _ in client.list_pages(resource):
                        pass
                except KubeError:
                    return False
                return True

            await eventually(served, resource.plural)


class Subscriber:
    """A node proxy with a certificate, and what it was told."""

    def __init__(self, istiod: Istiod, chain: list[str], key: bytes) -> None:
        self.held: dict[str, dict[str, bytes]] = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self._changed = asyncio.Event()
        root = istiod.authority.current.root_pem
        self.client = DeltaClient(
            address=("127.0.0.1", istiod.service.server.port),
            tls=lambda: client_context(root, "".join(chain[:-1]), key),
            server_name="localhost",
            node=Node("ztunnel~10.0.0.250~ztunnel-n1~local"),
            types=tuple(self.held),
            on_update=self._update,
        )

    def _update(self, type_url: str, resources: list[Received], removed: list[str]) -> dict[str, str]:
        for resource in resources:
            self.held[type_url][resource.name] = resource.body
        for name in removed:
            self.held[type_url].pop(name, None)
        self._changed.set()
        return {}

    def address(self, name: str) -> Address | None:
        body = self.held[ADDRESS_TYPE].get(name)
        return msgspec.msgpack.decode(body, type=Address) if body is not None else None

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def ztunnel(world: World, istiod: Istiod) -> AsyncIterator[Subscriber]:
    token = await asyncio.to_thread(world.cluster.mint, world.root, "ztunnel", "ztunnel-n1")
    csr, key = new_csr()
    chain = await sign(istiod, token, csr)
    subscriber = Subscriber(istiod, chain, key)
    stop = asyncio.Event()
    task = asyncio.create_task(subscriber.client.run(stop))
    try:
        yield subscriber
    finally:
        stop.set()
        await task


async def sign(istiod: Istiod, token: str, csr: str, identity: str = "") -> list[str]:
    signer = SigningClient(
        address=("127.0.0.1", istiod.service.server.port),
        tls=lambda: client_context(istiod.authority.current.root_pem),
        server_name="localhost",
        token=lambda: token,
    )
    try:
        return await signer.sign(csr, identity)
    finally:
        await signer.close()


def leaf_uri(chain: list[str]) -> str:
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


@run
async def test_pods_and_services_reach_a_node_proxy_that_came_with_its_token(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod, ztunnel(w, istiod) as proxy:
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "name": "http"}]}
        await w.create("Service", "web", {"spec": spec})
        note = {"ambient.istio.io/redirection": "enabled"}
        await w.pod("web-1", "web", "10.0.0.1", labels={"app": "web"}, annotations=note)
        uid, key = f"Kubernetes//Pod/{w.space}/web-1", f"{w.space}/web.{w.space}.svc.cluster.local"

        def complete() -> bool:
            found = proxy.address(uid)
            return found is not None and found.workload is not None and key in found.workload.services

        await proxy.until(complete)
        found = proxy.address(uid)
        assert found is not None
        assert found.workload is not None
        assert found.workload.tunnel_protocol is TunnelProtocol.HBONE
        assert found.workload.services[key][0].target_port == 8080
        service = proxy.address(key)
        assert service is not None
        assert service.service is not None
        assert len(service.service.addresses) == (0 if cluster.token == "admin-token" else 1)  # the real one allocates
        await w.client.delete(BY_STORE_KIND["Pod"], w.space, "web-1")

        def leaving() -> bool:  # a real server waits for the kubelet to say that the pod has ended
            found = proxy.address(uid)
            return found is None or (found.workload is not None and found.workload.status is WorkloadStatus.UNHEALTHY)

        await proxy.until(leaving)


@run
async def test_a_node_proxy_gets_certificates_of_its_node_only(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod:
        await w.pod("web-1", "web", "10.0.0.1")
        await eventually(lambda: _there(w, istiod, "web-1"), "pod")
        token = await asyncio.to_thread(cluster.mint, w.root, "ztunnel", "ztunnel-n1")
        csr, _ = new_csr()
        web = f"spiffe://cluster.local/ns/{w.space}/sa/web"
        assert leaf_uri(await sign(istiod, token, csr, web)) == web
        with pytest.raises(AuthorizationError):
            await sign(istiod, token, csr, f"spiffe://cluster.local/ns/{w.space}/sa/other")
        own = await asyncio.to_thread(cluster.mint, w.space, "web", "web-1")
        assert leaf_uri(await sign(istiod, own, csr)) == web
        with pytest.raises(AuthorizationError):
            await sign(istiod, own, csr, f"spiffe://cluster.local/ns/{w.root}/sa/ztunnel")
        with pytest.raises(AuthenticationError, match=r"^the caller could not be authenticated$"):
            await sign(istiod, "no-token-of-this-cluster", csr)


async def _there(w: World, istiod: Istiod, name: str) -> bool:
    return ("Pod", w.space, name) in dict(iter(istiod.store))


@run
async def test_statuses_are_written_and_taken_back(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod():
        spec = {"ports": [{"port": 80}], "selector": {"app": "s"}}
        await w.create("Service", "s", {"metadata": {"labels": {"istio.io/use-waypoint": "w"}}, "spec": spec})
        first = await w.condition("Service", "s", "istio.io/WaypointBound")
        assert (first["status"], first["reason"]) == ("False", "WaypointIsNotReady")
        listeners = [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
        await w.create("Gateway", "w", {"spec": {"gatewayClassName": "istio-waypoint", "listeners": listeners}})
        address = {"type": "Hostname", "value": f"w.{w.space}.svc.cluster.local"}
        await w.patch("Gateway", "w", {"status": {"addresses": [address]}}, subresource="status")

        async def bound() -> bool:
            return bool((await w.condition("Service", "s", "istio.io/WaypointBound"))["status"] == "True")

        await eventually(bound, "bound")
        await w.patch("Service", "s", {"metadata": {"labels": {"istio.io/use-waypoint": None}}})

        async def gone() -> bool:
            conditions = ((await w.read("Service", "s")).get("status") or {}).get("conditions") or []
            return not [one for one in conditions if one["type"] == "istio.io/WaypointBound"]

        await eventually(gone, "taken back")


@run
async def test_an_invalid_policy_says_so_and_its_last_version_stays_in_force(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod, ztunnel(w, istiod) as proxy:
        rules = [{"from": [{"source": {"principals": ["a"]}}]}]
        await w.create("AuthorizationPolicy", "p", {"spec": {"action": "DENY", "rules": rules}})
        name = f"{w.space}/p"
        await proxy.until(lambda: name in proxy.held[AUTHORIZATION_TYPE])
        before = proxy.held[AUTHORIZATION_TYPE][name]
        broken = {"spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/33"]}}]}]}}
        await w.patch("AuthorizationPolicy", "p", broken)
        messages: list[Obj] = []

        async def told() -> bool:
            status = (await w.read("AuthorizationPolicy", "p")).get("status") or {}
            messages[:] = status.get("validationMessages") or []
            return bool(messages)

        await eventually(told, "told")
        assert messages[0]["level"] == "ERROR"
        assert messages[0]["type"]["code"] == "IST0106"
        said = await w.condition("AuthorizationPolicy", "p", "istio.io/Valid")
        assert (said["status"], said["reason"]) == ("False", "Invalid")
        where = "spec.rules[0].from[0].source.ipBlocks[0]"
        assert said["message"].startswith(f"the previous version stays in force: {where}")
        assert proxy.held[AUTHORIZATION_TYPE][name] == before
        await w.patch("AuthorizationPolicy", "p", {"spec": {"rules": [{"from": [{"source": {"principals": ["b"]}}]}]}})
        await proxy.until(lambda: proxy.held[AUTHORIZATION_TYPE][name] != before)

        async def clean() -> bool:
            return not ((await w.read("AuthorizationPolicy", "p")).get("status") or {}).get("validationMessages")

        await eventually(clean, "clean")


@run
async def test_a_service_entry_is_given_addresses(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod, ztunnel(w, istiod) as proxy:
        spec = {
            "hosts": ["db.example"],
            "resolution": "DNS",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        }
        await w.create("ServiceEntry", "e", {"spec": spec})

        async def given() -> bool:
            return bool(((await w.read("ServiceEntry", "e")).get("status") or {}).get("addresses"))

        await eventually(given, "addresses")
        key = f"{w.space}/db.example"

        def told() -> bool:
            found = proxy.address(key)
            return found is not None and found.service is not None and len(found.service.addresses) == 2

        await proxy.until(told)


@run
async def test_every_namespace_gets_the_roots_and_gets_them_back(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod:
        root = istiod.authority.current.root_pem

        async def right() -> bool:
            try:
                return bool((await w.read("ConfigMap", "istio-ca-root-cert"))["data"]["root-cert.pem"] == root)
            except KubeError:
                return False

        await eventually(right, "handed out")
        await w.patch("ConfigMap", "istio-ca-root-cert", {"data": {"root-cert.pem": "something else"}})
        await eventually(right, "corrected")
        await w.client.delete(BY_STORE_KIND["ConfigMap"], w.space, "istio-ca-root-cert")
        await eventually(right, "made again")


@run
async def test_two_istiods_share_a_ca_and_only_one_of_them_writes(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, contextlib.AsyncExitStack() as first:
        one = await first.enter_async_context(w.istiod())
        async with w.istiod() as two:
            assert one.authority.current.root_pem == two.authority.current.root_pem
            assert one.election is not None
            assert two.election is not None
            elections = one.election, two.election

            async def elected() -> bool:
                return any(election.is_leader for election in elections)

            await eventually(elected, "elected")
            assert elections[0].is_leader
            assert not elections[1].is_leader
            await first.aclose()

            async def succeeded() -> bool:
                return elections[1].is_leader

            await eventually(succeeded, "succeeded")
            spec = {"ports": [{"port": 80}]}
            await w.create("Service", "s", {"metadata": {"labels": {"istio.io/use-waypoint": "w"}}, "spec": spec})
            assert (await w.condition("Service", "s", "istio.io/WaypointBound"))["status"] == "False"


@run
async def test_discovery_selectors_are_followed(cluster: Cluster, tmp_path: Path) -> None:
    async with world(cluster, tmp_path) as w, w.istiod() as istiod, ztunnel(w, istiod) as proxy:
        await w.pod("web-1", "web", "10.0.0.1")
        uid = f"Kubernetes//Pod/{w.space}/web-1"
        await proxy.until(lambda: proxy.address(uid))
        mesh = "discoverySelectors: [{matchLabels: {read: 'yes'}}]"
        await w.create("ConfigMap", "istio", {"data": {"mesh": mesh}}, namespace=w.root)
        await proxy.until(lambda: proxy.address(uid) is None)
        await w.client.merge_patch(BY_STORE_KIND["Namespace"], "", w.space, {"metadata": {"labels": {"read": "yes"}}})
        await proxy.until(lambda: proxy.address(uid))


def test_the_webhook_of_an_istiod_is_found_out_and_refuses(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The real API server only: it is the one that asks webhooks."""
    server = kubernetes.shared(request.config)

    def login(namespace: str) -> str:
        grant(server, namespace)
        return server.service_account_token(namespace, "istiod", audience=kubernetes.ISSUER)

    cluster = Cluster(server.url, server.token, str(server.ca_file), lambda *_: "", login)

    async def scenario() -> None:
        async with world(cluster, tmp_path) as w, w.istiod(webhook_port=free_ports(1)[0]) as istiod:
            assert istiod.admission is not None
            rights = direct(cluster.url, token=login(w.root), ca_file=cluster.ca_file)
            async with KubeClient(rights) as own:
                assert not await probe(own, w.root)
                configuration = for_unlabelled("default", w.root, "istiod", istiod.authority.current.root_pem.encode())
                configuration["metadata"]["name"] = w.root
                (hook,) = configuration["webhooks"]
                hook["clientConfig"] = {
                    "url": f"https://127.0.0.1:{istiod.admission.webhook.port}{PATH}",
                    "caBundle": hook["clientConfig"]["caBundle"],
                }
                hook["namespaceSelector"] = {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [w.root, w.space]}
                    ]
                }
                await w.client.create(CONFIGURATION, "", configuration)
                try:
                    await eventually(lambda: probe(own, w.root), "reached")
                    with pytest.raises(KubeError, match="missing: DENY without rules would do nothing"):
                        await w.create("AuthorizationPolicy", "p", {"spec": {"action": "DENY"}})
                    await w.create("AuthorizationPolicy", "p", {"spec": {"action": "DENY", "rules": [{}]}})
                finally:
                    await w.client.delete(CONFIGURATION, "", w.root)

    async def bounded() -> None:
        async with asyncio.timeout(100):
            await scenario()

    asyncio.run(bounded())
