"""What can go wrong with the laptop mesh itself; a scenario that does not hold is a `CheckFailed`."""

from __future__ import annotations

from meshcore.errors import MeshError


class DemoError(MeshError, code="demo"):
    """The laptop mesh cannot be built or used; the text names what is missing."""


class DemoBusy(DemoError, code="demo.busy", retryable=True):
    """Another `ambient demo` holds the run directory."""


class NoDemo(DemoError, code="demo.absent"):
    """No laptop mesh is running, or it has no such pod."""


class CheckFailed(DemoError, code="demo.check"):
    """A scenario observed something else than it should have; the text is the observation."""
