"""Envoy in pods: captured traffic gets through each path, encrypted, for the right identity, by the right route."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from ambient.demo.capture import Capture, Seen
from ambient.demo.network import Network
from ambient.demo.processes import Processes
from ambient.demo.topology import NODE_LINK, NODES
from ambient.demo.traffic import Reply, curl
from bench import config
from bench.certs import Authority
from bench.envoy import capture, common, hbone, sidecar, waypoint
from bench.envoy.capture import Rules
from bench.envoy.common import Json, Party, Setup
from bench.errors import BenchError
from meshcore import netns
from tests.support.netns import wait_listening

TIMEOUT = 10.0
CLIENT, SERVER, WAYPOINT = "10.77.1.31", "10.77.2.31", "10.77.2.131"
ADDRESSES = {"client": (CLIENT, 0), "server": (SERVER, 1), "waypoint": (WAYPOINT, 1)}
PAGE = f"http://{SERVER}:{config.HTTP_PORT}{waypoint.PAGE}"
BODY = "m" * config.BODY_BYTES
MARKER = b"m" * 64  # of the body; in clear it would be seen on the wire

NGINX = """daemon off; user root root; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{ access_log off; default_type text/plain; keepalive_requests 1000000; client_body_temp_path {folder};
 proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
 server {{ listen 0.0.0.0:{port}; location / {{ return 200 "{body}"; }}
 location = /seen {{ return 200 "$remote_addr|$http_x_forwarded_client_cert|$http_x_request_id"; }} }} }}
"""


class Pods(NamedTuple):
    """A client's pod on one node, a server's and a waypoint's on the other; the server's applications run."""

    net: Network
    processes: Processes
    directory: Path
    authority: Authority

    def setup(self, client: str = "client") -> Setup:
        """What the configurations need; `client` is the account that the client's proxy has a certificate of."""
        folder = self.directory / "certs"
        folder.mkdir(exist_ok=True)

        def party(role: str, account: str) -> Party:
            return Party(ADDRESSES[role][0], role, self.authority.issue_files(account, folder))

        server, own = party("server", "server"), party("waypoint", "waypoint")
        return Setup(party("client", client), server, self.directory, own)

    @contextlib.contextmanager
    def path(self, configs: dict[str, Json], rules: dict[str, Rules], workers: int = 2) -> Iterator[None]:
        """These Envoys run and listen, and traffic is captured, while the block runs."""
        try:
            for role, bootstrap in configs.items():
                file = self.directory / f"{role}.json"
                file.write_text(common.dump(bootstrap))
                self.processes.start(f"envoy-{role}", common.command(file, workers), netns=self.net.path(role))
            for role in configs:
                (port,) = {
                    each["address"]["socket_address"]["port_value"]
                    for each in configs[role]["static_resources"]["listeners"]
                    if "address" in each and each.get("bind_to_port", True)
                }
                with self.inside(role) as fd:
                    wait_listening(fd, port, TIMEOUT)
            for role, each in rules.items():
                capture.apply(self.processes, self.net.path(role), each.text())
            yield
        finally:
            for role in configs:
                capture.apply(self.processes, self.net.path(role), capture.removal())
                if (process := self.processes.get(f"envoy-{role}")) is not None:
                    process.kill()
                    self.processes.forget(process.name)

    @contextlib.contextmanager
    def inside(self, role: str) -> Iterator[int]:
        fd = netns.open_netns(self.net.path(role))
        try:
            yield fd
        finally:
            os.close(fd)

    def tcp(self, role: str) -> socket.socket:
        with self.inside(role) as fd, netns.inside(fd):
            made = socket.socket()
        made.settimeout(TIMEOUT)
        return made

    def dial(self, port: int, role: str = "client") -> socket.socket:
        made = self.tcp(role)
        made.connect((SERVER, port))
        return made

    def get(self, url: str, *options: str) -> Reply:
        return curl(self.processes, self.net.path("client"), url, *options, timeout=TIMEOUT)

    def headers(self, url: str, *options: str) -> dict[str, str]:
        """The headers of the answer to one request."""
        lines = self.get(url, "-D", "-", "-o", "/dev/null", *options).body.splitlines()
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def wire(self, action: Callable[[], object]) -> Seen:
        """What crosses the link between the nodes while `action` runs."""
        with Capture(self.net.path(NODES[0].name), NODE_LINK) as watching:
            action()
        return watching.seen


