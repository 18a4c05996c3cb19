"""A bounded priority queue whose priorities change: the largest is taken, the smallest makes room."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

Priority = tuple[float, ...]

_SLACK = 64
"""Stale entries that a heap may hold beside one per live key, before it is rebuilt."""


class BoundedQueue:
    """Two lazy heaps over one dictionary. All operations are O(log n), amortised. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._live: dict[Any, tuple[Priority, int]] = {}
        self._largest: list[tuple[Priority, int, Any]] = []
        self._smallest: list[tuple[Priority, int, Any]] = []
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: Any) -> bool:
        return key in self._live

    def put(self, key: Any, priority: Priority) -> Any | None:
        """Adds ``key``, or changes its priority. Returns the key that had to go, which may be this one; None when there is room.

        Among equal priorities the older entry is taken first and the newer one is evicted first.
        """
        if key not in self._live and len(self._live) >= self.capacity:
            lowest, stamp, worst = self._peek(self._smallest)
            if (priority, -self._stamp - 1) <= (lowest, stamp):
                return key
            del self._live[worst]
            self._add(key, priority)
            return worst
        self._add(key, priority)
        return None

    def pop(self) -> Any | None:
        """The key of the largest priority, or None."""
        if not self._live:
            return None
        key = self._peek(self._largest)[2]
        del self._live[key]
        return key

    def discard(self, key: Any) -> None:
        self._live.pop(key, None)

    def keys(self) -> Iterator[Any]:
        return iter(self._live)

    def top(self, count: int) -> list[Any]:
        """The ``count`` most urgent keys, in order; they stay."""
        ranked = heapq.nlargest(count, self._live.items(), key=lambda pair: (pair[1][0], -pair[1][1]))
        return [key for key, _ in ranked]

    def _add(self, key: Any, priority: Priority) -> None:
        known = self._live.get(key)
        if known is not None and known[0] == priority:
            return
        self._stamp += 1
        self._live[key] = (priority, self._stamp)
        heapq.heappush(self._largest, (tuple(-p for p in priority), self._stamp, key))
        heapq.heappush(self._smallest, (priority, -self._stamp, key))
        if len(self._largest) > 2 * len(self._live) + _SLACK:
            self._rebuild()

    def _peek(self, heap: list[tuple[Priority, int, Any]]) -> tuple[Priority, int, Any]:
        """The first entry of ``heap`` that is not stale."""
        while True:
            _, stamp, key = heap[0]
            live = self._live.get(key)
            if live is not None and live[1] == abs(stamp):
                return heap[0]
            heapq.heappop(heap)

    def _rebuild(self) -> None:
        self._largest = [(tuple(-p for p in priority), stamp, key) for key, (priority, stamp) in self._live.items()]
        self._smallest = [(priority, -stamp, key) for key, (priority, stamp) in self._live.items()]
        heapq.heapify(self._largest)
        heapq.heapify(self._smallest)
