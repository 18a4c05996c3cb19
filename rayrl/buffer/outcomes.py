"""What became of finished groups, kept until the archive asks: their reward records, and the groups that were dropped.

Bounded: an archive that never asks costs a fixed amount of memory. The payload references of dropped groups are held here, so the
object store keeps them for so long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rayrl.buffer.scoring import Records
from rayrl.types import DroppedGroup, FloatArray, GroupInfo, Outcomes


class OutcomeLog:
    """Not thread-safe."""

    def __init__(self, *, max_groups: int, max_dropped: int, max_dropped_bytes: int = 16 * 2**20) -> None:
        """``max_groups``: groups whose records are kept; ``max_dropped`` and ``max_dropped_bytes``: dropped groups between two questions.

        0 groups: nothing is kept.
        """
        self._max_groups, self._max_dropped, self._max_bytes = max_groups, max_dropped, max_dropped_bytes
        self._records: dict[int, Records] = {}
        self._dropped: deque[DroppedGroup] = deque()
        self._nbytes = self._forgotten = 0

    def scored(self, ordinal: int, records: Records) -> None:
        """A group got its last reward; beyond the bound the oldest group's records are forgotten."""
        if not self._max_groups:
            return
        self._records[ordinal] = records
        while len(self._records) > self._max_groups:
            del self._records[next(iter(self._records))]

    def forget(self, ordinal: int) -> None:
        """It will be generated again."""
        self._records.pop(ordinal, None)

    def dropped(self, info: GroupInfo, reason: str, records: Records, rewards: FloatArray | None = None) -> None:
        """``records``: those of a group that was not completely scored; otherwise what `scored` was told."""
        records = self._records.pop(info.ordinal, records)
        if not self._max_groups:
            return
        if len(self._dropped) >= self._max_dropped or self._nbytes + info.nbytes > self._max_bytes:
            self._forgotten += 1
            return
        self._dropped.append(DroppedGroup(info, reason, records, rewards))
        self._nbytes += info.nbytes

    def take(self, ordinals: Iterable[int]) -> Outcomes:
        """The records of these groups, and everything dropped since the last call; both are handed over, not kept."""
        records = {o: self._records.pop(o) for o in ordinals if o in self._records}
        outcomes = Outcomes(records, tuple(self._dropped), self._forgotten)
        self._dropped.clear()
        self._nbytes = self._forgotten = 0
        return outcomes
