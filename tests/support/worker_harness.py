"""One data-path worker in a child process, and a control process for it that a test drives.

The child is a fresh interpreter, so the tests of a debug or sanitizer build drive a worker of that build, and a crash
or a sanitizer's report is an exit status that fails the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import meshcore
from meshcore import netns, records
from meshcore.records import (
    Action,
    AuthorityKind,
    DumpFlow,
    Endpoint,
    Flag,
    Mask,
    PageCell,
    Protocol,
    Rec,
    SlotCell,
    Upcall,
    Verdict,
    VerdictFlag,
)
from tests.support import pki

TIMEOUT: Final = 10.0  # s; every wait, unless a test says otherwise
POLL: Final = 0.005  # s between two looks at a condition that nothing announces
BUNDLE_ID: Final = 1
CERT_ID: Final = 1
POD_ID: Final = 1
LABEL_ID: Final = 1
SANS_ID: Final = 1
LOOPBACK: Final = "127.0.0.1"

# Upstream's defaults where it has one.
DEFAULTS: Final = {
    "connect_timeout_ms": 10_000,
    "tls_timeout_ms": 10_000,
    "response_timeout_ms": 10_000,
    "upcall_timeout_ms": 5_000,
    "ping_interval_ms": 10_000,
    "ping_timeout_ms": 20_000,
    "pool_idle_ms": 300_000,
    "pool_max_streams": 100,
    "server_max_streams": 200,
    "stream_window": 4 << 20,
    "connection_window": 16 << 20,
    "frame_size": 1 << 20,
    "header_list_max": 64 << 10,
    "keepalive_idle_s": 180,
    "keepalive_interval_s": 180,
    "keepalive_retries": 9,
    "user_timeout_ms": 0,
    "packet_mark": 0,
    "flow_table_max": 65_536,
    "buffer_max": 64 << 20,
    "log_json": 0,
    "log_access": 1,
    "half_close_ms": 0,
    "tls12": 0,
}

_CHILD: Final = (
    "import sys; from ztunnel._fastpath import Worker; "
    "sys.exit(0 if Worker(int(sys.argv[1]), int(sys.argv[2]), 0).run() == 0 else 1)"
)

NO_FLAGS: Final = VerdictFlag(0)
EVERYTHING: Final = Mask(0)  # consulted nothing: the verdict holds for all flows of the pod and direction

Address = tuple[str, int]
Decide = Callable[[Upcall], Verdict | None]


class Pod(NamedTuple):
    """Where the worker listens for a pod, as the pod's clients dial it."""

    outbound: Address
    plain: Address
    hbone: Address


def deny(*, status: int = 401, flag: Flag = Flag.DENY, reason: str = "denied by the test") -> Decide:
    """Refuse every flow."""
    verdict = Verdict(Action.DENY, EVERYTHING, LABEL_ID, status=status, flag=flag, reason=reason.encode())
    return lambda _: verdict


def deliver(app: Address, *, flags: VerdictFlag = NO_FLAGS, mask: Mask = EVERYTHING, baggage: bytes = b"") -> Decide:
    """Inbound: give every flow to this application."""
    endpoint = Endpoint(ip_bytes(app[0]), app[1], app[1], Protocol.TCP, AuthorityKind.ENDPOINT, 1, 0, LABEL_ID)
    verdict = Verdict(Action.DELIVER, mask, LABEL_ID, flags=flags, endpoints=(endpoint,), baggage=baggage)
    return lambda _: verdict


def tunnel(
    peer: Address, *, target_port: int = 8080, mask: Mask = EVERYTHING, host: bytes = b"", baggage: bytes = b"k8s.x=y"
) -> Decide:
    """Outbound: carry every flow over HBONE to this peer, whose identity is SANS_ID."""
    endpoint = Endpoint(
        ip_bytes(peer[0]), peer[1], target_port, Protocol.HBONE, AuthorityKind.ENDPOINT, 1, SANS_ID, LABEL_ID
    )
    verdict = Verdict(
        Action.BALANCE, mask, LABEL_ID, cert_id=CERT_ID, endpoints=(endpoint,), baggage=baggage, host=host
    )
    return lambda _: verdict


