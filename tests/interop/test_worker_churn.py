"""Everything at once: applications that do as they please, and a control process that changes its mind all the time.

Nothing is asked of a single connection. The workers must live, give everything back, and serve the last one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import socket
import time

import pytest

from meshcore import records
from meshcore.records import Mask, PageCell, Upcall, Verdict
from tests.support import apps, pki
from tests.support.worker_harness import (
    BUNDLE_ID,
    CERT_ID,
    LOOPBACK,
    Harness,
    Pod,
    deliver,
    deny,
    eventually,
    ip_bytes,
    tunnel,
)

SECONDS = 4.0
APPLICATIONS = 8
ADDRESSES = 10  # of the applications, and ports of the service: each is a verdict of its own


def serve_anyhow(sock: socket.socket) -> None:
    """An echo that now and then resets, ends early or falls asleep."""
    source = random.Random(sock.fileno())
    while data := sock.recv(65_536):
        match source.randint(0, 20):
            case 0:
                apps.reset(sock)
                return
            case 1:
                return
            case 2:
                time.sleep(0.02)
            case 3:
                sock.shutdown(socket.SHUT_WR)
                apps.read_to_end(sock)
                return
        sock.sendall(data)


def behave_anyhow(dial: list[Pod], end: float, seed: int) -> None:
    """Connect again and again: short, long, impatient, half-closed, silent."""
    source = random.Random(seed)
    while time.monotonic() < end:
        with contextlib.suppress(OSError, AssertionError):
            origin = (f"127.0.1.{source.randint(1, ADDRESSES)}", 0)
            sock = socket.create_connection(dial[0].outbound, timeout=0.5, source_address=origin)
            with sock:
                body = os.urandom(source.choice((0, 1, 1000, 70_000, 700_000)))
                match source.randint(0, 4):
                    case 0:
                        apps.reset(sock)
                    case 1:
                        sock.sendall(body)
                        apps.reset(sock)
                    case 2:
                        sock.sendall(body[:50_000])
                        apps.read_exactly(sock, len(body[:50_000]))
                    case 3:
                        sock.sendall(body[:50_000])
                        sock.shutdown(socket.SHUT_WR)
                        apps.read_to_end(sock)
                    case _:
                        sock.sendall(body)
                        sock.recv(1)


class Whims:
    """The control process of two workers."""

    def __init__(self, near: Harness, far: Harness, dial: list[Pod], seed: int) -> None:
        self._near, self._far, self._dial = near, far, dial
        self._source = random.Random(seed)
        self._pod_ids = itertools.count(2)
        self._pod = 1

    def one(self) -> None:
        worker = self._source.choice((self._near, self._far))
        verdict_id = self._source.choice(list(worker.verdicts)[-ADDRESSES:] or [1])
        match self._source.randint(0, 12):
            case 0 | 1 | 2 | 9 | 10:
                worker.flush(verdict_id, reevaluate=self._source.random() < 0.7)
            case 3:
                worker.send(records.encode_verdict(denied(), verdict_id))
            case 4 if self._source.random() < 0.3:
                self._near.send(records.encode_endpoint_gone(ip_bytes(LOOPBACK)))
            case 5:
                fresh = pki.credential(f"{'ours' if worker is self._near else 'peer'}")
                worker.send(records.encode_cert(CERT_ID, BUNDLE_ID, fresh.chain, fresh.key))
            case 6:
                worker.dump()
            case 7:
                worker.send(records.encode_label(1, b'src.workload="renamed"', b'dst.service="renamed"'))
            case 8 if self._source.random() < 0.3:
                self._near.send(records.encode_pod_del(self._pod))
                self._pod = next(self._pod_ids)
                self._dial[0] = self._near.add_pod(pod_id=self._pod)
            case _:
                worker.send(records.encode_flush(verdict_id + 1000, reevaluate=True))


def denied() -> Verdict:
    verdict = deny()(UPCALL)
    assert verdict is not None
    return verdict


UPCALL = Upcall(0, 0, records.Direction.OUTBOUND, records.UpcallFlag(0), b"", 0, b"", 0, b"", "", "", "", "")


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_live_through_churn(seed: int) -> None:
    source = random.Random(seed)
    config = {"log_access": 1, "stream_window": 100_000, "connection_window": 300_000, "upcall_timeout_ms": 300}
    how = [serve_anyhow]

    def serve(sock: socket.socket) -> None:
        how[0](sock)

    with apps.App(serve) as app:
        allowed_in = deliver(app.address, mask=Mask.DST_PORT | Mask.PEER)
        with Harness(allowed_in, service_account="peer", config=config) as far:
            entry = far.add_pod().hbone

            def allowed_out(upcall: Upcall) -> Verdict | None:
                return tunnel(entry, target_port=8000 + upcall.src_ip[-1], mask=Mask.SRC_IP)(upcall)

            def decide_in(upcall: Upcall) -> Verdict | None:
                return source.choice([allowed_in(upcall)] * 30 + [denied(), None])

            def decide_out(upcall: Upcall) -> Verdict | None:
                return source.choice([allowed_out(upcall)] * 30 + [denied(), None])

            with Harness(allowed_out, config=config) as near:
                dial = [near.add_pod()]
                far.decide, near.decide = decide_in, decide_out
                end = time.monotonic() + SECONDS
                threads = [
                    apps.background(functools.partial(behave_anyhow, dial, end, seed * 100 + i))
                    for i in range(APPLICATIONS)
                ]
                whims = Whims(near, far, dial, seed)
                while time.monotonic() < end:
                    whims.one()
                    time.sleep(source.uniform(0, 0.02))
                for thread in threads:
                    thread.join()
                far.decide, near.decide = allowed_in, allowed_out
                for worker in (near, far):
                    for verdict_id in worker.verdicts:
                        worker.flush(verdict_id, reevaluate=False)
                app.close_all()
                eventually(lambda: near.cell(PageCell.FLOWS_OPEN) == 0, "the near flows are gone")
                for worker in (near, far):
                    worker.idle()
                    assert worker.dump() == []  # also: every question before this was read by the control process
                assert near.slot(records.SlotCell.OPENED) > 200, "hardly anything happened"
                how[0] = apps.echo
                with socket.create_connection(dial[0].outbound, timeout=10) as last:
                    apps.send_all(last, b"still here")
                    assert apps.read_to_end(last) == b"still here"
