"""The sweep of rates under the conditions that Istio 1.24 published: 4 connections, a page of 1 KB.

    locust -f bench/locustfile.py,bench/locust_shape.py --host http://127.0.0.1:8080 --headless --sweep-step 30

asks 500, 750, 1,000, 1,250 and 1,500 times a second for 30 s each and ends. A shape that locust finds in any of its
files takes over every run, with -u, -r and -t without effect, which is why it has a file of its own. It needs the
users of another file: `bench/hbone_user.py` works as well. Each step counts under a name of its own; locust's column of
requests/s divides by the length of the whole run.
"""

from __future__ import annotations

import time
from typing import Any

from locust import LoadTestShape, events

from bench.users import arguments
from bench.users.paced import listen, options_of
from bench.users.sweep import CONNECTIONS, RATES, STEP_SECONDS, step_at


@listen(events.init_command_line_parser)
def add_arguments(parser: Any) -> None:
    group = parser.add_argument_group("Sweep options")
    group.add_argument(
        "--sweep-rates",
        type=arguments.rates,
        default=list(RATES),
        metavar="<int,int,...>",
        help="Requests/s of all users together, one number for each step. Defaults to " + ",".join(map(str, RATES)),
    )
    group.add_argument(
        "--sweep-step",
        type=arguments.positive,
        default=STEP_SECONDS,
        metavar="<float>",
        help="Seconds of each step; locust looks once a second. Defaults to %(default)s",
    )
    group.add_argument(
        "--sweep-connections",
        type=arguments.whole,
        default=CONNECTIONS,
        metavar="<int>",
        help="Users, each with a connection of its own. Defaults to %(default)s",
    )


class Sweep(LoadTestShape):
    """Goes through the rates; the users stay, their pace changes."""

    def tick(self) -> tuple[int, float] | None:
        """-> users and how many may start within a second; None at the end."""
        if self.runner is None:
            return None
        options = options_of(self.runner.environment)
        step = step_at(time.perf_counter() - self.start_time, options.sweep_rates, options.sweep_step)
        if step is None:
            return None
        rate = options.sweep_rates[step]
        options.rate_per_user = rate / options.sweep_connections
        options.label = f"at {rate}/s"
        # Locust passes options on when this pair changes: without the step, workers of a distributed run would keep
        # the first rate.
        return options.sweep_connections, float(options.sweep_connections + step)
