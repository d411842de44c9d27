"""The ZDS server against ztunnels that behave and ztunnels that do not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cni import zds_server
from cni.zds_server import SnapshotItem, ZdsServer, ZtunnelRefused
from meshcore import zds
from meshcore.errors import ConfigError, DeadlineExceeded, ProtocolError, Unavailable
from tests.support.processes import open_fds

ADD = zds.AddWorkload("u-1", zds.WorkloadInfo("web", "shop", "sa"))
TIMEOUT = 10.0

Result = TypeVar("Result")


class Peer:
    """A ztunnel on the loop of the test."""

    def __init__(self, path: Path, hello: bytes | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.sock.connect(str(path))
        self.send(zds.encode_hello() if hello is None else hello)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        zds.send_packet(self.sock, data, fds)

    async def next(self) -> bytes:
        """The next packet, empty when the server hung up; descriptors are closed."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.sock.fileno(), ready.set)
        try:
            async with asyncio.timeout(TIMEOUT):
                await ready.wait()
        finally:
            loop.remove_reader(self.sock.fileno())
        try:
            data, fds = zds.recv_packet(self.sock)
        except Unavailable:
            return b""
        zds.close_all(fds)
        return data

    async def request(self, error: str = "") -> zds.Request:
        """The next request, answered."""
        request = zds.decode_request(await self.next())
        self.send(zds.encode_ack(error))
        return request


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.close(fd)


def serve(
    path: Path,
    test: Callable[[ZdsServer], Awaitable[None]],
    *,
    items: Callable[[], list[SnapshotItem]] = list,
    deadline: float = TIMEOUT,
    accepts_per_s: int = 100,
) -> None:
    async def main() -> None:
        server = ZdsServer(path, items, deadline=deadline, accepts_per_s=accepts_per_s)
        await server.start()
        try:
            async with asyncio.timeout(TIMEOUT):
                await test(server)
        finally:
            await server.close()

    before = open_fds()
    asyncio.run(main())
    assert open_fds() == before, "descriptors leaked"
    assert not path.exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the server has no event for this
            await asyncio.sleep(0.005)


async def greeted(server: ZdsServer, path: Path) -> Peer:
    """A ztunnel that has the (empty) snapshot."""
    peer = Peer(path)
    assert await peer.request() == zds.SnapshotSent()
    return peer


def test_the_snapshot_goes_one_by_one_and_a_refused_pod_does_not_end_it(tmp_path: Path, null: int) -> None:
    keep = zds.KeepWorkload("u-2")

    async def test(server: ZdsServer) -> None:
        peer = Peer(server.path)
        assert zds.decode_request(await peer.next()) == ADD
        with pytest.raises(BlockingIOError):  # nothing more before the ack
            zds.recv_packet(peer.sock)
        peer.send(zds.encode_ack("no ports left"))
        assert await peer.request() == keep
        assert await peer.request() == zds.SnapshotSent()
        peer.sock.close()

    serve(tmp_path / "z", test, items=lambda: [(ADD, null), (keep, None)])


