"""Envoy's paths: the configurations are `bench.envoy`'s, here they are started in the pods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import ClassVar

from bench.certs import LeafFiles
from bench.envoy import capture, common, hbone, sidecar, waypoint
from bench.envoy.capture import Rules
from bench.envoy.common import Json, Party, Setup
from bench.scenarios.paths import Path, Site, started

_ROLES = ("client", "server", "waypoint")


class EnvoyPath(Path):
    """Envoys in the pods of the place, one per role of the configuration, and what captures for them."""

    captures: ClassVar[Mapping[str, Rules]] = {}
    """Role -> what is captured in its pod."""

    @abstractmethod
    def configs(self, setup: Setup) -> dict[str, Json]:
        """Role -> configuration."""

    @property
    def _roles(self) -> tuple[str, ...]:
        return _ROLES if self.waypoint else _ROLES[:2]

    def start(self, site: Site) -> None:
        directory = site.directory(self.name)
        files = {role: site.authority.issue_files(role, directory) for role in self._roles}
        setup = self._setup(directory, files)
        # The far end first: whoever comes next finds somebody listening.
        for role, bootstrap in reversed(self.configs(setup).items()):
            path = directory / f"{role}.json"
            path.write_text(common.dump(bootstrap))
            pod = getattr(self.place, role)
            command = common.command(path, setup.workers)
            site.processes.start(self._process(role), command, netns=site.mesh.net.path(pod.name))
        for role, rules in self.captures.items():
            netns = site.mesh.net.path(getattr(self.place, role).name)
            capture.apply(site.processes, netns, rules.text())

    def _setup(self, directory: File, files: Mapping[str, LeafFiles]) -> Setup:
        parties = {role: Party(getattr(self.place, role).ip, role, files[role]) for role in self._roles}
        return Setup(parties["client"], parties["server"], directory, parties.get("waypoint"))

    def _process(self, role: str) -> str:
        return f"{self.name}-{role}"

    def proxies(self, site: Site) -> dict[str, int]:
        return started(site.processes, {f"{role}/envoy": self._process(role) for role in self._roles})

    def logs(self, site: Site) -> Iterable[File]:
        return site.directory(self.name).glob("*.access.log")

    def describe(self) -> Mapping[str, str]:
        directory = File("/run/bench") / self.name
        files = {
            role: LeafFiles(directory / f"{role}.pem", directory / f"{role}.key", directory / "root.pem")
            for role in self._roles
        }
        texts = {
            f"{role}.json": common.dump(found) for role, found in self.configs(self._setup(directory, files)).items()
        }
        return texts | {f"{role}.nft": rules.text() for role, rules in self.captures.items()}


class SidecarPair(EnvoyPath):
    """Sidecars in both pods."""

    captures: ClassVar[Mapping[str, Rules]] = {"client": Rules(outbound=True), "server": Rules(inbound=True)}

    def configs(self, setup: Setup) -> dict[str, Json]:
        return sidecar.configs(setup)


class HbonePair(EnvoyPath):
    """Tunnels from pod to pod."""

    captures: ClassVar[Mapping[str, Rules]] = {"client": Rules(outbound=True)}

    def configs(self, setup: Setup) -> dict[str, Json]:
        return hbone.configs(setup)


class Waypoint(EnvoyPath):
    """Tunnels to a waypoint and from it to the server; the waypoint is what is measured."""

    captures: ClassVar[Mapping[str, Rules]] = {"client": Rules(outbound=True)}
    beside = ("client", "server")
    waypoint = True
    routes = 1

    def configs(self, setup: Setup) -> dict[str, Json]:
        return waypoint.configs(setup, self.routes)


class Waypoint1(Waypoint):
    routes = 1


class Waypoint50(Waypoint):
    routes = 50


class Waypoint10000(Waypoint):
    routes = 10_000
