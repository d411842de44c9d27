"""The whole control process in one loop: real zygote, played workers, agent and CA."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from meshcore import zds
from meshcore.model import ADDRESS_TYPE, Address, Workload
from meshcore.records import Rec, decode_cert_error, encode_sans
from meshcore.stream import Resource
from meshcore.zds import AddWorkload, DelWorkload, SnapshotSent, WorkloadInfo
from tests.support.issuer import Issuer
from tests.support.ports import free_ports
from ztunnel import app as app_module
from ztunnel import config, log
from ztunnel.app import App
from ztunnel.certs import wall_clock
from ztunnel.config import Settings
from ztunnel.inpod import Listeners, Listening
from ztunnel.workerlink import WorkerLink

FAKE = "tests.support.fake_worker"
DEADLINE = 20.0


class Signer:
    """Plays istiod's CA."""

    async def sign(self, csr_pem: str, identity: str = "", ttl_seconds: int = 0, *, timeout: float = 10) -> list[str]:
        return Issuer.shared().sign(csr_pem, identity or "spiffe://own", not_before=wall_clock() - 60, ttl=3600)

    def refresh(self) -> None:
        return

    async def close(self) -> None:
        return


class AnyListening(Listening):
    """Listeners on loopback instead of in a namespace."""

    def open(self, netns_fd: int) -> Listeners:
        def listener() -> socket.socket:
            return socket.create_server(("127.0.0.1", 0))

        return Listeners([(listener(), listener(), listener()) for _ in range(2)], spoof=True)


class Spy(App):
    """Remembers what workers said."""

    def __init__(self, settings: Settings, levels: log.Filter) -> None:
        super().__init__(settings, levels, FAKE)
        self.heard: list[tuple[int, Rec, bytes]] = []

    def _record(self, link: WorkerLink, kind: Rec, record: bytes) -> None:
        self.heard.append((link.index, kind, record))
        super()._record(link, kind, record)

    def command(self, index: int, text: str) -> None:
        self.supervisor.links[index].send(encode_sans(9999, (text,)))

    async def told(self, index: int) -> list[str]:
        """What a worker was sent so far."""
        before = len(self.heard)
        self.command(index, "tell")
        for _ in range(2000):
            for found, kind, record in self.heard[before:]:
                if found == index and kind is Rec.CERT_ERROR:
                    return decode_cert_error(record)[1].split()
            await asyncio.sleep(0.005)
        raise AssertionError("the worker does not answer")


class Mesh:
    """An app that runs, and the agent it is connected to."""

    def __init__(self, app: Spy, result: asyncio.Task[int], agent: socket.socket, netns: Path) -> None:
        self.app = app
        self.result = result
        self.agent = agent
        self.settings = app.settings
        self.netns = netns

    async def say(self, request: zds.Request) -> str:
        fds = [os.open(self.netns, os.O_RDONLY)] if isinstance(request, AddWorkload) else []
        zds.send_packet(self.agent, zds.encode_request(request), fds)
        zds.close_all(fds)
        async with asyncio.timeout(DEADLINE):
            return zds.decode_ack(await asyncio.get_running_loop().sock_recv(self.agent, 1024))

    async def get(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{method} {path} HTTP/1.1\r\nconnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            return int(head.split(b" ")[1]), body.decode()

    async def add_pod(self) -> None:
        assert await self.say(AddWorkload("u1", WorkloadInfo("p1", "a", "c"))) == ""
        await until(lambda: sum(kind is Rec.POD_READY for _, kind, _ in self.app.heard) == 2, "both POD_READY")

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.result


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - several sources can make it true
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE} s: {what}") from None


@asynccontextmanager
async def running(directory: Path, **environment: str) -> AsyncIterator[Mesh]:
    path = directory / "zds.sock"
    (directory / "netns").touch()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    admin, stats, ready = free_ports(3)
    settings = config.load(
        {
            "INPOD_UDS": str(path),
            "XDS_ADDRESS": "",
            "ZTUNNEL_WORKER_THREADS": "2",
            "AMBIENT_ADMIN_PORT": str(admin),
            "AMBIENT_STATS_PORT": str(stats),
            "AMBIENT_READINESS_PORT": str(ready),
            "IPV6_ENABLED": "false",
            "CONNECTION_TERMINATION_DEADLINE": "2s",
            **environment,
        }
    )
    app = Spy(settings, log.Filter("info"))
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(app.run())
    async with asyncio.timeout(DEADLINE):
        agent, _ = await loop.sock_accept(listener)
        agent.setblocking(False)
        await loop.sock_recv(agent, 1024)
    try:
        await until(lambda: len(app.supervisor.ready_links) == 2, "the workers")
        yield Mesh(app, task, agent, directory / "netns")
    finally:
        app.supervisor.kill()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        agent.close()
        listener.close()


