"""Runs the cases: all subjects stand at once, and slices of them take turns, so that a busy minute meets them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from ambient.demo.processes import Processes
from bench import config, load
from bench.certs import Authority
from bench.errors import BenchError
from bench.load import Load, Outcome
from bench.measure import Memory, Meter, Usage, await_quiet, memory
from bench.subjects.base import Address, Subject
from bench.subjects.direct import Origin
from bench.subjects.envoy import EnvoyHbone, EnvoySidecar
from bench.subjects.ours import Ours

Progress = Callable[[str], None]

_WARM_UP: Final = 1.0  # seconds of each load on each subject before anything counts


class Case(NamedTuple):
    """One load over some subjects. `unit` names what one piece of work is."""

    name: str
    title: str
    load: Load
    unit: str
    seconds: float
    subjects: tuple[str, ...]
    bulk: bool = False


class Slice(NamedTuple):
    """One load on one subject, once. `cells` are the counters of our workers, by worker and counter."""

    case: str
    subject: str
    round: int
    outcome: Outcome
    usage: Usage
    origin: float  # seconds of CPU of the origin
    memory: dict[str, Memory]
    cells: dict[str, dict[str, int]]

    @property
    def noisy(self) -> bool:
        return self.usage.foreign > config.NOISE_LIMIT

    @property
    def cost(self) -> float:
        """CPU seconds of all proxies per piece of work."""
        return sum(self.usage.cpu.values()) / self.outcome.work

    @property
    def per_origin(self) -> float:
        """CPU of the proxies over the CPU of the origin in the same slice: the steadiest yardstick."""
        return sum(self.usage.cpu.values()) / self.origin if self.origin else 0.0


CASES: Final = {
    case.name: case
    for case in (
        Case(
            "constant",
            f"{config.RATE} requests/s, 1 KB, {config.RATE_CONNECTIONS} connections",
            load.constant,
            "request",
            6.0,
            ("ours", "envoy", "sidecar", "direct"),
        ),
        Case(
            "closed",
            f"closed loop, {config.CLOSED_CONNECTIONS} connections, 1 KB",
            load.closed,
            "request",
            3.0,
            ("ours", "envoy", "direct"),
        ),
        Case(
            "fresh",
            f"a new connection for every request, {config.FRESH_CONNECTIONS} at a time",
            load.fresh,
            "connection",
            3.0,
            ("ours", "envoy", "direct"),
        ),
        Case("upload", "bulk, one stream up", load.upload, "GB", 3.0, ("ours", "envoy", "direct"), bulk=True),
        Case("download", "bulk, one stream down", load.download, "GB", 3.0, ("ours", "envoy", "direct"), bulk=True),
    )
}


class Suite:
    """The subjects of one run. Use it in a `with` block: it ends with every process gone."""

    def __init__(self, directory: Path, progress: Progress, *, retries: int = 0, patience: float = 0.0) -> None:
        self.directory = directory
        self.progress = progress
        self._retries = retries
        self._patience = patience
        self.authority = Authority()
        self.processes = Processes(directory, config.child_environment(directory))
        self.origin = Origin(self.processes, directory)
        self.ours = Ours(directory, self.authority)
        self.envoy = EnvoyHbone(self.processes, directory, self.authority)
        self._subjects: dict[str, Subject] = {
            "ours": self.ours,
            "envoy": self.envoy,
            "sidecar": EnvoySidecar(self.processes, directory, self.authority),
            "direct": self.origin,
        }
        self._standing: list[Subject] = []
        self.slices: list[Slice] = []

    def __enter__(self) -> Self:
        try:
            self.need(["direct"])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for subject in reversed(self._standing):
            subject.stop()
        self._standing.clear()
        self.processes.stop_all()

    def need(self, names: Iterable[str]) -> None:
        """Start the subjects that do not stand yet."""
        for name in names:
            subject = self._subjects[name]
            if subject not in self._standing:
                self.progress(f"starting {name}")
                # Noted first: a start that fails halfway leaves processes too.
                self._standing.append(subject)
                subject.start()

    def restart(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Fresh processes for a subject: what it holds then is not the remains of an earlier load.

        `settings` are those of our workers that are not to be ztunnel's defaults.
        """
        subject = self._subjects[name]
        if subject in self._standing:
            subject.stop()
            self._standing.remove(subject)
        if name == "ours":
            self.ours = Ours(self.directory, self.authority, settings)
            self._subjects[name] = self.ours
        self.need([name])

    def run(self, case: Case, rounds: int, *, quick: bool) -> list[Slice]:
        """Warm up, then `rounds` slices of each subject in turn."""
        self.need(case.subjects)
        seconds = min(case.seconds, 2.0) if quick else case.seconds
        for name in case.subjects:
            case.load(self.address(case, name), _WARM_UP, None)
        done: list[Slice] = []
        for number in range(rounds):
            # Every other round runs backwards: nobody always follows the same neighbour.
            for name in case.subjects[:: 1 if number % 2 == 0 else -1]:
                done.append(self._quietest(case, name, number, seconds))
                self.progress(f"{case.name} {number + 1}/{rounds} {_line(done[-1], case.unit)}")
        self.slices += done
        return done

    def subject(self, name: str) -> Subject:
        return self._subjects[name]

    def address(self, case: Case, name: str) -> Address:
        """Where a client of this subject connects for this load."""
        subject = self._subjects[name]
        return subject.bulk if case.bulk else subject.http

    def await_quiet(self) -> None:
        """Let others finish what they do, for as long as patience lasts."""
        if self._patience:
            await_quiet(config.NOISE_LIMIT, self._patience)

    def _quietest(self, case: Case, name: str, number: int, seconds: float) -> Slice:
        """A slice that the machine did not disturb, or the least disturbed of a few."""
        proxied = bool(self._subjects[name].processes)
        tries: list[Slice] = []
        while not tries or (tries[-1].noisy and proxied and len(tries) <= self._retries):
            if proxied:
                self.await_quiet()
            tries.append(self._slice(case, name, number, seconds))
        return min(tries, key=lambda one: one.usage.foreign)

    def _slice(self, case: Case, name: str, number: int, seconds: float) -> Slice:
        subject = self._subjects[name]
        origin = {f"origin-{key}": pid for key, pid in self.origin.pids.items()}
        idle = [pid for other in self._standing if other is not subject for pid in other.processes.values()]
        meter = Meter({**subject.processes, **origin}, idle)
        held: dict[str, Memory] = {}

        def halfway() -> None:
            held.update({key: memory([pid]) for key, pid in subject.processes.items()})

        before = self._cells(name)
        meter.start()
        outcome = case.load(self.address(case, name), seconds, halfway if case.name == "constant" else None)
        usage = meter.stop()
        after = self._cells(name)
        subject.trim()
        spent = sum(usage.cpu.pop(key) for key in origin)
        cells = {role: {key: value - before[role][key] for key, value in now.items()} for role, now in after.items()}
        return Slice(case.name, name, number, outcome, usage, spent, held, cells)

    def _cells(self, name: str) -> dict[str, dict[str, int]]:
        if name != "ours":
            return {}
        return {node.name: node.cells() for node in (self.ours.client, self.ours.server)}


def choose(names: Sequence[str]) -> list[Case]:
    """The cases of these names, in the order they run."""
    unknown = set(names) - set(CASES)
    if unknown:
        raise BenchError(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return [case for name, case in CASES.items() if name in names]


def _line(one: Slice, unit: str) -> str:
    cost = f"{one.cost * 1e6:.1f} us/{unit}" if unit != "GB" else f"{one.cost:.2f} s/GB"
    rate = f"{one.outcome.rate:.0f}/s" if unit != "GB" else f"{one.outcome.rate * 8:.1f} Gbit/s"
    errors = f", {one.outcome.errors} errors" if one.outcome.errors else ""
    noise = f", foreign {one.usage.foreign:.2f}" + (" NOISY" if one.noisy else "")
    return f"{one.subject:<8} {cost:>18} {rate:>14}{noise}{errors}"
