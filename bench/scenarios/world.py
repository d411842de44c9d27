"""Builds what the chosen scenarios need on this machine: two nodes, their pods, and the proxies of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Final, NamedTuple, Self

from ambient.demo.mesh import Mesh
from ambient.demo.processes import Processes, tail, wait_until
from bench import config, load
from bench.certs import Authority
from bench.errors import BenchError
from bench.scenarios.catalog import Scenario
from bench.scenarios.origin import PodOrigin
from bench.scenarios.paths import Ambient, Path, Site, trim
from bench.scenarios.place import PAGE
from bench.subjects.base import Address
from meshcore.errors import MeshError, Unavailable

Progress = Callable[[str], None]

_ANSWER_WAIT: Final = 30.0  # seconds until a request gets through a path that was just built
_POLICY_WAIT: Final = 20.0
_SETTINGS: Final = {"SECRET_TTL": "24h", "CONNECTION_TERMINATION_DEADLINE": "30s"}
"""The ztunnels' defaults in place of the demo's, which rotates certificates every few seconds."""

_SYSCTLS: Final = (
    "net.ipv4.ip_local_port_range=10240 65535",  # a port for each of 10,000 tunnels and of many short connections
    "net.core.somaxconn=4096",
    "net.ipv4.tcp_max_syn_backlog=8192",
)


class Standing(NamedTuple):
    """One scenario while it stands."""

    scenario: Scenario
    path: Path
    netns: str
    """Where its client lives."""
    origin: PodOrigin
    proxies: dict[str, int]

    @property
    def host(self) -> str:
        return self.path.place.server.ip

    @property
    def measured(self) -> dict[str, int]:
        """The processes whose CPU is the price of the scenario."""
        return {key: pid for key, pid in self.proxies.items() if key.partition("/")[0] not in self.path.beside}


class World(Site):
    """The laptop mesh with the pods of these scenarios instead of the demo's. Use it in a `with` block."""

    def __init__(self, directory: File, scenarios: Sequence[Scenario], progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._paths = [(each, each.path()) for each in scenarios]
        pods = [pod for _, path in self._paths for pod in (path.place if path.waypoint else path.place[:2])]
        directory.mkdir(parents=True, exist_ok=True)
        self.mesh = Mesh(directory, progress, pods=pods, settings=_SETTINGS)
        self.authority = Authority()
        self.standing: list[Standing] = []

    @property
    def processes(self) -> Processes:
        return self.mesh.processes

    def directory(self, name: str) -> File:
        made = self._directory / "paths" / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.mesh.take_down()

    def _build(self) -> None:
        self.mesh.build_pods()
        for name in self.mesh.pods:
            self._tune(name)
        if any(path.enrolled for _, path in self._paths):
            self.mesh.start_istiod()
            self.mesh.start_nodes()
            self.mesh.enrol(True)
            self._apply_policies()
        for scenario, path in self._paths:
            self._progress(f"{scenario.name}: {scenario.title}")
            server = path.place.server.name
            netns = self.mesh.net.path(server)
            origin = PodOrigin(self.processes, server, netns, self.directory(scenario.name) / "origin")
            origin.start()
            path.start(self)
            client = self.mesh.net.path(path.place.client.name)
            self._await_page(scenario, client, path.place.server.ip)
            self.standing.append(Standing(scenario, path, client, origin, path.proxies(self)))

    def _tune(self, pod: str) -> None:
        done = self.processes.run(["sysctl", "-qw", *_SYSCTLS], netns=self.mesh.net.path(pod))
        if done.returncode:
            raise BenchError(f"sysctl in {pod}: {done.stderr.strip()}")

    def _apply_policies(self) -> None:
        objects = [each for _, path in self._paths if isinstance(path, Ambient) for each in path.policies()]
        if not objects:
            return
        self.mesh.manifests.write("policies", objects)
        wanted = {each["metadata"]["name"] for each in objects}

        def follows(_: str, dump: dict[str, object]) -> bool:
            policies = dump["policies"]
            return isinstance(policies, list) and wanted <= {each["name"] for each in policies}

        self.mesh.await_dumps(follows, f"{len(wanted)} policies to be in force")

    def _await_page(self, scenario: Scenario, netns: str, host: str) -> None:
        """Return when the client gets the page through the path."""
        seen = "nothing was tried"

        def answered() -> bool:
            nonlocal seen
            try:
                seen = load.fetch(netns, Address(host, config.HTTP_PORT), PAGE)
            except Unavailable as error:
                seen = str(error)
            return seen == ""

        try:
            wait_until(answered, "the page", _ANSWER_WAIT, every=0.2)
        except MeshError as error:
            raise BenchError(f"{scenario.name}: no answer through its proxies: {seen}{self._said()}") from error

    def _said(self) -> str:
        """The last words of every proxy: the logs go with the run."""
        lines = []
        for process in self.processes:
            if not process.name.startswith(("pause-", "nginx-", "iperf3-", "sink-")):
                lines += [f"\n  {process.name}: {text}" for text in tail(process.log, 0, 1)]
        return "".join(lines)

    def trim(self) -> None:
        """Empty every access log."""
        for each in self.standing:
            trim(each.path.logs(self))
