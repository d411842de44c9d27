"""Which gateways are ours: by the controller of their class."""

from __future__ import annotations

from typing import Final

from istiod.objects import Gateway
from istiod.translate.graph import View
from istiod.translate.waypoints import (
    EAST_WEST_CONTROLLER,
    GATEWAY_CONTROLLER,
    REMOTE_CONTROLLER,
    WAYPOINT_CONTROLLER,
    controller_of,
)

CONTROLLERS: Final = frozenset({GATEWAY_CONTROLLER, WAYPOINT_CONTROLLER, EAST_WEST_CONTROLLER, REMOTE_CONTROLLER})


def controller(view: View, namespace: str, name: str) -> str:
    """The controller of a Gateway; empty if there is no such Gateway, or if another product's controller has it."""
    gateway = view.get(Gateway, namespace, name)
    return class_controller(view, gateway.spec.gateway_class_name) if gateway is not None else ""


def class_controller(view: View, class_name: str) -> str:
    """The controller of a class if it is ours."""
    found = controller_of(view, class_name)
    return found if found in CONTROLLERS else ""
