"""Listeners in real network namespaces: where they are, what they carry, how fast many are made."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshcore import netns
from meshcore.errors import NamespaceError
from meshcore.zds import WorkloadInfo
from tests.support.processes import open_fds
from ztunnel.inpod import PORTS, Listening, Pod, Pods

PREFIX = "ztinpod"
INFO = WorkloadInfo("pod", "ns", "sa")


@pytest.fixture
def namespaces(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Descriptors of new namespaces with loopback up; how many is the test's parameter."""
    names = [f"{PREFIX}{os.getpid()}-{i}" for i in range(getattr(request, "param", 1))]
    batch = "".join(f"netns add {name}\n" for name in names)
    up = "".join(f"netns exec {name} ip link set lo up\n" for name in names[:2])
    subprocess.run(["ip", "-batch", "-"], input=batch + up, text=True, check=True, timeout=60)
    fds = [netns.open_netns(f"/run/netns/{name}") for name in names]
    yield fds
    for fd in fds:
        os.close(fd)
    removal = "".join(f"netns del {name}\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=removal, text=True, check=True, timeout=60)


def listening(workers: int = 2) -> Listening:
    return Listening(workers=workers, mark=1337, transparent=None, ipv6=True)


def test_every_worker_has_its_listener_on_every_port(namespaces: list[int]) -> None:
    (fd,) = namespaces
    home = Path(netns.OWN_NETNS).readlink()
    found = listening().open(fd)
    assert Path(netns.OWN_NETNS).readlink() == home
    assert found.spoof
    assert netns.get_sysctl(fd, "net.ipv4.tcp_migrate_req") == "1"
    for sockets in found.per_worker:
        assert [each.getsockname()[1] for each in sockets] == list(PORTS)
        for each in sockets:
            assert each.getsockopt(socket.SOL_SOCKET, netns.SO_MARK) == 1337
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert each.getsockopt(socket.SOL_IP, netns.IP_TRANSPARENT) == 1
    accepted = 0
    for _ in range(64):
        with netns.inside(fd):
            client = socket.create_connection(("127.0.0.1", PORTS[0]), 5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        for worker, sockets in enumerate(found.per_worker):
            try:
                sockets[0].accept()[0].close()
            except BlockingIOError:
                continue
            accepted |= 1 << worker
    assert accepted == 0b11  # both workers got connections
    found.close()
    with netns.inside(fd), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORTS[0]), 5)


def test_a_queued_connection_moves_when_a_listener_is_closed(namespaces: list[int]) -> None:
    (fd,) = namespaces
    found = listening().open(fd)
    with netns.inside(fd):
        clients = [socket.create_connection(("127.0.0.1", PORTS[2]), 5) for _ in range(20)]
    for each in found.per_worker[0]:
        each.close()
    served = 0
    deadline = time.monotonic() + 10
    while served < len(clients):
        assert time.monotonic() < deadline, f"only {served} of {len(clients)} connections were kept"
        try:
            found.per_worker[1][2].accept()[0].close()
        except BlockingIOError:
            continue
        served += 1
    for client in clients:
        assert client.recv(1) == b""
        client.close()
    found.close()


def test_two_ztunnels_can_listen_in_one_pod(namespaces: list[int]) -> None:
    (fd,) = namespaces
    old, new = listening().open(fd), listening().open(fd)
    old.close()
    with netns.inside(fd):
        socket.create_connection(("127.0.0.1", PORTS[1]), 5).close()
    new.close()


def test_a_port_that_is_held_is_refused_and_nothing_is_left_behind(namespaces: list[int]) -> None:
    (fd,) = namespaces
    holder, _ = netns.listen_tcp(fd, PORTS[2], mark=0, transparent=False, reuseport=False, ipv6=True)
    pods = Pods(listening(), lambda pod: None, lambda pod: None)
    before = len(open_fds())
    with pytest.raises(NamespaceError, match="15008"):
        pods.add("u1", INFO, os.dup(fd))
    assert set(pods.pending) == {"u1"}
    assert len(open_fds()) == before + 1  # the namespace of the pending pod
    holder.close()
    pods.retry()
    assert set(pods.running) == {"u1"}
    pods.stop("u1")


@pytest.mark.parametrize("namespaces", [250], indirect=True)
def test_250_pods_start_within_5_seconds(namespaces: list[int]) -> None:
    started: list[Pod] = []
    pods = Pods(listening(), started.append, lambda pod: None)
    began = time.monotonic()
    for i, fd in enumerate(namespaces):
        pods.add(f"u{i}", INFO, os.dup(fd))
    took = time.monotonic() - began
    print(f"250 pods, 1,500 listeners: {took:.2f} s")  # noqa: T201 - the measurement
    assert len(started) == 250
    assert took < 5
    for uid in list(pods.running):
        pods.stop(uid)
