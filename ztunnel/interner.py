"""Byte strings that many rows share, kept once and counted."""

from __future__ import annotations

from array import array

from ztunnel.hashindex import HashIndex


class Interner:
    """`acquire` gives a small number for a byte string; `release` undoes one `acquire`."""

    __slots__ = ("_free", "_ids", "_items", "_refs")

    def __init__(self) -> None:
        self._ids = HashIndex()  # a dict would cost more than many of the items
        self._items: list[bytes] = []
        self._refs = array("I")
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> bytes:
        return self._items[number]

    def acquire(self, item: bytes) -> int:
        for number in self._ids.find(hash(item)):
            if self._items[number] == item:
                self._refs[number] += 1
                return number
        if self._free:
            number = self._free.pop()
            self._items[number] = item
            self._refs[number] = 1
        else:
            number = len(self._items)
            self._items.append(item)
            self._refs.append(1)
        self._ids.add(hash(item), number)
        return number

    def release(self, number: int) -> None:
        self._refs[number] -= 1
        if not self._refs[number]:
            self._ids.remove(hash(self._items[number]), number)
            self._items[number] = b""
            self._free.append(number)
