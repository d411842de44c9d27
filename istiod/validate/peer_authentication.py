"""Checks of PeerAuthentication."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from istiod.problem import Problem
from istiod.validate.common import choice, port_number, selector
from istiod.validate.field import Field

_MODES: Final = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")


def peer_authentication(obj: Field) -> Iterator[Problem]:
    spec = obj["spec"]
    yield from selector(spec)
    yield from choice(spec["mtls"]["mode"], _MODES)
    ports = spec["portLevelMtls"]
    if not ports.given:
        return
    if not spec["selector"]["matchLabels"]:
        yield ports.error("needs a selector with labels: ports differ from pod to pod")
    if not ports:
        yield ports.error("must name at least one port")
    for port, mtls in ports.members():
        yield from port_number(Field(port, mtls.path))
        yield from choice(mtls["mode"], _MODES)
