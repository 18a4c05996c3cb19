"""The scoring loop: lease groups that lack rewards, fetch their trajectories, score them, hand the records back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rayrl.data import arrow
from rayrl.errors import RayrlError
from rayrl.protocols import ReplayBuffer, RewardScorer, Store
from rayrl.telemetry.process import resident_bytes
from rayrl.types import GroupInfo, RewardRecord, RewardStatus, Trajectory

_POLL_S = 1.0


class RewardWorker:
    """``run`` works until ``stop``, both callable from different threads. ``component`` names the scoring job in the buffer.

    A group whose payload cannot be read gets failed records. What a scorer or the buffer raises ends ``run``: the leases run
    out and another worker takes over.
    """

    def __init__(
        self,
        name: str,
        buffer: ReplayBuffer,
        store: Store,
        scorer: RewardScorer,
        component: str = "verifiers",
        *,
        max_groups: int = 16,
        fetch_s: float = 60.0,
    ) -> None:
        self._name, self._component = name, component
        self._buffer, self._store, self._scorer = buffer, store, scorer
        self._max_groups, self._fetch_s = max_groups, fetch_s
        self._stopping = threading.Event()
        self._busy_s = self._waited_s = 0.0
        self._groups = self._scored = 0
        self._failed: Counter[str] = Counter()

    def run(self) -> None:
        """Scores group after group until `stop`."""
        while not self._stopping.is_set():
            asked = time.monotonic()
            groups = self._buffer.lease_unscored(self._name, self._component, self._max_groups, _POLL_S)
            leased = time.monotonic()
            self._waited_s += leased - asked
            if groups:
                self._buffer.put_rewards(self._name, self._score(groups))
                self._busy_s += time.monotonic() - leased

    def stop(self) -> None:
        """Makes `run` return after the groups that it holds."""
        self._stopping.set()

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """Records for a caller instead of the buffer (evaluation)."""
        return self._scorer.score(trajectories)

    def stats(self) -> dict[str, Any]:
        """Seconds ``busy_s`` and ``waited_s``; ``groups``; records ``scored`` and ``failed``, ``failed_by_reason``; and ``rss_bytes``."""
        return {
            "busy_s": self._busy_s,
            "waited_s": self._waited_s,
            "groups": self._groups,
            "scored": self._scored,
            "failed": self._failed.total(),
            "failed_by_reason": dict(self._failed),
            "rss_bytes": float(resident_bytes()),
        }

    def _score(self, groups: Sequence[GroupInfo]) -> dict[int, list[list[RewardRecord]]]:
        """Records of all groups, by ordinal; one call of the scorer for all of them."""
        rewards: dict[int, list[list[RewardRecord]]] = {}
        trajectories, counts = [], {}
        for group in groups:
            try:
                members = arrow.decode(self._store.get(group.payload, timeout_s=self._fetch_s))
            except RayrlError as e:  # the object died with its owner, or did not come in time
                rewards[group.ordinal] = [self._lost(str(e)) for _ in group.lengths]
                continue
            trajectories += members
            counts[group.ordinal] = len(members)
        records = iter(self._scorer.score(trajectories))
        rewards |= {ordinal: [next(records) for _ in range(count)] for ordinal, count in counts.items()}
        self._count(rewards)
        return rewards

    def _lost(self, error: str) -> list[RewardRecord]:
        return [RewardRecord(name, RewardStatus.FAILED, error=f"payload lost: {error}") for name in self._scorer.components]

    def _count(self, rewards: dict[int, list[list[RewardRecord]]]) -> None:
        self._groups += len(rewards)
        for record in (r for samples in rewards.values() for sample in samples for r in sample):
            if record.status is RewardStatus.SCORED:
                self._scored += 1
            else:
                self._failed[record.error.partition(":")[0]] += 1
