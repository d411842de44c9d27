"""Memory of the workers: what they hold after many short connections, and whether it grows with their number.

Natively, not under valgrind, and with connections side by side: buffers, tables and the allocator do what they do under
load. What one connection leaves behind for good is then a slope, however small it is.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bench import config, load
from bench.certs import Authority
from bench.errors import BenchError
from bench.gate.baselines import Finding
from bench.measure import memory
from bench.subjects.control import await_cell
from bench.subjects.ours import Ours
from bench.suite import Progress
from meshcore.records import PageCell

FILE: Final = config.ROOT / "bench" / "baselines" / "memory.json"
CONNECTIONS: Final = (200, 2_000, 6_000)
"""How many there have been at each look at the memory. Until the last but one everything may still reach its size."""
_AT_ONCE: Final = 8
_WAIT: Final = 10.0  # seconds for a step of one connection
_KB: Final = 1024


class Held(NamedTuple):
    """Private bytes of each worker: at every look, and the growth per 1,000 connections between the last two."""

    looks: dict[str, list[int]]
    growth: dict[str, float]


class Ceilings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is allowed, and why so much."""

    private_bytes: int
    growth_bytes_per_1000: int
    why: dict[str, str]


def read(path: Path = FILE) -> Ceilings:
    """Raises BenchError when the file is missing or says something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ceilings)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchError(f"{path}: {error}") from None


def memory_after(directory: Path, progress: Progress, connections: Sequence[int] = CONNECTIONS) -> Held:
    """Look at both workers after so many short connections in all, in the bench's own network namespace.

    At least two numbers, rising. Raises BenchError.
    """
    pair = Ours(directory, Authority())
    looks: dict[str, list[int]] = {}
    try:
        pair.launch()
        with _origin(), ThreadPoolExecutor(_AT_ONCE, "client") as clients:
            done = 0
            for target in connections:
                progress(f"memory: {target:,} connections")
                for _ in clients.map(_connect, [pair] * (target - done)):
                    pass
                done = target
                for node in (pair.client, pair.server):
                    await_cell(node, PageCell.FLOWS_OPEN, 0)
                    node.settle()
                    looks.setdefault(node.name, []).append(memory([node.pid]).private)
    finally:
        pair.stop()
    thousands = (connections[-1] - connections[-2]) / 1000
    return Held(looks, {name: (held[-1] - held[-2]) / thousands for name, held in looks.items()})


def _connect(pair: Ours) -> None:
    """One connection: a byte from the application, then the end."""
    try:
        with socket.create_connection(pair.http, _WAIT) as sock:
            if sock.recv(1) != b"x":
                raise BenchError("a connection through our pair of workers was refused")
    except OSError as error:
        raise BenchError(f"a connection through our pair of workers failed: {error}") from error


@contextlib.contextmanager
def _origin() -> Iterator[None]:
    """The server that says one byte, where our pair leads to."""
    process = subprocess.Popen(
        [config.tool("setpriv"), "--pdeathsig", "KILL", *load.program("sink", config.ORIGIN, config.HTTP_PORT)],
        stdin=subprocess.DEVNULL,
        env=config.child_environment(Path("/")),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + config.START_TIMEOUT
        while True:
            try:
                socket.create_connection((config.ORIGIN, config.HTTP_PORT), 1).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"the origin does not start: {error}") from error
                time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait(_WAIT)


def judge(held: Held, ceilings: Ceilings) -> list[Finding]:
    """Two findings per worker: what it holds after the last connection, and how it grew before."""
    findings = []
    for name, looks in held.looks.items():
        for what, value, most in (
            ("private memory", looks[-1], ceilings.private_bytes),
            ("growth per 1,000 connections", held.growth[name], ceilings.growth_bytes_per_1000),
        ):
            text = f"{what} of the {name} worker: {value / _KB:,.0f} KB, at most {most / _KB:,.0f} KB"
            findings.append(Finding(value <= most, "memory", text))
    return findings
