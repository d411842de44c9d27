"""The bars: for each, what is measured, against whom, and where the limit stands."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import component, config, probes
from bench.measure import Meter, Spread, spread
from bench.suite import CASES, Slice, Suite

_MISS_TRIES: Final = 3  # the quietest counts: a tail says nothing on a busy machine
_KB: Final = 1000
_MB: Final = 1_000_000


_IDLE_SUBJECTS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "ours": ("ours", {}),
    "ours, pooled": (
        "ours",
        {"POOL_MAX_STREAMS_PER_CONNECTION": str(config.IDLE_TUNNELS), "AMBIENT_MAX_STREAMS": str(config.IDLE_TUNNELS)},
    ),
    "envoy": ("envoy", {}),
}
"""What holds idle tunnels: by default a TLS connection carries 100, which is part of what each of them costs."""


class Row(NamedTuple):
    """One line of the result. `ok` is None when it has no limit."""

    bar: str
    what: str
    ours: str
    rival: str
    ratio: float | None
    limit: str
    ok: bool | None
    note: str = ""
    case: str = ""  # the load whose profile explains a miss


class Comparison(NamedTuple):
    """Two subjects over the same rounds. The ratio is taken per round: neighbours in time share their noise."""

    ours: Spread
    rival: Spread
    ratio: Spread
    noisy: bool
    errors: int

    @property
    def note(self) -> str:
        parts = [f"{self.ratio.low:.2f}-{self.ratio.high:.2f} in {self.ratio.samples} rounds"]
        if self.noisy:
            parts.append("noisy machine")
        if self.errors:
            parts.append(f"{self.errors} errors")
        return ", ".join(parts)


def compare(slices: Sequence[Slice], ours: str, rival: str) -> Comparison:
    """Rounds in which both slices were quiet count; if they are fewer than half, all count and the result is noisy."""
    rounds: dict[int, dict[str, Slice]] = {}
    for one in slices:
        if one.subject in {ours, rival}:
            rounds.setdefault(one.round, {})[one.subject] = one
    pairs = [(both[ours], both[rival]) for both in rounds.values() if len(both) == 2]
    quiet = [pair for pair in pairs if not (pair[0].noisy or pair[1].noisy)]
    noisy = 2 * len(quiet) < len(pairs)
    used = pairs if noisy else quiet
    return Comparison(
        spread([a.cost for a, _ in used]),
        spread([b.cost for _, b in used]),
        spread([a.cost / b.cost for a, b in used]),
        noisy,
        sum(a.outcome.errors + b.outcome.errors for a, b in used),
    )


class Context(NamedTuple):
    """What a bar has at hand when it is evaluated: its cases have run."""

    suite: Suite
    rounds: int
    quick: bool

    def slices(self, case: str) -> list[Slice]:
        return [one for one in self.suite.slices if one.case == case]


class Bar(NamedTuple):
    """A bar by name; `cases` run before `evaluate` is called."""

    name: str
    cases: tuple[str, ...]
    evaluate: Callable[[Context], list[Row]]


def _cost(context: Context, bar: str, case: str, rival: str, limit: float) -> Row:
    found = compare(context.slices(case), "ours", rival)
    unit, scale = ("s/GB", 1.0) if CASES[case].unit == "GB" else (f"us/{CASES[case].unit}", 1e6)
    digits = 2 if scale == 1.0 else 1
    return Row(
        bar,
        f"CPU, {CASES[case].title}, against {'Envoy HBONE pair' if rival == 'envoy' else 'Envoy sidecar pair'}",
        f"{found.ours.median * scale:.{digits}f} {unit}",
        f"{found.rival.median * scale:.{digits}f} {unit}",
        found.ratio.median,
        f"<= {limit:g} x",
        found.ratio.median <= limit and found.errors == 0,
        found.note,
        case,
    )


def _request(context: Context) -> list[Row]:
    return [
        _cost(context, "request", "constant", "envoy", 0.65),
        _cost(context, "request", "constant", "sidecar", 0.30),
    ]


def _closed(context: Context) -> list[Row]:
    return [_cost(context, "closed", "closed", "envoy", 0.6)]


def _connection(context: Context) -> list[Row]:
    return [_cost(context, "connection", "fresh", "envoy", 0.5)]


def _bulk(context: Context) -> list[Row]:
    # The cipher of OpenSSL before 3.5 is slower than Envoy's BoringSSL by more than the rest can make up for.
    version = openssl_of(context.suite.ours.client.pid)
    limit = 0.75 if version >= (3, 5) else 1.05
    rows = [_cost(context, "bulk", case, "envoy", limit) for case in ("upload", "download")]
    text = ".".join(map(str, version))
    return [row._replace(note=f"{row.note}; OpenSSL {text}") for row in rows]


def openssl_of(pid: int) -> tuple[int, int]:
    """Major and minor version of the libssl that a process has loaded."""
    import ctypes

    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    path = next((line.split()[-1] for line in lines if "libcrypto" in line), "libcrypto.so.3")
    library = ctypes.CDLL(path)
    library.OpenSSL_version_num.restype = ctypes.c_ulong
    number = int(library.OpenSSL_version_num())
    return number >> 28, number >> 20 & 0xFF


def _memory(context: Context) -> list[Row]:
    def median(subject: str) -> dict[str, float]:
        held = [one.memory for one in context.slices("constant") if one.subject == subject and one.memory]
        return {role: statistics.median(each[role].private for each in held) / _MB for role in held[0]}

    ours, envoy = median("ours"), median("envoy")
    worst, rival = max(ours.values()), max(envoy.values())
    each = ", ".join(f"{role} {value:.2f}" for role, value in ours.items())
    return [
        Row(
            "memory",
            f"private memory of a worker at {config.RATE} requests/s",
            f"{worst:.2f} MB",
            f"{rival:.1f} MB",
            worst / rival,
            "<= 2 MB",
            worst <= 2,
            each,
        )
    ]


def _idle(context: Context) -> list[Row]:
    count = config.IDLE_TUNNELS // 10 if context.quick else config.IDLE_TUNNELS
    suite = context.suite
    found = {}
    for label, (name, settings) in _IDLE_SUBJECTS.items():
        suite.restart(name, settings)
        suite.progress(f"idle: {count} tunnels through {label}")
        found[label] = probes.idle_tunnels(suite.subject(name), count)
        # What held ten thousand tunnels is no fair subject for the next load.
        suite.restart(name)
    ours, envoy = found["ours"], found["envoy"]
    worst, rival = max(ours.bytes_each.values()), max(envoy.bytes_each.values())
    return [
        Row(
            "idle",
            f"an idle tunnel, user space of a worker, {ours.tunnels} open",
            f"{worst:.0f} B",
            f"{rival:.0f} B",
            worst / rival,
            "<= 512 B",
            worst <= 512 and ours.failed == 0,
            _idle_note(ours),
        ),
        Row(
            "idle",
            "the same, all on one TLS connection",
            f"{max(found['ours, pooled'].bytes_each.values()):.0f} B",
            "",
            None,
            "",
            None,
            _idle_note(found["ours, pooled"]),
        ),
    ]


def _idle_note(found: probes.Idle) -> str:
    each = ", ".join(f"{role} {value:.0f}" for role, value in found.bytes_each.items())
    return each + (f"; {found.failed} did not open" if found.failed else "")


def _identity(context: Context) -> list[Row]:
    context.suite.progress(f"identity: {config.IDENTITIES} service accounts in one worker")
    found = probes.identities(context.suite.directory, context.suite.authority, config.IDENTITIES)
    return [
        Row(
            "identity",
            f"one more service account, per worker, of {found.accounts}",
            f"{found.loaded / _KB:.1f} KB",
            "",
            None,
            "<= 32 KB",
            max(found.loaded, found.served) <= 32 * _KB,
            f"{found.served / _KB:.1f} KB with a pod of its own that has served a handshake; "
            f"all taken in within {found.seconds * 1e3:.0f} ms",
        )
    ]


def _flow_hit(context: Context) -> list[Row]:
    context.suite.progress("flow-hit: look-ups")
    nanos = probes.flow_hit(context.rounds)
    title = f"flow-table hit, {config.FLOWS} entries"
    return [Row("flow-hit", title, f"{nanos:.0f} ns", "", None, "<= 150 ns", nanos <= 150)]


def _flow_miss(context: Context) -> list[Row]:
    context.suite.need(["ours"])
    context.suite.progress(f"flow-miss: {config.MISS_RATE} new destinations/s")
    suite = context.suite
    tries = []
    for _ in range(1 if context.quick else _MISS_TRIES):
        suite.await_quiet()
        meter = Meter(suite.ours.processes, suite.origin.pids.values())
        tries.append(probes.flow_miss(suite.ours.outbound_port, meter, quick=context.quick))
        if tries[-1].foreign <= config.NOISE_LIMIT:
            break
    found = min(tries, key=lambda each: each.foreign)
    noise = f"; noisy machine, foreign {found.foreign:.2f}" if found.foreign > config.NOISE_LIMIT else ""
    return [
        Row(
            "flow-miss",
            f"flow-table miss, P99 at {config.MISS_RATE} new destinations/s",
            f"{found.miss_p99:.0f} us",
            "",
            None,
            "P99 <= 1 ms",
            found.miss_p99 <= 1000,
            f"connect to verdict, P50 {found.miss_p50:.0f} us; known destination {found.hit_p50:.0f}, "
            f"P99 {found.hit_p99:.0f} us; {found.samples} misses{noise}",
        )
    ]


def _ztunnel(context: Context) -> list[Row]:
    found = component.whole_ztunnel(context.suite.directory, context.suite.progress, quick=context.quick)
    what = f"PSS of a whole ztunnel, all processes, at {config.RATE} requests/s"
    pss, alone = found.pss / _MB, found.alone / _MB
    return [
        Row("ztunnel", what, f"{pss:.1f} MB", "", None, "<= 28 MB", pss <= 28, found.detail),
        Row(
            "ztunnel",
            "the same on a machine where nothing else maps its files",
            f"{alone:.1f} MB",
            "",
            None,
            "",
            None,
            "libraries and interpreter counted whole",
        ),
    ]


def _start(context: Context) -> list[Row]:
    found = component.many_pods(context.suite.directory, context.suite.progress, config.IDENTITIES)
    what = f"start of {config.IDENTITIES} pods with as many service accounts"
    return [Row("start", what, f"{found.seconds:.2f} s", "", None, "<= 5 s", found.seconds <= 5, found.detail)]


BARS: Final = {
    bar.name: bar
    for bar in (
        Bar("request", ("constant",), _request),
        Bar("closed", ("closed",), _closed),
        Bar("connection", ("fresh",), _connection),
        Bar("bulk", ("upload", "download"), _bulk),
        Bar("memory", ("constant",), _memory),
        Bar("idle", (), _idle),
        Bar("identity", (), _identity),
        Bar("flow-hit", (), _flow_hit),
        Bar("flow-miss", (), _flow_miss),
        Bar("ztunnel", (), _ztunnel),
        Bar("start", (), _start),
    )
}
