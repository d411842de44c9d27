"""Looks up flows in a table of its own: `python -I -S lookups.py ROOT FLOWS MASKS LOOKUPS...`, one round per number.

Calls getppid(2) before, between and after the rounds, and never else: marks for whoever counts what a round takes.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, sys.argv[1])
from meshcore.flowtable import bench_lookup

flows, masks = int(sys.argv[2]), int(sys.argv[3])
for lookups in sys.argv[4:]:
    os.getppid()
    bench_lookup(flows, int(lookups), masks)
os.getppid()
