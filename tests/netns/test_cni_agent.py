"""The agent as a process on a node, a pod beside it, and a ztunnel played by the test."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni import nft, rules_nft
from meshcore import netns, zds
from meshcore.errors import MeshError

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
DEADLINE = 15.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, at most DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {DEADLINE:g} s: {what}")


class Ztunnel:
    """The client side of ZDS: says hello, acks what it is sent and remembers it."""

    def __init__(self, path: Path, *, answer: Callable[[zds.Request], str] = lambda _: "") -> None:
        self.requests: list[zds.Request] = []
        self.namespaces: dict[str, tuple[int, int]] = {}
        self._answer = answer
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(DEADLINE)
        # The path is there a moment before anybody listens.
        until(lambda: self._sock.connect_ex(str(path)) == 0, f"somebody listens at {path}")
        zds.send_packet(self._sock, zds.encode_hello())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._sock.settimeout(None)
        while True:
            try:
                data, fds = zds.recv_packet(self._sock)
            except MeshError:
                return
            if not data:
                return
            request = zds.decode_request(data)
            fd = zds.take_netns(request, fds)
            if fd is not None and isinstance(request, zds.AddWorkload):
                self.namespaces[request.uid] = netns.netns_id(fd)
                os.close(fd)
            self.requests.append(request)
            zds.send_packet(self._sock, zds.encode_ack(self._answer(request)))

    def saw(self, request: zds.Request) -> bool:
        return request in self.requests

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):  # the agent may have hung up first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._sock.close()


class Node:
    """One node with one pod, `shop/web`, whose namespace is there from the start."""

    def __init__(self, folder: Path) -> None:
        self.name = f"t-cni-node-{os.getpid()}"
        self.pod_name = f"t-cni-pod-{os.getpid()}"
        self.config, self.status, self.zds = folder / "config", folder / "status", folder / "run" / "z.sock"
        self.config.mkdir()
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def add(self) -> zds.AddWorkload:
        return zds.AddWorkload("uid-web", zds.WorkloadInfo("web", "shop", "web-account"))

    def write_pod(self, *, uid: str = "uid-web", phase: str = "Running", **labels: str) -> None:
        meta = {"name": "web", "namespace": "shop", "uid": uid, "labels": labels}
        meta["annotations"] = {"cni.ambient.mesh/netns": f"/run/netns/{self.pod_name}"}
        spec = {"nodeName": "node-a", "serviceAccountName": "web-account"}
        status = {"phase": phase, "podIPs": [{"ip": "10.78.0.2"}, {"ip": "fd78::2"}]}
        self._write("pod", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status})

    def write_namespace(self, **labels: str) -> None:
        self._write("ns", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})

    def _write(self, name: str, obj: dict[str, Any]) -> None:
        temporary = self.config / f".{name}"
        temporary.write_text(yaml.safe_dump(obj))
        temporary.rename(self.config / f"{name}.yaml")

    def start(self, *options: str) -> None:
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "ambient", "cni"]
        command += ["agent", "--config-dir", str(self.config), "--status-dir", str(self.status), "--node", "node-a"]
        command += ["--zds-socket", str(self.zds), *options]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self.process = None
        return code

    def redirection(self) -> str | None:
        path = self.status / "Pod.shop.web.json"
        if not path.exists():
            return None
        return str(json.loads(path.read_text())["metadata"]["annotations"]["ambient.istio.io/redirection"])

    def programmed(self) -> bool:
        with at(self.pod_name) as fd:
            return nft.table(fd, rules_nft.NAT) is not None

    def probes(self) -> str:
        with at(self.name) as fd:
            return nft.run(fd, ("list", "ruleset")).decode()


@contextlib.contextmanager
def at(name: str) -> Iterator[int]:
    fd = netns.open_netns(f"/run/netns/{name}")
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    first = subprocess.run(["ip", "netns", "add", made.name], check=False, capture_output=True, text=True, timeout=10)
    if first.returncode:
        pytest.skip(f"cannot create network namespaces here: {first.stderr.strip()}")
    try:
        ip("netns", "add", made.pod_name)
        ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait(DEADLINE)
        for name in (made.name, made.pod_name):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)
        sys.stdout.write(made.log.read_text() if made.log.exists() else "")


@pytest.fixture
def ztunnel(node: Node) -> Iterator[Callable[..., Ztunnel]]:
    made: list[Ztunnel] = []

    def connect(**options: Any) -> Ztunnel:
        made.append(Ztunnel(node.zds, **options))
        return made[-1]

    yield connect
    for each in made:
        each.close()


Connect = Callable[..., Ztunnel]
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
NONE = {"istio.io/dataplane-mode": "none"}


def test_a_running_pod_comes_in_and_leaves_by_its_label(node: Node, ztunnel: Connect) -> None:
    node.write_pod()
    node.start()
    proxy = ztunnel()
    until(lambda: proxy.requests == [zds.SnapshotSent()], "an empty snapshot")
    assert not node.programmed()

    node.write_pod(**AMBIENT)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    assert proxy.requests[1:] == [node.add]
    with at(node.pod_name) as fd:
        assert proxy.namespaces == {"uid-web": netns.netns_id(fd)}
    assert node.programmed()
    assert '10.78.0.2 comment "uid-web"' in node.probes()
    assert 'fd78::2 comment "uid-web"' in node.probes()

    node.write_pod(**NONE)
    until(lambda: node.redirection() is None, "the note is gone")
    assert proxy.requests[2:] == [zds.DelWorkload("uid-web")]
    assert not node.programmed()
    assert "10.78.0.2" not in node.probes()


def test_the_label_of_the_namespace_counts(node: Node, ztunnel: Connect) -> None:
    node.write_namespace()
    node.write_pod()
    node.start()
    proxy = ztunnel()
    until(lambda: proxy.saw(zds.SnapshotSent()), "the snapshot")
    node.write_namespace(**AMBIENT)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    node.write_namespace()
    until(lambda: node.redirection() is None, "the note is gone")
    assert not node.programmed()


def test_without_ztunnel_a_pod_is_pending_and_becomes_enabled_when_one_comes(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    until(lambda: node.redirection() == "pending", "the pod is pending")
    assert node.programmed()  # its traffic waits rather than pass in the clear
    assert "10.78.0.2" not in node.probes()
    ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    until(lambda: "10.78.0.2" in node.probes(), "probes may pass")


def test_a_refusal_is_tried_again(node: Node, ztunnel: Connect) -> None:
    refusals = iter(["port 15001 is taken", "still taken"])
    node.write_pod()
    node.start()
    proxy = ztunnel(answer=lambda request: next(refusals, "") if isinstance(request, zds.AddWorkload) else "")
    until(lambda: proxy.saw(zds.SnapshotSent()), "the snapshot")
    node.write_pod(**AMBIENT)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    assert proxy.requests.count(node.add) == 3
    assert "port 15001 is taken" in node.log.read_text()


def test_a_deleted_pod_is_removed_everywhere(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    old, new = ztunnel(), ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    (node.config / "pod.yaml").unlink()
    for proxy in (old, new):
        until(functools.partial(proxy.saw, zds.DelWorkload("uid-web")), "every ztunnel hears of it")
    until(lambda: node.redirection() is None, "the note is gone")
    assert "10.78.0.2" not in node.probes()


def test_only_the_newest_ztunnel_is_told_and_the_older_one_steps_in_when_it_dies(node: Node, ztunnel: Connect) -> None:
    node.write_pod()
    node.start()
    old = ztunnel()
    until(lambda: old.saw(zds.SnapshotSent()), "the first snapshot")
    new = ztunnel()
    until(lambda: new.saw(zds.SnapshotSent()), "the second snapshot")
    node.write_pod(**AMBIENT)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    assert new.saw(node.add)
    assert not old.saw(node.add)
    node.write_pod(**NONE)
    until(lambda: node.redirection() is None, "the note is gone")
    new.close()
    node.write_pod(**AMBIENT)
    until(lambda: old.saw(node.add), "the older one is told")


def test_a_new_agent_takes_over_without_a_write(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    assert node.stop() == 0
    assert node.programmed()
    assert node.redirection() == "enabled"
    with at(node.pod_name) as fd:
        before = nft.run(fd, ("-a", "list", "ruleset"))

    node.start()
    proxy = ztunnel()
    until(lambda: proxy.saw(zds.SnapshotSent()), "the snapshot")
    assert proxy.requests[0] == node.add
    until(lambda: "rules already in place" in node.log.read_text(), "the rules are compared")
    with at(node.pod_name) as fd:
        assert nft.run(fd, ("-a", "list", "ruleset")) == before
    assert "pending" not in node.log.read_text().partition("already in place")[2]
    assert "10.78.0.2" in node.probes()


def test_a_pod_that_lost_its_label_while_no_agent_ran(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    node.stop()
    node.write_pod(**NONE)
    node.start()
    until(lambda: node.redirection() is None, "the note is gone")
    assert not node.programmed()
    assert "10.78.0.2" not in node.probes()


def test_a_pod_that_went_while_no_agent_ran_leaves_no_note(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    node.stop()
    (node.config / "pod.yaml").unlink()
    node.start()
    until(lambda: node.redirection() is None, "the note is gone")
    until(lambda: "10.78.0.2" not in node.probes(), "its probe entry is pruned")


def test_uninstall_on_exit_takes_everything_away(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start("--uninstall-on-exit")
    proxy = ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    assert node.stop() == 0
    assert not node.programmed()
    assert node.redirection() is None
    assert node.probes() == ""
    assert proxy.saw(zds.DelWorkload("uid-web"))


def test_a_namespace_that_comes_later_is_found(node: Node, ztunnel: Connect) -> None:
    ip("netns", "del", node.pod_name)
    node.write_pod(**AMBIENT)
    node.start()
    ztunnel()
    until(lambda: "No such file" in node.log.read_text(), "the agent says what is missing")
    assert node.redirection() is None
    ip("netns", "add", node.pod_name)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")


def test_a_namespace_made_anew_is_programmed_and_handed_over_again(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    proxy = ztunnel()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    ip("netns", "del", node.pod_name)
    ip("netns", "add", node.pod_name)
    with at(node.pod_name) as fd:
        until(lambda: proxy.namespaces["uid-web"] == netns.netns_id(fd), "ztunnel has the new namespace")
    assert node.programmed()


def get(node: Node, url: str) -> tuple[int, str]:
    with at(node.name) as fd, netns.inside(fd):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""


def test_metrics_and_health(node: Node, ztunnel: Connect) -> None:
    node.write_pod(**AMBIENT)
    node.start()
    ztunnel()
    until(lambda: get(node, "http://127.0.0.1:8000/readyz")[0] == 200, "ready")
    assert get(node, "http://127.0.0.1:8000/healthz") == (200, "ok\n")
    assert get(node, "http://127.0.0.1:8000/nothing")[0] == 404
    text = get(node, "http://127.0.0.1:15014/metrics")[1]
    assert 'nodeagent_reconcile_events_total{type="add"} 1' in text
    assert "ztunnel_connected 1" in text


def test_a_port_in_use_is_one_line(node: Node) -> None:
    node.start("--metrics-port", "8000")
    assert node.process is not None
    assert node.process.wait(DEADLINE) == 1
    node.process = None
    last = node.log.read_text().splitlines()[-1]
    assert "port 8000 for /healthz, /readyz cannot be used: " in last
    assert "Traceback" not in node.log.read_text()


def test_a_config_directory_that_is_not_there_is_one_line(node: Node) -> None:
    node.config.rmdir()
    node.start()
    assert node.process is not None
    assert node.process.wait(DEADLINE) == 1
    node.process = None
    (line,) = node.log.read_text().splitlines()
    assert "config: not a directory" in line


def test_a_bad_file_is_reported_once_and_the_others_count(node: Node, ztunnel: Connect) -> None:
    node.start()
    ztunnel()
    (node.config / "bad.yaml").write_text("kind: [")
    node.write_pod(**AMBIENT)
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
    until(lambda: "bad.yaml" in node.log.read_text(), "the bad file is named")
    node.write_pod(**NONE)
    until(lambda: node.redirection() is None, "the note is gone")
    assert node.log.read_text().count("bad.yaml") == 1


def test_a_status_directory_that_cannot_be_written_is_tried_again(node: Node, ztunnel: Connect) -> None:
    node.start()
    ztunnel()
    until(lambda: "serving ZDS" in node.log.read_text(), "the agent runs")
    target = node.status / "Pod.shop.web.json"
    target.mkdir(parents=True)  # a directory where the note should go: even root cannot replace it
    (target / "x").touch()
    node.write_pod(**AMBIENT)
    until(lambda: "WARNING cni.agent: shop/web" in node.log.read_text(), "the agent complains")
    (target / "x").unlink()
    target.rmdir()
    until(lambda: node.redirection() == "enabled", "the pod is enabled")
