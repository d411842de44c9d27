"""Where `ambient analyze` finds a cluster, as kubectl does."""

from __future__ import annotations

import os
from pathlib import Path


def kubeconfig() -> str:
    """The first file of KUBECONFIG that exists, else ~/.kube/config; empty if there is none of them."""
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    candidates = named or [Path("~/.kube/config").expanduser()]
    return str(next((path for path in candidates if path.is_file()), ""))
