"""Locust itself with our files, as a user starts it: against a real server on loopback, and with its web page.

Locust runs in a process of its own: importing it replaces `socket`, `ssl` and `threading`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from bench import locustload
from bench.errors import BenchError
from bench.subjects.base import Address
from tests.support import netns, pki, programs
from tests.support.worker_harness import LOOPBACK, TIMEOUT, address_of, eventually, listen

needs_locust = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed: scripts/virtualenv dev,bench"
)

ROOT: Final = Path(__file__).resolve().parents[3]
PAGES: Final = "bench/locustfile.py"
SWEEP: Final = "bench/locustfile.py,bench/locust_shape.py"
HBONE: Final = "bench/hbone_user.py"
RUN_TIMEOUT: Final = 40.0  # s; a run of two seconds on a busy machine


def reply(status: str, length: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + b"x" * length


GOOD: Final = reply("200 OK", 1024)


class Site:
    """An HTTP/1.1 server that gives one answer to everything; `once` ends each connection after its first."""

    def __init__(self, answer: bytes = GOOD, *, once: bool = False) -> None:
        self.connections = 0
        self.paths: set[str] = set()
        self._answer = answer
        self._once = once
        self._listener = listen()
        self._listener.setblocking(True)
        self.address = Address(*address_of(self._listener))
        self.url = f"http://{LOOPBACK}:{self.address.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        got = b""
        with sock, contextlib.suppress(OSError):
            sock.settimeout(RUN_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := sock.recv(65536):
                got += data
                while b"\r\n\r\n" in got:
                    head, _, got = got.partition(b"\r\n\r\n")
                    self.paths.add(head.split()[1].decode())
                    # In two pieces: the client must put them together.
                    sock.sendall(self._answer[:30])
                    sock.sendall(self._answer[30:])
                    if self._once:
                        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def command(files: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("locust")), "-f", files, *arguments]


def locust(files: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(files, *arguments),
        cwd=ROOT,
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )


def headless(files: str, site: Site, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run without the web page -> the run, and its statistics by name."""
    options = ("--host", site.url, "--headless", "--only-summary", "--json")
    done = locust(files, *options, *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done, {entry.name: entry for entry in locustload.parse_statistics(done.stdout)}


# --- arguments ---


@needs_locust
@pytest.mark.parametrize(
    ("files", "ours"),
    [
        (PAGES, ("--rate-per-user", "62.5", "--path", "--body-bytes", "--timeout", "--label")),
        (SWEEP, ("--rate-per-user", "--sweep-rates", "500,750,1000,1250,1500", "--sweep-step", "--sweep-connections")),
        (HBONE, ("--rate-per-user", "--hbone-cert", "--hbone-target", "--expected-identity", "--requests-per-tunnel")),
    ],
)
def test_help_all_lists_our_arguments_beside_those_of_locust(files: str, ours: tuple[str, ...]) -> None:
    done = locust(files, "--help-all")
    assert done.returncode == 0, done.stderr
    assert [name for name in (*ours, "--headless", "--spawn-rate") if name not in done.stdout] == []


@needs_locust
@pytest.mark.parametrize(
    ("files", "arguments", "fault"),
    [
        (PAGES, (), "--host is missing"),
        (PAGES, ("--host", "127.0.0.1:8080"), "starts with http"),
        (PAGES, ("--host", "http://a", "--path", "1k"), "argument --path: '1k' is not the path of a page"),
        (
            PAGES,
            ("--host", "http://a", "--rate-per-user", "0"),
            "argument --rate-per-user: '0' is not a number above 0",
        ),
        (SWEEP, ("--host", "http://a", "--sweep-rates", "500,x"), "argument --sweep-rates: 'x' is not a whole number"),
    ],
)
def test_a_mistake_is_answered_with_one_line(files: str, arguments: tuple[str, ...], fault: str) -> None:
    done = locust(files, "--headless", "-t", "2s", *arguments)
    assert_refused(done, fault)


def assert_refused(done: subprocess.CompletedProcess[str], fault: str) -> None:
    assert done.returncode not in (0, -9), done.stderr
    lines = [line for line in done.stderr.splitlines() if "Starting Locust" not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("locust: error: ")
    assert fault in lines[0]


def hbone_arguments(folder: Path) -> dict[str, str]:
    """Good ones."""
    chain, key = pki.credential("client").write(folder, "client")
    (folder / "root.pem").write_bytes(pki.root().pem)
    return {
        "--host": "127.0.0.1:15008",
        "--hbone-cert": str(chain),
        "--hbone-key": str(key),
        "--hbone-root": str(folder / "root.pem"),
        "--hbone-target": "10.0.0.7:8080",
        "--expected-identity": pki.spiffe("ours"),
    }


@needs_locust
@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("--hbone-cert", "gone.pem", "argument --hbone-cert: gone.pem: No such file or directory"),
        ("--hbone-cert", "OTHER", "are no certificate chain and its key in PEM: key values mismatch"),
        ("--hbone-key", "NOISE", "are no certificate chain and its key in PEM"),
        ("--hbone-root", "NOISE", "noise holds no certificate in PEM"),
        ("--hbone-target", "10.0.0.7", "argument --hbone-target: '10.0.0.7' is not HOST:PORT"),
        ("--expected-identity", "web", "argument --expected-identity: 'web' is not a SPIFFE URI"),
        ("--host", "fd00::7", "an IPv6 address stands in brackets"),
        ("--hbone-cert", "", "arguments are required: --hbone-cert"),
    ],
)
def test_a_mistake_in_the_arguments_of_hbone_is_one_line(name: str, value: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("not PEM")
    other, _ = pki.credential("other").write(tmp_path, "other")
    given = hbone_arguments(tmp_path)
    if value:
        given[name] = {"NOISE": str(tmp_path / "noise"), "OTHER": str(other)}.get(value, value)
    else:
        del given[name]
    done = locust(HBONE, "--headless", "-t", "2s", *(part for item in given.items() for part in item))
    assert_refused(done, fault)


# --- runs ---


@needs_locust
def test_users_ask_at_the_rate_on_connections_that_stay_open() -> None:
    with Site() as site:
        done, found = headless(PAGES, site, "-u", "4", "-r", "4", "-t", "2s", "--rate-per-user", "25", "--path", "/a?b")
    assert done.returncode == 0, done.stderr
    assert (site.connections, site.paths) == (4, {"/a?b"})
    assert set(found) == {"/a?b", "/a?b (new connection)"}
    assert found["/a?b (new connection)"].requests == 4
    page = found["/a?b"]
    assert page.failures == 0
    assert page.requests / (page.ended - page.began) == pytest.approx(100, rel=0.15)
    assert any(not time.is_integer() for time in page.times), "times are kept finer than whole milliseconds"


@needs_locust
@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (reply("503 Service Unavailable", 1024), "code=503"),
        (reply("204 No Content", 0), "status 204"),
        (reply("302 Found", 1024, "Location: /other"), "status 302"),
        (reply("200 OK", 1023), "1023 bytes instead of 1024"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n" + b"x" * 40, "HTTPParseError"),
    ],
    ids=["503", "204", "redirect", "length", "no http"],
)
def test_a_wrong_answer_is_a_failure(answer: bytes, fault: str) -> None:
    with Site(answer) as site:
        done, found = headless(PAGES, site, "-u", "2", "-r", "2", "-t", "1s", "--rate-per-user", "20", "--label", "L")
    assert done.returncode == 1
    assert set(found) <= {"/1k L", "/1k (new connection) L"}
    assert sum(entry.requests for entry in found.values()) > 5
    assert all(entry.failures == entry.requests for entry in found.values())
    assert fault in done.stderr
    assert site.paths == {"/1k"}


