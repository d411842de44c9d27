"""Envoy as Istio sets it up, in the pods of a scenario: as sidecars, as an HBONE pair, and as a waypoint."""
