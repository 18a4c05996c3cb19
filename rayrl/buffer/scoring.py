"""The scoring desk: which groups wait for which scoring job, and how reward records become one reward per sample.

A *job* is one asynchronous producer of reward records ("verifiers", a judge, a reward model); it may report several
*components*. Pure: no threads, no clock, no payloads.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rayrl.buffer.heap import OrdinalHeap
from rayrl.types import BoolArray, FinishReason, FloatArray, GroupInfo, RewardRecord, ScoredGroup

Records = Sequence[Sequence[RewardRecord]]
"""One list of records per sample of a group."""
Aggregate = Callable[[Mapping[str, FloatArray], Mapping[str, float]], FloatArray]
"""``aggregate({component: float32[m]}, weights) -> float32[m]``, called with the m scored samples of a group, no NaN (but see ``gaps``)."""
GroupFilter = Callable[[FloatArray, BoolArray], str | None]
"""``group_filter(rewards float32[n], kept bool[n])`` -> the reason to drop the group, or None."""


@dataclass(frozen=True)
class RewardRules:
    """How records become rewards. A failed score is never a number: the sample is masked, or takes ``fallback_value`` as its reward."""

    weights: Mapping[str, float]
    """Weight per component; each of these must have a record for each sample, a missing one counts as failed. Components without
    a weight are only measured: they reach neither ``aggregate`` nor ``kept``."""
    aggregate: Aggregate
    on_failure: str = "drop"
    """drop: ``kept`` is False. fallback: the sample's reward is ``fallback_value``. rescore: as drop for what failed for good; what is
    only late may come later, so no batch waits for a group that is not scored yet."""
    fallback_value: float = 0.0
    group_filter: GroupFilter | None = None
    gaps: bool = False
    """``aggregate`` takes NaN where a component failed: a sample counts as failed only when none of its components has a score."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("drop", "fallback", "rescore"):
            raise ValueError(f"rewards.on_failure is {self.on_failure!r}, expected drop, fallback or rescore")

    def apply(self, info: GroupInfo, records: Records) -> tuple[ScoredGroup, str | None, Counter[str]]:
        """The scored group, the reason to drop it (or None), and failed scores per component.

        ``components`` hold NaN where a score failed; ``rewards`` hold 0 where ``kept`` is False, which nobody may read as a reward.
        """
        n = len(info.lengths)
        names = sorted(set(self.weights) | {r.component for sample in records for r in sample})
        components = {name: np.full(n, np.nan, dtype=np.float32) for name in names}
        steps: dict[str, list[tuple[float, ...]]] = {}
        for i, sample in enumerate(records):
            for record in sample:
                if record.value is not None:
                    components[record.component][i] = record.value
                if record.step_values is not None:
                    steps.setdefault(record.component, [()] * n)[i] = record.step_values
        failures = Counter({name: int(np.isnan(v).sum()) for name, v in components.items() if np.isnan(v).any()})

        weighted = {name: components[name] for name in self.weights}
        failed = np.all if self.gaps else np.any
        scored = ~failed([np.isnan(v) for v in weighted.values()], axis=0) if weighted else np.zeros(n, dtype=bool)
        rewards = np.zeros(n, dtype=np.float32)
        if scored.any():
            rewards[scored] = self.aggregate({name: v[scored] for name, v in weighted.items()}, self.weights)
        scored &= np.isfinite(rewards)
        kept = np.array([reason != FinishReason.ABORT for reason in info.finish_reasons] or [True] * n)
        if self.on_failure == "fallback":
            rewards = np.where(scored, rewards, np.float32(self.fallback_value))
        else:
            kept &= scored
        rewards = np.where(kept, rewards, np.float32(0.0))

        group = ScoredGroup(info, components, rewards, kept, {name: tuple(values) for name, values in steps.items()})
        if not kept.any():
            return group, "all_failed", failures
        return group, self.group_filter(rewards, kept) if self.group_filter else None, failures


def revised(records: Records, newer: Records) -> Records:
    """``newer`` in place of all records of its components. Raises `ValueError` when the number of lists is not the number of samples."""
    if len(newer) != len(records):
        raise ValueError(f"{len(newer)} lists of revised records for {len(records)} samples")
    names = {record.component for sample in newer for record in sample}
    return [[*(r for r in old if r.component not in names), *new] for old, new in zip(records, newer, strict=True)]


@dataclass(slots=True)
class _Waiting:
    info: GroupInfo
    records: list[list[RewardRecord]]
    pending: set[str]
    scorer: dict[str, str] = field(default_factory=dict)
    """Present lease holder per job."""
    lease: dict[str, int] = field(default_factory=dict)
    leases: Counter[str] = field(default_factory=Counter)
    asked: set[tuple[str, str]] = field(default_factory=set)
    """(job, scorer) that ever leased this group: only they may answer."""


