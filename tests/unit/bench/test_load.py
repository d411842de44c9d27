"""What the load generators print."""

from __future__ import annotations

import pytest

from bench import load
from bench.errors import BenchError

WRK = """\
Running 3s test @ http://127.1.0.1:15001/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.61ms  512.00us  12.00ms   90.00%
    Req/Sec    39.60k     1.20k   41.00k    75.00%
  Latency Distribution
     50%  612.00us
     75%    1.90ms
     90%    2.25ms
     99%    1.10s
  118338 requests in 3.00s, 138.40MB read
Requests/sec:  39446.00
Transfer/sec:     46.10MB
"""


def test_wrk_output_is_read() -> None:
    found = load.parse_wrk(WRK)
    assert (found.work, found.errors, found.seconds) == (118338, 0, 3.0)
    assert found.latency_us == {"p50": 612.0, "p90": 2250.0, "p99": 1.1e6}
    assert found.rate == pytest.approx(39446)


def test_wrk_errors_of_both_kinds_are_counted() -> None:
    text = WRK + "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000\n"
    assert load.parse_wrk(text).errors == 54321


@pytest.mark.parametrize(
    "text", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", "0 requests in 1.00s, 0B"]
)
def test_wrk_that_measured_nothing_is_an_error(text: str) -> None:
    with pytest.raises(BenchError, match="no request"):
        load.parse_wrk(text)
