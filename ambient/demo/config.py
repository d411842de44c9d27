"""Where the laptop mesh keeps its files, and what its processes get as environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

MARKER: Final = "AMBIENT_DEMO"
"""Set to the run directory in every process that the demo starts: how leftovers are recognised."""

ROOTLESS: Final = "AMBIENT_DEMO_ROOTLESS"
"""Set when the command has re-executed itself in a user namespace: the caller's uid."""

_SYSTEM_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def rootless_uid() -> int | None:
    """The uid of the caller when this process was re-executed in a user namespace, otherwise None."""
    text = os.environ.get(ROOTLESS, "")
    return int(text) if text.isdecimal() else None


def search_path() -> str:
    """PATH with the system directories appended: nft, ip and nginx live in sbin, which a user's PATH may lack."""
    given = [part for part in os.environ.get("PATH", "").split(":") if part]
    return ":".join(dict.fromkeys((*given, *_SYSTEM_PATH)))


def default_run_dir() -> Path:
    """`/run/ambient-demo` for root, otherwise a directory of the user's own. Both are short: sockets live there."""
    uid = rootless_uid()
    if uid is None and os.geteuid() == 0:
        return Path("/run/ambient-demo")
    uid = os.getuid() if uid is None else uid
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return Path(runtime) / "ambient-demo"
    return Path("/tmp") / f"ambient-demo-{uid}"  # noqa: S108 - made with mode 0700 and refused when it is another's


def child_environment(run_dir: Path) -> dict[str, str]:
    """A small environment, equal for everybody who runs the demo: nothing of the caller's leaks into the mesh."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    # AMBIENT_BUILD and the paths choose a debug or sanitizer build of the extensions, where one is asked for.
    kept |= {
        name: os.environ[name]
        for name in ("PYTHONPATH", "PYTHONSAFEPATH", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONMALLOC")
        if name in os.environ
    }
    return kept | {"PATH": search_path(), "HOME": str(run_dir), MARKER: str(run_dir)}


def rootless_environment() -> dict[str, str]:
    """The environment of this command when it starts itself again in a user namespace."""
    return dict(os.environ) | {ROOTLESS: str(os.getuid()), "PATH": search_path()}


def exec_environment() -> dict[str, str]:
    """The caller's environment for a program in a pod, with `ambient` and the system's programs on PATH."""
    return dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}:{search_path()}"}


def ambient_command() -> list[str]:
    """How to start the `ambient` command from wherever the current directory is."""
    return [sys.executable, "-P", "-m", "ambient"]
