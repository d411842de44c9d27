"""Numbers under which workers know label sets and lists of expected identities.

`intern` gives a number; whoever keeps a verdict that names it calls `retain`, and `release` when
the verdict is dropped. `sweep`, called every few seconds, ends the numbers nobody retains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from meshcore.records import SLOT_BYTES, SLOT_MAX, Flag, SlotCell, Verdict
from ztunnel.labels import OVERFLOW, LabelSet

SLOT_CELLS: Final = SLOT_BYTES // 8
_RETIRED_MAX: Final = 4 * SLOT_MAX  # label sets whose totals outlive their number

_T = TypeVar("_T")
ReadCells = Callable[[int], Sequence[int]]


class _Counted(Generic[_T]):
    """Values with numbers and reference counts. Number 0 is never counted."""

    def __init__(self) -> None:
        self._numbers: dict[_T, int] = {}
        self._values: dict[int, _T] = {}
        self._refs: dict[int, int] = {}
        self._idle: set[int] = set()  # without references since the last sweep
        self._resting: set[int] = set()  # without references for a whole sweep interval

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, number: int) -> _T:
        return self._values[number]

    def retain(self, numbers: Iterable[int]) -> None:
        """Undone by `release` of the same numbers."""
        for number in numbers:
            if number:
                self._refs[number] += 1
                self._idle.discard(number)
                self._resting.discard(number)

    def release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number:
                self._refs[number] -= 1
                if not self._refs[number]:
                    self._idle.add(number)

    def _enter(self, value: _T, number: int) -> None:
        self._numbers[value] = number
        self._values[number] = value
        self._refs[number] = 0
        self._idle.add(number)

    def _leave(self, number: int) -> None:
        del self._numbers[self._values.pop(number)]
        del self._refs[number]
        self._resting.discard(number)

    def _rest(self) -> None:
        """One sweep is over: what is idle now may end at the next. A worker needs that long to have heard."""
        self._resting |= self._idle
        self._idle.clear()

    def _wake(self, number: int) -> None:
        """A value without references was asked for again; give it another whole interval."""
        if number in self._resting:
            self._resting.discard(number)
            self._idle.add(number)


class SansTable(_Counted[tuple[str, ...]]):
    """Ordered lists of SPIFFE URIs that a peer may present. 0 is "no list"."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 1

    def intern(self, uris: tuple[str, ...]) -> int:
        number = self._numbers.get(uris)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._enter(uris, number)
        else:
            self._wake(number)
        return number

    def sweep(self) -> list[int]:
        """Numbers that ended: tell every worker (SANS_DEL). They are never used again."""
        ended = sorted(self._resting)
        for number in ended:
            self._leave(number)
        self._rest()
        return ended


class LabelTable(_Counted[LabelSet]):
    """Label sets with numbers that are slots of the shared counter pages, hence few and used again.

    When a number ends its counts go to a total per metric label set, so no count is lost. Workers never reset a
    slot: the next owner of the number starts from the counts it found (`_base`).
    """

    def __init__(self, limit: int = SLOT_MAX) -> None:
        super().__init__()
        self._limit = limit
        self._next = 1
        self._free: list[int] = []
        self._base: dict[int, tuple[int, ...]] = {}
        self._retired: dict[LabelSet, list[int]] = {}

    def __getitem__(self, number: int) -> LabelSet:
        return OVERFLOW if number == 0 else super().__getitem__(number)

    def intern(self, labels: LabelSet) -> int:
        """A number for a label set. When three quarters are taken, pods of one workload share theirs (the log then
        shows the workload, metrics are the same); when all are taken, 0: the overflow set."""
        number = self._numbers.get(labels)
        if number is None and 4 * len(self._values) >= 3 * self._limit:
            labels = labels.metric
            number = self._numbers.get(labels)
        if number is not None:
            self._wake(number)
            return number
        if self._free:
            number = self._free.pop()
        elif self._next < self._limit:
            number, self._next = self._next, self._next + 1
        else:
            return 0
        self._enter(labels, number)
        return number

    def sweep(self, read: ReadCells) -> list[int]:
        """Numbers that ended: tell every worker (LABEL_DEL). `read` gives a slot's cells summed over all pages.

        A number with open connections goes on until they are closed.
        """
        ended = []
        for number in sorted(self._resting):
            cells = tuple(read(number))
            counts = self._since_base(number, cells)
            if counts[SlotCell.OPENED] == counts[SlotCell.CLOSED] + sum(counts[SlotCell.FAILED :]):
                self._retire(self._values[number].metric, counts)
                self._base[number] = cells
                self._leave(number)
                self._free.append(number)
                ended.append(number)
        self._rest()
        return ended

    def totals(self, read: ReadCells) -> Iterator[tuple[LabelSet, Sequence[int]]]:
        """Cells per metric label set, live and retired together; those never used are left out."""
        sums = {labels: list(cells) for labels, cells in self._retired.items()}
        live = [(number, labels.metric) for number, labels in self._values.items()]
        for number, labels in [(0, OVERFLOW), *live]:
            _add(sums.setdefault(labels, [0] * SLOT_CELLS), self._since_base(number, tuple(read(number))))
        return ((labels, cells) for labels, cells in sums.items() if any(cells))

    def _since_base(self, number: int, cells: tuple[int, ...]) -> tuple[int, ...]:
        base = self._base.get(number)
        return cells if base is None else tuple(now - then for now, then in zip(cells, base, strict=True))

    def _retire(self, labels: LabelSet, counts: tuple[int, ...]) -> None:
        if not any(counts):
            return
        if labels not in self._retired and len(self._retired) >= _RETIRED_MAX:
            labels = OVERFLOW
        _add(self._retired.setdefault(labels, [0] * SLOT_CELLS), counts)


class IdSource:
    """The two tables a decision takes numbers from."""

    def __init__(self, label_limit: int = SLOT_MAX) -> None:
        self.labels = LabelTable(label_limit)
        self.sans = SansTable()

    def retain(self, verdict: Verdict) -> None:
        """Undone by `release` of the same verdict."""
        labels, sans = needed(verdict)
        self.labels.retain(labels)
        self.sans.retain(sans)

    def release(self, verdict: Verdict) -> None:
        labels, sans = needed(verdict)
        self.labels.release(labels)
        self.sans.release(sans)


def needed(verdict: Verdict) -> tuple[set[int], set[int]]:
    """(label ids, sans ids) that a worker must know before it gets this verdict; 0 needs no telling."""
    labels = {verdict.label_id, *(e.label_id for e in verdict.endpoints)}
    sans = {e.sans_id for e in verdict.endpoints}
    return labels - {0}, sans - {0}


def failures(cells: Sequence[int]) -> Iterator[tuple[Flag, int]]:
    """(flag, closes with it) of one slot, zeros left out."""
    return ((flag, n) for flag in Flag if flag is not Flag.NONE and (n := cells[SlotCell.FAILED + flag]))


def _add(total: list[int], counts: Sequence[int]) -> None:
    for i, count in enumerate(counts):
        total[i] += count
