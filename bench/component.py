"""Whole components instead of a bare pair of workers: the laptop mesh, with istiod, node agents and ztunnels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ambient.demo import manifests
from ambient.demo.mesh import Mesh
from ambient.demo.processes import wait_until
from ambient.demo.topology import FRONTEND, HTTP, PODS, WEB_2, Pod
from bench import config, load
from bench.measure import Memory, Meter, children, memory, memory_alone
from bench.subjects.base import Address
from bench.suite import Progress
from meshcore.errors import Unavailable

_MB: Final = 1_000_000
_ENROL_WAIT: Final = 120.0  # seconds until hundreds of pods are enrolled
_SERVE_WAIT: Final = 60.0
_LOOK: Final = 0.1  # seconds between two looks at a dump, which costs the ztunnel something
_SECONDS: Final = 6.0
_PAGE: Final = "/files/1k"


class Whole(NamedTuple):
    """Memory of one ztunnel with all its processes, bytes; `alone`: when nothing else on the machine maps its files."""

    pss: int
    alone: int
    detail: str


class Started(NamedTuple):
    """Seconds until the last of the pods was served."""

    seconds: float
    detail: str


@contextlib.contextmanager
def _mesh(directory: Path, progress: Progress) -> Iterator[Mesh]:
    """A laptop mesh of two nodes with no pod enrolled."""
    directory.mkdir()
    mesh = Mesh(directory, progress)
    try:
        mesh.build()
        yield mesh
    finally:
        mesh.processes.stop_all()


def _processes(mesh: Mesh, name: str) -> dict[str, int]:
    """Control process, zygote and workers of a ztunnel; not the children that make keys and are gone in a second."""
    control = mesh.process(name).pid
    found = {f"{name} control": control}
    for pid in children(control):
        with contextlib.suppress(OSError):
            role = Path(f"/proc/{pid}/comm").read_text().strip()
            if role.startswith("zt-"):
                found[f"{name} {role.removeprefix('zt-')}"] = pid
    return found


def whole_ztunnel(directory: Path, progress: Progress, *, quick: bool) -> Whole:
    """A ztunnel of the laptop mesh under the constant load, from a pod on one node to a pod on the other."""
    with _mesh(directory / "whole", progress) as mesh:
        mesh.enrol(True)
        (mesh.app_dir(WEB_2) / "files" / "1k").write_text("x" * config.BODY_BYTES)
        processes = {key: pid for name in mesh.ztunnels.values() for key, pid in _processes(mesh, name).items()}
        seconds = _SECONDS / 3 if quick else _SECONDS
        target = Address(WEB_2.ip, HTTP)
        netns = mesh.net.path(FRONTEND.name)
        load.constant(target, 1.0, path=_PAGE, netns=netns)
        held: dict[str, Memory] = {}
        alone: dict[str, int] = {}

        def halfway() -> None:
            held.update({key: memory([pid]) for key, pid in processes.items()})
            alone.update({name: memory_alone(_processes(mesh, name).values()) for name in mesh.ztunnels.values()})

        progress(f"ztunnel: {config.RATE} requests/s through two whole ztunnels")
        meter = Meter(processes)
        meter.start()
        outcome = load.constant(target, seconds, halfway, path=_PAGE, netns=netns)
        usage = meter.stop()
    worst = max(mesh.ztunnels.values(), key=lambda name: alone[name])
    each = ", ".join(
        f"{key.removeprefix(worst).strip()} {held[key].pss / _MB:.1f}/{held[key].private / _MB:.1f}"
        for key in processes
        if key.startswith(worst)
    )
    control = sum(spent for key, spent in usage.cpu.items() if key.endswith("control"))
    cost, share = (value / outcome.work * 1e6 for value in (sum(usage.cpu.values()), control))
    pss = sum(each_held.pss for key, each_held in held.items() if key.startswith(worst))
    return Whole(
        pss,
        alone[worst],
        f"beside another ztunnel, istiod and node agents; PSS/private MB: {each}; "
        f"CPU of both {cost:.0f} us/request, {share:.0f} of it control; foreign {usage.foreign:.2f}",
    )


def many_pods(directory: Path, progress: Progress, count: int) -> Started:
    """Enrol `count` pods, each with its own service account, on one node; then start that node's ztunnel anew.

    The time runs from the start of the process to the moment when every pod is served and every certificate there.
    """
    pods = [
        Pod(f"many-{number}", "shop", f"many-{number}", "node-1", f"10.78.{number >> 8}.{number & 255}", "many", False)
        for number in range(1, count + 1)
    ]
    with _mesh(directory / "many", progress) as mesh:
        progress(f"start: {count} pods")
        mesh.manifests.write("service-accounts", manifests.service_accounts((*PODS, *pods)))
        mesh.add_pods(*pods)
        mesh.manifests.write("namespaces", manifests.namespaces(enrolled=True))
        began = time.monotonic()
        _await_served(mesh, mesh.ztunnels["node-1"], pods, _ENROL_WAIT)
        enrolled = time.monotonic() - began
        progress(f"start: {count} pods enrolled after {enrolled:.1f} s; a new ztunnel")
        old = mesh.ztunnels["node-1"]
        mesh.process(old).stop()
        mesh.discard_ztunnel(old)
        new = mesh.launch_ztunnel("node-1")
        began = time.monotonic()
        mesh.await_ready(new)
        ready = time.monotonic() - began
        _await_served(mesh, new, pods, _SERVE_WAIT)
        seconds = time.monotonic() - began
        processes = _processes(mesh, new)
        whole = memory_alone(processes.values()) / _MB
        worker = max(memory([pid]).private for key, pid in processes.items() if "worker" in key) / _MB
    return Started(
        seconds,
        f"ready after {ready:.2f} s; first enrolment with the node agent {enrolled:.1f} s; "
        f"then ztunnel {whole:.1f} MB, worker {worker:.2f} MB private",
    )


def _await_served(mesh: Mesh, name: str, pods: list[Pod], timeout: float) -> None:
    """Return when the ztunnel listens for all of these pods and holds a valid certificate for each."""
    wanted = {pod.name for pod in pods}
    identities = {pod.spiffe for pod in pods}

    def served() -> bool:
        mesh.process(name).require_alive()
        try:
            dump = mesh.dump(name)
        except Unavailable:
            return False
        up = {each["info"]["name"] for each in dump["workloadState"].values() if each["state"] == "Up"}
        valid = {each["identity"] for each in dump["certificates"] if each["state"] == "Available"}
        return wanted <= up and identities <= valid

    wait_until(served, f"{name} to serve {len(pods)} pods", timeout, every=_LOOK)
