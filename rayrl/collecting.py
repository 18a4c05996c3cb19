"""How the driver comes by the batch of a step: it admits what pacing allows, and waits until the buffer has enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rayrl.config.schema import Config
from rayrl.deadlines import OPEN, Deadline
from rayrl.errors import NothingToLearn, RoleDied
from rayrl.runtime.edges import ordinals
from rayrl.runtime.pool import Pool, gather
from rayrl.types import GroupInfo, LearnBatch, PromptTask

if TYPE_CHECKING:
    from rayrl.assembly import Roles
    from rayrl.workload import Workload

_POLL_S = 0.25
"""How long the driver stays in one wait before it looks after its workers."""
_LONG_S = 4.0
"""A wait without any progress that is worth asking who holds what; asked again as often."""


@dataclass(frozen=True)
class Collected:
    """The batch of a step, and the reference's log-probs of it under way: they are computed while the learner still has the one before."""

    batch: LearnBatch
    waited_s: float
    """Seconds the driver waited for it."""
    reference: ReferenceCall | None
    """None without a reference model."""

    def reference_logprobs(self, timeout_s: float) -> list[Any] | None:
        """One payload per group; None without a reference model."""
        return self.reference.result(timeout_s) if self.reference else None


class ReferenceCall:
    """The reference's log-probs of a batch, under way: each actor has every k-th group. Actors that die are replaced and asked again."""

    def __init__(self, actors: Pool, groups: Sequence[GroupInfo]) -> None:
        self._actors, self._groups = actors, groups
        self._ask()

    def _ask(self) -> None:
        self._actors.wait_for_one()
        handles = self._actors.handles
        self._parts = [actor.submit("logprobs", self._groups[i :: len(handles)]) for i, actor in enumerate(handles)]

    def result(self, timeout_s: float) -> list[Any]:
        """One payload per group. Raises `RoleFailed` when an actor keeps dying."""
        while True:
            try:
                found = gather(self._parts, timeout_s)
            except RoleDied:
                self._actors.settle(timeout_s)
                self._ask()
                continue
            payloads: list[Any] = [None] * len(self._groups)
            for i, part in enumerate(found):
                payloads[i :: len(found)] = part
            return payloads


class Collector:
    def __init__(self, config: Config, roles: Roles, work: Workload, held_back: Callable[[], bool] = lambda: False) -> None:
        """``held_back``: memory runs short, see `pressure.Pressure`."""
        self._config, self._roles, self._work, self._held_back = config, roles, work, held_back
        self._synchronous = config.buffer.max_staleness == 0
        self._admitted = 0
        """Prompts admitted since the last batch was collected."""
        self._told_at = self._look_at = 0.0
        self._outstanding: Mapping[str, int] | None = None

    def confirmed(self, outstanding: Mapping[str, int]) -> None:
        """How things stand in the buffer since the last step counts: the next batch begins with that."""
        self._outstanding = outstanding

    def collect(self, step: int, version: int, *, trained: int, until: Callable[[], bool] = lambda: False) -> Collected | None:
        """The batch of ``step`` at weight version ``version``, when ``trained`` steps are done; None once ``until`` says so.

        Raises `DeadlineExceeded` when nothing at all happens for too long, and `NothingToLearn`.
        """
        buffer, size, seen, limits = self._roles.buffer, self._config.batch.groups_per_step, -1, self._config.deadlines
        started, outstanding = time.monotonic(), self._outstanding or buffer.outstanding()
        self._outstanding = None  # old after this
        with OPEN.waiting(Deadline("generate_s", OPEN.me, "the rollout workers", limits.generate_s)) as wait:
            while True:
                if time.monotonic() >= self._look_at:  # also when batches are always ready: somebody may have come, or want to leave
                    self._roles.check()
                    self._look_at = time.monotonic() + _POLL_S
                admitted = self._admitted
                tasks = self._due(outstanding, self._config.run.steps - trained)
                if self._admitted == admitted and self._refill_left() <= 0 and not _under_way(outstanding):
                    size = self._shrunk(step, outstanding["ready"])
                batch, outstanding, progress = buffer.gather(tasks, step, version, size, wait_s=_POLL_S)
                if batch is not None:
                    self._admitted = 0
                    return Collected(batch, time.monotonic() - started, self._ask_reference(batch))
                if until():
                    return None
                if progress != seen:
                    seen = progress
                    wait.restart()
                self._tell(wait, outstanding)
                wait.check()

    def _due(self, outstanding: Mapping[str, int], steps_left: int) -> list[PromptTask]:
        """As many prompts to admit as pacing allows; replacements for filtered groups up to ``buffer.max_refill`` batches a step.

        Synchronous runs admit in rounds, each when nothing is under way any more: so batch composition in the engine, and with
        it every sampled token, does not depend on timing.
        """
        groups = self._config.batch.groups_per_step
        ahead = min(self._config.buffer.max_staleness + 1, steps_left)  # nothing is generated that no step will train on
        if ahead > 1 and self._held_back():
            ahead = 1
        room = min(ahead * groups - outstanding["live"], self._refill_left())
        if room <= 0 or (self._synchronous and _under_way(outstanding)):
            return []
        if self._synchronous:
            seed, limit = seed_of(self._config.run.seed, self._work.position), self._config.deadlines.call_s
            self._roles.rollout.call("reseed", seed, timeout_s=limit)
        again = self._roles.buffer.unpark(room) if outstanding["parked"] else 0
        self._admitted += room
        return self._work.take(room - again)

    def _ask_reference(self, batch: LearnBatch) -> ReferenceCall | None:
        return ReferenceCall(self._roles.reference, [g.info for g in batch.groups]) if self._roles.reference.size else None

    def _tell(self, wait: Deadline, outstanding: Mapping[str, int]) -> None:
        """For whom the driver waits now; once it is long, with which ordinals."""
        limits, scoring = self._config.deadlines, bool(outstanding["unscored"] and not outstanding["in_flight"])
        wait.name, wait.limit_s = ("score_s", limits.score_s) if scoring else ("generate_s", limits.generate_s)
        if wait.elapsed() < _LONG_S:
            wait.waited_for, wait.about, self._told_at = "the rewards" if scoring else "the rollout workers", "", 0.0
        elif time.monotonic() - self._told_at > _LONG_S:
            self._told_at = time.monotonic()
            held = self._roles.buffer.holders()
            wait.waited_for = "; ".join(f"{who} ({ordinals(held[who])})" for who in sorted(held)) or "anybody to take a prompt"

    def _refill_left(self) -> int:
        return int(self._config.buffer.max_refill * self._config.batch.groups_per_step) - self._admitted

    def _shrunk(self, step: int, ready: int) -> int:
        """Size of a smaller batch, when so many groups were filtered out that a full one is not to be had."""
        full, unit = self._config.batch.groups_per_step, self._config.learner.ranks * self._config.learner.minibatches
        if ready < unit:
            raise NothingToLearn(
                f"step {step}: of {self._admitted} prompts only {ready} gave a group that teaches something",
                "the task is solved or hopeless at this sampling; raise buffer.max_refill, or set algorithm.filter=none",
            )
        return min(full, ready - ready % unit)


def _under_way(outstanding: Mapping[str, int]) -> int:
    """Groups that are not finished yet."""
    return outstanding["queued"] + outstanding["in_flight"] + outstanding["unscored"]


def seed_of(seed: int, position: int) -> int:
    """Seed of the engines' generators for the prompts from ``position`` on: a function of the run's seed alone, also after a resume."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
