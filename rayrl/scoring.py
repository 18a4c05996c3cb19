"""One worker's side of a scoring job of the buffer: groups come in with their trajectories, records go out and are counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayrl.data import arrow
from rayrl.errors import RayrlError
from rayrl.protocols import ReplayBuffer, Store
from rayrl.telemetry.process import resident_bytes
from rayrl.types import RewardRecord, RewardStatus, Trajectory

Rewards = dict[int, list[list[RewardRecord]]]
"""Records by component, by sample, by ordinal."""


@dataclass(eq=False)
class Leased:
    """A group that this worker has to score."""

    ordinal: int
    trajectories: list[Trajectory]
    since: float = field(default_factory=time.monotonic)


class ScoringJob:
    """``failure(component, error)`` makes the record of a score that failed; ``components`` are those of the job."""

    def __init__(
        self,
        worker: str,
        job: str,
        buffer: ReplayBuffer,
        store: Store,
        components: Mapping[str, Any],
        failure: Callable[[str, str], RewardRecord],
        fetch_s: float,
    ) -> None:
        self._worker, self._job, self._buffer, self._store = worker, job, buffer, store
        self._components, self._failure, self._fetch_s = tuple(components), failure, fetch_s
        self.busy_s = self.waited_s = 0.0
        self.rescored = 0
        """Groups that were scored again before a batch took them."""
        self._groups = self._scored = 0
        self._failed: Counter[str] = Counter()

    def lease(self, count: int, wait_s: float) -> list[Leased]:
        """At most ``count`` groups. One whose payload cannot be read gets failed records at once."""
        found, lost = [], {}
        started = time.monotonic()
        groups = self._buffer.lease_unscored(self._worker, self._job, count, wait_s) if count else []
        self.waited_s += time.monotonic() - started
        for group in groups:
            try:
                found.append(Leased(group.ordinal, arrow.decode(self._store.get(group.payload, timeout_s=self._fetch_s))))
            except RayrlError as e:  # the object died with its owner, or did not come in time
                lost[group.ordinal] = [self.failures(f"payload lost: {e}") for _ in group.lengths]
        self.put(lost)
        return found

    def failures(self, error: str) -> list[RewardRecord]:
        """Of one sample. ``error``: ``reason: detail``."""
        return [self._failure(component, error) for component in self._components]

    def put(self, rewards: Rewards) -> None:
        """Hands records in; nothing for an empty mapping."""
        if not rewards:
            return
        self._buffer.put_rewards(self._worker, rewards)
        self._groups += len(rewards)
        for record in (r for samples in rewards.values() for sample in samples for r in sample):
            if record.status is RewardStatus.SCORED:
                self._scored += 1
            else:
                self._failed[record.error.partition(":")[0]] += 1

    def revise(self, score: Callable[[Sequence[Trajectory]], list[list[RewardRecord]]], groups: Sequence[Leased]) -> list[Leased]:
        """Scores again those of ``groups``, answered before, that no batch holds yet; returns them. The others need no score any more."""
        ready = set(self._buffer.still_ready([group.ordinal for group in groups]))
        waiting = [group for group in groups if group.ordinal in ready]
        if waiting:
            records = iter(score([t for group in waiting for t in group.trajectories]))
            revised = self._buffer.revise_rewards({g.ordinal: [next(records) for _ in g.trajectories] for g in waiting})
            self.rescored += len(revised)
        return waiting

    def stats(self) -> dict[str, Any]:
        """Seconds ``busy_s`` and ``waited_s``; ``groups``; records ``scored`` and ``failed``, ``failed_by_reason``; and ``rss_bytes``."""
        return {
            "busy_s": self.busy_s,
            "waited_s": self.waited_s,
            "groups": self._groups,
            "scored": self._scored,
            "failed": self._failed.total(),
            "failed_by_reason": dict(self._failed),
            "rss_bytes": float(resident_bytes()),
        }
