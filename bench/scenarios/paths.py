"""The path of a scenario: the proxies between its client and its server, and how they are started.

Each kind of path is a class; what stands where follows from its Place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import Any, Final, Protocol

from ambient.demo import manifests
from ambient.demo.mesh import Mesh
from ambient.demo.processes import Processes
from bench.certs import Authority
from bench.measure import children
from bench.scenarios.place import Place
from bench.subjects.base import truncate

POLICIES: Final = 50
"""Authorization policies in force in the scenario that is named for them."""


class Site(Protocol):
    """What a path needs of the world that it is built in."""

    mesh: Mesh
    authority: Authority

    @property
    def processes(self) -> Processes: ...

    def directory(self, name: str) -> File:
        """A directory for files of this name, made if absent."""


class Path:
    """Nothing between client and server; the base of the others."""

    enrolled = False
    beside: tuple[str, ...] = ()
    """Proxies that stand in the path and are not what is measured."""
    waypoint = False
    """Whether a waypoint's pod is needed."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.place = place

    def start(self, site: Site) -> None:
        """Returns when the proxies run; whether requests get through is the caller's to wait for."""

    def proxies(self, site: Site) -> dict[str, int]:
        """PROXY/PART -> pid of every process between client and server."""
        return {}

    def logs(self, site: Site) -> Iterable[File]:
        """Access logs, which are emptied between slices."""
        return ()

    def describe(self) -> Mapping[str, str]:
        """File name -> text: what configures the proxies of this path."""
        return {}


def ztunnel_processes(mesh: Mesh) -> dict[str, int]:
    """Control process, zygote and workers of every ztunnel; not the children that make keys for a moment."""
    found = {}
    for name in mesh.ztunnels.values():
        control = mesh.process(name).pid
        found[f"{name}/control"] = control
        for pid in children(control):
            with contextlib.suppress(OSError):
                role = File(f"/proc/{pid}/comm").read_text().strip()
                if role.startswith("zt-"):
                    found[f"{name}/{role.removeprefix('zt-')}"] = pid
    return found


class Ambient(Path):
    """Two whole ztunnels: traffic captured by the node agent's rules, HBONE between the nodes."""

    enrolled = True

    def proxies(self, site: Site) -> dict[str, int]:
        return ztunnel_processes(site.mesh)

    def logs(self, site: Site) -> Iterable[File]:
        return [site.mesh.logs / f"{name}.log" for name in site.mesh.ztunnels.values()]

    def policies(self) -> list[manifests.Object]:
        return []

    def describe(self) -> Mapping[str, str]:
        import yaml

        objects: list[Any] = [
            *manifests.namespaces(enrolled=True),
            *(manifests.pod(pod, netns="(of the run)", uid="(of the run)") for pod in self.place[:2]),
            *self.policies(),
        ]
        return {"manifests.yaml": yaml.safe_dump_all(objects, sort_keys=False)}


class AmbientPolicies(Ambient):
    """The same under policies, half of them DENY, of which the last ALLOW is the one that lets the client in."""

    def policies(self) -> list[manifests.Object]:
        client, server = self.place.client, self.place.server
        found = []
        for number in range(POLICIES):
            deny = number < POLICIES // 2
            last = number == POLICIES - 1
            account = client.principal if last else f"cluster.local/ns/other-{number}/sa/nobody"
            rule: manifests.Object = {"from": [{"source": {"principals": [account]}}]}
            if deny:
                rule["to"] = [{"operation": {"ports": [str(20_000 + number)]}}]
            found.append(
                manifests.authorization(
                    f"policy-{number:02}", server.namespace, server.app, "DENY" if deny else "ALLOW", [rule]
                )
            )
        return found


def started(processes: Processes, names: Mapping[str, str]) -> dict[str, int]:
    """PROXY/PART -> pid of those started processes; `names`: PROXY/PART -> process name."""
    found = {}
    for key, name in names.items():
        process = processes.get(name)
        if process is not None:
            process.require_alive()
            found[key] = process.pid
    return found


def trim(logs: Iterable[File]) -> None:
    for log in logs:
        truncate(log)