def passthrough(_: Upcall) -> Verdict:
    """Send every flow to where it was going."""
    return Verdict(Action.PASSTHROUGH, EVERYTHING, LABEL_ID)


def ip_bytes(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def listen(address: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A non-blocking listener, for a worker or an application without a namespace of its own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(1024)
    return made


def address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def eventually(condition: Callable[[], bool], what: str | Callable[[], str], timeout: float = TIMEOUT) -> None:
    """Wait until the condition holds; fail naming `what` when it does not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL)


class Harness:
    """A worker under test. As a context manager it ends with a clean stop and the exit status 0 required.

    `decide` answers upcalls on the harness's own thread and may be replaced at any time; an answer of None leaves the
    upcall open. `config` overrides DEFAULTS. What the worker may trust is `bundle` (PEM), what it presents `own`.
    """

    def __init__(
        self,
        decide: Decide,
        *,
        service_account: str = "ours",
        own: pki.Credential | None = None,
        bundle: bytes | None = None,
        config: dict[str, int] | None = None,
        expected: tuple[str, ...] = (pki.spiffe("peer"),),
    ) -> None:
        self.decide = decide
        self.upcalls: list[Upcall] = []
        self.verdicts: dict[int, Verdict] = {}
        self.records: list[bytes] = []
        self.must_exit_cleanly = True
        self._config = DEFAULTS | (config or {})
        self._own = own or pki.credential(service_account)
        self._bundle = bundle or pki.root().pem
        self._expected = expected
        self._changed = threading.Condition()
        self._gone = False
        self._failure: BaseException | None = None
        self._next_verdict = 0
        self._pods: list[socket.socket] = []

    # --- life ---

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="worker-")
        self.log_path = Path(self._directory.name, "access.log")
        self._stderr_path = Path(self._directory.name, "stderr")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._control, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * records.RECORD_MAX)
        self._page = os.memfd_create("counters")
        os.ftruncate(self._page, records.PAGE_BYTES + records.SLOT_MAX * records.SLOT_BYTES)
        environment = dict(os.environ, PYTHONPATH=str(Path(meshcore.__file__).parents[1]), PYTHONSAFEPATH="1")
        with theirs, self.log_path.open("wb") as log, self._stderr_path.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", _CHILD, str(theirs.fileno()), str(self._page)],
                pass_fds=(theirs.fileno(), self._page),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                env=environment,
            )
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()
        self.send(records.encode_config(self._config))
        self.send(records.encode_bundle(BUNDLE_ID, self._bundle))
        self.send(records.encode_cert(CERT_ID, BUNDLE_ID, self._own.chain, self._own.key))
        self.send(records.encode_label(LABEL_ID, b'src.workload="client"', b'dst.service="service"'))
        self.send(records.encode_sans(SANS_ID, self._expected))
        self.wait_record(Rec.HELLO, timeout=60 if "LD_PRELOAD" in os.environ else TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            status = self.stop()
            if error is not None:
                error.add_note(self.report())
            elif self._failure is not None:
                raise AssertionError(f"the control thread failed\n{self.report()}") from self._failure
            elif self.must_exit_cleanly and status != 0:
                raise AssertionError(f"the worker ended with status {status}\n{self.report()}")
        finally:
            for listener in self._pods:
                listener.close()
            self._control.close()
            os.close(self._page)
            self._directory.cleanup()

    def stop(self, timeout: float = TIMEOUT) -> int:
        """Ask the worker to end -> its exit status; negative is a signal."""
        if self.process.poll() is None:
            with self._changed:
                alive = not self._gone
            if alive:
                self._try_send(records.encode_stop())
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout)
        self._thread.join(timeout)
        return self.process.returncode

    def kill(self) -> None:
        """End the worker as a crash would."""
        self.must_exit_cleanly = False
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT)

    def alive(self) -> bool:
        return self.process.poll() is None

    def report(self) -> str:
        """What somebody who reads a failure wants to know of the worker."""
        cells = ", ".join(f"{cell.name}={self.cell(cell)}" for cell in PageCell if self.cell(cell))
        return (
            f"worker {self.process.pid}, status {self.process.poll()}\n{cells}\n"
            f"upcalls: {self.upcalls[-5:]}\n--- access log\n" + "\n".join(self.log_lines()[-20:]) + "\n--- stderr\n"
            f"{self._stderr_path.read_text(errors='replace')[-8000:]}"
        )

    # --- control records ---

    def send(self, record: bytes, fds: list[int] | None = None) -> None:
        if fds:
            socket.send_fds(self._control, [record], fds)
        else:
            self._control.send(record)

    def _try_send(self, record: bytes) -> None:
        with contextlib.suppress(OSError):  # a worker that is gone: stop() reads its exit status
            self._control.send(record)

    def add_pod(self, *, pod_id: int = POD_ID, cert_id: int = CERT_ID, address: str = LOOPBACK) -> Pod:
        """A pod without a namespace: ephemeral ports of a loopback address, original destination = local address."""
        own = netns.open_netns(netns.OWN_NETNS)
        try:
            return self._add_pod(pod_id, cert_id, own, [listen(address) for _ in range(3)], spoof=False)
        finally:
            os.close(own)

    def add_pod_in(
        self,
        where: int,
        address: str,
        *,
        pod_id: int = POD_ID,
        cert_id: int = CERT_ID,
        mark: int = 0x539,
        spoof: bool = True,
    ) -> Pod:
        """A pod in the network namespace `where`, on the ports the redirection rules know."""
        ports = (15001, 15006, 15008)
        listeners = [
            netns.listen_tcp(where, port, mark=mark, transparent=spoof, reuseport=True, ipv6=True)[0] for port in ports
        ]
        self._add_pod(pod_id, cert_id, where, listeners, spoof=spoof)
        return Pod(*((address, port) for port in ports))

    def _add_pod(self, pod_id: int, cert_id: int, where: int, listeners: list[socket.socket], *, spoof: bool) -> Pod:
        self._pods += listeners
        seen = self.count(Rec.POD_READY)
        record = records.encode_pod_add(pod_id, cert_id, spoof=spoof)
        self.send(record, [where, *(listener.fileno() for listener in listeners)])
        self.wait_record(Rec.POD_READY, seen)
        return Pod(*(address_of(listener) for listener in listeners))

    def accepts_itself(self, address: Address) -> bool:
        """Take a waiting connection from this side's duplicate of a listener, as the next worker would."""
        listener = next(listener for listener in self._pods if address_of(listener) == address)
        with contextlib.suppress(BlockingIOError):
            listener.accept()[0].close()
            return True
        return False

    def update(self, verdict_id: int, verdict: Verdict) -> None:
        """Replace a verdict that was given, as a policy change does."""
        self.verdicts[verdict_id] = verdict
        self.send(records.encode_verdict(verdict, verdict_id))

    def flush(self, verdict_id: int, *, reevaluate: bool) -> None:
        self.send(records.encode_flush(verdict_id, reevaluate=reevaluate))

    def drain(self, deadline_ms: int) -> None:
        self.send(records.encode_drain(deadline_ms))

    def dump(self) -> list[DumpFlow]:
        """-> the worker's live connections."""
        with self._changed:
            start, ends = len(self.records), self.count(Rec.DUMP_END)
        self.send(records.encode_dump())
        self.wait_record(Rec.DUMP_END, ends)
        flows = (record for record in self.records[start:] if records.record_type(record) == Rec.DUMP_FLOW)
        return [records.decode_dump_flow(record) for record in flows]

    def count(self, kind: Rec) -> int:
        """How many records of this kind the worker has sent."""
        return sum(records.record_type(record) == kind for record in list(self.records))

    def wait_record(self, kind: Rec, seen: int = 0, timeout: float = TIMEOUT) -> bytes:
        """-> the first record of this kind after `seen` of them."""

        def found() -> list[bytes]:
            return [record for record in self.records if records.record_type(record) == kind][seen:]

        with self._changed:
            if not self._changed.wait_for(lambda: found() or self._gone, timeout) or not found():
                raise AssertionError(f"no {kind.name} record within {timeout} s\n{self.report()}")
            return found()[0]

    def wait_upcalls(self, count: int, timeout: float = TIMEOUT) -> list[Upcall]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.upcalls) >= count, timeout):
                raise AssertionError(f"{len(self.upcalls)} of {count} upcalls within {timeout} s\n{self.report()}")
            return self.upcalls

    def answer(self, upcall: Upcall, verdict: Verdict) -> int:
        """Answer one upcall -> the verdict's id."""
        self._next_verdict += 1
        self.verdicts[self._next_verdict] = verdict
        self._try_send(records.encode_verdict(verdict, self._next_verdict, upcall.cookie))
        return self._next_verdict

    def _serve(self) -> None:
        try:
            while record := self._control.recv(records.RECORD_MAX):
                self._take(record)
        except ConnectionResetError:
            pass  # the worker was killed with records unread
        except BaseException as error:  # noqa: BLE001 - kept for the test's own thread, which raises it
            self._failure = error
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _take(self, record: bytes) -> None:
        if records.record_type(record) == Rec.UPCALL:
            upcall = records.decode_upcall(record)
            self.upcalls.append(upcall)  # first: a test that sees the answer's effect may look at the question
            verdict = self.decide(upcall)
            if verdict is not None:
                self.answer(upcall, verdict)
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    # --- what the worker shows ---

    def cell(self, cell: PageCell) -> int:
        """A worker-wide counter."""
        return self._u64(8 * cell)

    def slot(self, cell: SlotCell | int, label_id: int = LABEL_ID) -> int:
        """A counter of a label set; `SlotCell.FAILED + flag` counts failures."""
        return self._u64(records.PAGE_BYTES + records.SLOT_BYTES * label_id + 8 * cell)

    def _u64(self, offset: int) -> int:
        return int.from_bytes(os.pread(self._page, 8, offset), sys.byteorder)

    def wait_cell(self, cell: PageCell, value: int, timeout: float = TIMEOUT) -> None:
        eventually(lambda: self.cell(cell) == value, lambda: f"{cell.name} {self.cell(cell)} -> {value}", timeout)

    def wait_slot(self, cell: SlotCell | int, value: int, label_id: int = LABEL_ID, timeout: float = TIMEOUT) -> None:
        eventually(
            lambda: self.slot(cell, label_id) == value,
            lambda: f"counter {cell} of label {label_id}: {self.slot(cell, label_id)} -> {value}",
            timeout,
        )

    @contextlib.contextmanager
    def counts(self, cell: PageCell, at_least: int = 1) -> Iterator[None]:
        """Require that the counter rises by `at_least` until shortly after the block."""
        before = self.cell(cell)
        yield
        eventually(
            lambda: self.cell(cell) >= before + at_least, lambda: f"{cell.name} rose by {self.cell(cell) - before}"
        )

    def log_lines(self) -> list[str]:
        return self.log_path.read_text(errors="replace").splitlines()

    def wait_log(self, text: str, timeout: float = TIMEOUT) -> str:
        """-> the first access-log line that contains `text`."""
        eventually(
            lambda: any(text in line for line in self.log_lines()),
            lambda: f"a log line with {text!r}: {self.log_lines()[-5:]}",
            timeout,
        )
        return next(line for line in self.log_lines() if text in line)

    def idle(self, timeout: float = TIMEOUT) -> None:
        """Wait until no application's flow is open and every buffer is back in the pool."""
        self.wait_cell(PageCell.FLOWS_OPEN, 0, timeout)
        self.wait_cell(PageCell.BUFFERS_OUT, 0, timeout)

    def memory_kb(self) -> int:
        """Private memory of the worker, kB."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())
