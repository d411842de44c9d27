"""One data-path worker without a zygote: `python -I -S worker.py LINK PAGE ROOT MODULE`, with two descriptors."""

from __future__ import annotations

import sys

sys.path.insert(0, sys.argv[3])
worker_class = __import__(sys.argv[4], fromlist=["Worker"]).Worker
sys.exit(1 if worker_class(int(sys.argv[1]), int(sys.argv[2]), 0).run() else 0)