def echo(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer = listener.accept()[0]
            threading.Thread(target=_echo, args=(peer,), daemon=True).start()


def _echo(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        peer.settimeout(TIMEOUT)
        while data := peer.recv(65536):
            peer.sendall(data)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    directory = tmp_path_factory.mktemp("pods")
    processes = Processes(directory, config.child_environment(directory))
    net = Network(processes, directory)
    made = Pods(net, processes, directory, Authority())
    listener: socket.socket | None = None
    try:
        net.build_nodes()
        net.open(*ADDRESSES)
        for role, (address, node) in ADDRESSES.items():
            net.join(role, address, NODES[node])
        file = directory / "nginx.conf"
        file.write_text(NGINX.format(folder=directory, port=config.HTTP_PORT, body=BODY))
        nginx = [config.tool("nginx"), "-e", "stderr", "-c", str(file), "-p", str(directory)]
        sink = [sys.executable, "-I", "-S", str(config.PROGRAMS / "sink.py"), "0.0.0.0", str(config.SINK_PORT)]
        processes.start("nginx", nginx, netns=net.path("server"))
        processes.start("sink", sink, netns=net.path("server"))
        listener = made.tcp("server")
        listener.bind(("0.0.0.0", config.BULK_PORT))
        listener.listen()
        listener.settimeout(None)
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        with made.inside("server") as fd:
            for port in (config.HTTP_PORT, config.SINK_PORT):
                wait_listening(fd, port, TIMEOUT)
        yield made
    finally:
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        processes.stop_all()


OUTBOUND = {"client": Rules(outbound=True)}
SIDECARS = {**OUTBOUND, "server": Rules(inbound=True)}


def standing(pods: Pods, path: str, client: str = "client") -> contextlib.AbstractContextManager[None]:
    """The path of that name; `client` is the account of the client's proxy, which is let in if it is `client`."""
    setup = pods.setup(client)
    if path == "sidecar":
        return pods.path(sidecar.configs(setup), SIDECARS, setup.workers)
    if path == "hbone":
        return pods.path(hbone.configs(setup), OUTBOUND, setup.workers)
    return pods.path(waypoint.configs(setup, 50), OUTBOUND, setup.workers)


PATHS = pytest.mark.parametrize("path", ["sidecar", "hbone", "waypoint"])


def exchange(pods: Pods) -> None:
    """A page, a byte stream both ways and a connection that holds, all to the server's plain address."""
    reply = pods.get(PAGE)
    assert (reply.status, reply.body) == (200, BODY), reply
    sent = os.urandom(1 << 20)
    with pods.dial(config.BULK_PORT) as stream:
        sender = threading.Thread(target=stream.sendall, args=(sent,))
        sender.start()
        received = bytearray()
        while len(received) < len(sent) and (piece := stream.recv(65536)):
            received += piece
        sender.join(TIMEOUT)
    assert bytes(received) == sent
    with pods.dial(config.SINK_PORT) as held:
        assert held.recv(1) == b"x"


@PATHS
def test_captured_traffic_gets_through_and_only_tls_is_on_the_wire(pods: Pods, path: str) -> None:
    assert pods.wire(lambda: exchange(pods)).holding(MARKER)  # without a proxy the page is there to be seen
    with standing(pods, path):
        seen = pods.wire(lambda: exchange(pods))
    ends = {CLIENT, WAYPOINT if path == "waypoint" else SERVER}
    streams = seen.between(*ends)
    assert sum(len(each.data) for each in streams) > 2 << 20  # the stream went this way, there and back
    assert [str(each) for each in streams if not each.tls_records] == []
    assert seen.holding(MARKER) == []
    if path == "waypoint":
        assert seen.between(CLIENT, SERVER) == []
    else:
        assert {each.target.port for each in streams if each.target.ip == SERVER} == (
            {15008} if path == "hbone" else {config.HTTP_PORT, config.BULK_PORT, config.SINK_PORT}
        )


@PATHS
def test_another_identity_is_turned_away(pods: Pods, path: str) -> None:
    with standing(pods, path, "stranger"):
        reply = pods.get(PAGE)
        if path == "hbone":  # the tunnel is refused, so the connection ends
            assert reply.status == 0, reply
        else:
            assert (reply.status, reply.body) == (403, "RBAC: access denied"), reply
        with pods.dial(config.BULK_PORT) as stream:
            assert until_end(stream) == b""
        with pods.dial(config.SINK_PORT) as stream:
            # Envoy's network RBAC judges when the client's first byte comes; a server that speaks first may be heard.
            assert until_end(stream) in ({b""} if path == "hbone" else {b"", b"x"})


def until_end(stream: socket.socket) -> bytes:
    """Say something, and return what comes until the other side closes or resets; fails when it does neither."""
    received = b""
    with contextlib.suppress(ConnectionError):
        stream.sendall(b"hello")
        while piece := stream.recv(16):
            received += piece
    return received


def test_sidecars_tell_the_application_who_asked(pods: Pods) -> None:
    with standing(pods, "sidecar"):
        reply = pods.get(PAGE.replace(waypoint.PAGE, "/seen"), "-H", "x-forwarded-client-cert: By=forged")
        again = pods.get(PAGE.replace(waypoint.PAGE, "/seen"))
    source, certificate, request = reply.body.split("|")
    fields = dict(part.split("=", 1) for part in certificate.split(";"))
    setup = pods.setup()
    assert (fields["By"], fields["URI"]) == (setup.server.identity, setup.client.identity)
    assert "forged" not in certificate
    assert source == "127.0.0.6"
    assert len(request) == 36
    assert request != again.body.split("|")[2]


def test_a_sidecar_takes_nothing_in_clear(pods: Pods) -> None:
    setup = pods.setup()
    with pods.path({"server": sidecar.server(setup)}, {"server": Rules(inbound=True)}):
        for port in (config.HTTP_PORT, config.BULK_PORT, 15006):
            with pods.dial(port) as stream:
                assert until_end(stream) == b""
        capture.apply(pods.processes, pods.net.path("server"), capture.removal())
        assert pods.get(PAGE).status == 200  # it was the proxy that refused


def test_a_sidecar_passes_on_what_it_does_not_know(pods: Pods) -> None:
    with pods.path({"client": sidecar.client(pods.setup())}, OUTBOUND):
        listener = pods.tcp("server")
        with listener:
            listener.bind(("0.0.0.0", 7070))
            listener.listen()
            with pods.dial(7070) as stream, listener.accept()[0] as arrived:
                stream.sendall(b"ping")
                assert arrived.recv(16) == b"ping"


@pytest.mark.parametrize("count", [1, 50, 10_000])
def test_the_waypoint_takes_the_last_route_for_the_page_and_the_right_one_for_others(pods: Pods, count: int) -> None:
    header, tenant = waypoint.ROUTE_HEADER, waypoint.TENANT_HEADER
    with pods.path(waypoint.configs(pods.setup(), count), OUTBOUND):
        base = PAGE.removesuffix(waypoint.PAGE)
        assert pods.headers(PAGE)[header] == waypoint.route_name(count - 1)
        if count == 1:
            return
        assert pods.headers(f"{base}/api/v1/items/12")[header] == waypoint.route_name(12)
        assert pods.headers(f"{base}/shop/13/shoes?size=9")[header] == waypoint.route_name(13)
        assert pods.headers(PAGE, "-H", f"{tenant}: tenant-14")[header] == waypoint.route_name(14)
        assert pods.headers(f"{base}/team/15/members")[header] == waypoint.route_name(15)
        assert pods.headers(f"{base}/team/150000")[header] == waypoint.route_name(count - 1)


def test_the_waypoint_is_the_only_one_let_in_behind_it(pods: Pods) -> None:
    """A client that goes round the waypoint is refused by the server's half."""
    setup = pods.setup()
    configs = waypoint.configs(setup, 1)
    with pods.path({"client": hbone.client(setup, setup.server), "server": configs["server"]}, OUTBOUND):
        assert pods.get(PAGE).status == 0
    with pods.path(configs, OUTBOUND):
        assert pods.get(PAGE).status == 200


def test_the_tunnel_is_named_for_the_original_destination(pods: Pods) -> None:
    """A destination that the server's half does not know is refused, whatever the tunnel leads to."""
    with standing(pods, "hbone"), pods.dial(7070) as stream:
        assert until_end(stream) == b""
    log = pods.setup().access_log("server").read_text()
    assert f"{SERVER}:7070" in log


def rules_in(pods: Pods, role: str) -> str:
    done = pods.processes.run([config.tool("nft"), "list", "ruleset"], netns=pods.net.path(role))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rules_are_put_in_force_again_changed_and_removed(pods: Pods) -> None:
    path = pods.net.path("client")
    capture.apply(pods.processes, path, Rules(outbound=True, inbound=True).text())
    first = rules_in(pods, "client")
    assert first.count("redirect to") == 2
    capture.apply(pods.processes, path, Rules(outbound=True, inbound=True).text())
    assert rules_in(pods, "client") == first
    capture.apply(pods.processes, path, Rules(outbound=True).text())
    assert rules_in(pods, "client").count("redirect to") == 1
    with pytest.raises(BenchError, match="nft refused"):
        capture.apply(pods.processes, path, Rules(outbound=True).text() + "nonsense\n")
    assert rules_in(pods, "client").count("redirect to") == 1
    for _ in range(2):
        capture.apply(pods.processes, path, capture.removal())
        assert "redirect" not in rules_in(pods, "client")


@pytest.mark.parametrize("exempt", [False, True])
def test_an_exempt_port_passes(pods: Pods, exempt: bool) -> None:
    ports = (config.BULK_PORT,) if exempt else ()
    for role, rules in (("client", Rules(outbound=True, exempt_outbound=ports)), ("server", inbound(ports))):
        with applied(pods, role, rules):
            if exempt:
                with pods.dial(config.BULK_PORT) as stream:
                    stream.sendall(b"ping")
                    assert stream.recv(16) == b"ping"
            else:  # nobody listens where it was sent
                with pytest.raises(ConnectionRefusedError):
                    pods.dial(config.BULK_PORT)


def inbound(ports: Sequence[int]) -> Rules:
    return Rules(inbound=True, exempt_inbound=tuple(ports))


@contextlib.contextmanager
def applied(pods: Pods, role: str, rules: Rules) -> Iterator[None]:
    capture.apply(pods.processes, pods.net.path(role), rules.text())
    try:
        yield
    finally:
        capture.apply(pods.processes, pods.net.path(role), capture.removal())


def test_a_pod_talks_to_itself_and_the_marked_get_out(pods: Pods) -> None:
    with applied(pods, "server", Rules(outbound=True, inbound=True)):
        for address in (SERVER, "127.0.0.1"):
            own = pods.tcp("server")
            with own:
                own.connect((address, config.BULK_PORT))
                own.sendall(b"ping")
                assert own.recv(16) == b"ping"
    with applied(pods, "client", Rules(outbound=True)):
        marked = pods.tcp("client")
        with marked:
            marked.setsockopt(socket.SOL_SOCKET, netns.SO_MARK, Rules().mark)
            marked.connect((SERVER, config.BULK_PORT))
            marked.sendall(b"ping")
            assert marked.recv(16) == b"ping"
        with pytest.raises(ConnectionRefusedError):
            pods.dial(config.BULK_PORT)
