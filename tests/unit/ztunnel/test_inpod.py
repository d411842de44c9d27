"""The client of the node agent: every message, every order, every way to break off. Namespaces are played."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from meshcore import zds
from meshcore.netns import ListenError
from meshcore.zds import AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo
from tests.support.processes import open_fds
from ztunnel import inpod
from ztunnel.inpod import Listeners, Listening, Pod, Pods, ZdsClient, ZdsViolation

INFO = WorkloadInfo("pod", "ns", "sa")
DEADLINE = 20.0


class NoListening(Listening):
    """Opens nothing; `busy` makes it fail as a port does that is still held."""

    def __init__(self) -> None:
        super().__init__(workers=1, mark=0, transparent=False, ipv6=False)
        self.busy = False

    def open(self, netns_fd: int) -> Listeners:
        if self.busy:
            raise ListenError("port 15008: bind: Address already in use")
        return Listeners([()], spoof=True)


class Agent:
    """The node agent's side, and a client connected to it."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "zds.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.listening = NoListening()
        self.log: list[str] = []
        self.pods = Pods(self.listening, self._started, self._stopped)
        self.ready: list[bool] = []
        self.sock: socket.socket | None = None
        self.client = ZdsClient(self.path, self.pods, self.ready.append)
        self.task = asyncio.create_task(self.client.run())

    def _started(self, pod: Pod) -> None:
        self.log.append(f"+{pod.uid}#{pod.pod_id}")

    def _stopped(self, pod: Pod) -> None:
        self.log.append(f"-{pod.uid}#{pod.pod_id}")

    async def accept(self) -> None:
        """Take the next connection and its hello."""
        loop = asyncio.get_running_loop()
        if self.sock is not None:
            self.sock.close()
        async with asyncio.timeout(DEADLINE):
            self.sock, _ = await loop.sock_accept(self.listener)
            self.sock.setblocking(False)
            assert zds.decode_hello(await loop.sock_recv(self.sock, 1024)) == zds.HELLO_V1

    async def send(self, data: bytes, fds: tuple[int, ...] = ()) -> str | None:
        """-> the ack's error text; None when the client closed instead."""
        assert self.sock is not None
        zds.send_packet(self.sock, data, fds)
        async with asyncio.timeout(DEADLINE):
            answer = await asyncio.get_running_loop().sock_recv(self.sock, 1024)
        return zds.decode_ack(answer) if answer else None

    async def add(self, uid: str, file: str) -> str | None:
        fd = os.open(file, os.O_RDONLY)
        try:
            return await self.send(zds.encode_request(AddWorkload(uid, INFO)), (fd,))
        finally:
            os.close(fd)

    async def say(self, request: zds.Request) -> str | None:
        return await self.send(zds.encode_request(request))

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, ZdsViolation):
            await self.task
        for uid in list(self.pods.running):
            self.pods.stop(uid)
        if self.sock is not None:
            self.sock.close()
        self.listener.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - several sources can make it true
            await asyncio.sleep(0.001)


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Callable[[Agent], Awaitable[None]]], None]:
    (tmp_path / "n1").touch()
    (tmp_path / "n2").touch()

    def run(test: Callable[[Agent], Awaitable[None]]) -> None:
        async def main() -> None:
            os.chdir(tmp_path)
            before = len(open_fds())
            agent = Agent(tmp_path)
            try:
                await agent.accept()
                await test(agent)
            finally:
                await agent.close()
            await until(lambda: len(open_fds()) <= before)

        home = Path.cwd()
        try:
            uvloop.run(main())
        finally:
            os.chdir(home)

    return run


Check = Callable[[Callable[[Agent], Awaitable[None]]], None]


def test_a_snapshot_and_live_changes(check: Check) -> None:
    async def test(agent: Agent) -> None:
        assert await agent.add("u1", "n1") == ""
        assert agent.ready == []
        assert await agent.say(SnapshotSent()) == ""
        assert agent.ready == [True]
        assert await agent.add("u2", "n2") == ""
        assert await agent.say(DelWorkload("u1")) == ""
        assert await agent.say(DelWorkload("unknown")) == ""
        assert agent.log == ["+u1#1", "+u2#2", "-u1#1"]
        assert (agent.pods.started, agent.pods.stopped) == (2, 1)

    check(test)


