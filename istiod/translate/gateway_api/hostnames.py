"""Hostnames of listeners and routes: a name, `*.suffix` (any number of labels in front), or `*`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

ANY = "*"


def covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` means is one that `pattern` means."""
    if pattern in (ANY, host):
        return True
    suffix = pattern[1:]
    return pattern.startswith("*.") and len(host) > len(suffix) and host.endswith(suffix)


def intersection(listener: str, hosts: Iterable[str]) -> tuple[str, ...]:
    """The names that both a listener and a route mean; a side without names means all of the other's."""
    wanted = tuple(hosts)
    if not wanted:
        return (listener or ANY,)
    found: dict[str, None] = {}
    for host in wanted:
        if covers(listener or ANY, host):
            found[host] = None
        elif covers(host, listener):
            found[listener] = None
    return tuple(found)


def specificity(host: str) -> tuple[int, int]:
    """Grows with how closely a host is named: a name before every wildcard, then by length."""
    return (0 if host.startswith("*") else 1, len(host))


def owner(patterns: Collection[str], host: str) -> str:
    """The most specific of the patterns that cover a host; empty if none does. The cost is that of the host's length,
    if the patterns are a set.
    """
    if host in patterns:
        return host
    rest = host.removeprefix("*.")
    while "." in rest:
        rest = rest.partition(".")[2]
        if f"*.{rest}" in patterns:
            return f"*.{rest}"
    return ANY if ANY in patterns else ""
