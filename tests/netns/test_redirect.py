"""Redirection with real packets: a node namespace, a pod namespace and a cable between them."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from cni import nft, probes, rules_nft
from cni.cli import command
from cni.policy_route import RouteError
from cni.redirect import PROBE_V4, PROBE_V6, PodRules, Redirector, RulesError
from meshcore import netns
from meshcore.errors import NamespaceError

pytestmark = pytest.mark.netns

POD4, NODE4 = "10.77.1.2", "10.77.1.1"
POD6, NODE6 = "fd77::2", "fd77::1"
ELSEWHERE4, ELSEWHERE6 = "10.99.9.9", "fd99::9"
MARK = 0x539
SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number at level IPv6
TIMEOUT = 5.0


class Net(NamedTuple):
    node: int
    pod: int
    node_name: str
    pod_name: str


def ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=10)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@pytest.fixture
def net() -> Iterator[Net]:
    """Pod eth0 (10.77.1.2, fd77::2) - node (10.77.1.1, fd77::1), which is the pod's default gateway."""
    node, pod = f"t-redir-node-{os.getpid()}", f"t-redir-pod-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", node], check=False, capture_output=True, text=True, timeout=10)
    if made.returncode:
        pytest.skip(f"cannot create network namespaces here: {made.stderr.strip()}")
    try:
        ip("netns", "add", pod)
        ip("-n", node, "link", "add", "to-pod", "type", "veth", "peer", "name", "eth0", "netns", pod)
        for name, link, v4, v6 in ((node, "to-pod", NODE4, NODE6), (pod, "eth0", POD4, POD6)):
            ip("-n", name, "addr", "add", f"{v4}/24", "dev", link)
            ip("-n", name, "addr", "add", f"{v6}/64", "dev", link, "nodad")
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", pod, "route", "add", "default", "via", NODE4)
        ip("-n", pod, "-6", "route", "add", "default", "via", NODE6)
        fds = Net(netns.open_netns(f"/run/netns/{node}"), netns.open_netns(f"/run/netns/{pod}"), node, pod)
        yield fds
        os.close(fds.node)
        os.close(fds.pod)
    finally:
        ip("netns", "del", node, check=False)
        ip("netns", "del", pod, check=False)


@pytest.fixture
def redirect() -> Redirector:
    return Redirector(rules_nft.NftBackend())


