"""Programs of other projects: found, or the test is skipped; run without what our sanitizer builds need."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_OURS: Final = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONPATH", "PYTHONMALLOC")
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"))


def find(name: str) -> str:
    """-> the path of a program; the test is skipped when there is none."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def run(
    name: str, *arguments: str | Path, stdin: bytes = b"", timeout: float = 20.0
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; both outputs are in stdout."""
    return subprocess.run(
        [find(name), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
        env=environment(),
    )
