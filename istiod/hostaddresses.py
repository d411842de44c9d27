"""The addresses of this host, as the kernel lists them."""

from __future__ import annotations

import ipaddress
import itertools
from pathlib import Path


def local_addresses() -> list[str]:
    """Every IPv4 and IPv6 address of the present network namespace, without link-local ones."""
    found: dict[str, None] = {"127.0.0.1": None}
    trie = Path("/proc/self/net/fib_trie")
    lines = trie.read_text().split("\n") if trie.exists() else []
    for line, following in itertools.pairwise(lines):
        if "/32 host LOCAL" in following:
            found[line.split()[-1]] = None
    table = Path("/proc/self/net/if_inet6")
    for line in table.read_text().split("\n") if table.exists() else []:
        if line:
            address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
            if not address.is_link_local:
                found[str(address)] = None
    return list(found)
