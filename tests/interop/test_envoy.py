"""HBONE with Envoy, which waypoints, gateways and sidecars of Istio are made of, as server and as client."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from meshcore.records import PageCell, SlotCell
from tests.support import apps, envoy, pki
from tests.support.worker_harness import Address, Harness, deliver, tunnel

SIZES = [1, 16_383, 16_385, 1 << 20, 20 << 20]


class Route(NamedTuple):
    """Dial `entry`, and the bytes pass one worker and one Envoy on their way to an application that echoes."""

    entry: Address
    worker: Harness
    envoy: envoy.Envoy


@pytest.fixture(scope="module")
def to_envoy() -> Iterator[Route]:
    with (
        apps.App() as app,
        envoy.Envoy(envoy.hbone_server(app.address)) as server,
        Harness(tunnel(server.address)) as worker,
    ):
        yield Route(worker.add_pod().outbound, worker, server)
        worker.idle()


@pytest.fixture(scope="module")
def from_envoy() -> Iterator[Route]:
    with (
        apps.App() as app,
        Harness(deliver(app.address)) as worker,
        envoy.Envoy(envoy.hbone_client(worker.add_pod().hbone)) as client,
    ):
        yield Route(client.address, worker, client)
        worker.idle()


@pytest.fixture(params=["to_envoy", "from_envoy"])
def route(request: pytest.FixtureRequest) -> Iterator[Route]:
    """Both roles, each checked for protocol faults after every test."""
    found: Route = request.getfixturevalue(request.param)
    faults = dict(found.envoy.faults())
    yield found
    assert found.envoy.faults() == faults, "Envoy complained"
    assert found.worker.cell(PageCell.H2_GOAWAY_SENT) == 0, "the worker complained"
    found.worker.idle()


def round_trip(entry: Address, body: bytes) -> str:
    with socket.create_connection(entry, timeout=30) as sock:
        sender = apps.background(lambda: apps.send_all(sock, body))
        received = apps.read_to_end(sock)
        sender.join()
    return hashlib.sha256(received).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_every_byte_comes_back_and_both_ends_are_passed_on(route: Route, size: int) -> None:
    body = os.urandom(size)
    assert round_trip(route.entry, body) == hashlib.sha256(body).hexdigest()


def test_the_application_that_closes_first_ends_the_other_side(route: Route) -> None:
    with socket.create_connection(route.entry, timeout=10) as sock:
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_fifty_connections_at_once(route: Route) -> None:
    bodies = [os.urandom(40_000 + i) for i in range(50)]
    results: dict[int, str] = {}

    def one(i: int) -> None:
        results[i] = round_trip(route.entry, bodies[i])

    before = route.worker.slot(SlotCell.OPENED)
    threads = [apps.background(functools.partial(one, i)) for i in range(50)]
    for thread in threads:
        thread.join(30)
    assert [results[i] for i in range(50)] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert route.worker.slot(SlotCell.OPENED) == before + 50


def test_connections_share_one_tls_connection(to_envoy: Route) -> None:
    before = to_envoy.envoy.stats()["http.hbone.downstream_cx_total"]
    for _ in range(20):
        round_trip(to_envoy.entry, b"hello")
    assert to_envoy.envoy.stats()["http.hbone.downstream_cx_total"] <= before + 1


def test_envoy_sees_the_identity_it_asked_for(from_envoy: Route) -> None:
    round_trip(from_envoy.entry, b"hello")
    assert from_envoy.worker.upcalls[0].peer == pki.spiffe("peer")
    assert from_envoy.worker.upcalls[0].dst_port == 80


def test_envoy_refuses_a_worker_with_another_identity() -> None:
    with (
        apps.App() as app,
        envoy.Envoy(envoy.hbone_server(app.address, peer="somebody-else")) as server,
        Harness(tunnel(server.address)) as worker,
    ):
        with socket.create_connection(worker.add_pod().outbound, timeout=10) as sock:
            assert sock.recv(1) == b""
        worker.wait_log("error=")
        assert not app.accepted
        assert any(name.endswith("fail_verify_san") for name in server.faults()), "this is how Envoy complains"
        worker.idle()
