"""A flow that needs a tunnel is not answered before the pod's first certificate is there, within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from meshcore.model import ADDRESS_TYPE, TunnelProtocol, Workload
from meshcore.records import Protocol, Rec, Upcall
from tests.support.world import Resource, World, encoded, ip
from ztunnel.decision import Settings
from ztunnel.decisions import Decisions
from ztunnel.workerlink import WorkerLink

CLIENT, SERVER, STRANGER = "10.0.0.1", "10.0.0.2", "192.0.2.9"
UPCALL_TIMEOUT = 0.2  # seconds


class Worker:
    """A worker link that keeps what it is sent."""

    def __init__(self) -> None:
        self.index, self.ready = 0, True
        self.labels: set[int] = set()
        self.sans: set[int] = set()
        self.records: list[bytes] = []
        self.answered = asyncio.Event()

    def send(self, record: bytes) -> None:
        self.records.append(record)
        if record[0] == Rec.VERDICT:
            self.answered.set()

    @property
    def verdicts(self) -> int:
        return sum(record[0] == Rec.VERDICT for record in self.records)


class Node:
    """Decisions of a node with one pod. `under_way`: its first certificate is on its way."""

    def __init__(self) -> None:
        self.world, self.worker, self.under_way = World(), Worker(), True
        self.decisions = Decisions(
            Settings(),
            {0: cast(WorkerLink, self.worker)},
            network="",
            upcall_timeout=UPCALL_TIMEOUT,
            log_json=False,
            need_cert=lambda _: self.under_way,
            read_slot=lambda _: (),
        )
        pods = [self.world.pod("client", ip=CLIENT), self.world.pod("server", ip=SERVER)]
        self.decisions.update(ADDRESS_TYPE, [Resource(pod.uid, "1", encoded(pod)) for pod in pods], ())
        self.decisions.add_pod(self.world.pods["client"])

    def ask(self, to: str) -> None:
        upcall: Upcall = self.world.outbound_upcall("client", to, 8080)
        self.decisions._answer(cast(WorkerLink, self.worker), upcall, None)


def run(check: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await check(Node())

    asyncio.run(main())


def test_the_answer_comes_with_the_certificate() -> None:
    async def check(node: Node) -> None:
        node.ask(SERVER)
        assert node.worker.verdicts == 0
        node.under_way = False
        node.decisions.certificate_issued(node.world.pods["client"].cert_id)
        assert node.worker.verdicts == 1

    run(check)


def test_another_identity_s_certificate_changes_nothing() -> None:
    async def check(node: Node) -> None:
        node.ask(SERVER)
        node.decisions.certificate_issued(node.world.pods["server"].cert_id)
        assert node.worker.verdicts == 0

    run(check)


def test_a_change_of_the_destination_meanwhile_counts() -> None:
    async def check(node: Node) -> None:
        node.ask(SERVER)
        plain = Workload("Kubernetes//Pod/default/server", "server", "default", (ip(SERVER),))
        assert plain.tunnel_protocol is TunnelProtocol.NONE
        node.decisions.update(ADDRESS_TYPE, [Resource(plain.uid, "2", encoded(plain))], ())
        node.under_way = False
        node.decisions.certificate_issued(node.world.pods["client"].cert_id)
        assert node.worker.verdicts == 1
        (entry,) = node.decisions.cache._entries.values()
        assert [each.protocol for each in entry.verdict.endpoints] == [Protocol.TCP]

    run(check)


def test_a_flow_without_a_tunnel_does_not_wait() -> None:
    async def check(node: Node) -> None:
        node.ask(STRANGER)
        assert node.worker.verdicts == 1

    run(check)


def test_the_wait_ends_before_the_worker_s() -> None:
    async def check(node: Node) -> None:
        node.ask(SERVER)
        began = asyncio.get_running_loop().time()
        await node.worker.answered.wait()
        assert asyncio.get_running_loop().time() - began < UPCALL_TIMEOUT

    run(check)


def test_a_pod_that_leaves_takes_its_flows_along() -> None:
    async def check(node: Node) -> None:
        node.ask(SERVER)
        node.decisions.remove_pod(node.world.pods["client"].pod_id)
        node.under_way = False
        node.decisions.certificate_issued(node.world.pods["client"].cert_id)
        assert node.worker.verdicts == 0

    run(check)
