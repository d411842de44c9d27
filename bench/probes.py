"""Figures that are no cost per request: bytes of an idle tunnel and of an identity, times of the flow table."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench import config, load
from bench.certs import Authority
from bench.errors import BenchError
from bench.measure import Meter, memory, percentile
from bench.subjects.base import Address, Subject
from bench.subjects.control import BUNDLE_ID, CERT_ID, POD_ID, WorkerNode, listen
from meshcore import flowtable, records
from meshcore.records import Action, Mask, Upcall, Verdict

_AT_ONCE: Final = 64  # tunnels being opened at a time
_SETTLE: Final = 0.5  # seconds until buffers of the opening are back
_LOOKUPS: Final = 2_000_000
_VERDICT_SECONDS: Final = 10.0


class Idle(NamedTuple):
    """Growth of private memory in bytes per open tunnel, by process."""

    tunnels: int
    failed: int
    seconds: float
    bytes_each: dict[str, float]


class Identities(NamedTuple):
    """Private bytes per identity of a worker: loaded, and after each has served a handshake behind a pod of its own."""

    loaded: float
    served: float
    seconds: float
    accounts: int


class Verdicts(NamedTuple):
    """Microseconds from a connection being due to its end by verdict."""

    hit_p50: float
    hit_p99: float
    miss_p50: float
    miss_p99: float
    samples: int
    foreign: float


@contextlib.contextmanager
def held(address: Address, count: int, *, netns: str | None = None) -> Iterator[dict[str, float]]:
    """Hold `count` connections open while the block runs, from inside a namespace; gives what `hold.py` says."""
    enter = [] if netns is None else [config.tool("nsenter"), f"--net={netns}", "--"]
    process = subprocess.Popen(
        [config.tool("setpriv"), "--pdeathsig", "KILL", *enter, *load.program("hold", *address, count, _AT_ONCE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=config.child_environment(Path("/")),
        start_new_session=True,
    )
    try:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise BenchError("opening idle tunnels failed; see above")
        yield json.loads(line)
    finally:
        process.kill()
        process.communicate(timeout=10)


def idle_tunnels(subject: Subject, count: int) -> Idle:
    """What `count` tunnels that carry nothing cost each process of the subject. It should be freshly started."""

    def private() -> dict[str, int]:
        return {name: memory([pid]).private for name, pid in subject.processes.items()}

    before = private()
    with held(subject.sink, count) as found:
        time.sleep(_SETTLE)
        after = private()
    opened = int(found["open"])
    if opened == 0:
        raise BenchError(f"{subject.name} opened no tunnel")
    each = {name: (after[name] - before[name]) / opened for name in before}
    return Idle(opened, int(found["failed"]), found["seconds"], each)


def _refuse(_: Upcall) -> tuple[Verdict, list[bytes]]:
    return Verdict(Action.DENY, Mask(0), 0, status=401), []


def identities(directory: Path, authority: Authority, count: int) -> Identities:
    """Load `count` service accounts into a fresh worker, then let each serve one handshake behind its own pod."""
    leafs = [authority.issue(f"account-{number}") for number in range(count)]
    first = authority.issue("first")
    node = WorkerNode("identities", directory, _refuse)
    node.start()
    try:
        node.send(records.encode_bundle(BUNDLE_ID, authority.pem))
        node.send(records.encode_cert(CERT_ID, BUNDLE_ID, first.chain, first.key))
        node.add_pod([listen(config.ORIGIN) for _ in range(3)])
        node.settle()
        before = memory([node.pid]).private
        began = time.monotonic()
        for number, leaf in enumerate(leafs, CERT_ID + 1):
            node.send(records.encode_cert(number, BUNDLE_ID, leaf.chain, leaf.key))
        node.settle()
        seconds = time.monotonic() - began
        loaded = memory([node.pid]).private
        if node.faults:
            raise BenchError(f"a certificate was refused: {node.faults[0]}")
        with tempfile.TemporaryDirectory(dir=directory) as files:
            context = _client_context(authority, Path(files))
        for number in range(count):
            ports = [listen(config.ORIGIN) for _ in range(3)]
            address = ports[2].getsockname()
            node.add_pod(ports, POD_ID + 1 + number, CERT_ID + 1 + number)
            with socket.create_connection(address, 5) as sock, context.wrap_socket(sock) as tls:
                tls.settimeout(5)
                tls.recv(1)  # the server's SETTINGS: its handshake is complete
        time.sleep(_SETTLE)
        node.settle()
        served = memory([node.pid]).private
    finally:
        node.stop()
    return Identities((loaded - before) / count, (served - before) / count, seconds, count)


def _client_context(authority: Authority, directory: Path) -> ssl.SSLContext:
    """Speaks mutual TLS 1.3 as a mesh client does; the server's name is no host name, its chain is verified."""
    files = authority.issue_files("client", directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(files.root)
    context.load_cert_chain(files.chain, files.key)
    context.set_alpn_protocols(["h2"])
    return context


def flow_hit(rounds: int) -> float:
    """Nanoseconds of one look-up in a table of FLOWS entries: the median of `rounds` runs."""
    run: Callable[[int, int], float] = flowtable.bench_lookup
    return statistics.median(run(config.FLOWS, _LOOKUPS) for _ in range(max(3, rounds)))


def flow_miss(port: int, meter: Meter, *, quick: bool) -> Verdicts:
    """How long a connection through the listener at `port` waits for a verdict, known and new destinations in turn."""
    seconds = _VERDICT_SECONDS / 4 if quick else _VERDICT_SECONDS
    meter.start()
    found = load.run_program("verdicts", port, config.MISS_RATE, seconds, seconds=seconds)
    foreign = meter.stop().foreign
    hit, miss = sorted(found["hit_us"]), sorted(found["miss_us"])
    return Verdicts(
        percentile(hit, 0.5),
        percentile(hit, 0.99),
        percentile(miss, 0.5),
        percentile(miss, 0.99),
        len(miss),
        foreign,
    )
