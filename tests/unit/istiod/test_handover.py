"""An istiod that is stopped hands its proxies to another one, and no proxy misses a change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from istiod import config
from meshcore.errors import ConfigError, Unavailable
from meshcore.model import ADDRESS_TYPE
from meshcore.stream import DeltaClient, Node
from tests.unit.istiod.http_support import fetch, run
from tests.unit.istiod.support import TYPES, ZTUNNEL, Mesh, Subscriber, new_csr, pod

DEADLINE_S = 10.0


class Relay:
    """A TCP port that leads to whatever `target` names when a connection comes, as a Service does."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self.target = target
        self.address = ("127.0.0.1", 0)
        self.accepted: list[tuple[float, int]] = []
        """When each connection came, and the port it was led to."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._serve, *self.address)
        self.address = server.sockets[0].getsockname()[:2]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target()
        self.accepted.append((asyncio.get_running_loop().time(), target[1]))
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Replica:
    """One of several istiods over the same directories, stopped as a signal would."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.mesh = Mesh(root, write_status=False, **settings)
        self.istiod = self.mesh.istiod
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.istiod.http.start("127.0.0.1", 0)
        await self.istiod.start()
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self.istiod.run(self.stop)
        finally:
            await self.istiod.close()

    async def ready(self) -> bool:
        return (await fetch(self.istiod.http.port, "/ready"))[0] == 200

    @property
    def gone(self) -> bool:
        return self.task is not None and self.task.done()

    async def end(self) -> None:
        self.stop.set()
        if self.task is not None:
            await asyncio.wait_for(self.task, DEADLINE_S)


def subscriber(mesh: Mesh, address: tuple[str, int], name: str) -> Subscriber:
    """A Subscriber that dials `address`."""
    made = mesh.subscriber()
    made.client = DeltaClient(
        address=address,
        tls=mesh.tls(ZTUNNEL, "n1"),
        server_name="localhost",
        node=Node(f"ztunnel~1.1.1.1~{name}.istio-system~x"),
        types=TYPES,
        on_update=made._update,
    )
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)


def test_proxies_move_to_another_istiod_and_miss_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "config").mkdir()
        file = tmp_path / "config" / "web.yaml"
        file.write_text("---\n".join(pod(f"web-{n}", f"10.0.0.{n}") for n in range(1, 9)))
        old = Replica(tmp_path, drain=0.5, handover=0.3)
        new = Replica(tmp_path)
        await old.start()
        await new.start()
        relay = Relay(lambda: new.mesh.address if old.istiod.waiting_for else old.mesh.address)
        async with relay.running(), contextlib.AsyncExitStack() as stack:
            proxies = [subscriber(old.mesh, relay.address, f"z{number}") for number in range(3)]
            for proxy in proxies:
                await stack.enter_async_context(proxy)
                await proxy.client.ready(ADDRESS_TYPE, DEADLINE_S)
                assert len(proxy.held) == 8
            assert await old.ready()

            old.stop.set()
            await until(lambda: old.istiod.waiting_for == "shutting down")
            assert not await old.ready()
            assert len(old.istiod.proxies) == 3
            file.write_text("---\n".join(pod(f"web-{n}", f"10.0.1.{n}") for n in range(2, 9)))
            for proxy in proxies:  # told by the istiod that goes
                await proxy.until(lambda proxy=proxy: len(proxy.held) == 7)  # type: ignore[misc]
            await until(lambda: new.istiod.published.resources == old.istiod.published.resources)
            received = [len(proxy.received) for proxy in proxies]
            await until(lambda: old.gone)
            assert old.task is not None
            assert old.task.exception() is None
            await until(lambda: len(new.istiod.proxies) == 3)
            for proxy in proxies:
                await proxy.until(lambda proxy=proxy: proxy.client.stats.connections == 2)  # type: ignore[misc]
                assert proxy.client.stats.terminations == {"Complete": 1}
            assert [len(proxy.received) for proxy in proxies] == received  # the same content is not sent again

            file.write_text("---\n".join(pod(f"web-{n}", f"10.0.2.{n}") for n in range(3, 9)))
            await until(lambda: len(new.istiod.published.resources[ADDRESS_TYPE]) == 6)
            for proxy in proxies:
                published = new.istiod.published.resources[ADDRESS_TYPE]
                await proxy.until(lambda proxy=proxy, published=published: proxy.held == published)  # type: ignore[misc]
            came = [at for at, port in relay.accepted if port == new.mesh.address[1]]
            assert len(came) == 3
            assert max(came) - min(came) >= 0.1  # one after the other, not all at once
        await new.end()

    run(scenario())


