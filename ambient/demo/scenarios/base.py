"""What every scenario uses: its description, and how it says that something did not hold."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from ambient.demo.errors import CheckFailed
from ambient.demo.mesh import Mesh

Check = Callable[[Mesh], str]


class Scenario(NamedTuple):
    """`check` returns what it observed, or raises CheckFailed with what it observed instead.

    `enrolled` says in which state the mesh must be before: None leaves it as it is. `logs` names processes whose
    log belongs to a failure.
    """

    name: str
    title: str
    check: Check
    enrolled: bool | None = True
    logs: tuple[str, ...] = ("ztunnel-1", "ztunnel-2")


def require(condition: object, observed: str) -> None:
    """Raise CheckFailed with what was observed unless `condition` holds."""
    if not condition:
        raise CheckFailed(observed)


def marker() -> str:
    """A text that occurs nowhere else: found in a capture, it is the payload."""
    return f"marker-{secrets.token_hex(12)}"


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
