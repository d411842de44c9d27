from collections.abc import Iterable
from typing import Any

def run(
    host: str,
    port: int,
    path: str,
    *,
    rate: float,
    connections: int,
    seconds: float,
    body_bytes: int,
    fresh: bool = False,
    warm_up: float = 0.0,
    timeout: float = 5.0,
) -> dict[str, Any]:
    """Load `http://host:port/path` (IPv4) from the current network namespace and say what came of it.

    `rate` is in requests/s, evenly spaced; latency counts from the moment a request was due. 0: each of `connections`
    sends its next request when the last was answered; latency counts from then. `fresh`: a connection for each request,
    `connections` at a time; latency counts to the last byte of the answer, the connection until the server has closed
    it. Every answer must be 200 with a Content-Length of `body_bytes` and that many bytes. `timeout` is for a request
    from the moment it has a connection; `warm_up` seconds of the same load come first and are not counted. Durations
    are in seconds. It ends after `seconds`, or up to 5 s later when requests are in flight; what then is not answered
    has timed out.

    Of the result, `lag_us` is how late a request was written although a connection was free: with a lag of the size of
    the latencies, or `cpu_seconds` near `seconds`, the figures are the generator's own. `waited` counts requests that
    were due when every connection was busy, `connections` those made in all, `unclosed` those (`fresh`) that the server
    did not close within 1 s. `errors` has the kinds that occurred: connect, status, head (no HTTP/1.1 head within
    8 KiB), length, closed, timeout. `requests` is the number of good answers, `seconds` the time to the last of them.

    Raises ConfigError for arguments that cannot be meant, BenchError when the first connection cannot be made, the
    descriptors do not suffice, or SIGINT or SIGTERM came and Python has no other use for it.
    """

def summarize(values_ns: Iterable[int]) -> dict[str, float]:
    """What a report says of these durations (ns): p50, p90, p99, p999, max and mean in us. For the tests.

    Percentiles are nearest ranks and within 1 % up to 60 s; max and mean are exact.
    """
