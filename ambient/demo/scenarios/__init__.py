"""Every scenario, in the order in which they run."""

from __future__ import annotations

from ambient.demo.scenarios import plain
from ambient.demo.scenarios.base import Scenario

ALL: tuple[Scenario, ...] = (*plain.BEFORE, *plain.AFTER)
