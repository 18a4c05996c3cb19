"""The ready set: scored groups in the order in which the learner gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayrl.buffer.heap import OrdinalHeap
from rayrl.types import ScoredGroup

Priority = Callable[[ScoredGroup], float]
"""Higher is sampled first."""


def reward_spread(group: ScoredGroup) -> float:
    """Standard deviation of the kept samples' rewards: the groups that carry the most advantage come first."""
    return float(group.rewards[group.kept].std())


class ReadySet:
    """Ready groups under one selection policy. `add`, `discard`, and each group that `take` or `evict` returns cost O(log n) amortised.

    Whatever the policy, groups that could not be used one version later come first: the policy chooses among those that can wait.
    """

    def __init__(self, policy: str = "oldest", priority: Priority = reward_spread) -> None:
        """``policy``: oldest (by oldest version, then ordinal), newest (the reverse) or priority (by ``priority``, then ordinal)."""
        if policy not in ("oldest", "newest", "priority"):
            raise ValueError(f"buffer.select is {policy!r}, expected oldest, newest or priority")
        self.policy = policy
        self._priority = priority
        self._by_policy = OrdinalHeap()
        self._by_age = OrdinalHeap()

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._by_age

    def add(self, group: ScoredGroup) -> None:
        key = self._key(group)
        self._by_policy.push(key, group.info.ordinal)
        self._by_age.push((group.info.oldest_version, key), group.info.ordinal)

    def discard(self, ordinal: int) -> None:
        self._by_policy.discard(ordinal)
        self._by_age.discard(ordinal)

    def evict(self, oldest_allowed: int) -> list[int]:
        """Removes and returns all groups whose oldest version is below ``oldest_allowed``."""
        evicted = []
        while (top := self._by_age.peek()) is not None and top[0][0] < oldest_allowed:
            evicted.append(top[1])
            self.discard(top[1])
        return evicted

    def take(self, count: int, last_chance: int) -> list[int]:
        """Removes and returns the first ``count`` groups; those of oldest version ≤ ``last_chance`` precede all others."""
        taken: list[int] = []
        while len(taken) < count and (oldest := self._by_age.peek()) and (preferred := self._by_policy.peek()):
            ordinal = oldest[1] if oldest[0][0] <= last_chance else preferred[1]
            taken.append(ordinal)
            self.discard(ordinal)
        return taken

    def _key(self, group: ScoredGroup) -> Any:
        if self.policy == "priority":
            return (-self._priority(group), group.info.ordinal)
        age = (group.info.oldest_version, group.info.ordinal)
        return age if self.policy == "oldest" else (-age[0], -age[1])
