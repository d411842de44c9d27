"""Every scenario, in the order in which they run."""

from __future__ import annotations

from ambient.demo.scenarios import faults, plain, policy, service, tunnel, volume
from ambient.demo.scenarios.base import Scenario

ALL: tuple[Scenario, ...] = (
    *plain.BEFORE,
    *tunnel.SCENARIOS,
    *service.SCENARIOS,
    *policy.SCENARIOS,
    *volume.SCENARIOS,
    *faults.SCENARIOS,
    *plain.AFTER,
)