Listen = Callable[[int, int], socket.socket]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Listen on a port of a namespace, as an application would: no mark, not transparent."""
    made: list[socket.socket] = []

    def listen_on(where: int, port: int) -> socket.socket:
        listener, _ = netns.listen_tcp(where, port, mark=0, transparent=False, reuseport=False, ipv6=True)
        listener.settimeout(TIMEOUT)
        made.append(listener)
        return listener

    yield listen_on
    for listener in made:
        listener.close()


def dial(where: int, address: str, port: int, *, mark: int = 0, source: str = "") -> socket.socket:
    """Connect from inside a namespace; with `source` as ztunnel does, from an address that is not ours."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.inside(where):
        sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, netns.SO_MARK, mark)
        if source:
            sock.setsockopt(socket.SOL_IP, netns.IP_TRANSPARENT, 1)
            sock.bind((source, 0))
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def original(sock: socket.socket, family: int) -> tuple[str, int]:
    """SO_ORIGINAL_DST of an accepted connection."""
    if family == socket.AF_INET:
        port, address = struct.unpack_from("!2xH4s", sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    else:
        port, address = struct.unpack_from("!2xH4x16s", sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
    return socket.inet_ntop(family, address), port


def peer(sock: socket.socket) -> str:
    return str(sock.getpeername()[0]).removeprefix("::ffff:")


def assert_echo(a: socket.socket, b: socket.socket) -> None:
    a.sendall(b"ping")
    assert b.recv(16) == b"ping"
    b.sendall(b"pong")
    assert a.recv(16) == b"pong"


BOTH = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@BOTH
def test_a_connection_of_the_pod_lands_on_15001_and_knows_where_it_wanted_to_go(
    net: Net, redirect: Redirector, listen: Listen, v6: bool
) -> None:
    proxy = listen(net.pod, 15001)
    redirect.apply(net.pod, PodRules())
    wanted = ELSEWHERE6 if v6 else ELSEWHERE4
    with dial(net.pod, wanted, 80) as app, proxy.accept()[0] as caught:
        assert original(caught, app.family) == (wanted, 80)
        assert app.getpeername()[:2] == (wanted, 80)  # the application sees nothing of it
        assert_echo(app, caught)


@BOTH
def test_a_connection_to_the_pod_lands_on_15006(net: Net, redirect: Redirector, listen: Listen, v6: bool) -> None:
    proxy = listen(net.pod, 15006)
    redirect.apply(net.pod, PodRules())
    with dial(net.node, POD6 if v6 else POD4, 8080) as client, proxy.accept()[0] as caught:
        assert original(caught, client.family) == (POD6 if v6 else POD4, 8080)
        assert peer(caught) == (NODE6 if v6 else NODE4)
        assert_echo(client, caught)


@BOTH
def test_the_mark_exempts_ztunnel(net: Net, redirect: Redirector, listen: Listen, v6: bool) -> None:
    proxy, server = listen(net.pod, 15001), listen(net.node, 8080)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, NODE6 if v6 else NODE4, 8080, mark=MARK) as out, server.accept()[0] as arrived:
        assert_echo(out, arrived)
    # Bits beyond the mask are somebody else's and change nothing.
    with dial(net.pod, NODE6 if v6 else NODE4, 8080, mark=0x2BC00000 | MARK), server.accept()[0]:
        pass
    proxy.setblocking(False)
    with pytest.raises(BlockingIOError):
        proxy.accept()


@BOTH
def test_hbone_is_not_redirected(net: Net, redirect: Redirector, listen: Listen, v6: bool) -> None:
    hbone = listen(net.pod, 15008)
    redirect.apply(net.pod, PodRules())
    with dial(net.node, POD6 if v6 else POD4, 15008) as client, hbone.accept()[0] as arrived:
        assert arrived.getsockname()[1] == 15008
        assert_echo(client, arrived)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", POD4, POD6])
def test_the_pod_talking_to_itself_is_left_alone(net: Net, redirect: Redirector, listen: Listen, address: str) -> None:
    app = listen(net.pod, 7070)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, address, 7070) as client, app.accept()[0] as arrived:
        assert_echo(client, arrived)


@BOTH
def test_probes_of_the_node_reach_the_application(net: Net, redirect: Redirector, listen: Listen, v6: bool) -> None:
    app, proxy = listen(net.pod, 8080), listen(net.pod, 15006)
    redirect.apply(net.pod, PodRules())
    address = POD6 if v6 else POD4
    with netns.inside(net.node):
        host = probes.HostProbes(os.getuid(), ipv6=True)
        host.setup()
        host.add([POD4, POD6], "uid-1")
    with dial(net.node, address, 8080) as probe, app.accept()[0] as arrived:
        assert peer(arrived) == (PROBE_V6 if v6 else PROBE_V4)
        assert_echo(probe, arrived)
    with netns.inside(net.node):
        host.remove("uid-1")
    with dial(net.node, address, 8080), proxy.accept()[0]:
        pass


def test_another_users_connections_are_no_probes(net: Net, redirect: Redirector, listen: Listen) -> None:
    proxy = listen(net.pod, 15006)
    redirect.apply(net.pod, PodRules())
    with netns.inside(net.node):
        host = probes.HostProbes(os.getuid() + 1, ipv6=True)
        host.setup()
        host.add([POD4], "uid-1")
    with dial(net.node, POD4, 8080), proxy.accept()[0] as caught:
        assert peer(caught) == NODE4


