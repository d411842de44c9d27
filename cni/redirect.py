"""What redirection of a pod means, whatever programs it.

A backend puts packet rules into the pod's namespace; the policy route that brings replies of the application
back to ztunnel is the same for all backends (`cni.policy_route`). `Redirector` does both, in the order that
never leaves a pod with captured traffic and no way back.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

import msgspec

from cni import policy_route
from meshcore.errors import NamespaceError
from meshcore.netns import OWN_NETNS, netns_id, open_netns

OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006
HBONE_PORT: Final = 15008
DNS_PORT: Final = 15053

PROXY_MARK: Final = 0x539  # every packet of a socket that ztunnel opened
REPLY_MARK: Final = 0x111  # replies of the application to ztunnel; also the connection mark
MARK_MASK: Final = 0xFFF  # the bits of a mark that are ours

PROBE_V4: Final = "169.254.7.127"  # HOST_PROBE_SNAT_IP; the same on every node
PROBE_V6: Final = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"


class RulesError(NamespaceError, code="cni.rules"):
    """Rules inside a namespace cannot be read or written; the text says which step and the likely cause."""


class ToolMissing(RulesError, code="cni.tool_missing"):
    """A program this backend drives is not installed."""


class PodRules(msgspec.Struct, frozen=True):
    """What one pod needs; all of it is read once, when the pod is enrolled."""

    ipv6: bool = True
    """Capture IPv6 too. Without it IPv6 traffic of the pod passes outside of the mesh (AMBIENT_IPV6)."""

    dns_capture: bool = False
    """Send DNS queries to port 15053. Off unless asked for: it needs a ztunnel that serves DNS there."""

    bypass_inbound: bool = False
    """Capture outbound only (annotation ambient.istio.io/bypass-inbound-capture)."""

    virtual_interfaces: tuple[str, ...] = ()
    """TCP entering from these is treated as outbound (annotation istio.io/reroute-virtual-interfaces)."""

    probe_v4: str = PROBE_V4
    probe_v6: str = PROBE_V6


class Backend(Protocol):
    """A way to program packet rules. Every method is blocking and takes the pod's namespace descriptor."""

    name: str

    def apply(self, netns: int, wanted: PodRules) -> bool:
        """Make the rules what is wanted, at once or not at all -> whether anything was written."""

    def remove(self, netns: int) -> bool:
        """Take our rules away; nobody else's are touched -> whether there were any."""

    def show(self, netns: int) -> list[dict[str, Any]]:
        """One row a rule: `table`, `chain`, `rule` (its purpose), `packets`, `bytes`."""


class Redirector:
    """Packet rules and policy route of pods."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def apply(self, netns: int, wanted: PodRules) -> bool:
        """Program a pod -> whether anything was written. Raises NamespaceError; then nothing is captured yet,
        or what was captured before still is.
        """
        refuse_own(netns)
        routed = policy_route.apply(netns, ipv6=wanted.ipv6)
        return self.backend.apply(netns, wanted) or routed

    def remove(self, netns: int) -> bool:
        """Un-program a pod -> whether there was anything. Raises NamespaceError."""
        refuse_own(netns)
        removed = self.backend.remove(netns)
        return policy_route.remove(netns) or removed

    def show(self, netns: int) -> list[dict[str, Any]]:
        return self.backend.show(netns) + policy_route.show(netns)


def refuse_own(netns: int) -> None:
    """A node must never capture itself, which a wrong path in an annotation would ask for."""
    own = open_netns(OWN_NETNS)
    try:
        if netns_id(own) == netns_id(netns):
            raise NamespaceError("that is the node's own network namespace, not a pod's: nothing was programmed")
    finally:
        os.close(own)