Check = Callable[..., None]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(app_module, "signing_client", lambda settings, own: Signer())
    monkeypatch.setattr(app_module, "Listening", AnyListening)

    def run(test: Callable[[Mesh], Awaitable[None]], **environment: str) -> None:
        async def main() -> None:
            async with running(tmp_path, **environment) as mesh:
                await test(mesh)

        uvloop.run(main())

    return run


def workload(uid: str, name: str, ip: str) -> Resource:
    body = msgspec.msgpack.encode(
        Address(
            workload=Workload(
                uid=uid,
                name=name,
                namespace="a",
                addresses=(socket.inet_aton(ip),),
                trust_domain="cluster.local",
                service_account="c",
                node="n",
                cluster_id="Kubernetes",
            )
        )
    )
    return Resource(uid, "1", body)


def test_readiness_follows_agent_and_workers(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        port = mesh.settings.readiness_port
        assert await mesh.get(port, "/healthz/ready") == (500, "not ready, pending: workload proxy manager\n")
        await mesh.say(SnapshotSent())
        assert await mesh.get(port, "/healthz/ready") == (200, "ready\n")
        assert (await mesh.get(port, "/healthz/ready", "POST"))[0] == 405
        assert (await mesh.get(port, "/"))[0] == 404
        mesh.agent.close()
        await until(lambda: mesh.app.readiness.pending, "the end of readiness")

    check(test)


def test_a_new_worker_is_told_everything_again(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        await until(mesh.app.certs.issued, "the certificate")
        told = await mesh.app.told(0)
        assert told[0] == "CONFIG"
        assert told.count("POD_ADD") == 1
        assert told.index("BUNDLE") < told.index("CERT")
        os.kill(mesh.app.supervisor.links[0].pid, signal.SIGKILL)
        await until(lambda: mesh.app.supervisor.restarts == 1 and len(mesh.app.supervisor.ready_links) == 2, "respawn")
        assert (await mesh.app.told(0))[:4] == ["CONFIG", "BUNDLE", "CERT", "POD_ADD"]
        listener = mesh.app.pods.running["u1"].listeners.per_worker[0][0]
        socket.create_connection(listener.getsockname(), DEADLINE).close()  # never closed meanwhile

    check(test)


def test_an_upcall_is_answered_once_the_pods_record_is_there(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        mesh.app.command(0, "upcall 5 1 10.0.0.1 10.0.0.2 80")
        await until(lambda: any(kind is Rec.UPCALL for _, kind, _ in mesh.app.heard), "the upcall")
        assert not [each for each in await mesh.app.told(0) if each.startswith("VERDICT")]
        mesh.app.decisions.update(ADDRESS_TYPE, [workload("w1", "p1", "10.0.0.1")], [])
        told = await mesh.app.told(0)
        assert "VERDICT:5:PASSTHROUGH" in told
        assert told.index("LABEL") < told.index("VERDICT:5:PASSTHROUGH")
        mesh.app.command(1, "upcall 6 1 10.0.0.1 10.0.0.2 80")
        await until(lambda: sum(kind is Rec.UPCALL for _, kind, _ in mesh.app.heard) == 2, "the other upcall")
        assert "VERDICT:6:PASSTHROUGH" in await mesh.app.told(1)
        assert len(mesh.app.decisions.cache) == 1  # one verdict for both

    check(test)


def test_an_upcall_without_the_pods_record_is_denied_in_time(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        mesh.app.command(0, "upcall 5 1 10.0.0.1 10.0.0.2 80")
        async with asyncio.timeout(DEADLINE):
            while "VERDICT:5:DENY" not in await mesh.app.told(0):  # noqa: ASYNC110 - each look asks the worker
                await asyncio.sleep(0.01)
        assert len(mesh.app.decisions.cache) == 0

    check(test, AMBIENT_UPCALL_TIMEOUT="200ms")


def test_upcalls_that_wait_leave_with_their_pod_and_their_worker(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        waiting = mesh.app.decisions._watched.waiting
        mesh.app.command(0, "upcall 5 1 10.0.0.1 10.0.0.2 80")
        mesh.app.command(1, "upcall 5 1 10.0.0.1 10.0.0.2 80")
        await until(lambda: [len(each) for each in waiting.values()] == [2] * len(waiting) and waiting, "both")
        mesh.app.command(1, "exit 1")
        await until(lambda: {len(each) for each in waiting.values()} == {1}, "only the other one")
        await mesh.say(SnapshotSent())
        await mesh.say(DelWorkload("u1"))
        assert not waiting
        assert "POD_DEL" in await mesh.app.told(0)
        assert "CERT_DEL" in await mesh.app.told(0)

    check(test)


def test_the_admin_port(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        await until(mesh.app.certs.issued, "the certificate")
        port = mesh.settings.admin_port
        dump: dict[str, Any] = json.loads((await mesh.get(port, "/config_dump"))[1])
        assert set(dump) >= {"workloads", "services", "policies", "stagedServices", "certificates", "workloadState"}
        assert dump["certificates"][0]["identity"] == "spiffe://cluster.local/ns/a/sa/c"
        state = dump["workloadState"]["u1"]
        assert state["info"] == {"name": "p1", "namespace": "a", "serviceAccount": "c"}
        assert [each["src"] for each in state["connections"]["outbound"]] == ["10.0.0.1:4000", "10.0.0.2:4000"]
        assert (await mesh.get(port, "/logging"))[0] == 405
        assert await mesh.get(port, "/logging", "POST") == (200, "current log level is info\n")
        answer = await mesh.get(port, "/logging?level=access=off,certs=debug", "POST")
        assert answer == (200, "current log level is info,access=off,certs=debug\n")
        assert (await mesh.app.told(0)).count("CONFIG") == 2  # workers stop logging
        assert (await mesh.get(port, "/logging?level=loud", "POST"))[0] == 400
        assert await mesh.get(port, "/logging?level=info&reset", "POST") == (200, "current log level is info\n")
        assert "/config_dump" in (await mesh.get(port, "/"))[1]

    check(test)


def test_metrics_are_served(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        for path in ("/metrics", "/stats/prometheus"):
            status, text = await mesh.get(mesh.settings.stats_port, path)
            assert status == 200
            assert "workload_manager_active_proxy_count 1" in text
            assert 'istio_build{component="ztunnel",tag="unknown"} 1' in text

    check(test)


@pytest.mark.parametrize("way", ["signal", "admin"])
def test_drain_closes_listeners_and_ends_with_0(check: Check, way: str) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.add_pod()
        address = mesh.app.pods.running["u1"].listeners.per_worker[0][0].getsockname()
        pids = [link.pid for link in mesh.app.supervisor.ready_links]
        if way == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            assert await mesh.get(mesh.settings.admin_port, "/quitquitquit", "POST") == (200, "shutdown now\n")
        assert await mesh.ended() == 0
        assert sum(kind is Rec.DRAINED for _, kind, _ in mesh.app.heard) == 2
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, DEADLINE)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the workers")

    check(test)


def test_a_worker_that_does_not_finish_is_ended_after_the_deadline(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        mesh.app.command(0, "hang")
        await mesh.app.told(1)
        began = asyncio.get_running_loop().time()
        mesh.app.shutdown()
        assert await mesh.ended() == 0
        assert 0.3 + 1 <= asyncio.get_running_loop().time() - began < 10

    check(test, CONNECTION_TERMINATION_DEADLINE="300ms")


def test_a_second_interrupt_ends_at_once(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        mesh.app.command(0, "hang")
        await mesh.app.told(1)
        os.kill(os.getpid(), signal.SIGINT)
        await until(mesh.app._stopping.is_set, "the first interrupt")
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            assert await mesh.result == 0

    check(test, CONNECTION_TERMINATION_DEADLINE="60s")


def test_an_agent_that_breaks_the_protocol_ends_us_with_1(check: Check) -> None:
    async def test(mesh: Mesh) -> None:
        await mesh.say(SnapshotSent())
        assert await mesh.say(SnapshotSent()) != ""
        assert await mesh.ended() == 1

    check(test)
