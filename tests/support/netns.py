"""A small network of namespaces for one test: pods on a bridge inside a node, and things that run in them.

with Topology("half-close") as net:
    client, server = net.pod("client"), net.pod("server")
    server.nginx(8080)
    client.run("curl", f"http://{server.ip}:8080/")

Names start with `tm<pid of the test run>-`, so that what a killed run left behind is found and removed by the next.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from meshcore import netns

PREFIX = "tm"
SUBNET = "10.66"
SUBNET6 = "fd66::"
_NAME = re.compile(rf"{PREFIX}(\d+)-")
_serial = itertools.count(1)

NGINX = """daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
 uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; default_type text/plain; keepalive_requests 1000000;
 server {{ listen {port} backlog=1024; root {folder}; location = /ip {{ return 200 "$remote_addr"; }}
 location = /small {{ return 200 "small"; }} }} }}
"""


def ip(*arguments: str, check: bool = True) -> str:
    """Run ip(8) -> its output."""
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=10)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def sweep() -> None:
    """Remove namespaces of test runs that are dead."""
    for line in ip("netns", "list", check=False).splitlines():
        name = line.split()[0] if line.split() else ""
        found = _NAME.match(name)
        if found and not Path("/proc", found[1]).exists():
            for pid in ip("netns", "pids", name, check=False).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name, check=False)


def wait_listening(netns_fd: int, port: int, timeout: float = 10.0) -> None:
    """Until somebody listens on `port` inside the namespace of this descriptor."""
    deadline = time.monotonic() + timeout
    wanted = f":{port:04X} "
    while time.monotonic() < deadline:
        with netns.inside(netns_fd):
            tables = [Path("/proc/thread-self/net", name).read_text() for name in ("tcp", "tcp6")]
        if any(wanted in line and " 0A " in line for table in tables for line in table.splitlines()):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port} after {timeout} s")


class Namespace:
    """One network namespace. `fd` is open as long as the topology is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ip = ""
        self.ip6 = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        ip("netns", "add", name)
        self.fd = netns.open_netns(f"/run/netns/{name}")
        ip("-n", name, "link", "set", "lo", "up")

    def run(self, *argv: str, timeout: float = 20.0, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], check=False, capture_output=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stderr.decode()}")
        return done

    def start(self, *argv: str, stdout: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program inside; it ends with the topology."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )
        self._processes.append(process)
        return process

    def nginx(self, port: int, files: dict[str, bytes] | None = None) -> Path:
        """A real nginx with `/ip`, `/small` and these files -> its folder."""
        folder = tempfile.TemporaryDirectory(prefix="tm-nginx-")
        self._folders.append(folder)
        Path(folder.name).chmod(0o755)
        for name, body in (files or {}).items():
            Path(folder.name, name).write_bytes(body)
        config = Path(folder.name, "nginx.conf")
        config.write_text(NGINX.format(folder=folder.name, port=port))
        self.start("nginx", "-c", str(config), "-e", f"{folder.name}/error.log")
        wait_listening(self.fd, port)
        return Path(folder.name)

    def tcp(self, family: int = socket.AF_INET) -> socket.socket:
        """A TCP socket that belongs to this namespace; use it from anywhere."""
        with netns.inside(self.fd):
            made = socket.socket(family, socket.SOCK_STREAM)
        made.settimeout(20)
        return made

    def connect(self, host: str, port: int, timeout: float = 20.0) -> socket.socket:
        made = self.tcp(socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.settimeout(timeout)
        try:
            made.connect((host, port))
        except OSError:
            made.close()
            raise
        return made

    def listen(self, port: int = 0, backlog: int = 1024) -> socket.socket:
        """A listener on every IPv4 address inside; closed with the topology at the latest."""
        made = self.tcp()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))
        made.listen(backlog)
        self._sockets.append(made)
        return made

    def black_hole(self, address: str) -> None:
        """Packets to this address on the pod's own subnet vanish: no answer, no error."""
        ip(
            "-n",
            self.name,
            "neigh",
            "replace",
            address,
            "lladdr",
            "02:00:00:00:00:99",
            "dev",
            "eth0",
            "nud",
            "permanent",
        )

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(5)
        os.close(self.fd)
        for pid in ip("netns", "pids", self.name, check=False).split():
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", self.name, check=False)
        for folder in self._folders:
            folder.cleanup()


class Topology:
    """Pods on one bridge. `node` is the namespace that holds the bridge; it has the address .1."""

    def __init__(self, label: str = "") -> None:
        sweep()
        self._base = f"{PREFIX}{os.getpid()}-{next(_serial)}{'-' + label if label else ''}"
        self._namespaces: list[Namespace] = []
        self._last_host = 1
        try:
            self.node = self.namespace("node")
            for arguments in (
                ("link", "add", "br0", "type", "bridge"),
                ("addr", "add", f"{SUBNET}.0.1/16", "dev", "br0"),
                ("addr", "add", f"{SUBNET6}1/64", "dev", "br0", "nodad"),
                ("link", "set", "br0", "up"),
            ):
                ip("-n", self.node.name, *arguments)
        except BaseException:
            self.close()
            raise
        self.node.ip = f"{SUBNET}.0.1"

    def namespace(self, name: str) -> Namespace:
        made = Namespace(f"{self._base}-{name}")
        self._namespaces.append(made)
        return made

    def pod(self, name: str) -> Namespace:
        """A namespace with eth0 on the bridge, an IPv4 and an IPv6 address and default routes by the node."""
        self._last_host += 1
        pod, host = self.namespace(name), self._last_host
        pod.ip, pod.ip6 = f"{SUBNET}.0.{host}", f"{SUBNET6}{host:x}"
        ip("-n", self.node.name, "link", "add", f"p{host}", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
        ip("-n", self.node.name, "link", "set", f"p{host}", "master", "br0", "up")
        for arguments in (
            ("addr", "add", f"{pod.ip}/16", "dev", "eth0"),
            ("addr", "add", f"{pod.ip6}/64", "dev", "eth0", "nodad"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.node.ip),
        ):
            ip("-n", pod.name, *arguments)
        return pod

    def close(self) -> None:
        while self._namespaces:
            self._namespaces.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