@needs_locust
def test_failures_go_where_they_were_asked_to(tmp_path: Path) -> None:
    wanted = tmp_path / "failures"
    options = ("-u", "1", "-r", "1", "-t", "1s", "--rate-per-user", "20", "--failures")
    with Site(reply("200 OK", 5)) as site:
        _, found = headless(PAGES, site, *options, str(wanted))
        done, _ = headless(PAGES, site, *options, str(tmp_path))
    assert locustload.commonest_failure(wanted.read_text()) == "CatchResponseError('5 bytes instead of 1024')"
    assert sum(json.loads(wanted.read_text()).values()) == sum(entry.failures for entry in found.values())
    assert done.returncode == 1
    assert f"--failures {tmp_path}: Is a directory" in done.stderr


@needs_locust
def test_a_connection_that_does_not_stay_open_is_seen() -> None:
    with Site(once=True) as site:
        _, found = headless(PAGES, site, "-u", "2", "-r", "2", "-t", "1s", "--rate-per-user", "20")
    assert set(found) == {"/1k (new connection)"}
    assert found["/1k (new connection)"].requests > 10
    assert site.connections >= found["/1k (new connection)"].requests


@needs_locust
def test_the_sweep_keeps_its_connections_and_changes_the_rate() -> None:
    with Site() as site:
        options = ("--sweep-rates", "40,120", "--sweep-step", "2", "--sweep-connections", "3")
        done, found = headless(SWEEP, site, *options)
    assert done.returncode == 0, done.stderr
    assert site.connections == 3
    assert set(found) == {"/1k (new connection) at 40/s", "/1k at 40/s", "/1k at 120/s"}
    for rate in (40, 120):
        entry = found[f"/1k at {rate}/s"]
        assert entry.requests / (entry.ended - entry.began) == pytest.approx(rate, rel=0.2)


@needs_locust
def test_a_checkout_that_is_not_installed_is_enough(tmp_path: Path) -> None:
    """From its root, with locust's packages and nothing else on the path."""
    shutil.copytree(ROOT / "bench", tmp_path / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "meshcore").mkdir()
    for source in (ROOT / "meshcore").glob("*.py"):
        shutil.copy(source, tmp_path / "meshcore")
    # Without `site` no .pth file leads to the repository.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "locust", "-f", SWEEP, "--list"],
        cwd=tmp_path,
        env=programs.environment() | {"PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Available", "Users:", "PageUser"]