def test_a_change_that_only_the_new_istiod_saw_arrives(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "config").mkdir()
        file = tmp_path / "config" / "web.yaml"
        file.write_text(pod("web"))
        old = Replica(tmp_path, debounce_after=30.0, debounce_max=60.0)  # too slow to see it
        new = Replica(tmp_path)
        await old.start()
        await new.start()
        relay = Relay(lambda: new.mesh.address if old.istiod.waiting_for else old.mesh.address)
        async with relay.running(), subscriber(old.mesh, relay.address, "z") as proxy:
            await proxy.client.ready(ADDRESS_TYPE, DEADLINE_S)
            file.write_text(pod("api", "10.0.0.2"))
            await until(lambda: "Kubernetes//Pod/default/api" in new.istiod.published.resources[ADDRESS_TYPE])
            assert set(proxy.held) == {"Kubernetes//Pod/default/web"}
            await old.end()
            await proxy.until(lambda: set(proxy.held) == {"Kubernetes//Pod/default/api"})
        await new.end()

    run(scenario())


@pytest.mark.parametrize("connected", [False, True])
def test_it_does_not_wait_without_a_reason(tmp_path: Path, connected: bool) -> None:
    async def scenario() -> None:
        replica = Replica(tmp_path, drain=60.0, handover=60.0)
        await replica.start()
        async with contextlib.AsyncExitStack() as stack:
            if connected:
                proxy = await stack.enter_async_context(replica.mesh.subscriber())
                await proxy.client.ready(ADDRESS_TYPE, DEADLINE_S)
                replica.stop.set()
                await until(lambda: replica.istiod.waiting_for == "shutting down")
                replica.istiod.hurry()  # a second signal
            await replica.end()

    run(scenario())


def test_it_serves_for_as_long_as_it_was_told_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        replica = Replica(tmp_path, drain=0.3, handover=0.0)
        await replica.start()
        async with replica.mesh.subscriber() as proxy:
            await proxy.client.ready(ADDRESS_TYPE, DEADLINE_S)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            replica.stop.set()
            await proxy.until(lambda: not proxy.client.stats.connected)
            assert loop.time() - begun >= 0.3
            await replica.end()

    run(scenario())


def test_connections_without_work_are_closed_and_new_work_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        replica = Replica(tmp_path)
        await replica.start()
        service = replica.istiod.service
        signer = replica.mesh.signer(replica.mesh.tls(ZTUNNEL, "n1"))
        await signer.sign(new_csr()[0])
        async with replica.mesh.subscriber() as proxy:
            await proxy.client.ready(ADDRESS_TYPE, DEADLINE_S)
            assert len(service.server.connections) == 2
            await service.hand_over(0.1)
            await proxy.until(lambda: proxy.client.stats.terminations.get("Complete") == 1)
            with pytest.raises(Unavailable, match="shutting down"):
                await signer.sign(new_csr()[0])
            await proxy.until(lambda: "shutting down" in proxy.client.stats.last_error)
        await signer.close()
        await replica.end()

    run(scenario())


def test_the_waits_are_settings() -> None:
    needed = {"config_dir": "c", "state_dir": "s"}
    given = config.load(needed, {"ISTIOD_DRAIN_DURATION": "1m", "ISTIOD_HANDOVER_DURATION": "250ms"})
    assert (given.drain, given.handover) == (60.0, 0.25)
    assert config.load(needed, {}).drain is None
    with pytest.raises(ConfigError, match="ISTIOD_DRAIN_DURATION"):
        config.load(needed, {"ISTIOD_DRAIN_DURATION": "soon"})
