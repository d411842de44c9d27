"""Much at once: bytes and connections."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Final

from ambient.demo.admin import access_lines, log_size
from ambient.demo.errors import CheckFailed
from ambient.demo.mesh import Mesh
from ambient.demo.processes import wait_until
from ambient.demo.scenarios.base import Scenario, require
from ambient.demo.topology import FRONTEND, HTTP, STORE, STORE_SERVICE, WEB_2
from meshcore.errors import DeadlineExceeded

_MIB: Final = 2**20
_BLOCKS: Final = 200
"""200 MiB each way."""

_TRANSFER: Final = 30.0  # seconds for one direction
_CONNECTIONS: Final = 2000
_OPENING: Final = 200  # connections being opened at the same time


def _blocks() -> Iterator[bytes]:
    """200 MiB without repetition: a block that is lost, doubled or moved changes the hash."""
    noise = os.urandom(_MIB - 8)
    for number in range(_BLOCKS):
        yield number.to_bytes(8) + noise


def bulk(mesh: Mesh) -> str:
    target = mesh.app_dir(STORE) / "files" / "bulk"
    url = f"http://{STORE_SERVICE.vip}/files/bulk"
    offset = log_size(mesh.log_of("ztunnel-1"))
    try:
        began = time.monotonic()
        sent = _upload(mesh, url)
        uploaded = time.monotonic() - began
        require(target.exists(), "the upload ended, but the store has no file")
        with target.open("rb") as file:
            stored = hashlib.file_digest(file, "sha256").hexdigest()
        require(stored == sent, f"uploaded {sent[:16]}, the store has {stored[:16]} in {target.stat().st_size} bytes")
        began = time.monotonic()
        received, size = _download(mesh, url)
        downloaded = time.monotonic() - began
        require(received == sent, f"uploaded {sent[:16]}, downloaded {received[:16]} in {size} bytes")
    finally:
        target.unlink(missing_ok=True)
    mesh.await_access(
        "ztunnel-1",
        offset,
        lambda line: int(line["bytes_recv"] or 0) >= _BLOCKS * _MIB and line["dst.addr"].endswith(":15008"),
        "200 MiB over HBONE",
    )
    return (
        f"{_BLOCKS} MiB up in {uploaded:.2f} s ({_BLOCKS / uploaded:.0f} MiB/s) and down in {downloaded:.2f} s "
        f"({_BLOCKS / downloaded:.0f} MiB/s), sha256 {sent[:16]}... all three times"
    )


def _upload(mesh: Mesh, url: str) -> str:
    """PUT the blocks with curl from frontend -> their hash."""
    digest = hashlib.sha256()
    command = ["curl", "-sS", "--fail", "-T", "-", "-H", "Expect:", "--max-time", f"{_TRANSFER:g}", url]
    with mesh.processes.pipe(command, netns=mesh.net.path(FRONTEND.name)) as curl:
        try:
            for block in _blocks():
                digest.update(block)
                curl.stdin.write(block)
            curl.stdin.close()
        except BrokenPipeError:
            raise CheckFailed(f"the upload broke off: {curl.stderr.read().decode().strip()}") from None
        curl.require_success("upload", _TRANSFER)
    return digest.hexdigest()


def _download(mesh: Mesh, url: str) -> tuple[str, int]:
    """GET it with curl from frontend -> hash and size."""
    digest, size = hashlib.sha256(), 0
    command = ["curl", "-sS", "--fail", "--max-time", f"{_TRANSFER:g}", url]
    with mesh.processes.pipe(command, netns=mesh.net.path(FRONTEND.name)) as curl:
        while block := curl.stdout.read(_MIB):
            digest.update(block)
            size += len(block)
        curl.require_success("download", _TRANSFER)
    return digest.hexdigest(), size


def concurrent(mesh: Mesh) -> str:
    offset = log_size(mesh.log_of("ztunnel-2"))
    client = mesh.client(FRONTEND, "hold", WEB_2.ip, str(HTTP), "/load", str(_CONNECTIONS), str(_OPENING))
    try:
        end = client.finish(40.0)
    finally:
        client.close()
    failed = ", ".join(f"{count} {kind}" for kind, count in end["failed"].items()) or "none failed"
    counts = f"{end['opened']} of {_CONNECTIONS} connections open at once, {end['again']} answered a second request"
    require(end["opened"] == end["again"] == _CONNECTIONS, f"{counts}; {failed}")
    log = mesh.log_of("ztunnel-2")

    def logged() -> int:
        lines = access_lines(log, offset)
        return sum(line["direction"] == "inbound" and line["src.identity"] == FRONTEND.spiffe for line in lines)

    try:
        wait_until(lambda: logged() >= _CONNECTIONS, "their end in the access log", 10.0, every=0.2)
    except DeadlineExceeded as error:
        raise CheckFailed(f"{counts}; {logged()} of them are in the log of ztunnel-2: {error}") from None
    return f"{counts}; {end['seconds']:.1f} s in all, {failed}; {logged()} lines in the log of ztunnel-2"


SCENARIOS = (
    Scenario("bulk", "200 MiB each way arrive intact", bulk),
    Scenario("concurrent", "2,000 connections at once", concurrent),
)