class ScoringDesk:
    """Groups that wait for reward records, with one exclusive lease per (group, job). Lowest ordinals are leased first.

    The first answer of a job wins; later ones are ignored. A group whose job was leased ``max_attempts`` times without an
    answer is given up: it would take every scorer down with it.
    """

    def __init__(self, jobs: Sequence[str], *, lease_s: float, max_attempts: int) -> None:
        self.jobs = tuple(jobs)
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self._groups: dict[int, _Waiting] = {}
        self._queues = {job: OrdinalHeap() for job in self.jobs}
        self._expiry: list[tuple[float, int, str, int]] = []
        self._leases = 0
        self._held: dict[str, set[tuple[int, str]]] = {}
        self._job_of: dict[str, str] = {}
        self._at: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._groups

    @property
    def held(self) -> dict[str, list[int]]:
        """Ordinals under a scoring lease, ascending, by scorer."""
        return {scorer: sorted(ordinal for ordinal, _ in leases) for scorer, leases in self._held.items()}

    def waiting(self) -> dict[str, int]:
        """Groups per job that nobody scores at present."""
        return {job: len(queue) for job, queue in self._queues.items()}

    def at_version(self, oldest_version: int) -> int:
        """Waiting groups whose oldest weight version is this one."""
        return len(self._at.get(oldest_version, ()))

    def older_than(self, version: int) -> list[int]:
        """Waiting ordinals whose oldest weight version is below ``version``, ascending."""
        return sorted(o for v, ordinals in self._at.items() if v < version for o in ordinals)

    def add(self, info: GroupInfo, records: Records, answered: Collection[str] = ()) -> None:
        """``records`` are those that came with the group (an environment's own reward), and those of jobs that ``answered`` in an
        earlier life of it; may hold empty lists."""
        pending = set(self.jobs).difference(answered)
        self._groups[info.ordinal] = _Waiting(info, [list(r) for r in records], pending)
        self._at.setdefault(info.oldest_version, set()).add(info.ordinal)
        for job in pending:
            self._queues[job].push(0, info.ordinal)

    def records(self, ordinal: int) -> Records:
        """What the jobs answered so far; empty lists where nothing is known."""
        return self._groups[ordinal].records if ordinal in self._groups else ()

    def answered(self, ordinal: int) -> frozenset[str]:
        """The jobs that a waiting group waits for no longer."""
        return frozenset(self.jobs) - self._groups[ordinal].pending

    def remove(self, ordinal: int) -> None:
        """Forgets a group and its leases."""
        group = self._groups.pop(ordinal)
        at = self._at[group.info.oldest_version]
        at.discard(ordinal)
        if not at:
            del self._at[group.info.oldest_version]
        for job in group.pending:
            self._queues[job].discard(ordinal)
            self._end_lease(ordinal, group, job)

    def lease(self, scorer: str, job: str, count: int, *, now: float) -> list[GroupInfo]:
        """Raises `ValueError` for an unknown job, or a scorer that served another job before (its answers would be ambiguous)."""
        if job not in self._queues:
            raise ValueError(f"scoring job {job!r} is not one of this buffer's jobs {list(self.jobs)}")
        if self._job_of.setdefault(scorer, job) != job:
            raise ValueError(f"scorer {scorer!r} serves job {self._job_of[scorer]!r} and asks for {job!r}: use one name per job")
        leased: list[GroupInfo] = []
        queue = self._queues[job]
        while len(leased) < count and (top := queue.pop()) is not None:
            ordinal = top[1]
            group = self._groups[ordinal]
            self._leases += 1
            group.scorer[job], group.lease[job] = scorer, self._leases
            group.leases[job] += 1
            group.asked.add((job, scorer))
            self._held.setdefault(scorer, set()).add((ordinal, job))
            heapq.heappush(self._expiry, (now + self.lease_s, ordinal, job, self._leases))
            leased.append(group.info)
        return leased

    def answer(self, scorer: str, ordinal: int, records: Records) -> tuple[GroupInfo, Records] | None:
        """Takes one job's records. Returns the group with all its records when this was the last job, which ends its wait; else None.

        Ignored: groups that are gone, jobs that are answered, scorers that never leased this group.
        Raises `ValueError` when the number of lists is not the number of samples.
        """
        group, job = self._groups.get(ordinal), self._job_of.get(scorer)
        if group is None or job not in group.pending or (job, scorer) not in group.asked:
            return None
        if len(records) != len(group.records):
            raise ValueError(f"scorer {scorer!r} sent {len(records)} lists of records for the {len(group.records)} samples of {ordinal}")
        combined = [[*old, *new] for old, new in zip(group.records, records, strict=True)]
        if group.pending == {job}:
            return group.info, combined
        group.records = combined
        group.pending.discard(job)
        self._queues[job].discard(ordinal)
        self._end_lease(ordinal, group, job)
        return None

    def expire(self, now: float) -> list[int]:
        """Takes back the leases that ran out by ``now``; returns the ordinals to give up."""
        given_up = []
        while self._expiry and self._expiry[0][0] <= now:
            _, ordinal, job, lease = heapq.heappop(self._expiry)
            if self._is_current(ordinal, job, lease) and self._take_back(ordinal, job):
                given_up.append(ordinal)
        return given_up

    def next_expiry(self) -> float | None:
        while self._expiry and not self._is_current(*self._expiry[0][1:]):
            heapq.heappop(self._expiry)
        return self._expiry[0][0] if self._expiry else None

    def release(self, scorer: str) -> list[int]:
        """The scorer is gone: its leases are free again; returns the ordinals to give up."""
        self._job_of.pop(scorer, None)
        return [ordinal for ordinal, job in sorted(self._held.get(scorer, ())) if self._take_back(ordinal, job)]

    def _is_current(self, ordinal: int, job: str, lease: int) -> bool:
        group = self._groups.get(ordinal)
        return group is not None and group.lease.get(job) == lease

    def _end_lease(self, ordinal: int, group: _Waiting, job: str) -> None:
        group.lease.pop(job, None)
        scorer = group.scorer.pop(job, None)
        if scorer is not None:
            held = self._held[scorer]
            held.discard((ordinal, job))
            if not held:
                del self._held[scorer]

    def _take_back(self, ordinal: int, job: str) -> bool:
        group = self._groups[ordinal]
        self._end_lease(ordinal, group, job)
        if group.leases[job] >= self.max_attempts:
            return True
        self._queues[job].push(0, ordinal)
        return False
