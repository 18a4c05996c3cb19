"""Driver, engines, scorers and learner of one run in simulated time.

The schedule is that of `driver.loop`, the pacing that of `run.Run.admit`: at most (max_staleness + 1) × groups_per_step groups are
admitted and not yet trained, and a batch waits for a group that would be too stale for the next. A synchronous run alternates; an
asynchronous one gathers the next batch while the learner works, hands it over before it publishes, and lets running sequences
continue under new weights.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from rayrl.simulation.engine import Engine, Group
from rayrl.simulation.scenario import Outcome, Scenario

Process = Generator[simpy.Event, Any, Any]
_HOUR_S = 3600.0


def simulate(scenario: Scenario, steps: int = 40, *, warm_up: int = 8, seed: int = 0) -> Outcome:
    """Runs ``steps`` learner steps; the first ``warm_up`` do not count (an asynchronous run has to fill its pipeline)."""
    warm_up = min(warm_up, steps - 1)
    world = _World(scenario, steps, seed)
    world.env.run(until=world.env.process(world.drive()))
    return world.outcome(warm_up)


class _World:
    def __init__(self, scenario: Scenario, steps: int, seed: int) -> None:
        self.scenario, self.target = scenario, steps
        self.env = simpy.Environment()
        self._random = np.random.default_rng(seed)
        self._engines = [Engine(self.env, scenario, self._done) for _ in range(scenario.engines)]
        self._queue: deque[Group] = deque()
        self._ready: list[tuple[int, int, Group]] = []
        """Heap by version, then order: the oldest are trained first."""
        self._flying: Counter[int] = Counter()
        """Groups that engines or scorers hold, by the version that they were leased at."""
        self._admitted = 0
        self._changed = self.env.event()
        self._live = self._step = self._version = self._failures = 0
        self._learner_free = self.env.event().succeed()
        self._learned_s: list[float] = []
        self._ends: list[float] = []
        self._tokens: list[int] = []
        self._staleness: list[list[int]] = []
        self._busy: list[float] = []
        for engine in self._engines if scenario.failures_per_hour > 0 else ():
            self.env.process(self._fail_again_and_again(engine))

    # ---- the driver -----------------------------------------------------------------------------------------------------------

    def drive(self) -> Process:
        """`driver.loop`."""
        working = self._learn((yield from self._collect(None)))
        while working:
            done, weights = working
            ahead = (yield from self._collect(done)) if self._wants_ahead() else None
            yield done
            following = self._learn(ahead) if ahead else None
            yield weights
            yield from self._publish()
            self._confirm()
            yield self.env.timeout(self.scenario.driver_s)
            if following or self._step < self.target:
                working = following or self._learn((yield from self._collect(None)))
            else:
                working = None

    def _wants_ahead(self) -> bool:
        return self.scenario.max_staleness > 0 and self._step + 1 < self.target

    def _collect(self, beside: simpy.Event | None) -> Process:
        """The groups of a batch; None when the learner finished first."""
        self._admit()
        last_chance = len(self._tokens) - self.scenario.max_staleness  # in versions, of the batch that is gathered
        while len(self._ready) < self.scenario.groups_per_step or min(self._flying, default=last_chance + 1) <= last_chance:
            if beside is not None and beside.processed:
                return None
            yield self._changed | beside if beside is not None else self._changed
        return [heapq.heappop(self._ready)[2] for _ in range(self.scenario.groups_per_step)]

    def _admit(self) -> None:
        groups = self.scenario.groups_per_step
        room = min(self.scenario.max_staleness + 1, self.target - self._step) * groups - self._live
        if room <= 0 or (self.scenario.max_staleness == 0 and self._live):
            return
        for _ in range(room):
            sampled = self.scenario.lengths[self._random.integers(len(self.scenario.lengths))]
            self._queue.append(Group(list(sampled), self._admitted))
            self._admitted += 1
        self._live += room
        self._lease()

    def _publish(self) -> Process:
        scenario = self.scenario
        yield self.env.timeout(max(0.0, scenario.publish_s - scenario.pause_s))
        self._version += 1
        yield self.env.all_of([self.env.process(engine.stand_still(scenario.pause_s)) for engine in self._engines])
        for engine in self._engines:
            engine.version = self._version

    def _confirm(self) -> None:
        self._live -= self.scenario.groups_per_step
        self._step += 1
        self._ends.append(self.env.now)
        self._busy.append(sum(engine.busy_s for engine in self._engines))

    # ---- learner, engines, scorers ------------------------------------------------------------------------------------------------

    def _learn(self, batch: list[Group]) -> tuple[simpy.Event, simpy.Event]:
        """Events: the step is done, its weights are handed out."""
        tokens = sum(sum(group.lengths) for group in batch)
        self._staleness.append([len(self._tokens) - group.version for group in batch])  # batch number n is trained at version n
        number = len(self._tokens)
        self._tokens.append(tokens)
        done, weights, before = self.env.event(), self.env.event(), self._learner_free
        self._learner_free = weights

        def work() -> Process:
            yield before
            slower, engines_slower = self.scenario.paces[number % len(self.scenario.paces)] if self.scenario.paces else (1.0, 1.0)
            for engine in self._engines:
                engine.keep_pace(engines_slower)
            seconds = slower * (self.scenario.learn_s + self.scenario.learn_token_s * tokens)
            yield self.env.timeout(seconds)
            done.succeed()
            yield self.env.timeout(self.scenario.export_s)
            self._learned_s.append(seconds + self.scenario.export_s)
            weights.succeed()

        self.env.process(work())
        return done, weights

    def _lease(self) -> None:
        """Gives prompts to the engine with the least to do, as long as one has room."""
        while self._queue:
            engine = min((e for e in self._engines if not e.standing or len(self._engines) == 1), key=lambda e: e.load, default=None)
            if engine is None or (self.scenario.max_staleness > 0 and engine.load >= self.scenario.max_running):
                return
            group = self._queue.popleft()
            engine.take(group)
            self._flying[group.leased] += 1

    def _done(self, group: Group) -> None:
        self.env.process(self._score(group))
        self._lease()

    def _score(self, group: Group) -> Process:
        yield self.env.timeout(self.scenario.score_s)
        self._landed(group)
        heapq.heappush(self._ready, (group.version, group.order, group))
        changed, self._changed = self._changed, self.env.event()
        changed.succeed()

    def _landed(self, group: Group) -> None:
        self._flying[group.leased] -= 1
        if not self._flying[group.leased]:
            del self._flying[group.leased]

    def _fail_again_and_again(self, engine: Engine) -> Process:
        while True:
            yield self.env.timeout(self._random.exponential(_HOUR_S / self.scenario.failures_per_hour))
            self._failures += 1
            for group in engine.fail():
                self._landed(group)
                self._queue.appendleft(group)
            restart = self.env.process(engine.stand_still(self.scenario.restart_s))
            self._lease()
            yield restart
            engine.version = self._version
            self._lease()

    # ---- what came out ----------------------------------------------------------------------------------------------------------

    def outcome(self, warm_up: int) -> Outcome:
        elapsed = float(self._ends[-1] - (self._ends[warm_up - 1] if warm_up else 0.0))
        steps = len(self._ends) - warm_up
        busy = self._busy[-1] - (self._busy[warm_up - 1] if warm_up else 0.0)
        staleness = [s for batch in self._staleness[warm_up : len(self._ends)] for s in batch]
        return Outcome(
            step_s=elapsed / steps,
            tokens_per_s=float(sum(self._tokens[warm_up : len(self._ends)]) / elapsed),
            learner_idle=max(0.0, 1 - float(sum(self._learned_s[warm_up : len(self._ends)])) / elapsed),
            engine_idle=max(0.0, 1 - float(busy) / (elapsed * self.scenario.engines)),
            staleness_mean=float(np.mean(staleness)),
            staleness_max=int(max(staleness)),
            failures=self._failures,
        )
