"""A multimap from hashes to row numbers that costs about ten bytes an entry.

A `dict` with its key and value objects takes 130 bytes and more, three times per workload; here
an entry is 32 bits of hash and 32 bits of row. Equal hashes are told apart by the caller, who has
the rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

_LOW: Final = 0xFFFF_FFFF
_DELETED: Final = 1 << 32  # row part 0, so it is no entry, yet not 0, so a probe goes on
_FIRST_SIZE: Final = 64


class HashIndex:
    """Open addressing, linear probing; 0 < load <= 4/5, tombstones included."""

    __slots__ = ("_live", "_slots", "_used")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SIZE))
        self._live = 0  # entries
        self._used = 0  # entries and tombstones

    def __len__(self) -> int:
        return self._live

    def find(self, key: int) -> Iterator[int]:
        """Rows entered under `key`, and now and then one of another key with the same 32 bits."""
        slots = self._slots
        mask = len(slots) - 1
        tag = key & _LOW
        at = tag & mask
        while slot := slots[at]:
            if slot >> 32 == tag and slot & _LOW:
                yield (slot & _LOW) - 1
            at = (at + 1) & mask

    def add(self, key: int, row: int) -> None:
        if (self._used + 1) * 5 > len(self._slots) * 4:
            self._rebuild()
        slots = self._slots
        mask = len(slots) - 1
        tag = key & _LOW
        at = tag & mask
        while slots[at] & _LOW:
            at = (at + 1) & mask
        self._used += not slots[at]
        slots[at] = tag << 32 | row + 1
        self._live += 1

    def remove(self, key: int, row: int) -> None:
        """Take out one entry; raises KeyError if it is not there."""
        slots = self._slots
        mask = len(slots) - 1
        entry = (key & _LOW) << 32 | row + 1
        at = key & _LOW & mask
        while slots[at] != entry:
            if not slots[at]:
                raise KeyError(row)
            at = (at + 1) & mask
        slots[at] = _DELETED
        self._live -= 1

    def _rebuild(self) -> None:
        size = _FIRST_SIZE
        while (self._live + 1) * 5 > size * 3:  # some room, or the next entries would rebuild again
            size *= 2
        old, mask = self._slots, size - 1
        slots = array("Q", bytes(8 * size))
        for entry in old:
            if entry & _LOW:
                at = entry >> 32 & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = entry
        self._slots, self._used = slots, self._live
