"""istiod at scale: a whole control plane with many objects, and everybody who is connected to it."""
