"""The load of a user: GETs of one page on connections that stay open, at a known rate.

    locust -f bench/locustfile.py --host http://127.0.0.1:8080
    locust -f bench/locustfile.py --host http://127.0.0.1:8080 --headless -u 16 -r 16 -t 10s

The first serves locust's page on port 8089, the second asks 1,000 times a second for ten seconds. A user is one
connection; `--rate-per-user`, `--path` and `--body-bytes` say what it asks. `--help-all` lists every argument: locust
answers `--help` before it looks into a locustfile. Run it from the root of the repository, or from anywhere once the
package is installed. `locust_shape.py` beside it is a sweep of rates, `hbone_user.py` speaks HBONE.

A request that had to open its connection counts under a name of its own: their number beyond that of the users tells
how often a connection broke, which the client library repairs without a word.
"""

from __future__ import annotations

from typing import Any, Final

from locust import FastHttpUser, events, task
from locust.env import Environment

from bench.users import arguments
from bench.users.paced import Paced, guard, listen, options_of

_STATUS_OK: Final = 200
_HEADERS: Final = {"Accept-Encoding": "identity"}  # so that the length on the wire is the length of the page


@listen(events.init)
def check(environment: Environment, **_: object) -> None:
    guard(environment, arguments.base_url)


class PageUser(Paced, FastHttpUser):
    """GETs the page; any status but 200 and any other length is a failure."""

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = self.connection_timeout = float(options_of(environment).timeout)
        super().__init__(environment)
        self._new_connection = False
        # The library calls a method of this object for every connection it opens, but has no public way to the object.
        connections: Any = self.client.client.clientpool.get_client(str(self.host))._connection_pool  # noqa: SLF001
        connections.after_connect = self._connected

    def _connected(self, _: object) -> None:
        self._new_connection = True

    @task
    def page(self) -> None:
        path = str(self.options.path)
        with self.client.get(
            path, name=self.name(path), headers=_HEADERS, allow_redirects=False, catch_response=True
        ) as answer:
            found = answer.request_meta
            if self._new_connection:
                self._new_connection = False
                found["name"] = self.name(f"{path} (new connection)")
            if found["exception"] is not None:
                return
            if answer.status_code != _STATUS_OK:
                answer.failure(f"status {answer.status_code}")
            elif found["response_length"] != self.options.body_bytes:
                answer.failure(f"{found['response_length']} bytes instead of {self.options.body_bytes}")
