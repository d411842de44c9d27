"""The base of our users: how fast they ask, under which names they count, and the arguments that say so."""

from __future__ import annotations

import json
import logging
import time
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import locust.stats
import locust.web
from locust import User, events
from locust.env import Environment
from locust.exception import StopTest

from bench import config
from bench.users import arguments
from bench.users.schedule import Schedule, rounded

TIMEOUT_DEFAULT: Final = 10.0  # seconds
_TICK: Final = 0.001  # seconds

Listener = TypeVar("Listener", bound=Callable[..., object])


def listen(hook: object) -> Callable[[Listener], Listener]:
    """The decorator that registers a listener of one of locust's events, whose own has no types."""
    register: Callable[[Listener], Listener] = cast(Any, hook).add_listener
    return register


# Locust counts whole milliseconds unless told otherwise; here most answers come within one.
cast(Any, locust.stats).bucket_response_time = rounded


_TYPES: Final[dict[str, Callable[[str], object]]] = {
    "rate_per_user": arguments.positive,
    "path": arguments.path,
    "body_bytes": arguments.count,
    "timeout": arguments.positive,
}


@listen(events.init_command_line_parser)
def add_arguments(parser: Any) -> None:
    group = parser.add_argument_group("Page options")
    group.add_argument(
        "--help-all",
        action="help",
        help="Show this. Locust itself answers --help before it looks into a locustfile",
    )
    shown = [
        group.add_argument(
            "--rate-per-user",
            type=_TYPES["rate_per_user"],
            default=config.RATE / config.RATE_CONNECTIONS,
            metavar="<float>",
            help="Requests/s of each user; a user is one connection. Defaults to %(default)s: "
            f"{config.RATE_CONNECTIONS} users ask {config.RATE} times a second",
        ),
        group.add_argument(
            "--path",
            type=_TYPES["path"],
            default="/1k",
            metavar="<path>",
            help="The page to GET. Defaults to %(default)s",
        ),
        group.add_argument(
            "--body-bytes",
            type=_TYPES["body_bytes"],
            default=config.BODY_BYTES,
            metavar="<int>",
            help="Length of the page; an answer of another length is a failure. Defaults to %(default)s",
        ),
        group.add_argument(
            "--timeout",
            type=_TYPES["timeout"],
            default=TIMEOUT_DEFAULT,
            metavar="<float>",
            help="Seconds to wait for a connection and for each answer. Defaults to %(default)s",
        ),
        group.add_argument(
            "--label",
            default="",
            metavar="<text>",
            help="Added to the names in the statistics, to tell one run from another",
        ),
    ]
    group.add_argument(
        "--failures",
        metavar="<filename>",
        help="Write the failures here at the end: a JSON object of texts and how often each occurred",
    )
    for action in shown:
        action.include_in_web_ui = True  # locust's own way to say so knows no groups


@listen(events.init)
def wind_clock(**_: object) -> None:
    """Let the event loop look at the time: what it knows is from before the imports, and --run-time counts from it."""
    time.sleep(_TICK)


@listen(events.quitting)
def write_failures(environment: Environment, **_: object) -> None:
    """For programs: locust's own files have no failures yet when a run was short."""
    options = options_of(environment)
    if options.failures and not options.worker:
        counted = Counter[str]()
        for each in environment.stats.errors.values():
            counted[str(cast(Any, each).to_dict()["error"])] += each.occurrences
        try:
            Path(options.failures).write_text(json.dumps(counted))
        except OSError as error:
            logging.getLogger(__name__).error("--failures %s: %s", options.failures, error.strerror)  # noqa: TRY400
            environment.process_exit_code = 1


def guard(environment: Environment, host: Callable[[str], object]) -> None:
    """Refuse what locust itself does not check, before users meet it: call it when locust has read its arguments.

    `host` is the type of --host. A fault of the command line ends the program with one line; what the web page sends
    is answered as locust answers a wrong number of users.
    """
    options = options_of(environment)
    if options.worker:
        return  # its master has looked
    if environment.web_ui is None:
        if fault := _fault(host, options.host or "", "--host"):
            raise SystemExit(f"locust: error: {fault}")
        return

    def check_form() -> dict[str, object] | None:
        # The library's own way to the request that is being served; we do not depend on it directly.
        request = cast(Any, locust.web).request
        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        fault = _fault(host, request.form.get("host", environment.host or ""), "host")
        for name, kind in _TYPES.items():
            if not fault and name in request.form:
                fault = _fault(kind, request.form[name], name)
        return {"success": False, "message": fault, "host": environment.host} if fault else None

    cast(Any, environment.web_ui.app).before_request(check_form)


def _fault(kind: Callable[[str], object], text: str, name: str) -> str:
    try:
        kind(text)
    except ArgumentTypeError as error:
        return f"{name}: {error}" if text else f"{name} is missing"
    return ""


def options_of(environment: Environment) -> Namespace:
    """The command line, as the web page may have changed it since."""
    if environment.parsed_options is None:
        raise StopTest("these users run under the locust command, which reads their arguments")
    return cast(Namespace, environment.parsed_options)


def report(
    environment: Environment, kind: str, name: str, began: float, *, length: int = 0, exception: Exception | None = None
) -> None:
    """Count a request that began at `began` (perf_counter) and ends now."""
    cast(Any, environment.events.request).fire(
        request_type=kind,
        name=name,
        response_time=(time.perf_counter() - began) * 1000,
        response_length=length,
        exception=exception,
        context={},
    )


class Paced(User):
    """Runs its task `--rate-per-user` times a second.

    As locust's `constant_throughput`, but the users' requests are evenly spaced, a hiccup does not lower the rate, and
    the rate may change while the test runs. A user waits for its answer, so a slow server is asked less often.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = options_of(environment)
        self._index = environment.runner.user_count if environment.runner else 0
        self._schedule = Schedule(time.perf_counter(), self._rate(), self._share())

    def _rate(self) -> float:
        return float(self.options.rate_per_user)

    def _share(self) -> float:
        runner = self.environment.runner
        # Only the runner that spawns knows how many there will be; in a worker of several it is as many as there are.
        users = max(runner.target_user_count, runner.user_count, 1) if runner else 1
        return self._index % users / users

    def on_start(self) -> None:
        """Wait for the first slot."""
        time.sleep(max(0.0, self._schedule.due - time.perf_counter()))

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        return self._schedule.advance(time.perf_counter(), self._rate(), self._share())

    def name(self, text: str) -> str:
        """What a request counts under: the text with the label of the run or of the step."""
        return f"{text} {label}" if (label := self.options.label) else text
