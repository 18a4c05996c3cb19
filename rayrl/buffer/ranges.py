"""Sets of integers as sorted disjoint ranges: how the ledger remembers millions of finished ordinals in a few numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence


class RangeSet:
    """A set of integers. `add`, `remove` and ``in`` are O(log ranges); integers that arrive nearly in order stay one range."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        """``ranges``: disjoint ``[start, end)`` pairs in ascending order, as `ranges` gives them. Raises `ValueError` otherwise."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._size = 0
        for start, end in ranges:
            if end <= start or (self._ends and start <= self._ends[-1]):
                raise ValueError(f"ranges must be ascending and disjoint, got [{start}, {end})")
            self._starts.append(int(start))
            self._ends.append(int(end))
            self._size += end - start

    def add(self, value: int) -> None:
        """Raises `ValueError` for a value that is already a member: a second terminal state is a bug, not a no-op."""
        right = bisect_right(self._starts, value)
        left = right - 1
        if left >= 0 and value < self._ends[left]:
            raise ValueError(f"{value} is already a member")
        joins_left = left >= 0 and self._ends[left] == value
        joins_right = right < len(self._starts) and self._starts[right] == value + 1
        if joins_left and joins_right:
            self._ends[left] = self._ends.pop(right)
            self._starts.pop(right)
        elif joins_left:
            self._ends[left] = value + 1
        elif joins_right:
            self._starts[right] = value
        else:
            self._starts.insert(right, value)
            self._ends.insert(right, value + 1)
        self._size += 1

    def remove(self, value: int) -> None:
        """Raises `ValueError` for a value that is no member."""
        at = bisect_right(self._starts, value) - 1
        if at < 0 or value >= self._ends[at]:
            raise ValueError(f"{value} is no member")
        start, end = self._starts[at], self._ends[at]
        kept = [(a, b) for a, b in ((start, value), (value + 1, end)) if a < b]
        self._starts[at : at + 1], self._ends[at : at + 1] = [a for a, _ in kept], [b for _, b in kept]
        self._size -= 1

    def __contains__(self, value: int) -> bool:
        left = bisect_right(self._starts, value) - 1
        return left >= 0 and value < self._ends[left]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def ranges(self) -> list[list[int]]:
        """``[[start, end), ...]`` ascending; JSON-able."""
        return [[start, end] for start, end in zip(self._starts, self._ends, strict=True)]
