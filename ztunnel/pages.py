"""Shared counters of the workers: one memfd per worker index, kept while workers come and go."""

from __future__ import annotations

import mmap
import os
from typing import Final

from meshcore.records import PAGE_BYTES, SLOT_BYTES, SLOT_MAX, PageCell

SIZE: Final = PAGE_BYTES + SLOT_MAX * SLOT_BYTES
_CELL: Final = 8  # bytes
_SLOT_CELLS: Final = SLOT_BYTES // _CELL
_HEAD_CELLS: Final = PAGE_BYTES // _CELL


class CounterPage:
    """The counters of one worker index. Sparse: only what is used takes memory."""

    def __init__(self, index: int) -> None:
        self.fd = os.memfd_create(f"ztunnel-counters-{index}", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, SIZE)
        self._map = mmap.mmap(self.fd, SIZE, prot=mmap.PROT_READ)
        self._cells = memoryview(self._map).cast("Q")

    def cell(self, which: PageCell) -> int:
        return self._cells[which]

    def slot(self, number: int) -> memoryview:
        start = _HEAD_CELLS + number * _SLOT_CELLS
        return self._cells[start : start + _SLOT_CELLS]

    def close(self) -> None:
        self._cells.release()
        self._map.close()
        os.close(self.fd)


class Pages:
    """The pages of all workers; sums are taken while workers write, so they lag by nanoseconds, never go back."""

    def __init__(self, count: int) -> None:
        self.pages = [CounterPage(index) for index in range(count)]

    def __getitem__(self, index: int) -> CounterPage:
        return self.pages[index]

    def read(self, slot: int) -> list[int]:
        """Cells of a label slot summed over the workers."""
        first, *rest = self.pages
        sums = list(first.slot(slot))
        for page in rest:
            for i, value in enumerate(page.slot(slot)):
                sums[i] += value
        return sums

    def close(self) -> None:
        for page in self.pages:
            page.close()
