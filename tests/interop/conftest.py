"""A worker on loopback at each side of a tunnel, with peers that are not ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshcore.records import (
    Action,
    AuthorityKind,
    Direction,
    Endpoint,
    Flag,
    Mask,
    Protocol,
    Upcall,
    Verdict,
)
from tests.support import pki
from tests.support.peers_app import App
from tests.support.peers_h2 import HboneClient
from tests.support.worker_harness import LABEL_ID, Decide, Harness, Pod, ip_bytes

PEER = pki.spiffe("peer")
OURS = pki.spiffe("ours")


def by_port(upcall: Upcall) -> Verdict:
    """Inbound: the application on loopback that has the port of the authority."""
    assert upcall.direction is not Direction.OUTBOUND
    port = upcall.dst_port
    app = Endpoint(ip_bytes("127.0.0.1"), port, port, Protocol.TCP, AuthorityKind.ENDPOINT, 1, 0, LABEL_ID)
    return Verdict(Action.DELIVER, Mask.DST_IP | Mask.DST_PORT | Mask.HOST, LABEL_ID, endpoints=(app,))


def deny_address(status: int) -> Decide:
    """Refuse the address of the authority only."""
    mask = Mask.DST_IP | Mask.DST_PORT
    return lambda _: Verdict(Action.DENY, mask, LABEL_ID, status=status, flag=Flag.DENY, reason=b"denied")


class Inbound:
    """A worker whose HBONE listener stands before an echo application."""

    def __init__(self, harness: Harness, pod: Pod, app: App) -> None:
        self.harness, self.pod, self.app = harness, pod, app
        self.address = pod.hbone
        self.authority = f"127.0.0.1:{app.port}"

    def unharmed(self) -> None:
        """The worker lives, holds nothing and serves a new client."""
        with HboneClient(self.address, pki.context("client", pki.credential("peer"))) as client:
            assert client.echo(self.authority, b"still here") == b"still here"
        self.harness.idle()
        assert self.harness.alive()


def run_inbound(**config: int) -> Iterator[Inbound]:
    with App() as app, Harness(by_port, config=config) as harness:
        yield Inbound(harness, harness.add_pod(), app)


@pytest.fixture(scope="module")
def inbound() -> Iterator[Inbound]:
    """Shared by the tests of a module: what one test does must not harm the next."""
    yield from run_inbound()


@pytest.fixture
def no_leftovers(inbound: Inbound) -> Iterator[None]:
    yield
    inbound.unharmed()
