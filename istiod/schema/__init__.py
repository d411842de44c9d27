"""Every field of every Istio and Gateway API kind: what an object may hold, and the definitions a cluster needs."""

from __future__ import annotations

from istiod.schema.check import faults, unused
from istiod.schema.definitions import crd, definitions, manifest, write
from istiod.schema.tables import TABLES, table

__all__ = ["TABLES", "crd", "definitions", "faults", "manifest", "table", "unused", "write"]
