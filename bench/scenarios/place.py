"""Where a scenario stands: a client pod on one node, a server pod on the other, a waypoint's pod where there is one.

Addresses follow from the scenario's number, so configurations can be shown without building anything.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ambient.demo.topology import MEMBER_NAMESPACES, NODES, OUTSIDE_NAMESPACE, Pod

PAGE: Final = "/1k"

_FIRST_HOST: Final = 20  # last byte of the first pod's address; ztunnels have the low ones
_WAYPOINT_OFFSET: Final = 100


class Place(NamedTuple):
    """The pods of one scenario."""

    client: Pod
    server: Pod
    waypoint: Pod


def place(name: str, number: int, *, enrolled: bool) -> Place:
    """The pods of the scenario `name`, the `number`th of the catalogue; enrolled ones belong to the mesh."""
    namespace = MEMBER_NAMESPACES[0] if enrolled else OUTSIDE_NAMESPACE
    host = _FIRST_HOST + number

    def pod(role: str, node: int, last: int) -> Pod:
        label = f"{role}-{number}"
        address = NODES[node].pod_cidr.replace(".0/24", f".{last}")
        return Pod(label, namespace, label, NODES[node].name, address, f"{role}-{name}", web=False)

    return Place(pod("client", 0, host), pod("server", 1, host), pod("waypoint", 1, host + _WAYPOINT_OFFSET))
