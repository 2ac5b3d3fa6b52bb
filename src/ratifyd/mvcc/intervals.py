"""Key ranges of any kind, found by a key inside them.

Ranges with an end lie in blocks, sorted by start, and each block knows its greatest end. A search looks into the blocks
that begin at or before the key and end after it; each of them, but perhaps the last, holds a range to be found. So a
search opens hardly more blocks than it finds ranges, and ranges that overlap take no more memory than others. Ranges
without end are found as those that begin at or before the key.
"""

from bisect import bisect_left, bisect_right, insort
from operator import itemgetter
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

from ratifyd.keys import KeyRange

_MOST_IN_BLOCK = 128
_FEWEST_IN_BLOCK = 32
"""A smaller block joins another one."""

_Value = TypeVar("_Value")
_end = itemgetter(1)


class Intervals(Generic[_Value]):
    """A value for each of many key ranges."""

    __slots__ = ("_blocks", "_endless", "_ends", "_firsts")

    def __init__(self) -> None:
        self._blocks: list[list[tuple[bytes, bytes, _Value]]] = []
        self._firsts: list[tuple[bytes, bytes]] = []
        """The first range of each block."""
        self._ends: list[bytes] = []
        """The greatest end in each block."""
        self._endless: SortedDict[bytes, _Value] = SortedDict()

    def add(self, keys: KeyRange, value: _Value) -> None:
        """Add a range that is not there yet."""
        start, end = keys
        if end is None:
            self._endless[start] = value
            return
        if not self._blocks:
            self._replace(0, 0, [(start, end, value)])
            return
        at = self._block_of(start, end)
        block = self._blocks[at]
        insort(block, (start, end, value))  # no two ranges are equal, so that values are never compared
        if len(block) > _MOST_IN_BLOCK:
            self._replace(at, at + 1, block)
            return
        self._firsts[at] = block[0][:2]
        if end > self._ends[at]:
            self._ends[at] = end

    def remove(self, keys: KeyRange) -> None:
        """Remove a range that is there."""
        start, end = keys
        if end is None:
            del self._endless[start]
            return
        at = self._block_of(start, end)
        block = self._blocks[at]
        del block[bisect_left(block, (start, end))]
        if len(block) < _FEWEST_IN_BLOCK:
            at = max(0, at - 1)
            self._replace(at, at + 2, [item for part in self._blocks[at : at + 2] for item in part])
            return
        self._firsts[at] = block[0][:2]
        if end == self._ends[at]:
            self._ends[at] = max(map(_end, block))

    def holding(self, key: bytes) -> list[_Value]:
        """Values of the ranges that hold a key."""
        endless = self._endless
        found = [endless[start] for start in endless.irange(maximum=key)] if endless else []
        begun = bisect_left(self._firsts, (key + b"\0",))
        for block, last in zip(self._blocks[:begun], self._ends):
            if last > key:
                found += [value for start, end, value in block if end > key and start <= key]
        return found

    def _block_of(self, start: bytes, end: bytes) -> int:
        """Where a range is, or is to be."""
        return max(0, bisect_right(self._firsts, (start, end)) - 1)

    def _replace(self, first: int, last: int, items: list[tuple[bytes, bytes, _Value]]) -> None:
        """Put other blocks, of these ranges in order, in the place of some."""
        half = len(items) if len(items) <= _MOST_IN_BLOCK else len(items) // 2
        blocks = [part for part in (items[:half], items[half:]) if part]
        self._blocks[first:last] = blocks
        self._firsts[first:last] = [block[0][:2] for block in blocks]
        self._ends[first:last] = [max(map(_end, block)) for block in blocks]
