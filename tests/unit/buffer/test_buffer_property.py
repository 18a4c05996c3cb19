"""Long random interleavings of everything that can happen to a buffer: nothing is lost, doubled, too stale or held by two.

The world below keeps its own books from what the buffer *returns*; the buffer's state is only compared with them. Actions are
weighted so that groups get all the way to the learner between the accidents (unguided search hardly ever gets there).
"""

import json
import random
from collections import Counter

import pytest

from rayrl.buffer import snapshot as snapshots
from rayrl.types import OrdinalState

LEASE_S = 10.0
WORKERS, SCORERS = ("w0", "w1", "w2"), ("s0", "s1")
ENDED = (OrdinalState.TRAINED, OrdinalState.DROPPED)


class World:
    def __init__(self, make, seed: int) -> None:
        self.make, self.rng = make, random.Random(seed)
        self.bound = self.rng.choice([0, 1, 3])
        select = self.rng.choice(["oldest", "newest", "priority"])
        workers = self.rng.choice([0, len(WORKERS)])
        rules = make.rules(group_filter=lambda rewards, kept: "flat" if rewards.std() == 0 else None)
        attempts = self.rng.choice([2, 3])
        self.build = lambda: make.core(
            max_staleness=self.bound, select=select, max_bytes=4_000, max_attempts=attempts, num_workers=workers, rules=rules
        )
        self.core = self.build()
        self.now, self.step, self.admitted = 0.0, 0, 0
        self.prompt_leases: dict[int, tuple[str, float]] = {}
        self.score_leases: dict[int, tuple[str, float]] = {}
        self.version_at_lease: dict[int, int] = {}
        self.bytes_of: dict[int, int] = {}
        self.at_learner: dict[int, list[int]] = {}
        self.trained: list[int] = []
        self.happened: Counter[str] = Counter()

    # ---- what happens, and what must be true of each answer

    def admit(self) -> None:
        if self.core.outstanding()["live"] > 10:
            return
        count = self.rng.randint(1, 4)
        self.core.admit(self.make.tasks(*range(self.admitted, self.admitted + count)))
        self.admitted += count

    def lease(self) -> None:
        index = self.rng.randrange(3)
        for task in self.core.lease_prompts(WORKERS[index], index, self.rng.randint(1, 4), now=self.now):
            ordinal = task.prompt.ordinal
            holder = self.prompt_leases.get(ordinal)
            assert holder is None or holder[1] <= self.now, f"{ordinal} is leased while {holder} holds it"
            self.prompt_leases[ordinal] = (WORKERS[index], self.now + LEASE_S)
            self.version_at_lease[ordinal] = self.core.version

    def put(self) -> None:
        ordinal = self._pick(self.prompt_leases if self.rng.random() < 0.8 else self.version_at_lease)
        if ordinal is None:
            return
        worker = self.prompt_leases.get(ordinal, (self.rng.choice(WORKERS),))[0] if self.rng.random() < 0.8 else self.rng.choice(WORKERS)
        version, nbytes = self.rng.randint(self.version_at_lease[ordinal], self.core.version), self.rng.randint(1, 300)
        could = self.core.ledger.state(ordinal) in (OrdinalState.QUEUED, OrdinalState.IN_FLIGHT)
        finish = (self.rng.choice(["stop", "stop", "abort"]), "stop")
        [accepted] = self.core.put_groups(worker, [self.make.group(ordinal, version, nbytes=nbytes, finish=finish)])
        assert accepted == could
        if accepted:
            self.happened["accepted"] += 1
            self.prompt_leases.pop(ordinal, None)
            self.score_leases.pop(ordinal, None)  # of an earlier payload that was lost
            self.bytes_of[ordinal] = nbytes

    def fail(self) -> None:
        ordinal, worker = self._pick(self.prompt_leases), self.rng.choice(WORKERS)
        if ordinal is not None:
            self.core.fail_prompts(worker, [ordinal], "env")
            if self.prompt_leases[ordinal][0] == worker:
                del self.prompt_leases[ordinal]

    def lease_unscored(self) -> None:
        scorer = self.rng.choice(SCORERS)
        for info in self.core.lease_unscored(scorer, "verifiers", self.rng.randint(1, 4), now=self.now):
            holder = self.score_leases.get(info.ordinal)
            assert holder is None or holder[1] <= self.now, f"{info.ordinal} is scored by two"
            self.score_leases[info.ordinal] = (scorer, self.now + LEASE_S)

    def put_rewards(self) -> None:
        ordinal = self._pick(self.score_leases)
        if ordinal is None:
            return
        scorer = self.score_leases[ordinal][0] if self.rng.random() < 0.8 else self.rng.choice(SCORERS)
        values = self.rng.choice([(0.0, 1.0), (1.0, 0.0), (0.0, 2.0), (None, 1.0), (1.0, 1.0), (None, None)])
        self.core.put_rewards(scorer, {ordinal: self.make.records(*values)})
        if ordinal not in self.core.desk:
            del self.score_leases[ordinal]

    def sample(self) -> None:
        # Ahead: the batch of the next step, gathered while the learner works on this one; synchronous runs never do that.
        ahead = int(self.bound > 0 and self.rng.random() < 0.3)
        step, version, groups = self.step + ahead, self.core.version + ahead, self.rng.randint(1, 2)
        batch = self.core.select(step, version, groups)
        if batch is None:
            return
        if step in self.at_learner:
            assert batch.ordinals == self.at_learner[step], "the same step must get the same batch"
            return
        assert len(batch.groups) == groups and batch.version == version
        assert batch.ordinals == sorted(set(batch.ordinals))
        assert (batch.staleness() <= self.bound).all()
        assert all(g.kept.any() for g in batch.groups)
        assert not set(batch.ordinals) & set(self.trained)
        assert not set(batch.ordinals) & {o for held in self.at_learner.values() for o in held}, "two steps hold one ordinal"
        if self.bound == 0:
            waiting = self.core.outstanding()
            assert waiting["in_flight"] == waiting["unscored"] == 0 and (waiting["queued"] == 0 or self.core.full)
        self.at_learner[step] = batch.ordinals
        self.happened["sampled"] += 1

    def confirm(self) -> None:
        if self.at_learner:
            step = min(self.at_learner)
            ordinals = self.at_learner.pop(step)
            self.core.confirm_trained(step, ordinals)
            self.trained += ordinals
            self.step = max(self.step, step + 1)
            self.core.set_version(self.core.version + 1)

    def learner_fails(self) -> None:
        if self.at_learner:
            step = max(self.at_learner)
            self.core.return_batch(step)
            del self.at_learner[step]

    def lose_payload(self) -> None:
        if (ordinal := self._pick(self.bytes_of)) is not None:
            self.core.requeue_lost([ordinal])
            if self.core.ledger.state(ordinal) not in (OrdinalState.BUFFERED, OrdinalState.LEASED):
                self.score_leases.pop(ordinal, None)

    def kill(self) -> None:
        name = self.rng.choice(WORKERS + SCORERS)
        self.core.release_worker(name)
        for leases in (self.prompt_leases, self.score_leases):
            for ordinal in [o for o, (holder, _) in leases.items() if holder == name]:
                del leases[ordinal]

    def time_passes(self) -> None:
        self.now += self.rng.choice([0.5, 2.0, 11.0])
        self.core.expire(self.now)
        held = [o for o, (_, expires) in self.prompt_leases.items() if expires > self.now]
        wrong = [o for o in held if self.core.ledger.state(o) is OrdinalState.QUEUED]
        assert not wrong, f"leases of {wrong} ended before their time"

    def crash_and_restore(self) -> None:
        """The whole system dies: payloads, workers, leases are gone; the snapshot is what remains."""
        saved = json.loads(json.dumps(snapshots.take(self.core)))
        self.core = self.build()
        snapshots.restore(self.core, saved, self.make.tasks(*snapshots.pending_ordinals(saved)))
        for books in (self.prompt_leases, self.score_leases, self.version_at_lease, self.bytes_of, self.at_learner):
            books.clear()

    ACTIONS = {
        admit: 6, lease: 14, put: 24, fail: 2, lease_unscored: 14, put_rewards: 24, sample: 14, confirm: 7,
        learner_fails: 1, lose_payload: 1, kill: 1, time_passes: 3, crash_and_restore: 0.2,
    }  # fmt: skip

    # ---- what always holds

    def check(self) -> None:
        core = self.core
        states = Counter(core.ledger.state(o) for o in range(self.admitted))
        assert None not in states
        out = core.outstanding()
        assert (out["queued"], out["in_flight"], out["leased"]) == (states["queued"], states["in_flight"], states["leased"])
        assert out["unscored"] + out["ready"] == states["buffered"]
        assert out["live"] == self.admitted - states["trained"] - states["dropped"]
        assert sum(core.ledger.dropped_by.values()) == states["dropped"]
        assert sum(core.ledger.in_flight_at.values()) == states["in_flight"]
        assert len(set(self.trained)) == len(self.trained)
        assert sorted(self.trained) == list(core.ledger.trained)
        self.bytes_of = {o: n for o, n in self.bytes_of.items() if core.ledger.state(o) in ("buffered", "leased")}
        assert core.nbytes == sum(self.bytes_of.values())

    def run(self, actions: int) -> None:
        names, weights = list(self.ACTIONS), list(self.ACTIONS.values())
        for action in self.rng.choices(names, weights, k=actions):
            action(self)
            self.check()

    def finish(self) -> None:
        """Whatever happened before: with workers that work, every ordinal comes to its end."""
        core = self.core
        for step in list(self.at_learner):
            core.return_batch(step)
        for name in WORKERS + SCORERS:
            core.release_worker(name)
        for _ in range(20 * self.admitted + 20):
            if not core.ledger.num_live:
                break
            self.now += LEASE_S
            core.expire(self.now)
            for index, worker in enumerate(WORKERS):
                tasks = core.lease_prompts(worker, index, 3, now=self.now)
                core.put_groups(worker, [self.make.group(t.prompt.ordinal, core.version, nbytes=1) for t in tasks])
            infos = core.lease_unscored("s0", "verifiers", 99, now=self.now)
            core.put_rewards("s0", {i.ordinal: self.make.records(0.0, 1.0) for i in infos})
            self.step += 1
            if (batch := core.select(self.step, core.version, 1)) is not None:
                core.confirm_trained(self.step, batch.ordinals)
                core.set_version(core.version + 1)
        assert all(core.ledger.state(o) in ENDED for o in range(self.admitted)), core.outstanding()
        assert core.nbytes == 0 and not core._infos and not core._scored and not core._batches

    def _pick(self, books):
        return self.rng.choice(sorted(books)) if books else None


@pytest.mark.parametrize("seed", range(30))
def test_any_interleaving_loses_nothing_doubles_nothing_and_keeps_the_bounds(make, seed):
    world = World(make, seed)
    world.run(600)
    assert world.happened["accepted"] > 30, "the test must reach what it tests"
    world.finish()


def test_the_interleavings_reach_every_end(make):
    worlds = [World(make, seed) for seed in range(12)]
    for world in worlds:
        world.run(600)
    reasons = {reason for world in worlds for reason in world.core.ledger.dropped_by}
    assert reasons >= {"stale", "flat", "all_failed", "attempts"}
    assert sum(len(world.trained) for world in worlds) > 100
