"""The subjects: Envoy accepts what we write for it, and our worker answers as the loads expect."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from ambient.demo.processes import Processes, wait_until
from bench import certs, config
from bench.errors import BenchError
from bench.subjects import envoy, ours
from bench.subjects.base import truncate
from bench.subjects.control import WorkerNode, listen
from bench.subjects.envoy import EnvoyHbone, EnvoyPair, EnvoySidecar
from meshcore.records import Action, Direction, PageCell, Upcall, UpcallFlag
from tests.support import build


def upcall(direction: Direction, destination: str, peer: str = "") -> Upcall:
    ip = socket.inet_aton(destination)
    local = socket.inet_aton("127.0.0.2")
    return Upcall(1, 1, direction, UpcallFlag(0), ip, 1, ip, 8080, local, peer, "", "", "")


@pytest.mark.parametrize("pair", [EnvoyHbone, EnvoySidecar])
def test_envoy_accepts_its_configuration(pair: type[EnvoyPair], tmp_path: Path) -> None:
    authority = certs.Authority()
    subject = pair(Processes(tmp_path, {}), tmp_path, authority)
    (tmp_path / subject.name).mkdir()
    files = {role: authority.issue_files(role, tmp_path) for role in ("client", "server")}
    for role, bootstrap in subject._configs(files).items():
        path = tmp_path / f"{role}.json"
        path.write_text(json.dumps(bootstrap))
        command = [envoy.binary(), "--mode", "validate", "-c", str(path), "-l", "error"]
        environment = config.child_environment(tmp_path)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
        assert done.returncode == 0, done.stderr


def test_only_the_client_is_let_in() -> None:
    verdict, _ = ours._inbound(upcall(Direction.INBOUND_HBONE, "127.0.0.2", certs.spiffe("client")))
    assert verdict.action is Action.DELIVER
    verdict, _ = ours._inbound(upcall(Direction.INBOUND_HBONE, "127.0.0.2", certs.spiffe("other")))
    assert verdict.action is Action.DENY


@pytest.mark.skipif(build.variant() == "asan", reason="workers of a bench have an environment without a sanitizer")
def test_a_refused_connection_ends_with_its_verdict_and_nothing_is_left(tmp_path: Path) -> None:
    node = WorkerNode("client", tmp_path, ours._outbound)
    node.start()
    try:
        outbound = listen("127.0.0.1")
        address = outbound.getsockname()
        node.add_pod([outbound, listen("127.0.0.1"), listen("127.0.0.1")])
        for _ in range(2):
            with socket.create_connection(address, 5) as sock:
                sock.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
        wait_until(lambda: node.page.cell(PageCell.FLOW_MISS) == 1, "one miss", 5)
        wait_until(lambda: node.page.cell(PageCell.FLOW_HIT) == 1, "one hit", 5)
        assert node.cells()["UPCALL"] == 1
        pids = [node.pid, node.zygote_pid]
    finally:
        node.stop()
    wait_until(lambda: not any(map(running, pids)), "worker and zygote to end", 5)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_logs_are_emptied_in_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    truncate(log)
    with log.open("ab") as writer:
        writer.write(b"before")
        writer.flush()
        truncate(log)
        writer.write(b"after")
    assert log.read_bytes() == b"after"


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_SYSTEM_PATH", ())
    monkeypatch.setitem(os.environ, "PATH", "/nonexistent")
    with pytest.raises(BenchError, match="apt-get install linux-perf"):
        config.tool("perf")
