"""A small stand-in for ztunnel's control process: real records to a real worker from a real zygote, fixed decisions.

It stands here so that the data path can be measured by itself; decisions of the real control process are measured
where they are the subject.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import config
from bench.errors import BenchError
from meshcore import records
from meshcore.records import PageCell, Rec, Upcall, Verdict
from ztunnel import config as ztunnel_config
from ztunnel import zygote
from ztunnel.pages import CounterPage
from ztunnel.supervisor import WORKER_MODULE

CERT_ID: Final = 1
BUNDLE_ID: Final = 1
POD_ID: Final = 1
_WAIT: Final = 20.0  # seconds for a worker's answer
_SEND_BUFFER: Final = 1 << 20

Decide = Callable[[Upcall], tuple[Verdict, list[bytes]]]
"""An upcall -> the verdict, and records that must precede it."""


class WorkerNode:
    """One worker with its zygote, counter page and access log, and a thread that answers its upcalls.

    `settings` are ztunnel's, by the names of its environment variables; the rest stands at its defaults.
    """

    def __init__(self, name: str, directory: Path, decide: Decide, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = directory / f"{name}.access.log"
        self._decide = decide
        self._settings = dict(settings or {})
        self._verdicts = 0
        self._dumped = threading.Event()
        self._pod_ready = threading.Event()
        self.faults: list[str] = []

    def start(self) -> None:
        """Start the worker and give it its configuration."""
        self.page = CounterPage(0)
        self._link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            for end in (self._link, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self.pid = self.launch(far.fileno(), self.page.fd)
        settings = ztunnel_config.load(self._settings)
        self.send(records.encode_config(settings.worker_config(log_access=True)))
        self._thread = threading.Thread(target=self._serve, name=f"control-{self.name}", daemon=True)
        self._thread.start()

    def launch(self, link: int, page: int) -> int:
        """Start a worker on these descriptors -> its pid. Here: a zygote is started, and forks it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._zygote_link = ours
        program = ["-I", "-S", zygote.__file__, str(theirs.fileno()), str(config.BUILD), WORKER_MODULE]
        with theirs:
            self._zygote = self.spawn([sys.executable, *program], [theirs.fileno()])
        socket.send_fds(ours, [zygote.REQUEST.pack(0)], [link, page])
        ours.settimeout(_WAIT)
        _, pid, kind, status = zygote.REPLY.unpack(ours.recv(zygote.REPLY.size))
        if kind != zygote.STARTED:
            raise BenchError(f"worker {self.name} ended at its start with status {status}")
        return int(pid)

    def spawn(self, command: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start a program that inherits `fds`, writes to the access log and is killed with us."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [config.tool("setpriv"), "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                env=config.child_environment(self.log.parent),
                pass_fds=fds,
                start_new_session=True,
            )

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid

    def send(self, record: bytes, fds: list[int] | None = None) -> None:
        if fds:
            socket.send_fds(self._link, [record], fds)
        else:
            self._link.send(record)

    def add_pod(self, listeners: list[socket.socket], pod_id: int = POD_ID, cert_id: int = CERT_ID) -> None:
        """Listeners of outbound, inbound plaintext and inbound HBONE; they are closed here, the worker has its own."""
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._pod_ready.clear()
        try:
            fds = [namespace, *(each.fileno() for each in listeners)]
            self.send(records.encode_pod_add(pod_id, cert_id, spoof=False), fds)
        finally:
            os.close(namespace)
            for each in listeners:
                each.close()
        if not self._pod_ready.wait(_WAIT):
            raise BenchError(f"worker {self.name} does not serve its pod: {'; '.join(self.faults) or 'no answer'}")

    def settle(self) -> None:
        """Return when the worker has taken in every record sent so far."""
        self._dumped.clear()
        self.send(records.encode_dump())
        if not self._dumped.wait(_WAIT):
            raise BenchError(f"worker {self.name} does not answer")

    def cells(self) -> dict[str, int]:
        return {cell.name: self.page.cell(cell) for cell in PageCell}

    def _serve(self) -> None:
        """Answer upcalls until the worker is gone: one blocking read, one decision, one or more sends."""
        with contextlib.suppress(OSError):
            while record := self._link.recv(records.RECORD_MAX):
                kind = records.record_type(record)
                if kind is Rec.UPCALL:
                    upcall = records.decode_upcall(record)
                    verdict, before = self._decide(upcall)
                    self._verdicts += 1
                    for each in before:
                        self._link.send(each)
                    self._link.send(records.encode_verdict(verdict, self._verdicts, upcall.cookie))
                elif kind is Rec.DUMP_END:
                    self._dumped.set()
                elif kind is Rec.POD_READY:
                    self._pod_ready.set()
                elif kind is Rec.CERT_ERROR:
                    self.faults.append(records.decode_cert_error(record)[1])

    def stop(self) -> None:
        """Kill the zygote, which would report its worker's end, then the worker."""
        if hasattr(self, "_zygote"):
            self._zygote.kill()
            self._zygote.wait(_WAIT)
            self._zygote_link.close()
        if hasattr(self, "pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if hasattr(self, "_thread"):
            self._thread.join(_WAIT)  # it ends with the worker
            self._link.close()
            self.page.close()


def listen(host: str, port: int = 0) -> socket.socket:
    """A listener as the control process makes them: non-blocking, shared port."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


def await_cell(node: WorkerNode, cell: PageCell, value: int, timeout: float = _WAIT) -> None:
    """Return when a counter of the worker has come to `value`."""
    deadline = time.monotonic() + timeout
    while node.page.cell(cell) != value:
        if time.monotonic() > deadline:
            raise BenchError(f"{node.name}: {cell.name} is {node.page.cell(cell)}, not {value}")
        time.sleep(0.02)
