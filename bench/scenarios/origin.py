"""The application in a server pod: nginx with a 1 KB page, iperf3, and a server that holds connections."""

from __future__ import annotations

import sys
from pathlib import Path

from ambient.demo import admin
from ambient.demo.processes import Processes, children, wait_until
from bench import config
from bench.scenarios.place import PAGE
from bench.subjects.direct import nginx_config
from meshcore.errors import Unavailable

_START = 10.0  # seconds until nginx answers


class PodOrigin:
    """The servers of one pod. They listen on every address of the pod, as applications do."""

    def __init__(self, processes: Processes, name: str, netns: str, directory: Path) -> None:
        self._processes = processes
        self._name = name
        self._netns = netns
        self._directory = directory
        self.pids: dict[str, int] = {}

    def start(self) -> None:
        """Returns when nginx gives the page."""
        self._directory.mkdir(parents=True)
        path = self._directory / "nginx.conf"
        path.write_text(nginx_config(self._directory, "0.0.0.0", config.HTTP_PORT))
        nginx = self._start(
            "nginx", [config.tool("nginx"), "-e", "stderr", "-c", str(path), "-p", str(self._directory)]
        )
        bulk = self._start("iperf3", [config.tool("iperf3"), "-s", "-p", str(config.BULK_PORT)])
        sink = self._start(
            "sink", [sys.executable, "-I", "-S", str(config.PROGRAMS / "sink.py"), "0.0.0.0", str(config.SINK_PORT)]
        )

        def answers() -> bool:
            try:
                return admin.get(self._netns, config.HTTP_PORT, PAGE) == (200, b"x" * config.BODY_BYTES)
            except Unavailable:
                return False

        wait_until(answers, f"nginx of {self._name} to answer", _START)
        workers = {f"nginx-{number}": pid for number, pid in enumerate(children(nginx))}
        self.pids = {"nginx": nginx, **workers, "iperf3": bulk, "sink": sink}

    def _start(self, what: str, command: list[str]) -> int:
        return self._processes.start(f"{what}-{self._name}", command, netns=self._netns).pid
