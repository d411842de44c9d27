"""The scenarios by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.errors import BenchError
from bench.scenarios.envoys import HbonePair, SidecarPair, Waypoint1, Waypoint50, Waypoint10000
from bench.scenarios.paths import POLICIES, Ambient, AmbientPolicies, Path
from bench.scenarios.place import place
from bench.scenarios.relays import Relays

DIRECT: Final = "direct"
"""Every run has it: latency is told over what it is without a proxy."""


class Scenario(NamedTuple):
    """One way from a client pod to a server pod. `number` gives it addresses of its own."""

    name: str
    title: str
    number: int
    kind: type[Path]

    def path(self) -> Path:
        return self.kind(self.name, place(self.name, self.number, enrolled=self.kind.enrolled))


_KINDS: Final[dict[str, tuple[str, type[Path]]]] = {
    DIRECT: ("from pod to pod, no proxy", Path),
    "relay": ("two plain copy relays: the least that two proxies can cost", Relays),
    "ambient-l4": ("our two ztunnels, whole, with captured traffic", Ambient),
    "ambient-l4-policies": (f"the same under {POLICIES} authorization policies", AmbientPolicies),
    "envoy-sidecar": ("a pair of Envoy sidecars: HTTP parsed on both sides, mutual TLS between", SidecarPair),
    "envoy-hbone": ("a pair of Envoys that tunnel as ztunnels do: CONNECT over HTTP/2 over mutual TLS", HbonePair),
    "envoy-waypoint-1": ("one Envoy as waypoint, 1 route; the tunnels to and from it stand beside", Waypoint1),
    "envoy-waypoint-50": ("the same, 50 routes", Waypoint50),
    "envoy-waypoint-10000": ("the same, 10,000 routes", Waypoint10000),
}

SCENARIOS: Final = {
    name: Scenario(name, title, number, kind) for number, (name, (title, kind)) in enumerate(_KINDS.items())
}


def choose(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names ("all" is all of them), and `direct`, in the order of the catalogue.

    Raises BenchError that lists what there is.
    """
    unknown = [name for name in names if name != "all" and name not in SCENARIOS]
    if unknown:
        raise BenchError(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return [each for name, each in SCENARIOS.items() if name == DIRECT or "all" in names or name in names]
