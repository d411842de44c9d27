"""The packet rules that bring a pod's connections to its Envoy: in effect those of Istio's sidecars.

Istio tells the proxy's own connections by its user id. A user namespace may have one user only, so these rules go by a
socket mark, as ztunnel's do. A connection of the pod to itself stays where it is. Only TCP is captured, of both address
families; the Envoys here listen on IPv4 alone, so a connection by IPv6 is refused and does not pass in clear.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ambient.demo.processes import Processes
from bench import config
from bench.errors import BenchError
from cni.redirect import HBONE_PORT, INBOUND_PORT, MARK_MASK, OUTBOUND_PORT, PROXY_MARK

TABLE: Final = "bench-envoy"
_DSTNAT: Final = -100  # before routing; nft knows its name for one of the two hooks only
_LOOPBACK: Final = ("ip daddr 127.0.0.0/8", "ip6 daddr ::1")


class Rules(NamedTuple):
    """What is captured. Connections to the ports in `exempt_outbound` or `exempt_inbound` pass untouched."""

    outbound: bool = False
    inbound: bool = False
    exempt_outbound: tuple[int, ...] = ()
    exempt_inbound: tuple[int, ...] = (HBONE_PORT,)
    mark: int = PROXY_MARK

    def text(self) -> str:
        """For `nft -f -` inside the pod's namespace: one transaction, whatever the table held before."""
        chains = []
        if self.outbound:
            chains += self._chain("output", self._outbound())
        if self.inbound:
            chains += self._chain("prerouting", self._inbound())
        # Adding first makes deleting safe.
        return "\n".join((removal(), f"table inet {TABLE} {{", *chains, "}", ""))

    def _outbound(self) -> list[str]:
        return [
            f"meta mark & {MARK_MASK:#x} == {self.mark & MARK_MASK:#x} return",
            'oifname "lo" return',
            *(f"{loopback} return" for loopback in _LOOPBACK),
            *_exempt(self.exempt_outbound),
            f"meta l4proto tcp redirect to :{OUTBOUND_PORT}",
        ]

    def _inbound(self) -> list[str]:
        return [*_exempt(self.exempt_inbound), f"meta l4proto tcp redirect to :{INBOUND_PORT}"]

    def _chain(self, hook: str, rules: list[str]) -> list[str]:
        head = f"    type nat hook {hook} priority {_DSTNAT}; policy accept;"
        return [f"  chain {hook} {{", head, *(f"    {rule}" for rule in rules), "  }"]


def _exempt(ports: tuple[int, ...]) -> list[str]:
    return [f"tcp dport {{ {', '.join(map(str, ports))} }} return"] if ports else []


def removal() -> str:
    """The text that takes the table away, present or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}"


def apply(processes: Processes, netns: str, text: str) -> None:
    """Put `Rules.text()` or `removal()` in force in the namespace at `netns`. Raises BenchError with nft's words."""
    done = processes.run([config.tool("nft"), "-f", "-"], netns=netns, stdin=text)
    if done.returncode:
        raise BenchError(
            f"nft refused the capture rules: {' '.join(done.stderr.split()) or f'status {done.returncode}'} "
            "(it needs the network administrator's rights in the namespace, and a kernel with nf_tables and NAT)"
        )
