"""Visits to another namespace: what is made there stays there, and the thread always comes home."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshcore import netns
from meshcore.errors import NamespaceError
from tests.support.processes import open_fds

NAME = f"t-netns-{os.getpid()}"
needs_netns = pytest.mark.netns


@pytest.fixture
def other() -> Iterator[int]:
    """A fresh namespace with its loopback up."""
    made = subprocess.run(["ip", "netns", "add", NAME], check=False, capture_output=True, text=True, timeout=10)
    if made.returncode:
        pytest.skip(f"cannot create network namespaces here: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "-n", NAME, "link", "set", "lo", "up"], check=True, timeout=10)
        fd = netns.open_netns(f"/run/netns/{NAME}")
        yield fd
        os.close(fd)
    finally:
        subprocess.run(["ip", "netns", "del", NAME], check=True, timeout=10)


def here() -> tuple[int, int]:
    status = Path(netns.OWN_NETNS).stat()
    return status.st_dev, status.st_ino


def test_a_missing_namespace_is_named() -> None:
    with pytest.raises(NamespaceError, match="/run/netns/no-such: No such file"):
        netns.open_netns("/run/netns/no-such")


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/ns/uts", "/tmp"])
def test_something_else_is_not_a_namespace(path: str) -> None:
    before = open_fds()
    with pytest.raises(NamespaceError, match="not a network namespace"):
        netns.open_netns(path)
    assert open_fds() == before


def test_entering_a_wrong_descriptor_changes_nothing() -> None:
    home = here()
    with (
        Path("/dev/null").open() as null,
        pytest.raises(NamespaceError, match="cannot enter"),
        netns.inside(null.fileno()),
    ):
        pytest.fail("the block must not run")
    assert here() == home


@needs_netns
def test_inside_and_home_again_even_after_an_error(other: int) -> None:
    home = here()
    with contextlib.suppress(ZeroDivisionError), netns.inside(other):
        assert here() == netns.netns_id(other) != home
        raise ZeroDivisionError
    assert here() == home


@needs_netns
def test_losing_the_way_home_ends_the_process(other: int) -> None:
    code = """
import os, sys
from meshcore import netns
with netns.inside(int(sys.argv[1])):
    real = netns._setns()
    def broken(fd, kind):
        raise OSError(1, "no way")
    netns._setns = lambda: broken
print("still here")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(other)],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        pass_fds=(other,),
    )
    assert done.returncode == netns.EXIT_LOST_NETNS
    assert "cannot return" in done.stderr
    assert done.stdout == ""


@needs_netns
@pytest.mark.parametrize("ipv6", [True, False])
def test_a_listener_lives_in_the_other_namespace(other: int, ipv6: bool) -> None:
    listener, transparent = netns.listen_tcp(other, 15001, mark=0x539, transparent=None, reuseport=True, ipv6=ipv6)
    twin, _ = netns.listen_tcp(other, 15001, mark=0x539, transparent=True, reuseport=True, ipv6=ipv6)
    with listener, twin:
        assert transparent
        assert not listener.getblocking()
        assert not listener.get_inheritable()
        assert listener.getsockopt(socket.SOL_SOCKET, netns.SO_MARK) == 0x539
        assert listener.getsockopt(socket.SOL_IP, netns.IP_TRANSPARENT) == 1
        with netns.inside(other):
            socket.create_connection(("127.0.0.1", 15001), timeout=5).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", 15001), timeout=0.5)


@needs_netns
def test_a_plain_listener_and_a_port_that_is_taken(other: int) -> None:
    listener, transparent = netns.listen_tcp(other, 15006, mark=0, transparent=False, reuseport=False, ipv6=False)
    with listener:
        assert not transparent
        assert listener.getsockopt(socket.SOL_IP, netns.IP_TRANSPARENT) == 0
        before = open_fds()
        with pytest.raises(netns.ListenError, match="port 15006: bind: Address already in use") as caught:
            netns.listen_tcp(other, 15006, mark=0, transparent=False, reuseport=False, ipv6=False)
        assert caught.value.retryable
        assert open_fds() == before


@needs_netns
def test_a_sysctl_changes_there_and_not_here(other: int) -> None:
    name = "net.ipv4.tcp_migrate_req"
    ours = Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text()
    wanted = "0" if ours.strip() == "1" else "1"
    netns.set_sysctl(other, name, wanted)
    assert netns.get_sysctl(other, name) == wanted
    assert Path("/proc/sys/net/ipv4/tcp_migrate_req").read_text() == ours
    netns.set_sysctl(other, "net/ipv4/conf/lo/rp_filter", "2")
    assert netns.get_sysctl(other, "net.ipv4.conf.lo.rp_filter") == "2"


@needs_netns
def test_sysctl_refusals(other: int) -> None:
    assert netns.get_sysctl(other, "net.ipv4.no_such_thing") is None
    with pytest.raises(NamespaceError, match="No such file"):
        netns.set_sysctl(other, "net.ipv4.no_such_thing", "1")
    with pytest.raises(NamespaceError, match="Invalid argument"):
        netns.set_sysctl(other, "net.ipv4.tcp_migrate_req", "purple")
    with pytest.raises(NamespaceError, match="not the name"):
        netns.set_sysctl(other, "net/../kernel/hostname", "x")
