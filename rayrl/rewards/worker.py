"""The scoring loop: lease groups that lack rewards, fetch their trajectories, score them, hand the records back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from rayrl.protocols import ReplayBuffer, RewardScorer, Store
from rayrl.scoring import Leased, Rewards, ScoringJob
from rayrl.types import RewardRecord, RewardStatus, Trajectory

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
        failure = lambda component, error: RewardRecord(component, RewardStatus.FAILED, error=error)
        self._job = ScoringJob(name, component, buffer, store, dict.fromkeys(scorer.components), failure, fetch_s)
        self._scorer, self._max_groups = scorer, max_groups
        self._stopping = threading.Event()

    def run(self) -> None:
        """Scores group after group until `stop`."""
        while not self._stopping.is_set():
            groups = self._job.lease(self._max_groups, _POLL_S)
            leased = time.monotonic()
            if groups:
                self._job.put(self._score(groups))
                self._job.busy_s += time.monotonic() - leased

    def stop(self) -> None:
        """Makes `run` return after the groups that it holds."""
        self._stopping.set()

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """Records for a caller instead of the buffer (evaluation)."""
        return self._scorer.score(trajectories)

    def stats(self) -> dict[str, Any]:
        """See `ScoringJob.stats`."""
        return self._job.stats()

    def _score(self, groups: Sequence[Leased]) -> Rewards:
        """Records of all groups; one call of the scorer for all of them."""
        records = iter(self._scorer.score([t for group in groups for t in group.trajectories]))
        return {group.ordinal: [next(records) for _ in group.trajectories] for group in groups}
