"""Where istiod reads the cluster from, and how it is changed there: an API server, or a directory of YAML."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import yaml

from ambient.demo.processes import Processes
from bench import config
from bench.errors import BenchError
from bench.istiod.fleet import DOMAIN, ROOT_NAMESPACE, Fleet, Member, Obj
from bench.istiod.programs import as_argument, program
from istiod.kube import credentials
from istiod.kube.client import KubeClient
from istiod.kube.errors import AlreadyExists
from istiod.resources import BY_KIND_AND_GROUP, BY_STORE_KIND, Resource
from meshcore.errors import Unavailable
from meshcore.manifests import write_atomic

if TYPE_CHECKING:
    from tests.support.kubernetes import Kubernetes

SourceName = Literal["fake", "kubernetes", "directory"]
SOURCES: Final[tuple[SourceName, ...]] = ("fake", "kubernetes", "directory")

_API_PORT: Final = 6443
_QPS: Final = 100_000.0  # the bench is not throttled
_PARALLEL: Final = 16  # requests under way while a real API server is filled
_POLL_S: Final = 0.05
_LOAD_S: Final = 600.0  # seconds for that
_CRDS: Final = config.ROOT / "deploy" / "crds"
_POD: Final = BY_STORE_KIND["Pod"]
_SLICE: Final = BY_STORE_KIND["EndpointSlice"]


class Cluster(Protocol):
    """A cluster with the objects of `fleet`. Changes return when they are in force, and are told to nobody else."""

    fleet: Fleet

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    @property
    def options(self) -> list[str]:
        """What tells istiod where it is."""

    async def create(self, service: int, member: Member) -> None:
        """A pod that runs; its slice does not know it yet."""

    async def set_status(self, service: int, member: Member) -> None:
        """What the kubelet does when a pod fails, or recovers."""

    async def set_slice(self, service: int) -> None:
        """What the controller of EndpointSlices does after it."""

    async def delete(self, service: int, member: Member) -> None: ...


def make(source: SourceName, fleet: Fleet, directory: Path, processes: Processes) -> Cluster:
    """One of these; nothing is started. `directory` is for its files."""
    if source == "directory":
        return Directory(fleet, directory / "cluster")
    return (FakeServer if source == "fake" else RealServer)(fleet, directory, processes)


class _ApiServer:
    """The writing half of what both API servers have in common."""

    def __init__(self, fleet: Fleet, directory: Path, processes: Processes) -> None:
        self.fleet = fleet
        self._kubeconfig = directory / "kubeconfig"
        self._processes = processes
        self._client: KubeClient | None = None

    @property
    def options(self) -> list[str]:
        return [f"--kubeconfig={self._kubeconfig}"]

    @property
    def client(self) -> KubeClient:
        assert self._client is not None, "started"
        return self._client

    def _open(self, url: str, token: str = "", ca_file: str = "") -> None:
        user = {"token": token} if token else {}
        cluster = {"server": url} | ({"certificate-authority": ca_file} if ca_file else {})
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": "bench", "user": user}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "current-context": "bench",
        }
        write_atomic(self._kubeconfig, yaml.safe_dump(document).encode(), 0o600)
        self._client = KubeClient(credentials.load(str(self._kubeconfig)), qps=_QPS, burst=int(_QPS))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def create(self, service: int, member: Member) -> None:
        pod = self.fleet.pod(service, member)
        await self.client.create(_POD, pod["metadata"]["namespace"], pod)
        await self.set_status(service, member)

    async def set_status(self, service: int, member: Member) -> None:
        patch = {"status": self.fleet.pod_status(member)}
        namespace = self.fleet.namespace_of(service)
        await self.client.merge_patch(_POD, namespace, member.name, patch, subresource="status")

    async def set_slice(self, service: int) -> None:
        obj = self.fleet.slice_of(service)
        await self.client.replace(_SLICE, obj["metadata"]["namespace"], obj["metadata"]["name"], obj)

    async def delete(self, service: int, member: Member) -> None:
        await self.client.delete(_POD, self.fleet.namespace_of(service), member.name)


class FakeServer(_ApiServer):
    """The small API server of our tests, which keeps its objects in memory."""

    async def start(self) -> None:
        command = program("apiserver", str(_API_PORT), as_argument(self.fleet.sizes))
        server = self._processes.start("apiserver", command)
        self._open(f"http://127.0.0.1:{_API_PORT}")
        deadline = asyncio.get_running_loop().time() + config.START_TIMEOUT
        while True:
            server.require_alive()
            try:
                await self.client.get(BY_STORE_KIND["Namespace"], "", ROOT_NAMESPACE)
                return
            except Unavailable as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise BenchError(f"the API server does not answer: {error}") from error
            await asyncio.sleep(_POLL_S)


class RealServer(_ApiServer):
    """A kube-apiserver with etcd, as `make kube` builds them."""

    def __init__(self, fleet: Fleet, directory: Path, processes: Processes) -> None:
        super().__init__(fleet, directory, processes)
        self._stack = contextlib.ExitStack()
        self._server: Kubernetes | None = None

    async def start(self) -> None:
        try:
            from tests.support import kubernetes
        except ModuleNotFoundError as error:
            raise BenchError(f"--source kubernetes needs {error.name}: pip install 'ambient-mesh[dev]'") from error
        if kubernetes.binaries() is None:
            raise BenchError("--source kubernetes needs a kube-apiserver: `make kube` builds it")
        server = self._server = self._stack.enter_context(kubernetes.kubernetes())
        self.fleet.others.add(f"default/kubernetes.default.svc.{DOMAIN}")  # the server makes it of itself
        self._open(server.url, server.token, str(server.ca_file))
        for obj in _definitions():
            await self._make(obj)
        await self._established()
        queue: asyncio.Queue[Obj] = asyncio.Queue()
        for obj in self.fleet.objects():
            if obj["metadata"].get("namespace") is None:
                await self._make(obj)
            else:
                queue.put_nowait(obj)
        async with asyncio.timeout(_LOAD_S), asyncio.TaskGroup() as tasks:
            for _ in range(_PARALLEL):
                tasks.create_task(self._fill(queue))

    async def close(self) -> None:
        await super().close()
        self._stack.close()

    async def delete(self, service: int, member: Member) -> None:
        """At once: there is no kubelet that would end the pod and say so."""
        path = _POD.path(self.fleet.namespace_of(service), member.name)
        assert self._server is not None, "started"
        await asyncio.to_thread(self._server.request, "DELETE", path, {"gracePeriodSeconds": 0})

    async def _fill(self, queue: asyncio.Queue[Obj]) -> None:
        while not queue.empty():
            await self._make(queue.get_nowait())

    async def _make(self, obj: Obj) -> None:
        """Create an object and, where that is a request of its own, its status."""
        resource, namespace = _resource(obj), obj["metadata"].get("namespace", "")
        with contextlib.suppress(AlreadyExists):
            await self.client.create(resource, namespace, obj)
        if "status" in obj and obj["kind"] != "Node":
            name, patch = obj["metadata"]["name"], {"status": obj["status"]}
            await self.client.merge_patch(resource, namespace, name, patch, subresource="status")

    async def _established(self) -> None:
        """A new kind is served a moment after its definition was created."""
        for key in (("Gateway", "gateway.networking.k8s.io"), ("AuthorizationPolicy", "security.istio.io")):
            async with asyncio.timeout(config.START_TIMEOUT):
                while await self.client.served_version(BY_KIND_AND_GROUP[key]) is None:  # noqa: ASYNC110 - it is elsewhere
                    await asyncio.sleep(_POLL_S)


class _Plain(yaml.CSafeDumper):
    """YAML as people write it: what stands twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Directory:
    """A file for each service, with its pods and its slice."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self._directory = directory

    @property
    def options(self) -> list[str]:
        return [f"--config-dir={self._directory}", f"--state-dir={self._directory.parent / 'state'}"]

    async def start(self) -> None:
        (self._directory.parent / "state").mkdir(parents=True)
        self._directory.mkdir()
        shared = [obj for obj in self.fleet.objects() if obj["kind"] not in {"Pod", "EndpointSlice"}]
        self._write("shared", shared)
        for service in range(self.fleet.sizes.services):
            await self.set_slice(service)

    async def close(self) -> None:
        pass

    async def create(self, service: int, member: Member) -> None:
        """With the slice, which stands in the same file."""

    async def set_status(self, service: int, member: Member) -> None:
        """With the slice."""

    async def set_slice(self, service: int) -> None:
        pods = [self.fleet.pod(service, member) for member in self.fleet.members[service]]
        self._write(self.fleet.service_name(service), [self.fleet.slice_of(service), *pods])

    async def delete(self, service: int, member: Member) -> None:
        """With the slice."""

    def _write(self, name: str, objects: list[Obj]) -> None:
        text = yaml.dump_all(objects, Dumper=_Plain, sort_keys=False)
        write_atomic(self._directory / f"{name}.yaml", text.encode())


def _resource(obj: Mapping[str, Any]) -> Resource:
    group = obj["apiVersion"].rpartition("/")[0]
    return _CRD if obj["kind"] == _CRD.kind else BY_KIND_AND_GROUP[obj["kind"], group]


def _definitions() -> Iterator[Obj]:
    for path in sorted(_CRDS.rglob("*.yaml")):
        with path.open() as file:
            yield from (obj for obj in yaml.load_all(file, yaml.CSafeLoader) if obj and obj["kind"] == _CRD.kind)


_CRD: Final = Resource(
    "CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", ("v1",), namespaced=False
)
