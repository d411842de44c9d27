"""The document of `ambient bench istiod --json`. Times are seconds, sizes bytes, CPU is istiod's in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.errors import BenchError
from bench.istiod.fleet import Sizes
from bench.measure import percentile
from meshcore.manifests import write_atomic

FORMAT: Final = 1


class Spread(msgspec.Struct, frozen=True):
    """What a number of readings came to. `p99` of fewer than 100 is the highest of them."""

    low: float
    median: float
    p90: float
    p99: float
    high: float
    samples: int


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    p99 = percentile(ordered, 0.99) if len(ordered) >= 100 else ordered[-1]
    return Spread(
        ordered[0], statistics.median(ordered), percentile(ordered, 0.9), p99, ordered[-1], samples=len(ordered)
    )


class Cost(msgspec.Struct, frozen=True):
    """What istiod did in a stretch of time."""

    seconds: float
    cpu: float
    foreign: float
    """Cores that neither istiod nor the bench used."""
    responses: int
    """Messages to clients."""
    message_bytes: int
    """Of those messages, as clients received them."""
    received: int
    """By the clients, as TLS records."""
    sent: int
    connections: int
    """That clients made."""


class Start(msgspec.Struct, frozen=True):
    """istiod is started beside a full cluster; when it is ready, clients that know nothing connect all at once."""

    ready: float
    """From the start of the process to an answer at /ready."""
    ready_cpu: float
    ready_pss: int
    sync: float
    """From then on until the last client had heard of everything."""
    first_half: float
    """The same for half of the clients."""
    cost: Cost
    """Of the part after /ready."""
    pss: int
    rss: int
    peak_rss: int
    held: int
    """Addresses that all clients together hold."""

    @property
    def total(self) -> float:
        return self.ready + self.sync


class Deaths(msgspec.Struct, frozen=True):
    """Endpoints stop being ready, one at a time, and become ready again. Latency counts for the deaths."""

    total: Spread
    """From before the request to the API server to the last client's ACK."""
    after_debounce: Spread
    """The same without the wait for silence, as istiod's metric tells it."""
    debounce: Spread
    compute: Spread
    """Of that, the recomputation, as istiod's metric tells it."""
    cost: Cost
    """Of further deaths, during which nobody reads istiod's metrics."""
    pushes: int
    """Behind `cost`: two for each death, it and the recovery."""


class Reconnects(msgspec.Struct, frozen=True):
    """All clients leave and come back at once, with everything they held."""

    seconds: Spread
    cpu: Spread
    costs: list[Cost]
    pss: int


class Rollout(msgspec.Struct, frozen=True):
    """Pods are replaced by others at a steady rate."""

    pods: int
    rate: float
    """Pods a second that were asked for."""
    changing: float
    """Seconds from the first change to the last."""
    settled: float
    """From the last change until the last client knew of all."""
    stale: Spread
    """From a change of a pod (it came, it went) until the last client knew of it."""
    cost: Cost
    pss: int


class Point(msgspec.Struct, frozen=True):
    """A cluster of one size. `noisy`: the machine was busy with other things in most of what was timed."""

    sizes: Sizes
    starts: list[Start]
    quiet: float
    """Seconds after the last start until istiod has heard of everything that it wrote itself."""
    deaths: Deaths | None
    reconnects: Reconnects | None
    rollout: Rollout | None
    noisy: bool


class Memory(msgspec.Struct, frozen=True):
    """Bytes of istiod, as straight lines through the sizes that were measured."""

    base: float
    """Without any pod."""
    per_pod: float
    """With its share of services and slices; nobody connected."""
    per_held: float
    """For each resource that a client holds."""


class Document(msgspec.Struct, frozen=True):
    """One run. `memory` are the slopes over the sizes, absent with one size."""

    format: int
    machine: dict[str, Any]
    source: str
    debounce: float
    types: list[str]
    points: list[Point]
    memory: Memory | None


def write(path: Path, document: Document) -> None:
    """Replace the file as a whole. Raises BenchError."""
    write_text(path, msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")


def write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Document:
    """Raises BenchError that names the file, the field and the cause."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Document)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is no result of `ambient bench istiod --json`: {error}") from error
    if found.format != FORMAT:
        raise BenchError(f"{path}: format {found.format} is not {FORMAT}, which `ambient bench istiod --json` writes")
    return found
