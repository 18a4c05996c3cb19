"""The replay buffer without threads, clock or payloads: admit, lease, deliver, score, select, confirm.

Composition of the ordinal `Ledger`, the `ScoringDesk` and the `ReadySet`; ``now`` (seconds) is an argument of everything that
starts or ends a lease. Per-operation cost is O(log n) amortised, statistics included.

Staleness of a group is the learner's version minus the oldest version in its spans; no selected group exceeds ``max_staleness``.
A selection waits (returns nothing) while a group that would be too stale at the next version is still in flight or unscored,
so that it is part of this batch instead of being thrown away. With ``max_staleness`` 0 that is every admitted group: the
batch is then a function of the admitted prompts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rayrl.buffer.held import Held
from rayrl.buffer.ledger import Ledger
from rayrl.buffer.outcomes import OutcomeLog
from rayrl.buffer.ready import Priority, ReadySet, reward_spread
from rayrl.buffer.scoring import Records, RewardRules, ScoringDesk, revised
from rayrl.config.schema import BufferConfig
from rayrl.errors import ConfigError
from rayrl.types import GroupInfo, LearnBatch, OrdinalState, PromptTask, ScoredGroup


class BufferCore:
    """See the module docstring. Not thread-safe: `service.BufferService` holds the lock."""

    def __init__(
        self,
        config: BufferConfig,
        rules: RewardRules,
        *,
        jobs: Sequence[str] = ("verifiers",),
        num_workers: int = 0,
        priority: Priority = reward_spread,
        outcomes: OutcomeLog | None = None,
    ) -> None:
        """``jobs``: scoring jobs that must answer for every group; empty when the rewards come with the groups.
        ``outcomes``: where reward records and dropped groups are remembered for the archive; None remembers nothing.
        ``num_workers``: rollout workers; their shares are static when ``max_staleness`` is 0, see `Ledger`.
        """
        self.config = config
        self.rules = rules
        self.version = 0
        """Weight version that rollout workers hold (published and loaded)."""
        self.draining = False
        self.ledger = Ledger(lease_s=config.lease_s, max_attempts=config.max_attempts)
        self.set_num_workers(num_workers)
        self.desk = ScoringDesk(jobs, lease_s=config.lease_s, max_attempts=config.max_attempts)
        self.ready = ReadySet(config.select, priority)
        self.outcomes = outcomes or OutcomeLog(max_groups=0, max_dropped=0)
        self.nbytes = 0
        """Bytes of all payloads held: unscored, ready, and at the learner."""
        self._infos: dict[int, GroupInfo] = {}
        self._scored: dict[int, ScoredGroup] = {}
        self._records: dict[int, Records] = {}
        """What the rewards of scored groups were made of."""
        self._batches: dict[int, LearnBatch] = {}
        self._at_learner: dict[int, set[int]] = {}
        self.staleness: Counter[int] = Counter()
        """Groups trained, by staleness."""
        self.failed_scores: Counter[str] = Counter()
        self.refused = 0
        """Results that came second, or for finished ordinals."""
        self.times_full = 0
        """How often the buffer became full and stopped leasing prompts."""

    # ---- prompts

    def set_num_workers(self, num_workers: int) -> None:
        self.ledger.set_num_workers(num_workers if self.config.max_staleness == 0 else 0)

    def set_version(self, version: int) -> None:
        """Call when every engine has loaded ``version``: it is taken as a lower bound for what is leased from now on."""
        if version < self.version:
            raise ValueError(f"weight version goes back from {self.version} to {version}")
        self.version = version

    def admit(self, tasks: Iterable[PromptTask]) -> None:
        self.ledger.admit(tasks)

    @property
    def full(self) -> bool:
        return self.fullness >= 1.0

    @property
    def fullness(self) -> float:
        """Share of the bytes, or of the groups, that may be held."""
        return max(self.nbytes / self.config.max_bytes, len(self._infos) / self.config.max_groups)

    def lease_prompts(self, worker: str, index: int, max_groups: int, *, now: float) -> list[PromptTask]:
        """Nothing while the buffer is full (back-pressure) or draining."""
        if self.draining or self.full:
            return []
        return self.ledger.lease(worker, index, max_groups, now=now, version=self.version)

    def fail_prompts(self, worker: str, ordinals: Iterable[int], reason: str) -> None:
        """``worker`` cannot finish them: back to the queue, after ``max_attempts`` dropped for ``reason``. Only the holder may say so."""
        for ordinal in ordinals:
            self.ledger.fail(worker, ordinal, reason)

    def expire(self, now: float) -> bool:
        """Takes back all leases that ran out by ``now``; True when there were any."""
        expired = self.ledger.expire(now)
        given_up = self.desk.expire(now)
        for ordinal in given_up:
            self._drop(ordinal, "score_attempts")
        return bool(expired or given_up)

    def next_expiry(self) -> float | None:
        """When the next lease runs out; None while nothing is leased."""
        times = [t for t in (self.ledger.next_expiry(), self.desk.next_expiry()) if t is not None]
        return min(times, default=None)

    def release_worker(self, name: str) -> None:
        """A rollout worker or scorer died or left: what it held is leased to others."""
        self.ledger.release(name)
        for ordinal in self.desk.release(name):
            self._drop(ordinal, "score_attempts")

    # ---- groups

    def put_groups(self, worker: str, groups: Sequence[GroupInfo], records: Mapping[int, Records] | None = None) -> list[bool]:
        """Takes finished groups; False for each that is refused (another result won, or the ordinal is finished or unknown).

        ``records``: rewards that came with a group, by ordinal. Without scoring jobs they are all there is.
        """
        return [self._put(worker, info, (records or {}).get(info.ordinal)) for info in groups]

    def lease_unscored(self, scorer: str, job: str, max_groups: int, *, now: float) -> list[GroupInfo]:
        return self.desk.lease(scorer, job, max_groups, now=now)

    def put_rewards(self, scorer: str, rewards: Mapping[int, Records]) -> None:
        """One job's records for groups that ``scorer`` leased; groups that are gone or answered are ignored."""
        for ordinal, records in rewards.items():
            finished = self.desk.answer(scorer, ordinal, records)
            if finished is not None:
                self._finish_scoring(*finished)

    def revise_rewards(self, rewards: Mapping[int, Records]) -> list[int]:
        """Later records of components that have answered already, for groups that no batch holds yet; returns the ordinals revised.

        Rewards are computed anew, and a group may be dropped for them. Groups that wait for a score, are with the learner, or gone,
        are ignored. Raises `ValueError` when the number of lists is not the number of samples.
        """
        done = []
        for ordinal, newer in rewards.items():
            if ordinal not in self.ready:
                continue
            records = revised(self._records[ordinal], newer)
            verdict = self.rules.apply(self._infos[ordinal], records)
            self.ready.discard(ordinal)
            self._settle(records, *verdict)
            done.append(ordinal)
        return done

    def still_ready(self, ordinals: Iterable[int]) -> list[int]:
        """Those that are scored and in no batch yet."""
        return [ordinal for ordinal in ordinals if ordinal in self.ready]

    def still_unscored(self, ordinals: Iterable[int]) -> list[int]:
        """Those that still wait for a score."""
        return [ordinal for ordinal in ordinals if ordinal in self.desk]

    def requeue_lost(self, ordinals: Iterable[int]) -> None:
        """The payloads of these groups cannot be read any more (their node died): generate them again.

        Ordinals that are not buffered are ignored; a batch that loses a group at the learner must be returned first.
        """
        for ordinal in ordinals:
            if self.ledger.state(ordinal) is OrdinalState.BUFFERED:
                self._forget(ordinal)
                self.outcomes.forget(ordinal)
                self.ledger.requeue(ordinal)

    # ---- batches

    def select(self, step: int, version: int, groups_per_step: int) -> LearnBatch | None:
        """A batch leased to learner step ``step`` at weight version ``version``, or None when it must wait.

        The same step asked again gets the same batch. Over-stale groups are dropped as "stale".
        Raises `ConfigError` when waiting cannot help: the buffer is full with fewer groups than a step needs.
        """
        if step in self._batches:
            return self._batches[step]
        last_chance = version - self.config.max_staleness
        for ordinal in (*self.ready.evict(last_chance), *self.desk.older_than(last_chance)):
            self._drop(ordinal, "stale")
        if len(self.ready) < groups_per_step:
            self._check_not_stuck(groups_per_step)
            return None
        if self._at_risk(last_chance):
            return None
        ordinals = sorted(self.ready.take(groups_per_step, last_chance))
        for ordinal in ordinals:
            self.ledger.to_learner(ordinal)
        batch = LearnBatch(step, version, tuple(self._scored[o] for o in ordinals))
        self._batches[step] = batch
        self._at_learner[step] = set(ordinals)
        return batch

    def confirm_trained(self, step: int, ordinals: Sequence[int]) -> None:
        """Makes them terminal. Raises `ValueError`, before anything changes, for an ordinal that is not leased to ``step``."""
        leased = self._at_learner.get(step, set())
        if (strangers := sorted(set(ordinals) - leased)) or len(set(ordinals)) != len(ordinals):
            raise ValueError(f"step {step} confirms ordinals {strangers or sorted(ordinals)} that are not leased to it once each")
        for ordinal in ordinals:
            self.staleness[self._batches[step].version - self._infos[ordinal].oldest_version] += 1
            leased.discard(ordinal)
            self.ledger.finish_trained(ordinal)
            self._forget(ordinal)
        if not leased:
            del self._batches[step], self._at_learner[step]

    def relend(self, batch: LearnBatch) -> bool:
        """A batch that the learner got from a buffer that died: leased to it again. False when it counts as trained already."""
        if all(self.ledger.state(ordinal) is OrdinalState.TRAINED for ordinal in batch.ordinals):
            return False
        for group in batch.groups:
            ordinal = group.info.ordinal
            if ordinal in self._infos:  # another result of it has come in
                self._forget(ordinal)
            else:
                self.ledger.deliver(ordinal, "")
            self.ledger.to_learner(ordinal)
            self._infos[ordinal], self._scored[ordinal] = group.info, group
            self.nbytes += group.info.nbytes
        self._batches[batch.step], self._at_learner[batch.step] = batch, set(batch.ordinals)
        return True

    def return_batch(self, step: int) -> None:
        """The learner failed: what it had not confirmed is ready again. Unknown steps are ignored."""
        self._batches.pop(step, None)
        for ordinal in sorted(self._at_learner.pop(step, ())):
            self.ledger.from_learner(ordinal)
            self.ready.add(self._scored[ordinal])

    def rewind(self, tasks: Sequence[PromptTask], version: int) -> None:
        """The learner is back where ``tasks`` were not trained yet, as weight version ``version``: a new number, no version returns.

        Batches that it held are ready again, what would be too stale by now is generated again, and ``tasks`` wait for `unpark`: they
        may be many, and queued all at once they would grow too old before their turn.
        """
        for step in list(self._batches):
            self.return_batch(step)
        self.ledger.reopen(tasks)
        self.set_version(version)
        too_old = [*self.ready.evict(version - self.config.max_staleness), *self.desk.older_than(version - self.config.max_staleness)]
        for ordinal in too_old:
            self._forget(ordinal)
            self.ledger.requeue(ordinal)

    # ---- commits

    def held(self) -> list[Held]:
        """Every group that is generated and not finished, by ordinal, whether it is unscored, ready, or at the learner."""
        jobs = frozenset(self.desk.jobs)
        return [
            Held(info, self._records[ordinal], jobs)
            if ordinal in self._records
            else Held(info, self.desk.records(ordinal), self.desk.answered(ordinal))
            for ordinal, info in sorted(self._infos.items())
        ]

    def take_back(self, group: Held) -> None:
        """A held group of an earlier life, whose ordinal is queued: as it was. Its leases are free; what is not scored is scored."""
        info = group.info
        if not self.ledger.deliver(info.ordinal, ""):
            raise ValueError(f"ordinal {info.ordinal} is {self.ledger.state(info.ordinal)}: it cannot be taken back")
        self._infos[info.ordinal] = info
        self.nbytes += info.nbytes
        if not group.answered.issuperset(self.desk.jobs):
            self.desk.add(info, group.records, group.answered)
            return
        scored, reason, _ = self.rules.apply(info, group.records)  # its failed scores are counted already
        self.outcomes.scored(info.ordinal, group.records)
        if reason is not None:  # other rules than before
            self._drop(info.ordinal, reason)
        else:
            self._take_in(group.records, scored)

    # ---- what a person or the driver asks

    def outstanding(self) -> dict[str, int]:
        """Groups: ``live`` (admitted, not terminal) = queued + in_flight + unscored + ready + leased; ``parked`` wait outside."""
        counts = self.ledger.counts
        return {
            "live": self.ledger.num_live,
            "queued": counts[OrdinalState.QUEUED],
            "in_flight": counts[OrdinalState.IN_FLIGHT],
            "unscored": len(self.desk),
            "ready": len(self.ready),
            "leased": counts[OrdinalState.LEASED],
            "parked": self.ledger.num_parked,
        }

    def holders(self) -> dict[str, list[int]]:
        """Who works on which ordinals: rollout workers and scorers."""
        return self.ledger.held | self.desk.held

    def stats(self) -> dict[str, float]:
        """Counts by their metric names (see telemetry/metrics.py)."""
        staleness = sum(self.staleness.values())
        return (
            {f"buffer/{name}_groups": count for name, count in self.outstanding().items()}
            | {
                "buffer/trained_groups": len(self.ledger.trained),
                "buffer/dropped_groups": len(self.ledger.dropped),
                "buffer/held_bytes": self.nbytes,
                "buffer/full_bool": int(self.full),
                "buffer/times_full_count": self.times_full,
                "buffer/reissued_count": self.ledger.reissued,
                "buffer/results_refused_count": self.refused,
                "buffer/staleness_mean_versions": sum(s * n for s, n in self.staleness.items()) / max(1, staleness),
            }
            | {f"buffer/dropped/{reason}": count for reason, count in self.ledger.dropped_by.items()}
            | {f"buffer/staleness/{s}": count for s, count in self.staleness.items()}
            | {f"buffer/failed_scores/{component}": count for component, count in self.failed_scores.items()}
        )

    # ---- inside

    def _put(self, worker: str, info: GroupInfo, records: Records | None) -> bool:
        n = len(info.lengths)
        records = [[] for _ in range(n)] if records is None else records
        if len(records) != n:
            raise ValueError(f"group {info.ordinal} has {n} samples and comes with {len(records)} lists of reward records")
        # Before anything changes: a faulty aggregate must not leave a group that nobody owns.
        verdict = None if self.desk.jobs else self.rules.apply(info, records)
        if not self.ledger.deliver(info.ordinal, worker):
            self.refused += 1
            return False
        was_full = self.full
        self._infos[info.ordinal] = info
        self.nbytes += info.nbytes
        self.times_full += self.full and not was_full
        if verdict is None:
            self.desk.add(info, records)
        else:
            self._settle(records, *verdict)
        return True

    def _finish_scoring(self, info: GroupInfo, records: Records) -> None:
        verdict = self.rules.apply(info, records)
        self.desk.remove(info.ordinal)
        self._settle(records, *verdict)

    def _settle(self, records: Records, group: ScoredGroup, reason: str | None, failures: Counter[str]) -> None:
        self.failed_scores.update(failures)
        self.outcomes.scored(group.info.ordinal, records)
        if reason is not None:
            self._drop(group.info.ordinal, reason, group)
        else:
            self._take_in(records, group)

    def _take_in(self, records: Records, group: ScoredGroup) -> None:
        self._scored[group.info.ordinal], self._records[group.info.ordinal] = group, records
        self.ready.add(group)

    def _drop(self, ordinal: int, reason: str, scored: ScoredGroup | None = None) -> None:
        """``scored``: the group with its rewards, where it was dropped because of them."""
        scored = scored or self._scored.get(ordinal)
        rewards = scored.rewards if scored else None
        self.outcomes.dropped(self._infos[ordinal], reason, self.desk.records(ordinal), rewards)
        self._forget(ordinal)
        self.ledger.drop(ordinal, reason)

    def _forget(self, ordinal: int) -> None:
        """Lets go of the payload and of every queue that names the group."""
        self.nbytes -= self._infos.pop(ordinal).nbytes
        self._scored.pop(ordinal, None)
        self._records.pop(ordinal, None)
        self.ready.discard(ordinal)
        if ordinal in self.desk:
            self.desk.remove(ordinal)

    def _at_risk(self, last_chance: int) -> bool:
        """Does anything unfinished belong into this batch because the next version would be too late for it?"""
        if self.config.max_staleness == 0:
            counts = self.ledger.counts
            # What cannot be leased would be waited for in vain.
            queued = 0 if self.full or self.draining else counts[OrdinalState.QUEUED]
            return bool(queued or counts[OrdinalState.IN_FLIGHT] or len(self.desk))
        late = 0 if self.rules.on_failure == "rescore" else self.desk.at_version(last_chance)
        return bool(self.ledger.in_flight_at[last_chance] or late)

    def _check_not_stuck(self, groups_per_step: int) -> None:
        counts = self.ledger.counts
        if self.full and not (counts[OrdinalState.IN_FLIGHT] or counts[OrdinalState.LEASED] or len(self.desk)):
            mib = self.nbytes / 2**20
            raise ConfigError(
                f"the replay buffer is full with {len(self.ready)} ready groups ({mib:.1f} MiB), a step needs {groups_per_step}",
                f"raise buffer.max_bytes (now {self.config.max_bytes}) or buffer.max_groups (now {self.config.max_groups}), "
                "or lower batch.groups_per_step",
            )