@BOTH
def test_ztunnel_reaches_the_application_from_the_clients_address(
    net: Net, redirect: Redirector, listen: Listen, v6: bool
) -> None:
    app, proxy = listen(net.pod, 8080), listen(net.pod, 15006)
    redirect.apply(net.pod, PodRules())
    client_ip, pod_ip = (NODE6, POD6) if v6 else (NODE4, POD4)
    with (
        dial(net.node, pod_ip, 8080) as client,
        proxy.accept()[0] as caught,
        dial(net.pod, pod_ip, 8080, mark=MARK, source=client_ip) as upstream,
        app.accept()[0] as served,
    ):
        assert peer(served) == client_ip
        assert_echo(upstream, served)
        assert_echo(client, caught)


def test_the_source_may_be_an_address_that_is_nowhere_near(net: Net, redirect: Redirector, listen: Listen) -> None:
    app = listen(net.pod, 8080)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, POD4, 8080, mark=MARK, source="192.0.2.77") as upstream, app.accept()[0] as served:
        assert peer(served) == "192.0.2.77"
        assert_echo(upstream, served)


def test_bypass_leaves_inbound_alone_and_captures_outbound(net: Net, redirect: Redirector, listen: Listen) -> None:
    app, proxy = listen(net.pod, 8080), listen(net.pod, 15001)
    redirect.apply(net.pod, PodRules(bypass_inbound=True))
    with dial(net.node, POD4, 8080), app.accept()[0]:
        pass
    with dial(net.pod, ELSEWHERE4, 80), proxy.accept()[0]:
        pass


def test_traffic_of_a_virtual_interface_counts_as_outbound(net: Net, redirect: Redirector, listen: Listen) -> None:
    proxy = listen(net.pod, 15001)
    redirect.apply(net.pod, PodRules(virtual_interfaces=("eth0",)))
    with dial(net.node, POD4, 8080), proxy.accept()[0] as caught:
        assert original(caught, socket.AF_INET) == (POD4, 8080)


def test_dns_is_captured_only_when_asked_for(net: Net, redirect: Redirector, listen: Listen) -> None:
    outbound, dns = listen(net.pod, 15001), listen(net.pod, 15053)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, ELSEWHERE4, 53), outbound.accept()[0]:
        pass
    redirect.apply(net.pod, PodRules(dns_capture=True))
    with dial(net.pod, ELSEWHERE4, 53), dns.accept()[0]:
        pass
    with netns.inside(net.pod):
        query, server = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with query, server:
        server.bind(("127.0.0.1", 15053))
        server.settimeout(TIMEOUT)
        query.settimeout(TIMEOUT)
        query.connect((ELSEWHERE4, 53))
        query.send(b"who")
        text, source = server.recvfrom(16)
        server.sendto(b"me", source)
        assert (text, query.recv(16)) == (b"who", b"me")


def listing(where: int) -> str:
    """All rules with their handles: one that was written again has another handle."""
    found = json.loads(nft.run(where, ("-j", "-a", "list", "ruleset")))["nftables"]
    for item in found:
        for part in item.get("rule", {}).get("expr", ()):
            part.pop("counter", None)
    return json.dumps(found)


def routing(net: Net) -> str:
    commands = (["rule"], ["-6", "rule"], ["route", "show", "table", "100"], ["-6", "route", "show", "table", "100"])
    return "".join(ip("-n", net.pod_name, *command, check=False) for command in commands)


