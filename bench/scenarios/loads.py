"""The loads by name: each runs a generator inside a client's pod to its end and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bench import config, load
from bench.errors import BenchError
from bench.load import During, Outcome
from bench.results import Unit
from bench.scenarios.place import PAGE
from bench.subjects.base import Address
from bench.users import sweep


class Target(NamedTuple):
    """Where a load comes from and goes to: the client's network namespace, the server pod's address."""

    netns: str
    host: str


Run = Callable[[Target, float, During], Outcome]


class Load(NamedTuple):
    """`seconds` is the length of a slice. What holds tunnels or soaks is driven by the runner instead of `run`."""

    name: str
    title: str
    unit: Unit
    seconds: float
    run: Run | None


def _enter(target: Target) -> list[str]:
    return [config.tool("nsenter"), f"--net={target.netns}", "--"]


def _http(rate: int, connections: int, *, fresh: bool = False) -> Run:
    def run(target: Target, seconds: float, during: During = None) -> Outcome:
        return load.generate(
            Address(target.host, config.HTTP_PORT),
            seconds,
            during,
            rate=rate,
            connections=connections,
            fresh=fresh,
            path=PAGE,
            netns=target.netns,
        )

    return run


def _bulk(streams: int, *, down: bool) -> Run:
    def run(target: Target, seconds: float, during: During = None) -> Outcome:
        options = [f"-P{streams}", "-t", f"{max(1.0, seconds):g}", *(["-R"] if down else [])]
        command = [config.tool("iperf3"), "-c", target.host, "-p", str(config.BULK_PORT), "-J", *options]
        total = json.loads(load.run_generator([*_enter(target), *command], seconds, during))["end"]["sum_received"]
        return Outcome(total["bytes"] / 1e9, 0, total["seconds"], {})

    return run


def _locust(target: Target, seconds: float, during: During = None) -> Outcome:
    # Imported here: only this load needs locust's packages.
    from bench import locustload

    return locustload.run(
        Address(target.host, config.HTTP_PORT),
        rate=config.RATE,
        users=config.RATE_CONNECTIONS,
        seconds=seconds,
        netns=target.netns,
        during=during,
    )


def _rated(rate: int, connections: int) -> Load:
    title = f"{rate} requests/s, 1 KB, {connections} connections that stay open"
    return Load(f"rate-{rate}-c{connections}", title, "request", 5.0, _http(rate, connections))


def _closed(connections: int) -> Load:
    title = f"closed loop, {connections} connection{'s' if connections > 1 else ''}, 1 KB"
    return Load(f"closed-{connections}", title, "request", 3.0, _http(0, connections))


def _bulk_load(name: str, streams: int, *, down: bool) -> Load:
    way = "down" if down else "up"
    title = f"bulk, {streams} stream{'s' if streams > 1 else ''} {way}"
    return Load(name, title, "GB", 3.0, _bulk(streams, down=down))


IDLE: Final = f"idle-{config.IDLE_TUNNELS}"
SOAK: Final = "soak"
SOAK_SECONDS: Final = 900.0
ONCE: Final = frozenset({IDLE, SOAK})
"""Loads that run once, whatever the rounds: what holds or grows is a proxy's, and no rival's round changes it."""

LOADS: Final = {
    each.name: each
    for each in (
        *(_rated(rate, sweep.CONNECTIONS) for rate in sweep.RATES),
        _rated(config.RATE, config.RATE_CONNECTIONS),
        _closed(1),
        _closed(16),
        _closed(64),
        Load(
            "fresh",
            f"a new connection for every request, {config.FRESH_CONNECTIONS} at a time",
            "connection",
            3.0,
            _http(0, config.FRESH_CONNECTIONS, fresh=True),
        ),
        _bulk_load("upload-1", 1, down=False),
        _bulk_load("upload-4", 4, down=False),
        _bulk_load("download-1", 1, down=True),
        _bulk_load("download-4", 4, down=True),
        Load("locust", f"locust users at {config.RATE} requests/s, 1 KB", "request", 8.0, _locust),
        Load(IDLE, f"{config.IDLE_TUNNELS} connections that carry nothing", "tunnel", 5.0, None),
        Load(
            SOAK,
            f"{config.RATE} requests/s for a quarter of an hour, looking for growth",
            "request",
            SOAK_SECONDS,
            _http(config.RATE, config.RATE_CONNECTIONS),
        ),
    )
}

GROUPS: Final = {
    "default": ("rate-1000-c4", "rate-1000-c16", "closed-64", "fresh", "upload-1", "download-1"),
    "sweep": tuple(f"rate-{rate}-c{sweep.CONNECTIONS}" for rate in sweep.RATES),
    "bulk": ("upload-1", "upload-4", "download-1", "download-4"),
    "closed": ("closed-1", "closed-16", "closed-64"),
    "all": tuple(name for name in LOADS if name != SOAK),
}
"""Names for several loads at once. The soak runs only when it is asked for by its own name."""


def choose(names: Sequence[str]) -> list[Load]:
    """The loads of these names and groups, in the order they run. Raises BenchError that lists what there is."""
    unknown = [name for name in names if name not in LOADS and name not in GROUPS]
    if unknown:
        known = ", ".join((*LOADS, *GROUPS))
        raise BenchError(f"no such load: {', '.join(unknown)}; there are {known}")
    wanted = {each for name in names for each in GROUPS.get(name, (name,))}
    return [each for name, each in LOADS.items() if name in wanted]
