"""nghttp2 as the application: h2load to nghttpd, through two workers (cleartext HTTP/2 inside HBONE)."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshcore.records import PageCell, SlotCell
from tests.support import pki, programs
from tests.support.worker_harness import Address, Harness, address_of, deliver, eventually, listen, tunnel


@pytest.fixture
def nghttpd(tmp_path: Path) -> Iterator[Address]:
    """An HTTP/2 server with `/small` and `/big`."""
    program = programs.find("nghttpd")
    programs.find("h2load")
    (tmp_path / "small").write_bytes(b"x" * 100)
    (tmp_path / "big").write_bytes(b"y" * 1_000_000)
    with listen() as free:
        address = address_of(free)
    process = subprocess.Popen(
        [program, "--no-tls", "-a", address[0], "-d", str(tmp_path), str(address[1])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=programs.environment(),
    )
    try:
        eventually(lambda: _listens(address), "nghttpd listens")
        yield address
    finally:
        process.kill()
        process.wait(10)


def _listens(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def mesh(nghttpd: Address) -> Iterator[tuple[Harness, Harness, Address]]:
    """Client's worker, server's worker, and where an application dials in."""
    with (
        Harness(deliver(nghttpd), service_account="peer") as server,
        Harness(tunnel(server.add_pod().hbone)) as client,
    ):
        yield client, server, client.add_pod().outbound
        client.idle()
        server.idle()


@pytest.mark.parametrize(
    ("path", "requests", "clients", "streams"), [("small", 4_000, 20, 10), ("big", 60, 4, 3), ("small", 300, 100, 1)]
)
def test_h2load_gets_every_answer(
    mesh: tuple[Harness, Harness, Address], path: str, requests: int, clients: int, streams: int
) -> None:
    client, server, entry = mesh
    load = ("-n", str(requests), "-c", str(clients), "-m", str(streams), "-T", "20", "-N", "20")
    done = programs.run("h2load", *load, f"http://{entry[0]}:{entry[1]}/{path}", timeout=50)
    output = done.stdout.decode()
    found = re.search(r"(\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    assert found, output
    assert [int(number) for number in found.groups()] == [requests, requests, requests, 0, 0], output
    for worker in (client, server):
        worker.wait_slot(SlotCell.OPENED, clients)
        worker.wait_slot(SlotCell.CLOSED, clients)
        assert worker.cell(PageCell.H2_GOAWAY_SENT) == 0
    assert client.slot(SlotCell.SENT) == server.slot(SlotCell.SENT), "both ends count the same bytes"
    assert client.slot(SlotCell.RECEIVED) == server.slot(SlotCell.RECEIVED)
    assert {upcall.peer for upcall in server.upcalls} == {pki.spiffe("ours")}