def test_the_same_namespace_again_changes_nothing_and_another_replaces(check: Check) -> None:
    async def test(agent: Agent) -> None:
        await agent.add("u1", "n1")
        assert await agent.add("u1", "n1") == ""
        assert agent.log == ["+u1#1"]
        assert await agent.add("u1", "n2") == ""
        assert agent.log == ["+u1#1", "-u1#1", "+u1#2"]

    check(test)


def test_a_reconnect_stops_what_is_not_named_again(check: Check) -> None:
    async def test(agent: Agent) -> None:
        for uid in ("u1", "u2", "u3"):
            await agent.add(uid, "n1")
        await agent.say(SnapshotSent())
        await agent.accept()
        await until(lambda: agent.ready == [True, False])
        assert len(agent.pods.running) == 3  # without the agent everything goes on
        await agent.add("u1", "n1")
        await agent.say(KeepWorkload("u2"))
        await agent.say(SnapshotSent())
        assert set(agent.pods.running) == {"u1", "u2"}
        assert agent.ready == [True, False, True]

    check(test)


def test_a_pod_deleted_before_the_snapshot_is_stopped_by_it(check: Check) -> None:
    async def test(agent: Agent) -> None:
        await agent.add("u1", "n1")
        await agent.say(DelWorkload("u1"))
        assert set(agent.pods.running) == {"u1"}
        await agent.say(SnapshotSent())
        assert not agent.pods.running

    check(test)


def test_a_pod_that_cannot_start_is_refused_and_tried_again(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inpod, "RETRY_PENDING_S", 0.02)

    async def test(agent: Agent) -> None:
        agent.listening.busy = True
        assert await agent.add("u1", "n1") == "port 15008: bind: Address already in use"
        assert await agent.add("u2", "n1") != ""
        assert await agent.say(SnapshotSent()) == ""
        assert agent.ready == []  # something is pending
        await agent.say(DelWorkload("u2"))
        agent.listening.busy = False
        await until(lambda: agent.ready == [True])
        assert set(agent.pods.running) == {"u1"}
        assert not agent.pods.pending

    check(test)


def test_pending_pods_are_forgotten_with_the_connection(check: Check) -> None:
    async def test(agent: Agent) -> None:
        agent.listening.busy = True
        await agent.add("u1", "n1")
        await agent.accept()
        await until(lambda: not agent.pods.pending)

    check(test)


@pytest.mark.parametrize(
    ("data", "files"),
    [
        (b"\xff\xff\xff", 0),
        (zds.encode_request(AddWorkload("u", INFO)), 0),
        (zds.encode_request(AddWorkload("u", INFO)), 2),
        (zds.encode_request(DelWorkload("u")), 1),
        (b"\x0a" + b"\x80" * 20, 1),
        (b"\x00" * 2000, 0),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_connection_made_anew(check: Check, data: bytes, files: int) -> None:
    async def test(agent: Agent) -> None:
        fd = os.open("n1", os.O_RDONLY)
        answer = await agent.send(data, (fd,) * files)
        os.close(fd)
        assert answer
        await agent.accept()
        assert await agent.add("u1", "n1") == ""

    check(test)


@pytest.mark.parametrize("request_", [SnapshotSent(), KeepWorkload("u")])
def test_a_broken_protocol_ends_the_client(check: Check, request_: Any) -> None:
    async def test(agent: Agent) -> None:
        await agent.say(SnapshotSent())
        assert await agent.say(request_)
        with pytest.raises(ZdsViolation):
            await asyncio.wait_for(agent.task, DEADLINE)

    check(test)


def test_the_client_waits_for_an_agent_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "later.sock")
        pods = Pods(NoListening(), lambda pod: None, lambda pod: None)
        task = asyncio.create_task(ZdsClient(path, pods, lambda ready: None).run())
        await asyncio.sleep(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)
            async with asyncio.timeout(DEADLINE):
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            sock.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    uvloop.run(main())
