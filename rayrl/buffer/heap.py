"""A priority queue of ordinals whose members can also leave from the middle."""

from __future__ import annotations

import heapq
from typing import Any


class OrdinalHeap:
    """Min-heap with lazy deletion: every operation is O(log n) amortised, however members leave.

    Deleted entries stay in the heap until they surface; when they outnumber the live ones the heap is rebuilt, so memory
    stays proportional to the members.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, int]] = []
        self._token: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._token)

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._token

    def push(self, key: Any, ordinal: int) -> None:
        """Adds a member; a member that is pushed again moves to its new ``key``."""
        self._count += 1
        self._token[ordinal] = self._count
        heapq.heappush(self._heap, (key, ordinal, self._count))
        if len(self._heap) > 2 * len(self._token) + 64:
            self._heap = [entry for entry in self._heap if self._token.get(entry[1]) == entry[2]]
            heapq.heapify(self._heap)

    def discard(self, ordinal: int) -> None:
        self._token.pop(ordinal, None)

    def peek(self) -> tuple[Any, int] | None:
        """Smallest ``(key, ordinal)``, or None when empty."""
        while self._heap:
            key, ordinal, token = self._heap[0]
            if self._token.get(ordinal) == token:
                return key, ordinal
            heapq.heappop(self._heap)
        return None

    def pop(self) -> tuple[Any, int] | None:
        """Removes and returns the smallest ``(key, ordinal)``, or None when empty."""
        top = self.peek()
        if top is not None:
            heapq.heappop(self._heap)
            del self._token[top[1]]
        return top
