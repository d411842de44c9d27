"""Settings of the bench: where things stand, how long things take, and what counts as noise.

The bench runs in a network namespace of its own, so addresses and ports are constants.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import meshcore
from bench.errors import BenchError

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = Path(meshcore.__file__).parent.parent.resolve()
"""Where the packages and extension modules of the build that is measured stand: ROOT, or a variant's directory."""

PROGRAMS: Final = ROOT / "bench" / "programs"

INSIDE: Final = "AMBIENT_BENCH_INSIDE"
"""Set when the bench has started itself again in namespaces of its own: its directory. Its children have it too."""

SEED: Final = "MESH_SEED"
"""Turns on a defect in a worker of the `seeded` build (meshcore/seeds.pxd); handed on to children."""

# Loopback addresses. One per role, so that both halves of a pair can use the real HBONE port.
ORIGIN: Final = "127.0.0.1"
HTTP_PORT: Final = 8080
BULK_PORT: Final = 5201
SINK_PORT: Final = 9000

BODY_BYTES: Final = 1024
RATE: Final = 1000  # requests/s of the published conditions
RATE_CONNECTIONS: Final = 16
CLOSED_CONNECTIONS: Final = 64
FRESH_CONNECTIONS: Final = 16
MISS_RATE: Final = 200  # new destinations/s
IDLE_TUNNELS: Final = 10_000
FILES: Final = 32_768  # descriptors of a process: two for each idle tunnel, and some for the rest
IDENTITIES: Final = 250
FLOWS: Final = 10_000  # entries of the table for the look-up figure

NOISE_LIMIT: Final = 0.15
"""Cores of foreign CPU above which a slice counts as noisy."""

START_TIMEOUT: Final = 20.0  # seconds until a subject must answer
SLICE_GRACE: Final = 30.0  # seconds a load generator may take beyond its slice

_SYSTEM_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PACKAGES: Final = {"h2load": "nghttp2-client", "perf": "linux-perf", "setpriv": "util-linux", "unshare": "util-linux"}


def search_path() -> str:
    """PATH with the system directories appended: nginx lives in sbin, which a user's PATH may lack."""
    given = [part for part in os.environ.get("PATH", "").split(":") if part]
    return ":".join(dict.fromkeys((*given, *_SYSTEM_PATH)))


def tool(name: str) -> str:
    """The path of a program; raises BenchError with the Debian package that has it."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise BenchError(f"{name} is not installed: apt-get install {_PACKAGES.get(name, name)}")
    return found


def is_inside() -> bool:
    """Has this process been started in the bench's own namespace?"""
    return INSIDE in os.environ


def directory() -> Path:
    """Where the files of this run go; whoever has set INSIDE removes it."""
    return Path(os.environ[INSIDE])


def inside_environment(directory: Path) -> dict[str, str]:
    """The environment for starting the bench again in namespaces of its own."""
    return dict(os.environ) | {INSIDE: str(directory), "PATH": search_path()}


def child_environment(directory: Path) -> dict[str, str]:
    """A small environment, equal for everybody who measures."""
    handed_on = {name: os.environ[name] for name in (INSIDE, SEED) if name in os.environ}
    return handed_on | {"PATH": search_path(), "HOME": str(directory), "LC_ALL": "C"}
