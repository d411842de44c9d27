"""Locust as a load of the bench: users at a known rate against one address. What it costs itself, see `run`."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import config
from bench.errors import BenchError
from bench.load import During, Outcome, run_generator
from bench.subjects.base import Address

LOCUSTFILE: Final = config.ROOT / "bench" / "locustfile.py"
START_SECONDS: Final = 1.0  # from the start of locust to its first request, about
_PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


class Entry(NamedTuple):
    """One line of locust's statistics: the requests of one name. `times` is ms -> how many took that."""

    name: str
    requests: int
    failures: int
    began: float  # seconds, wall clock: when the first was answered
    ended: float
    times: dict[float, int]


def parse_statistics(text: str) -> list[Entry]:
    """What `locust --json` prints -> its entries; raises BenchError when it is something else."""
    try:
        return [_entry(each) for each in json.loads(text)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"locust printed no statistics: {error!r}: {text.strip()[-200:]!r}") from error


def _entry(each: dict[str, Any]) -> Entry:
    began, ended = float(each["start_time"]), each["last_request_timestamp"]
    times = {float(key): int(count) for key, count in each["response_times"].items()}
    return Entry(
        str(each["name"]),
        int(each["num_requests"]),
        int(each["num_failures"]),
        began,
        began if ended is None else float(ended),
        times,
    )


def outcome(entries: list[Entry], users: int, path: str) -> Outcome:
    """The whole run. Latency is that of requests on open connections; a connection beyond one per user is an error.

    Raises BenchError when no request succeeded.
    """
    answered = sum(entry.requests - entry.failures for entry in entries)
    if not answered:
        raise BenchError("no request was answered as it should be")
    fresh = sum(entry.requests for entry in entries if entry.name != path)
    errors = sum(entry.failures for entry in entries) + max(0, fresh - users)
    seconds = max(entry.ended for entry in entries) - min(entry.began for entry in entries)
    times: Counter[float] = Counter()
    for entry in entries:
        if entry.name == path:
            times.update(entry.times)
    latency = {name: 1e3 * percentile(times, share) for name, share in _PERCENTILES.items()} if times else {}
    return Outcome(answered, errors, seconds, latency)


def percentile(times: dict[float, int], share: float) -> float:
    """The time within which that share was answered, 0 < share <= 1, of a count for each time."""
    rank, passed = math.ceil(share * sum(times.values())), 0
    for time in sorted(times):
        passed += times[time]
        if passed >= rank:
            return time
    raise ValueError("there is no time")


def commonest_failure(text: str) -> str:
    """What our `--failures` writes -> the failure that occurred most often; "" for none."""
    counted: dict[str, int] = json.loads(text)
    return max(counted, key=lambda failure: counted[failure], default="")


def run(
    target: Address,
    *,
    rate: float,
    users: int,
    seconds: float,
    netns: str | None = None,
    during: During = None,
    path: str = "/1k",
    body_bytes: int = config.BODY_BYTES,
) -> Outcome:
    """`rate` requests/s in all, from `users` connections that stay open, for `seconds`, rounded to whole ones.

    `netns` is the file of a network namespace to run in; `during` is called about halfway. Raises BenchError when
    locust is missing or fails, or when nothing is answered.

    Locust's own cost, start included, at 1,000 requests/s on 16 connections against the bench's nginx: 0.28 to 0.32 ms
    of CPU per request where the compiled generator takes 0.04 to 0.06, so a third of a core, and some 3,000 requests/s
    at most beside a server on two cores; beyond that the outcome's `rate` falls short. Each answer waits for Python:
    medians of 0.18 to 0.22 ms where the generator saw 0.06 to 0.11, 99th percentiles of 0.5 to 0.6 ms where it saw 0.14
    to 0.15. Compare its latencies with each other only. They count from when a request was sent: what a stall delays is
    asked late, and its waiting counts nowhere.
    """
    if importlib.util.find_spec("locust") is None:
        raise BenchError("locust is not installed: pip install 'ambient-mesh[bench]'")
    host = f"[{target.host}]" if ":" in target.host else target.host
    whole = max(1, round(seconds))
    enter = [config.tool("nsenter"), f"--net={netns}", "--"] if netns else []
    with tempfile.TemporaryDirectory(prefix="ambient-locust-") as directory:
        failures = Path(directory, "failures")
        options = {
            "--locustfile": LOCUSTFILE,
            "--host": f"http://{host}:{target.port}",
            "--users": users,
            "--spawn-rate": users,
            "--run-time": f"{whole}s",
            "--rate-per-user": rate / users,
            "--path": path,
            "--body-bytes": body_bytes,
            "--exit-code-on-error": 0,  # failures are counted, not raised
            "--failures": failures,
        }
        command = [*enter, sys.executable, "-m", "locust", "--headless", "--only-summary", "--json"]
        command += [str(part) for option in options.items() for part in option]
        try:
            printed = run_generator(command, whole + 2 * START_SECONDS, during)
            return outcome(parse_statistics(printed), users, path)
        except BenchError as error:
            cause = commonest_failure(failures.read_text()) if failures.exists() else ""
            raise BenchError(f"locust against {host}:{target.port}: {error}{cause and ': '}{cause}") from error
