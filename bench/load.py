"""The loads: each runs a generator to its end against one address and says what came of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import config
from bench.errors import BenchError
from bench.subjects.base import Address
from meshcore.errors import Unavailable
from meshcore.netns import inside, open_netns

_UNITS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
_WRK_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_WRK_LATENCY: Final = re.compile(r"^\s+(50|90|99)%\s+([\d.]+)(us|ms|s|m)\s*$", re.MULTILINE)
_PERCENTILES: Final = ("p50", "p90", "p99", "p999")


class Outcome(NamedTuple):
    """`work` is what the costs are divided by: requests, or gigabytes (1e9)."""

    work: float
    errors: int
    seconds: float
    latency_us: dict[str, float]
    lag_us: float = 0.0
    """P99 of how late the generator itself was; 0 where it does not say."""

    @property
    def rate(self) -> float:
        """Work per second; for bulk, times 8 it is Gbit/s."""
        return self.work / self.seconds


During = Callable[[], None] | None
Load = Callable[[Address, float, During], Outcome]
"""(address, seconds, what to do in the middle) -> outcome."""


def run_generator(command: list[str], seconds: float, during: During) -> str:
    """Run a generator; `during` is called halfway. Raises BenchError when it fails or does not end."""
    process = subprocess.Popen(
        [config.tool("setpriv"), "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=config.child_environment(Path("/")),
        start_new_session=True,
    )
    try:
        if during is not None:
            time.sleep(seconds / 2)
            during()
        output, errors = process.communicate(timeout=seconds + config.SLICE_GRACE)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{Path(command[0]).name} has not ended within {seconds + config.SLICE_GRACE:g} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(5)
    if process.returncode:
        text = (errors.strip() or output.strip() or "no output").splitlines()[-1]
        raise BenchError(f"{Path(command[0]).name} failed with status {process.returncode}: {text}")
    return output


def program(name: str, *arguments: object) -> list[str]:
    """The command line of one of the bench's own programs: a lean Python."""
    return [sys.executable, "-I", "-S", str(config.PROGRAMS / f"{name}.py"), *map(str, arguments)]


def run_program(name: str, *arguments: object, seconds: float) -> dict[str, Any]:
    """Run one of the bench's own programs -> the object it printed."""
    found: dict[str, Any] = json.loads(run_generator(program(name, *arguments), seconds, None))
    return found


def fetch(netns: str, address: Address, path: str, timeout: float = 3.0) -> str:
    """One request from inside a namespace -> "" when the page came as it should, else what came instead.

    Raises Unavailable when nobody answers.
    """
    fd = open_netns(netns)
    try:
        with inside(fd):
            sock = socket.socket()
    finally:
        os.close(fd)
    reply = b""
    try:
        with sock:
            sock.settimeout(timeout)
            sock.connect(address)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.host}\r\nConnection: close\r\n\r\n".encode())
            while data := sock.recv(65536):
                reply += data
    except OSError as error:
        raise Unavailable(f"{address.host}:{address.port}: {error}") from error
    if reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"x" * config.BODY_BYTES):
        return ""
    return reply[:80].decode("latin-1") or "closed without an answer"


def generate(
    address: Address,
    seconds: float,
    during: During = None,
    *,
    rate: int,
    connections: int,
    fresh: bool = False,
    path: str = "/1k",
    netns: str | None = None,
) -> Outcome:
    """The compiled generator (`_generator.pyx`), from inside a namespace if one is given.

    Open loop at `rate` requests/s, evenly spaced, latency from when each was due; at rate 0 each of the connections
    sends its next request when the last was answered. `fresh`: a connection for every request.
    """
    arguments: list[object] = [address.host, address.port, path, "--rate", rate, "--connections", connections]
    arguments += ["--seconds", f"{seconds:g}", "--body-bytes", config.BODY_BYTES]
    if fresh:
        arguments.append("--fresh")
    enter = [] if netns is None else [config.tool("nsenter"), f"--net={netns}", "--"]
    found = json.loads(run_generator([*enter, *program("generate", *arguments)], seconds, during))
    if found["requests"] == 0:
        raise BenchError(f"no request to {address.host}:{address.port} was answered: {found['errors']}")
    latency = {name: float(found["latency_us"][name]) for name in _PERCENTILES}
    errors = sum(found["errors"].values())
    return Outcome(found["requests"], errors, found["seconds"], latency, float(found["lag_us"]["p99"]))


def constant(
    address: Address, seconds: float, during: During = None, *, path: str = "/1k", netns: str | None = None
) -> Outcome:
    """1,000 requests/s, evenly spaced, on 16 connections that stay open."""
    return generate(
        address, seconds, during, rate=config.RATE, connections=config.RATE_CONNECTIONS, path=path, netns=netns
    )


def _wrk(address: Address, seconds: float, during: During, connections: int, *headers: str) -> Outcome:
    url = f"http://{address.host}:{address.port}/1k"
    options = [f"-c{connections}", "-t1", f"-d{max(1, round(seconds))}", "--latency"]
    for header in headers:
        options += ["-H", header]
    return parse_wrk(run_generator([config.tool("wrk"), *options, url], seconds, during))


def parse_wrk(output: str) -> Outcome:
    """What wrk prints -> an outcome; raises BenchError when it is not that."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m),", output)
    if total is None or int(total[1]) == 0:
        raise BenchError(f"wrk counted no request: {output.strip()[-200:]}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = int(failed[1]) if failed else 0
    if sockets := _WRK_ERRORS.search(output):
        errors += sum(map(int, sockets.groups()))
    latency = {f"p{number}": float(value) * _UNITS[unit] for number, value, unit in _WRK_LATENCY.findall(output)}
    return Outcome(int(total[1]), errors, float(total[2]) * _UNITS[total[3]] / 1e6, latency)


def closed(address: Address, seconds: float, during: During = None) -> Outcome:
    """64 connections, each sending its next request when the last was answered."""
    return _wrk(address, seconds, during, config.CLOSED_CONNECTIONS)


def fresh(address: Address, seconds: float, during: During = None) -> Outcome:
    """A new connection for every request, 16 at a time."""
    return _wrk(address, seconds, during, config.FRESH_CONNECTIONS, "Connection: close")


def _iperf(address: Address, seconds: float, during: During, *options: str) -> Outcome:
    command = [config.tool("iperf3"), "-c", address.host, "-p", str(address.port), "-J", "-t", f"{seconds:g}", *options]
    found = json.loads(run_generator(command, seconds, during))
    total = found["end"]["sum_received"]
    return Outcome(total["bytes"] / 1e9, 0, total["seconds"], {})


def upload(address: Address, seconds: float, during: During = None) -> Outcome:
    """One stream, client to server."""
    return _iperf(address, max(1, round(seconds)), during)


def download(address: Address, seconds: float, during: During = None) -> Outcome:
    """One stream, server to client."""
    return _iperf(address, max(1, round(seconds)), during, "-R")
