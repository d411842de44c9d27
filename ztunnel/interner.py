"""Byte strings that many rows share, kept once and counted."""

from __future__ import annotations

from array import array


class Interner:
    """`acquire` gives a small number for a byte string; `release` undoes one `acquire`."""

    __slots__ = ("_free", "_ids", "_items", "_refs")

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._items: list[bytes] = []
        self._refs = array("I")
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> bytes:
        return self._items[number]

    def acquire(self, item: bytes) -> int:
        number = self._ids.get(item)
        if number is not None:
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
        self._ids[item] = number
        return number

    def release(self, number: int) -> None:
        self._refs[number] -= 1
        if not self._refs[number]:
            del self._ids[self._items[number]]
            self._items[number] = b""
            self._free.append(number)