# --- as a load of the bench ---


@needs_locust
def test_the_bench_gets_an_outcome() -> None:
    called = []
    with Site() as site:
        found = locustload.run(site.address, rate=100, users=4, seconds=2, during=lambda: called.append(site.paths))
    assert called == [{"/1k"}], "it was called once, and while requests came"
    assert found.errors == 0
    assert found.rate == pytest.approx(100, rel=0.15)
    assert list(found.latency_us) == ["p50", "p90", "p99", "p999"]
    assert 10 < found.latency_us["p50"] <= found.latency_us["p999"] < 5e6


@needs_locust
def test_failures_of_a_load_are_counted_not_raised() -> None:
    with Site(once=True) as site:
        found = locustload.run(site.address, rate=40, users=2, seconds=1)
    assert found.errors == found.work - 2


@needs_locust
def test_a_load_that_nobody_answers_says_why() -> None:
    with listen() as closed:
        port = address_of(closed)[1]
    with pytest.raises(BenchError, match=rf"locust against 127.0.0.1:{port}: no request .*Connection refused"):
        locustload.run(Address(LOOPBACK, port), rate=40, users=2, seconds=1)


@needs_locust
@pytest.mark.netns
def test_a_load_runs_in_a_network_namespace() -> None:
    programs.find("nginx")
    with netns.Topology("locust") as topology:
        pod = topology.pod("pod")
        pod.nginx(8080, {"1k": b"x" * 1024})
        found = locustload.run(
            Address(LOOPBACK, 8080), rate=100, users=2, seconds=1, netns=f"/run/netns/{pod.name}", body_bytes=1024
        )
    assert found.errors == 0
    assert found.work > 50


def test_a_missing_locust_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match="locust is not installed: pip install"):
        locustload.run(Address(LOOPBACK, 1), rate=1, users=1, seconds=1)


# --- the web page ---


class Web:
    """Locust with its web page on a free port of loopback, without a browser."""

    def __init__(self, files: str, *arguments: str) -> None:
        # Below the range that the kernel takes client ports from, so that no connection is given it meanwhile.
        for port in random.sample(range(15_100, 30_000), 200):
            with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
                break
        self._url = f"http://{LOOPBACK}:{port}"
        self._process = subprocess.Popen(
            command(files, "--web-host", LOOPBACK, "--web-port", str(port), *arguments),
            cwd=ROOT,
            env=programs.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._url + path, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())

    def post(self, path: str, /, **form: object) -> dict[str, Any]:
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self._url + path, body, timeout=TIMEOUT) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/stats/requests"))
        return found

    def answers(self) -> bool:
        assert self._process.poll() is None, self.end()
        try:
            return "Locust" in self.get("/")
        except OSError:
            return False

    def end(self) -> str:
        """-> what it has printed."""
        self._process.terminate()
        try:
            return self._process.communicate(timeout=TIMEOUT)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate(timeout=TIMEOUT)[0]


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(PAGES)
    try:
        eventually(made.answers, "the web page", RUN_TIMEOUT)
        yield made
    finally:
        printed = made.end()
    assert "Traceback" not in printed, printed


@needs_locust
def test_the_web_page_starts_and_stops_a_run_and_shows_its_figures(web: Web) -> None:
    assert "rate_per_user" in web.get("/"), "the page offers our arguments"
    with Site() as site:
        started = web.post("/swarm", user_count=3, spawn_rate=3, host=site.url, rate_per_user=20)
        assert started["success"], started
        eventually(lambda: web.statistics()["total_rps"] > 0, "requests", RUN_TIMEOUT)
        eventually(lambda: web.statistics()["stats"][-1]["num_requests"] > 60, "60 requests", RUN_TIMEOUT)
        found = web.statistics()
        assert (found["state"], found["user_count"], found["fail_ratio"]) == ("running", 3, 0)
        assert {entry["name"] for entry in found["stats"]} == {"/1k", "/1k (new connection)", "Aggregated"}
        assert web.post("/stop")["success"]
        eventually(lambda: web.statistics()["state"] == "stopped", "the end of the run")
        assert site.connections == 3


@needs_locust
def test_the_web_page_refuses_a_mistake_with_its_text(web: Web) -> None:
    mistakes: list[tuple[dict[str, object], str]] = [
        ({}, "host is missing"),
        ({"host": "127.0.0.1:8080"}, "starts with http"),
        ({"host": "http://a", "rate_per_user": 0}, "rate_per_user: '0' is not a number above 0"),
        ({"host": "http://a", "path": "x"}, "path: 'x' is not the path of a page"),
    ]
    for form, fault in mistakes:
        answer = web.post("/swarm", user_count=1, spawn_rate=1, **form)
        assert not answer["success"], form
        assert fault in answer["message"]
        assert web.statistics()["state"] == "ready"