@pytest.mark.parametrize(
    "wanted", [PodRules(), PodRules(dns_capture=True), PodRules(ipv6=False, virtual_interfaces=("vm0", "vm1"))]
)
def test_applying_twice_writes_nothing(net: Net, redirect: Redirector, wanted: PodRules) -> None:
    assert redirect.apply(net.pod, wanted)
    before = listing(net.pod), routing(net)
    assert not redirect.apply(net.pod, wanted)
    assert (listing(net.pod), routing(net)) == before


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet istio-ambient-nat istio-output",
        "insert rule inet istio-ambient-nat istio-prerouting accept",
        "delete table inet istio-ambient-mangle",
        "add rule inet istio-ambient-mangle output drop",
        "add chain inet istio-ambient-nat stranger",
    ],
)
def test_damage_is_found_and_repaired(net: Net, redirect: Redirector, damage: str) -> None:
    redirect.apply(net.pod, PodRules())
    whole = rules_nft.outline(PodRules())
    nft.run(net.pod, damage.split())
    assert redirect.apply(net.pod, PodRules())
    assert not redirect.apply(net.pod, PodRules())
    shapes = {name: rules_nft.observed(nft.table(net.pod, name) or []) for name in whole}
    assert shapes == whole


def test_a_lost_policy_rule_is_put_back(net: Net, redirect: Redirector) -> None:
    redirect.apply(net.pod, PodRules())
    before = routing(net)
    ip("-n", net.pod_name, "rule", "del", "priority", "32764")
    ip("-n", net.pod_name, "-6", "route", "flush", "table", "100")
    assert redirect.apply(net.pod, PodRules())
    assert routing(net) == before


def test_removal_restores_and_spares_what_is_not_ours(net: Net, redirect: Redirector, listen: Listen) -> None:
    app = listen(net.pod, 8080)
    before = routing(net)
    nft.run(net.pod, ["add", "table", "inet", "theirs"])
    rules_before = listing(net.pod)
    redirect.apply(net.pod, PodRules(dns_capture=True))
    assert redirect.remove(net.pod)
    assert (listing(net.pod), routing(net)) == (rules_before, before)
    with dial(net.node, POD4, 8080) as client, app.accept()[0] as arrived:
        assert_echo(client, arrived)
    assert not redirect.remove(net.pod)


def test_options_that_change_replace_the_rules(net: Net, redirect: Redirector) -> None:
    redirect.apply(net.pod, PodRules(dns_capture=True))
    assert redirect.apply(net.pod, PodRules())
    assert nft.table(net.pod, rules_nft.RAW) is None
    assert not redirect.apply(net.pod, PodRules())


def test_a_pod_without_ipv6_gets_no_ipv6_route(net: Net, redirect: Redirector) -> None:
    netns.set_sysctl(net.pod, "net.ipv6.conf.lo.disable_ipv6", "1")
    redirect.apply(net.pod, PodRules())
    assert "fwmark" in ip("-n", net.pod_name, "rule")
    assert "fwmark" not in ip("-n", net.pod_name, "-6", "rule")
    assert not redirect.apply(net.pod, PodRules())


def test_the_counters_count(net: Net, redirect: Redirector, listen: Listen) -> None:
    proxy = listen(net.pod, 15001)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, ELSEWHERE4, 80), proxy.accept()[0]:
        pass
    counts = {row["rule"]: row.get("packets") for row in redirect.show(net.pod) if row.get("packets")}
    assert counts == {"outbound": 1}


def test_the_nodes_own_namespace_is_refused(redirect: Redirector) -> None:
    own = netns.open_netns(netns.OWN_NETNS)
    try:
        with pytest.raises(NamespaceError, match="the node's own"):
            redirect.apply(own, PodRules())
        with pytest.raises(NamespaceError, match="the node's own"):
            redirect.remove(own)
    finally:
        os.close(own)


