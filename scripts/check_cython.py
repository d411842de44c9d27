"""Fails when Cython or the C compiler has anything to say about an extension.

Cython prints warnings and performance hints (a nogil function that takes the GIL to look for an exception
costs 25 times the call) without failing, and says nothing about files that are up to date. So this builds
the `check` variant, always from scratch and with -Werror, and reads what was printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPLAINT = re.compile(r"(warning|performance hint|error): ", re.IGNORECASE)
BUILD_TIMEOUT_S = 900


def complaints(output: str) -> list[str]:
    """The lines of a build's output that a clean build does not have."""
    return [line for line in output.splitlines() if COMPLAINT.search(line)]


def main() -> int:
    build = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"],
        cwd=ROOT,
        env={**os.environ, "AMBIENT_BUILD": "check", "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if build.returncode or complaints(build.stdout):
        print(build.stdout)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
