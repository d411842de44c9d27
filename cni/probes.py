"""Health probes of the node reach pods outside of the mesh, even where the mesh is strict.

The node's namespace gives probes a recognisable source address: TCP that the kubelet sends to an enrolled pod is
source-translated to 169.254.7.127 (IPv6: a fixed ULA), and the rules of the pods let that address through.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cni import nft
from cni.redirect import PROBE_V4, PROBE_V6
from cni.rules_nft import NAT, TCP, digest, match, meta, observed, payload, rule

SETS: Final = {4: "istio-inpod-probes-v4", 6: "istio-inpod-probes-v6"}
_CHAIN: Final = "istio-postrouting"
_COMMENT_MAX: Final = 128  # bytes; the kernel's limit of what it keeps with an element
ANY_UID: Final = -1

_KUBELET_NAMES: Final = ("kubelet", "kubelite")


def kubelet_uid(proc: Path = Path("/proc")) -> int | None:
    """The user the kubelet runs as, found by its process name; None when there is none on this node."""
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text().strip()
            if name.startswith("k3s") or (name in _KUBELET_NAMES and b"kubelet" in (entry / "cmdline").read_bytes()):
                return entry.stat().st_uid
        except OSError:  # the process ended while we looked
            continue
    return None


class HostProbes:
    """The node's table of pods that its probes may reach. Blocking; owned by the agent.

    Works in the namespace of the calling thread. Every address is noted with the pod it belongs to, so that a pod
    which leaves late cannot take away an address that has been given to another.
    """

    def __init__(self, uid: int, *, ipv6: bool, probe_v4: str = PROBE_V4, probe_v6: str = PROBE_V6) -> None:
        self._uid = uid
        self._sources = {4: probe_v4, 6: probe_v6} if ipv6 else {4: probe_v4}
        self._owners: dict[str, str] = {}

    @property
    def owners(self) -> Mapping[str, str]:
        """Address -> owner, as the kernel has them."""
        return self._owners

    def setup(self) -> bool:
        """Make the table what it must be, keeping entries that are there -> whether anything was written."""
        listing = nft.table(None, NAT) or []
        self._owners = dict(_elements(listing))
        if listing and _shape(listing) == self._outline():
            return False
        commands = [{"add": {"table": _table()}}, {"delete": {"table": _table()}}, {"add": {"table": _table()}}]
        for version, name in SETS.items():
            body = {"family": "inet", "table": NAT, "name": name, "type": f"ipv{version}_addr"}
            commands.append({"add": {"set": body}})
        commands += [{"add": {"chain": self._base_chain()}}, {"add": {"chain": _in_table(_CHAIN)}}]
        jump = {"family": "inet", "table": NAT, "chain": "postrouting", "expr": [{"jump": {"target": _CHAIN}}]}
        commands.append({"add": {"rule": jump}})
        commands += [rule(NAT, _CHAIN, purpose, expression) for purpose, expression in self._rules()]
        commands += [_element("add", address, owner) for address, owner in self._owners.items()]
        nft.commit(None, commands)
        return True

    def add(self, addresses: Iterable[str], owner: str) -> bool:
        """Let probes through to these addresses of pod `owner` -> whether anything was written."""
        owner = _short(owner)
        commands = []
        wanted = [a for a in map(_canonical, addresses) if self._owners.get(a) != owner]
        for address in wanted:
            if address in self._owners:
                commands.append(_element("delete", address))
            commands.append(_element("add", address, owner))
        if commands:
            nft.commit(None, commands)
            self._owners.update(dict.fromkeys(wanted, owner))
        return bool(commands)

    def remove(self, owner: str, keep: Iterable[str] = ()) -> bool:
        """Take away the addresses of pod `owner`, except `keep` -> whether there were any."""
        owner, kept = _short(owner), set(map(_canonical, keep))
        return self._drop([a for a, who in self._owners.items() if who == owner and a not in kept])

    def prune(self, known: Iterable[str]) -> bool:
        """Take away the addresses of every pod that is not among `known` owners."""
        names = set(map(_short, known))
        return self._drop([a for a, who in self._owners.items() if who not in names])

    def teardown(self) -> bool:
        """Remove the table -> whether it was there."""
        self._owners = {}
        if nft.table(None, NAT) is None:
            return False
        nft.commit(None, [{"delete": {"table": _table()}}])
        return True

    def _drop(self, addresses: list[str]) -> bool:
        if addresses:
            nft.commit(None, [_element("delete", address) for address in addresses])
            for address in addresses:
                del self._owners[address]
        return bool(addresses)

    def _base_chain(self) -> dict[str, Any]:
        return _in_table("postrouting") | {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}

    def _rules(self) -> list[tuple[str, list[dict[str, Any]]]]:
        rules = []
        who = [] if self._uid == ANY_UID else [match(meta("skuid"), self._uid)]
        for version, source in self._sources.items():
            protocol = "ip" if version == 4 else "ip6"
            destination = match(payload(protocol, "daddr"), f"@{SETS[version]}")
            rules.append(("probe source", [TCP, *who, destination, {"snat": {"addr": source, "family": protocol}}]))
        return rules

    def _outline(self) -> dict[str, Any]:
        return {
            **dict.fromkeys(SETS.values()),
            "postrouting": ("nat", "postrouting", 100, "accept", [f"jump {_CHAIN}"]),
            _CHAIN: (None, None, None, None, [digest(*one) for one in self._rules()]),
        }


def _table() -> dict[str, Any]:
    return {"family": "inet", "name": NAT}


def _in_table(chain: str) -> dict[str, Any]:
    return {"family": "inet", "table": NAT, "name": chain}


def _shape(listing: list[dict[str, Any]]) -> dict[str, Any]:
    shape = observed(listing)
    shape.pop("(a set)", None)
    return shape | {item["set"]["name"]: None for item in listing if "set" in item}


def _elements(listing: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    for item in listing:
        for element in item.get("set", {}).get("elem", ()):
            if isinstance(element, dict) and "elem" in element:
                yield str(element["elem"]["val"]), str(element["elem"].get("comment", ""))
            elif isinstance(element, str):
                yield element, ""


def _element(verb: str, address: str, owner: str | None = None) -> dict[str, Any]:
    version = ipaddress.ip_address(address).version
    value: Any = address if owner is None else {"elem": {"val": address, "comment": owner}}
    return {verb: {"element": {"family": "inet", "table": NAT, "name": SETS[version], "elem": [value]}}}


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _short(owner: str) -> str:
    return owner.encode()[: _COMMENT_MAX - 1].decode("utf-8", "ignore")
