"""Virtual addresses for ServiceEntries that have none of their own (PILOT_ENABLE_IP_AUTOALLOCATE).

An address is chosen by a hash of what it stands for, so that every replica, and the next start, choose the same; where
one is taken the next is tried. What is allocated stays until its host goes. Of two entries that were given the same
address the older keeps it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from istiod.objects import ServiceEntry
from istiod.translate.services import DYNAMIC
from istiod.translate.statuses import StatusPatch

MANAGER: Final = "istio-ip-autoallocate"
OPT_OUT: Final = "networking.istio.io/enable-autoallocate-ip"
POOLS: Final = (ipaddress.ip_network("240.240.0.0/16"), ipaddress.ip_network("2001:2::/48"))
"""Both have room for the same hosts: the number of an address is the same in either."""
SLOTS: Final = POOLS[0].num_addresses - 2
"""Neither the first address of the pool nor its last is given away."""


class _Slot(NamedTuple):
    number: int
    host: str


def wanted_hosts(entry: ServiceEntry) -> list[str]:
    """The hosts of an entry that get an address."""
    spec = entry.spec
    if spec.addresses or spec.resolution == "NONE" or entry.metadata.labels.get(OPT_OUT, "true") == "false":
        return []
    return [host for host in dict.fromkeys(spec.hosts) if "*" not in host or spec.resolution == DYNAMIC]


def allocate(entries: Iterable[ServiceEntry]) -> Iterator[StatusPatch]:
    """The addresses every entry should have, for those whose status says otherwise. Raises nothing: when the pool is
    full the rest stay without.
    """
    ordered = sorted(entries, key=_age)
    kept: dict[int, tuple[str, str, str]] = {}
    for entry in ordered:
        for number, host in _held(entry):
            kept.setdefault(number, _owner(entry, host))
    for entry in ordered:
        hosts = wanted_hosts(entry)
        held = {
            host: number for number, host in _held(entry) if host in hosts and kept.get(number) == _owner(entry, host)
        }
        for host in hosts:
            if host not in held and len(kept) < SLOTS:
                held[host] = _free(_owner(entry, host), kept)
                kept[held[host]] = _owner(entry, host)
        addresses = [
            {"value": str(pool[1 + held[host]]), "host": host} for host in hosts if host in held for pool in POOLS
        ]
        now = [{"value": address.value, "host": address.host} for address in entry.status.addresses]
        if addresses != now and (addresses or not entry.spec.addresses):
            meta = entry.metadata
            yield StatusPatch("ServiceEntry", meta.namespace, meta.name, MANAGER, {"addresses": addresses})


def _held(entry: ServiceEntry) -> Iterator[_Slot]:
    """What an entry holds of the first pool; the second follows it."""
    for address in entry.status.addresses:
        try:
            value = ipaddress.ip_address(address.value)
        except ValueError:
            continue
        if value in POOLS[0]:
            yield _Slot(int(value) - int(POOLS[0].network_address) - 1, address.host)


def _free(owner: tuple[str, str, str], taken: dict[int, tuple[str, str, str]]) -> int:
    number = int.from_bytes(blake2b("/".join(owner).encode(), digest_size=8).digest()) % SLOTS
    while number in taken:
        number = (number + 1) % SLOTS
    return number


def _owner(entry: ServiceEntry, host: str) -> tuple[str, str, str]:
    return (entry.metadata.namespace, entry.metadata.name, host)


def _age(entry: ServiceEntry) -> tuple[str, str, str]:
    meta = entry.metadata
    return (meta.creation_timestamp, meta.namespace, meta.name)
