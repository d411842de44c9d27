"""Whole components instead of a bare pair of workers: real control processes with all that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.suite import Progress


class Whole(NamedTuple):
    """Memory of one ztunnel with all its processes, bytes."""

    pss: int
    detail: str


class Started(NamedTuple):
    """Seconds until the last of the pods was served."""

    seconds: float
    detail: str


def whole_ztunnel(directory: Path, progress: Progress, *, quick: bool) -> Whole | str:
    """PSS of a ztunnel under the constant load; a text says why there is none."""
    return "not measured yet"


def many_pods(directory: Path, progress: Progress, count: int) -> Started | str:
    """How long a ztunnel takes to serve `count` pods, each with its own service account."""
    return "not measured yet"
