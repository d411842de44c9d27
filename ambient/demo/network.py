"""Namespaces, links and routes. Everything is made inside namespaces; the machine's own network is never touched.

A namespace lives as long as its pause process, as in Kubernetes. So there is nothing to unmount after a crash:
ending the processes removes the interfaces, routes and rules as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ambient.demo.errors import DemoError
from ambient.demo.processes import Process, Processes, wait_until
from ambient.demo.topology import CONTROL, CONTROL_IP, NODE_LINK, NODES, Node

_CONTROL_LINK: Final = "to-control"
_LIFETIME: Final = "infinity"


class Network:
    """The namespaces of the mesh by name: nodes, the control plane, pods and ztunnels."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self._processes = processes
        self._directory = directory
        self._pauses: dict[str, Process] = {}

    def path(self, name: str) -> str:
        """A stable path of the namespace: a link to that of its pause process."""
        return str(self._directory / name)

    def pid(self, name: str) -> int:
        return self._pauses[name].pid

    @property
    def names(self) -> list[str]:
        return list(self._pauses)

    def open(self, *names: str) -> None:
        """Make empty namespaces of these names."""
        own = Path("/proc/self/ns/net").readlink()
        started = [
            self._processes.start(f"pause-{name}", ["unshare", "--net", "--", "sleep", _LIFETIME]) for name in names
        ]
        for name, pause in zip(names, started, strict=True):
            self._pauses[name] = pause
            self._await_namespace(pause, own)
            link = self._directory / name
            link.unlink(missing_ok=True)
            link.symlink_to(f"/proc/{pause.pid}/ns/net")

    def _await_namespace(self, pause: Process, own: Path) -> None:
        def unshared() -> bool:
            pause.require_alive()
            here = Path(f"/proc/{pause.pid}")
            try:
                return (here / "ns/net").readlink() != own and (here / "comm").read_text() == "sleep\n"
            except OSError:
                return False

        wait_until(unshared, f"the namespace of {pause.name}", 10.0, every=0.005)

    def close(self, name: str) -> None:
        """End a namespace and everything in it that nobody else holds."""
        pause = self._pauses.pop(name, None)
        if pause is not None:
            (self._directory / name).unlink(missing_ok=True)
            pause.kill()
            self._processes.forget(pause.name)

    def ip(self, name: str, *lines: str) -> None:
        """Run lines of `ip -batch` in a namespace; raises DemoError with ip's own words."""
        done = self._processes.run(["ip", "-batch", "-"], netns=self.path(name), stdin="\n".join(lines))
        if done.returncode:
            raise DemoError(f"ip in {name}: {done.stderr.strip()}")

    def _sysctl(self, name: str, *settings: str) -> None:
        done = self._processes.run(["sysctl", "-qw", *settings], netns=self.path(name))
        if done.returncode:
            raise DemoError(f"sysctl in {name}: {done.stderr.strip()}")

    def build_nodes(self) -> None:
        """Two nodes joined by one link, and the control plane with a link of its own to each of them."""
        self.open(*(node.name for node in NODES), CONTROL)
        first, second = NODES
        self.ip(
            first.name,
            f"link add {NODE_LINK} type veth peer name {NODE_LINK} netns {self.pid(second.name)}",
            "link set lo up",
        )
        self.ip(CONTROL, "link set lo up", f"addr add {CONTROL_IP}/32 dev lo")
        for node, peer in ((first, second), (second, first)):
            self._sysctl(node.name, "net.ipv4.ip_forward=1")
            self.ip(
                node.name,
                "link set lo up",
                f"addr add {node.ip}/32 dev lo",
                f"link set {NODE_LINK} up",
                f"route add {peer.ip} dev {NODE_LINK} scope link src {node.ip}",
                f"route add {peer.pod_cidr} via {peer.ip} dev {NODE_LINK} src {node.ip}",
                f"addr add {node.gateway}/32 dev lo",
                f"link add {_CONTROL_LINK} type veth peer name {node.name} netns {self.pid(CONTROL)}",
                f"link set {_CONTROL_LINK} up",
                f"route add {CONTROL_IP} dev {_CONTROL_LINK} scope link src {node.ip}",
            )
            self.ip(
                CONTROL,
                f"link set {node.name} up",
                f"route add {node.ip} dev {node.name} scope link src {CONTROL_IP}",
                f"route add {node.pod_cidr} via {node.ip} dev {node.name} src {CONTROL_IP}",
            )

    def join(self, name: str, address: str, node: Node) -> None:
        """Join the namespace `name` to its node, as a pod's is: one veth, one address, a route both ways."""
        device = f"v-{name}"
        self.ip(
            node.name,
            f"link add {device} type veth peer name eth0 netns {self.pid(name)}",
            f"link set {device} up",
        )
        self.ip(
            name,
            "link set lo up",
            f"addr add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add {node.gateway} dev eth0 scope link",
            f"route add default via {node.gateway} dev eth0",
        )
        self.ip(node.name, f"route add {address} dev {device} scope link src {node.gateway}")


def require_programs(programs: Sequence[tuple[str, str]], path: str) -> None:
    """Raises DemoError that names every missing program and its Debian package. `programs`: (program, package)."""
    missing = [(program, package) for program, package in programs if shutil.which(program, path=path) is None]
    if missing:
        names = ", ".join(program for program, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        raise DemoError(f"programs are missing: {names}. On Debian: apt-get install {packages}")
