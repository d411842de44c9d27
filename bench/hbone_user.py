"""Users of an HBONE server: CONNECT tunnels inside mutual TLS 1.3, and through each one GETs of a page.

    locust -f bench/hbone_user.py --host 10.0.1.5:15008 --hbone-target 10.0.1.5:8080 \\
        --hbone-cert client.pem --hbone-key client.key --hbone-root root.pem \\
        --expected-identity spiffe://cluster.local/ns/shop/sa/web --headless -u 16 -r 16 -t 10s

`--host` is where the proxy listens, port 15008 unless it says otherwise; `--hbone-target` is the destination that the
CONNECT asks for, and `--expected-identity` that of the server's certificate, as a ztunnel would check it. All users
share connections, 100 tunnels on each. The rest is as in `locustfile.py`, and `--help-all` lists it. It has a file of
its own because locust runs the users of every file it is given.

Counted are "HBONE dial" (TCP, TLS, and the server's settings), "HBONE connect" (CONNECT to its answer) and "HBONE GET".
"""

from __future__ import annotations

import ssl
import time
from typing import Any, ClassVar, Final

from locust import events, task
from locust.env import Environment

from bench.users import arguments, http1
from bench.users.channel import Files, HboneError, client_context
from bench.users.hbone import Connection, Tunnel
from bench.users.paced import Paced, guard, listen, options_of, report
from bench.users.pool import Pool

_STATUS_OK: Final = 200


@listen(events.init_command_line_parser)
def add_arguments(parser: Any) -> None:
    group = parser.add_argument_group("HBONE options")
    for name, text in (
        ("--hbone-cert", "The client's certificate chain, PEM, with a SPIFFE URI; required"),
        ("--hbone-key", "Its private key, PEM; required"),
        ("--hbone-root", "What the server's certificate is verified with, PEM; required"),
    ):
        group.add_argument(name, type=arguments.file, required=True, metavar="<filename>", help=text)
    group.add_argument(
        "--expected-identity",
        type=arguments.spiffe,
        required=True,
        metavar="<spiffe://...>",
        help="The SPIFFE URI in the server's certificate; required",
    )
    group.add_argument(
        "--hbone-target",
        type=arguments.target,
        required=True,
        metavar="<host:port>",
        help="The destination inside the tunnel, a pod's address; required",
    )
    group.add_argument(
        "--hbone-baggage",
        default="",
        metavar="<text>",
        help="The baggage header of each CONNECT, as k8s.namespace.name=shop,service.name=web",
    )
    group.add_argument(
        "--requests-per-tunnel",
        type=arguments.count,
        default=0,
        metavar="<int>",
        help="GETs after which a user opens a new tunnel. Defaults to %(default)s: it keeps its first",
    )


@listen(events.init)
def check(environment: Environment, **_: object) -> None:
    guard(environment, arguments.proxy)
    try:
        context_of(environment)
    except HboneError as error:
        raise SystemExit(f"locust: error: {error}") from error


def context_of(environment: Environment) -> ssl.SSLContext:
    options = options_of(environment)
    return client_context(Files(options.hbone_cert, options.hbone_key, options.hbone_root))


@listen(events.test_start)
def open_pool(environment: Environment, **_: object) -> None:
    """The files are read for every run: a mesh renews its certificates often."""
    options = options_of(environment)
    address = arguments.proxy(environment.host or "")
    context = context_of(environment)

    def dial() -> Connection:
        began = time.perf_counter()
        try:
            connection = Connection(address, context, options.expected_identity, options.timeout)
        except HboneError as error:
            report(environment, "TLS", "HBONE dial", began, exception=error)
            raise
        report(environment, "TLS", "HBONE dial", began)
        return connection

    HboneUser.pool = Pool(dial, options.timeout)


@listen(events.test_stop)
def close_pool(environment: Environment, **_: object) -> None:
    HboneUser.pool.close()


class HboneUser(Paced):
    """Opens a tunnel and GETs the page through it. After a failure it opens another at its next turn."""

    pool: ClassVar[Pool]
    """That of the run, shared by all users of the process: locust gives them nothing else in common."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._tunnel: Tunnel | None = None
        self._asked = 0

    def on_stop(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None

    def _connect(self) -> Tunnel | None:
        """-> None when there is no connection, which has been counted as a dial, or when CONNECT fails."""
        try:
            connection = self.pool.reserve()
        except HboneError:
            return None
        baggage = (("baggage", self.options.hbone_baggage),) if self.options.hbone_baggage else ()
        name, began = self.name("HBONE connect"), time.perf_counter()
        try:
            tunnel = connection.open(self.options.hbone_target, baggage)
        except HboneError as error:
            report(self.environment, "CONNECT", name, began, exception=error)
            return None
        report(self.environment, "CONNECT", name, began)
        self._asked = 0
        return tunnel

    @task
    def page(self) -> None:
        if self._tunnel is None:
            self._tunnel = self._connect()
        if self._tunnel is None:
            return
        name, began = self.name("HBONE GET"), time.perf_counter()
        try:
            length = self._get(self._tunnel)
        except HboneError as error:
            report(self.environment, "GET", name, began, exception=error)
            self._leave()
            return
        report(self.environment, "GET", name, began, length=length)
        self._asked += 1
        if self._asked == self.options.requests_per_tunnel:
            self._leave()

    def _get(self, tunnel: Tunnel) -> int:
        answer = http1.get(tunnel, self.options.hbone_target, self.options.path)
        if answer.status != _STATUS_OK:
            raise HboneError(f"status {answer.status}")
        if answer.length != self.options.body_bytes:
            raise HboneError(f"{answer.length} bytes instead of {self.options.body_bytes}")
        return answer.length