def test_a_missing_nft_names_the_package(net: Net, redirect: Redirector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(RulesError, match="install the package nftables"):
        redirect.apply(net.pod, PodRules())


def test_a_refused_transaction_leaves_the_old_rules(net: Net, redirect: Redirector) -> None:
    redirect.apply(net.pod, PodRules())
    before = listing(net.pod)
    broken = rules_nft.transaction(PodRules(dns_capture=True))
    broken.append({"add": {"rule": {"family": "inet", "table": "no-such", "chain": "x", "expr": []}}})
    with pytest.raises(RulesError, match="nft -j -f -"):
        nft.commit(net.pod, broken)
    assert listing(net.pod) == before


def test_a_namespace_that_is_not_one(redirect: Redirector) -> None:
    with Path("/dev/null").open() as null, pytest.raises(NamespaceError) as caught:
        redirect.apply(null.fileno(), PodRules())
    assert not isinstance(caught.value, RouteError)


def test_an_address_given_to_another_pod_stays_when_the_first_leaves(net: Net) -> None:
    with netns.inside(net.node):
        host = probes.HostProbes(0, ipv6=True)
        assert host.setup()
        host.add([POD4, POD6], "old")
        host.add([POD4], "new")
        host.remove("old")
        again = probes.HostProbes(0, ipv6=True)
        assert not again.setup()
        assert again.owners == {POD4: "new"}
        assert not again.add([POD4], "new")
        other_user = probes.HostProbes(1000, ipv6=False)
        assert other_user.setup()
        assert other_user.owners == {POD4: "new"}  # the entries outlive a change of the rules
        assert other_user.prune(["somebody"])
        assert other_user.teardown()
        assert nft.table(None, rules_nft.NAT) is None


def test_captured_connections_survive_new_rules(net: Net, redirect: Redirector, listen: Listen) -> None:
    proxy = listen(net.pod, 15001)
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, ELSEWHERE4, 80) as app, proxy.accept()[0] as caught:
        assert_echo(app, caught)
        assert redirect.apply(net.pod, PodRules(dns_capture=True))
        assert_echo(app, caught)


def test_the_commands_show_and_remove(net: Net, redirect: Redirector) -> None:
    def run(name: str) -> str:
        result = CliRunner().invoke(command, [name, "--netns", f"/run/netns/{net.pod_name}"], catch_exceptions=False)
        assert result.exit_code == 0
        return str(result.output)

    assert "nothing is programmed there" in run("rules")
    redirect.apply(net.pod, PodRules())
    shown = run("rules")
    assert "fwmark 0x111/0xfff lookup 100" in shown
    assert re.search(r"istio-ambient-nat +istio-output +outbound +0 packets", shown)
    assert run("cleanup") == "removed\n"
    assert run("cleanup") == "nothing was programmed there\n"
    assert routing(net).count("fwmark") == 0


@BOTH
def test_the_pod_is_not_captured_on_its_way_to_the_probers_address(
    net: Net, redirect: Redirector, listen: Listen, v6: bool
) -> None:
    address = PROBE_V6 if v6 else PROBE_V4
    server = listen(net.node, 8080)
    ip("-n", net.node_name, "addr", "add", address, "dev", "lo", *(["nodad"] if v6 else []))
    redirect.apply(net.pod, PodRules())
    with dial(net.pod, address, 8080) as client, server.accept()[0] as arrived:
        assert_echo(client, arrived)


def test_a_query_of_ztunnel_is_not_taken_for_the_applications(net: Net, redirect: Redirector) -> None:
    redirect.apply(net.pod, PodRules(dns_capture=True))

    def datagram(where: int, address: str, port: int) -> socket.socket:
        with netns.inside(where):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        return sock

    with (
        datagram(net.node, NODE4, 53) as server,
        datagram(net.pod, "127.0.0.1", 15053) as proxy,
        datagram(net.pod, POD4, 5555) as application,
        datagram(net.pod, POD4, 5555) as upstream,
    ):
        upstream.setsockopt(socket.SOL_SOCKET, netns.SO_MARK, MARK)
        application.sendto(b"asked by the application", (NODE4, 53))
        assert proxy.recv(64) == b"asked by the application"
        # The same addresses and ports: without its own conntrack zone this would be sent to the proxy again.
        upstream.sendto(b"asked by ztunnel", (NODE4, 53))
        assert server.recv(64) == b"asked by ztunnel"