def test_add_and_delete_are_acked(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        asked = asyncio.create_task(server.add(ADD, null))
        assert await peer.request() == ADD
        await asked
        asked = asyncio.create_task(server.delete("u-1"))
        assert await peer.request() == zds.DelWorkload("u-1")
        await asked
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_a_refusal_reaches_the_asker_and_the_line_stays(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        for text in ("first", "second"):
            asked = asyncio.create_task(server.add(ADD, null))
            await peer.request(text)
            with pytest.raises(ZtunnelRefused, match=text):
                await asked
        assert server.connected == 1
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_without_a_ztunnel_add_is_unavailable_and_delete_is_nothing(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        with pytest.raises(Unavailable, match="no ztunnel"):
            await server.add(ADD, null)
        await server.delete("u-1")

    serve(tmp_path / "z", test)


def test_a_silent_ztunnel_is_dropped_and_the_one_before_becomes_the_newest(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        old = await greeted(server, server.path)
        silent = await greeted(server, server.path)
        await until(lambda: server.connected == 2)
        with pytest.raises(DeadlineExceeded):
            await server.add(ADD, null)
        assert zds.decode_request(await silent.next()) == ADD
        assert await silent.next() == b""
        asked = asyncio.create_task(server.add(ADD, null))
        assert await old.request() == ADD
        await asked
        old.sock.close()
        silent.sock.close()

    serve(tmp_path / "z", test, deadline=0.2)


@pytest.mark.parametrize("hello", [b"", b"\x08\x00", b"\x08\x02", b"garbage"])
def test_a_wrong_hello_ends_the_line(tmp_path: Path, hello: bytes) -> None:
    async def test(server: ZdsServer) -> None:
        peer = Peer(server.path, hello)
        assert await peer.next() == b""
        assert server.connected == 0
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_no_hello_ends_the_line(tmp_path: Path) -> None:
    async def test(server: ZdsServer) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(server.path))
            sock.settimeout(TIMEOUT)
            assert await asyncio.to_thread(sock.recv, 10) == b""

    serve(tmp_path / "z", test, deadline=0.1)


def test_a_packet_nobody_asked_for_ends_the_line(tmp_path: Path) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        peer.send(zds.encode_ack())
        assert await peer.next() == b""
        await until(lambda: server.connected == 0)
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_descriptors_from_ztunnel_end_the_line_and_are_closed(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        asked = asyncio.create_task(server.add(ADD, null))
        await peer.next()
        peer.send(zds.encode_ack(), (null, null))
        with pytest.raises(ProtocolError, match="descriptors"):
            await asked
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_an_ack_that_is_garbage_ends_the_line(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        asked = asyncio.create_task(server.add(ADD, null))
        await peer.next()
        peer.send(b"\xff")
        with pytest.raises(ProtocolError):
            await asked
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_hanging_up_fails_what_waits(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        asked = [asyncio.create_task(server.add(ADD, null)) for _ in range(3)]
        await peer.next()
        peer.sock.close()
        for one in asked:
            with pytest.raises(Unavailable):
                await one

    serve(tmp_path / "z", test)


def test_the_queue_has_a_bound(tmp_path: Path, null: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zds_server, "QUEUE_MAX", 2)

    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        asked = [asyncio.create_task(server.add(ADD, null)) for _ in range(3)]
        with pytest.raises(Unavailable, match="already waiting"):
            await asked[2]
        for one in asked[:2]:
            assert await peer.request() == ADD
            await one
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_names_too_long_are_the_askers_fault_and_cost_no_line(tmp_path: Path, null: int) -> None:
    async def test(server: ZdsServer) -> None:
        peer = await greeted(server, server.path)
        with pytest.raises(ProtocolError, match="over the limit"):
            await server.add(zds.AddWorkload("u" * 2000, ADD.info), null)
        assert server.connected == 1
        peer.sock.close()

    serve(tmp_path / "z", test)


def test_accepts_are_limited(tmp_path: Path) -> None:
    async def test(server: ZdsServer) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        peers = []
        for _ in range(3):
            peers.append(await greeted(server, server.path))
        assert loop.time() - begun >= 0.9  # two in the first second, the third in the next
        for peer in peers:
            peer.sock.close()

    serve(tmp_path / "z", test, accepts_per_s=2)


def test_two_agents_cannot_share_a_path_and_a_dead_ones_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "z"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))

    async def test(server: ZdsServer) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match="another agent is listening"):
            await ZdsServer(path, list).start()
        peer = await greeted(server, path)  # the live one was not disturbed
        peer.sock.close()

    serve(path, test)


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "z", tmp_path / ("x" * 200)):
        with pytest.raises(ConfigError, match="ZDS socket"):
            asyncio.run(ZdsServer(path, list).start())
