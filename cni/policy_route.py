"""The policy route inside a pod: packets marked 0x111 are delivered locally.

ztunnel connects to the application from the client's address. The application's replies go to that address,
which is elsewhere; the rules mark them, and this route brings them back to ztunnel's socket.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from meshcore.errors import NamespaceError
from meshcore.netns import get_sysctl, inside

TABLE: Final = 100
PRIORITY: Final = 32764
MARK: Final = 0x111
MASK: Final = 0xFFF

_RTN_LOCAL, _RT_SCOPE_HOST = 2, 254  # linux/rtnetlink.h
_IFF_UP: Final = 1  # linux/if.h
_LOCAL_ROUTE: Final = {"type": _RTN_LOCAL, "scope": _RT_SCOPE_HOST}
_FAMILIES: Final = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}


class RouteError(NamespaceError, code="cni.route"):
    """The policy rule or route of a pod cannot be read or changed."""


def apply(netns: int, *, ipv6: bool) -> bool:
    """Add what is missing -> whether anything was. IPv6 is left out when the pod's loopback has none."""
    families = [socket.AF_INET]
    if ipv6 and get_sysctl(netns, "net.ipv6.conf.lo.disable_ipv6") == "0":
        families.append(socket.AF_INET6)
    changed = False
    try:
        with inside(netns), IPRoute() as route:
            loopback = _loopback(route)
            (link,) = route.get_links(loopback)
            if not link["flags"] & _IFF_UP:  # a route through a link that is down is refused
                route.link("set", index=loopback, state="up")
                changed = True
            for family in families:
                if not _rules(route, family):
                    route.rule("add", family=family, table=TABLE, priority=PRIORITY, fwmark=MARK, fwmask=MASK)
                    changed = True
                if not _routes(route, family, loopback):
                    route.route(
                        "replace", family=family, dst=_FAMILIES[family], oif=loopback, table=TABLE, **_LOCAL_ROUTE
                    )
                    changed = True
    except (NetlinkError, OSError) as error:
        raise RouteError(f"policy route of mark {MARK:#x}: {_why(error)}") from error
    return changed


def remove(netns: int) -> bool:
    """Delete rule and route of both families -> whether there were any."""
    changed = False
    try:
        with inside(netns), IPRoute() as route:
            loopback = _loopback(route)
            for family, everything in _FAMILIES.items():
                for _ in _rules(route, family):
                    route.rule("del", family=family, table=TABLE, priority=PRIORITY, fwmark=MARK, fwmask=MASK)
                    changed = True
                for _ in _routes(route, family, loopback):
                    route.route("del", family=family, dst=everything, oif=loopback, table=TABLE, **_LOCAL_ROUTE)
                    changed = True
    except (NetlinkError, OSError) as error:
        raise RouteError(f"removing the policy route of mark {MARK:#x}: {_why(error)}") from error
    return changed


def show(netns: int) -> list[dict[str, Any]]:
    """Rows as the packet rules have them, without counts."""
    rows: list[dict[str, Any]] = []
    rule_text = f"fwmark {MARK:#x}/{MASK:#x} lookup {TABLE}, priority {PRIORITY}"
    try:
        with inside(netns), IPRoute() as route:
            loopback = _loopback(route)
            for family, everything in _FAMILIES.items():
                name = "ip" if family == socket.AF_INET else "ip6"
                if _rules(route, family):
                    rows.append({"table": f"{name} rule", "chain": "", "rule": rule_text})
                if _routes(route, family, loopback):
                    rows.append({"table": f"{name} route", "chain": str(TABLE), "rule": f"local {everything} dev lo"})
    except (NetlinkError, OSError) as error:
        raise RouteError(f"reading the policy route: {_why(error)}") from error
    return rows


def _loopback(route: IPRoute) -> int:
    return int(route.link_lookup(ifname="lo")[0])


def _rules(route: IPRoute, family: int) -> list[Any]:
    return [
        rule
        for rule in route.get_rules(family=family)
        if rule.get_attr("FRA_PRIORITY") == PRIORITY
        and rule.get_attr("FRA_FWMARK") == MARK
        and rule.get_attr("FRA_FWMASK") == MASK
        and (rule.get_attr("FRA_TABLE") or rule["table"]) == TABLE
    ]


def _routes(route: IPRoute, family: int, loopback: int) -> list[Any]:
    return [
        entry
        for entry in route.get_routes(family=family, table=TABLE)
        if entry["type"] == _RTN_LOCAL and entry["dst_len"] == 0 and entry.get_attr("RTA_OIF") == loopback
    ]


def _why(error: Exception) -> str:
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code == errno.EPERM:
        return "not permitted; the agent needs CAP_NET_ADMIN in the namespace"
    return str(error)
