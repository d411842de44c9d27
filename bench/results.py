"""The document of a run: what `ambient bench run --json` writes and `ambient bench report` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bench.errors import BenchError

FORMAT: Final = 2
"""Version of the document; a reader refuses any other."""

Unit = Literal["request", "connection", "GB", "tunnel"]
Phase = Literal["idle", "load", "after"]


class Figure(msgspec.Struct, frozen=True):
    """A median over the rounds that count, and the range it was taken from."""

    median: float
    low: float
    high: float
    samples: int


class Memory(msgspec.Struct, frozen=True):
    """Bytes of one process: proportional share (PSS) and what it alone holds (USS)."""

    pss: int
    private: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario under one load.

    A process is named "PROXY/PART", as in "ztunnel-1/control", "ztunnel-1/worker-0" or "client/envoy": parts of one
    proxy are shown apart and summed. Proxies named in `beside` stand in the path but are not what is measured.
    """

    scenario: str
    load: str
    unit: Unit
    rounds: int
    """Rounds that count; noisy ones are left out while at least half are quiet."""
    noisy: bool
    """Fewer than half of the rounds were quiet: all count, and the figures are not to be used."""
    foreign: float
    """Cores that neither the subjects nor the bench used: median over all rounds."""
    errors: int
    rate: Figure
    """Units per second; for GB, times 8 it is Gbit/s. For idle tunnels, how many were open."""
    cpu: dict[str, Figure]
    """CPU seconds per unit, by process."""
    cpu_total: Figure
    """CPU seconds per unit, all proxies of the scenario together."""
    vcpu: Figure
    """Cores that all proxies of the scenario together kept busy."""
    over_origin: Figure
    """CPU of the proxies over the CPU of the origin in the same slice."""
    latency_us: dict[str, Figure] = {}
    """p50, p90, p99, p999; open-loop loads count from when a request was due."""
    added_us: dict[str, Figure] = {}
    """The same over the scenario `direct` of the same round; absent when it was not measured."""
    memory: dict[Phase, dict[str, Memory]] = {}
    """By process: before any load, in the middle of this one (in a slice that is not timed), and after it."""
    alone: dict[str, int] = {}
    """By proxy: bytes of all its parts under load as if nothing else on the machine mapped its files.

    PSS divides a program's text among all that run it, which flatters whoever stands here several times; this is the
    figure to set beside what a container is charged with.
    """
    syscalls: dict[str, float] = {}
    """System calls per unit (bulk: per MB), by process, from a slice of its own."""
    ratio: dict[str, Figure] = {}
    """Scenario -> cpu_total of this one over that one's in the same round."""
    bytes_per_tunnel: dict[str, float] = {}
    """Only for loads that hold idle tunnels: growth of private memory per tunnel, by process."""
    growth_per_hour: dict[str, float] = {}
    """Only for the soak: bytes of private memory per hour, by process, the slope of a straight line."""


class Scenario(msgspec.Struct, frozen=True):
    """What a scenario was, in words, and which of its proxies only stand beside the one that is measured."""

    name: str
    title: str
    beside: list[str] = []


class Document(msgspec.Struct, frozen=True):
    """One run. `slices` are the raw measurements behind `measured`; the report does not need them."""

    format: int
    machine: dict[str, Any]
    noise_limit: float
    scenarios: list[Scenario]
    measured: list[Measured]
    slices: list[dict[str, Any]] = []


def write(path: Path, document: Document) -> None:
    """Replace the file as a whole; its directory is made if absent. Raises BenchError that names what is in the way."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
        draft.replace(path)
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Document:
    """Read one document. Raises BenchError that names the file, the field and the cause."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("format")
        if version is None or bytes(version) != b"%d" % FORMAT:
            said = "none" if version is None else bytes(version).decode()
            raise BenchError(f"{path}: format {said} is not {FORMAT}, which `ambient bench run --json` writes")
        return msgspec.json.decode(data, type=Document)
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is no result of `ambient bench run --json`: {error}") from error
