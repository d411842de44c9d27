"""Orphaned workers are found by their name, their node and their parent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ztunnel import orphans


def process(proc: Path, pid: int, name: str, parent: int, environ: bytes = b"") -> None:
    entry = proc / str(pid)
    entry.mkdir()
    (entry / "comm").write_text(name + "\n")
    (entry / "stat").write_text(f"{pid} ({name} (x)) S {parent} 1 1 0")
    (entry / "environ").write_bytes(environ)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    process(tmp_path, 1, "init", 0)
    process(tmp_path, 50, orphans.ZYGOTE_NAME, 1)
    (tmp_path / "meminfo").write_text("")
    return tmp_path


OURS = b"HOME=/\0INPOD_UDS=/run/a.sock\0"


def test_a_worker_of_a_dead_zygote_is_an_orphan(proc: Path) -> None:
    process(proc, 60, "zt-worker-0", 1, OURS)
    assert orphans.find("/run/a.sock", proc) == [60]


def test_a_worker_with_its_zygote_is_not(proc: Path) -> None:
    process(proc, 60, "zt-worker-0", 50, OURS)
    assert orphans.find("/run/a.sock", proc) == []


def test_a_worker_of_another_node_is_left_alone(proc: Path) -> None:
    process(proc, 60, "zt-worker-0", 1, b"INPOD_UDS=/run/a.sock2\0")
    assert orphans.find("/run/a.sock", proc) == []


def test_other_processes_and_unreadable_ones_are_passed_over(proc: Path) -> None:
    process(proc, 60, "nginx", 1, OURS)
    (proc / "70").mkdir()
    assert orphans.find("/run/a.sock", proc) == []


def test_our_own_workers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append(pid))
    monkeypatch.setattr(orphans, "find", lambda uds: [60, 61])
    assert orphans.drain("/run/a.sock", {61}) == 1
    assert told == [60]


def test_nothing_is_found_on_this_machine_for_a_socket_nobody_uses() -> None:
    assert orphans.drain(f"/run/nobody-{os.getpid()}.sock") == 0
