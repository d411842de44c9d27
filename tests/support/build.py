"""Which build of the extension modules the tests run on."""

from __future__ import annotations

from pathlib import Path

import meshcore

ROOT = Path(__file__).resolve().parents[2]


def variant() -> str:
    """The build that the modules on the path come from; `release` stands beside its source."""
    home = Path(meshcore.__file__).parent
    return "release" if home == ROOT / "meshcore" else home.parents[1].name
