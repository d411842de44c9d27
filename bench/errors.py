"""Errors of the bench."""

from __future__ import annotations

from meshcore.errors import MeshError


class BenchError(MeshError, code="bench.failed"):
    """Something that the bench needs is missing or did not work; the text says which."""
