"""The replay buffer as the running system sees it: `BufferCore` behind one lock, with long polls.

Fulfils `protocols.ReplayBuffer`. Called from many threads at once; every wait has a limit and returns early when there is
something to return, when the service drains or closes. Time is this process's monotonic clock; expired leases are taken back
whenever anybody calls or waits. Payload references are held until their ordinal is terminal, then let go, which frees the
object store.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rayrl.buffer import held
from rayrl.buffer import snapshot as snapshots
from rayrl.buffer.core import BufferCore
from rayrl.buffer.journal import Journal
from rayrl.buffer.outcomes import OutcomeLog
from rayrl.buffer.ready import Priority, reward_spread
from rayrl.buffer.scoring import Aggregate, GroupFilter, Records, RewardRules
from rayrl.config.schema import BufferConfig
from rayrl.protocols import Store
from rayrl.telemetry.files import storage_errors
from rayrl.telemetry.process import resident_bytes
from rayrl.types import Gathering, GroupInfo, LearnBatch, Outcomes, PromptTask

T = TypeVar("T")
_CAPTURES = 4
"""Snapshots whose groups are remembered: one may be on its way to disk while others are taken."""
_FETCH_S = 60.0
"""Longest wait for one payload of another node."""


class BufferService:
    """See the module docstring. A worker that dies must be reported with `release_worker`, else its leases wait for `lease_s`."""

    def __init__(
        self,
        buffer: BufferConfig,
        *,
        weights: Mapping[str, float],
        aggregate: Aggregate,
        group_filter: GroupFilter | None = None,
        on_failure: str = "drop",
        fallback_value: float = 0.0,
        gaps: bool = False,
        jobs: Sequence[str] = ("verifiers",),
        num_workers: int = 0,
        priority: Priority = reward_spread,
        store: Store | None = None,
        outcomes: OutcomeLog | None = None,
        journal: Journal | None = None,
    ) -> None:
        """``store``: where payloads that arrive are adopted, so that they outlive whoever brought them; None keeps them as they are.
        ``weights``, ``aggregate``, ``group_filter``, ``on_failure``, ``fallback_value``, ``gaps``: see `RewardRules`.
        ``jobs``, ``num_workers``, ``priority``, ``outcomes``: see `BufferCore`. ``journal``: what a replacement goes on from.
        """
        rules = RewardRules(weights, aggregate, on_failure, fallback_value, group_filter, gaps)
        self._make_core = lambda: BufferCore(buffer, rules, jobs=jobs, num_workers=num_workers, priority=priority, outcomes=outcomes)
        self._journal = journal
        self._core = self._new_core()
        self._store = store
        self._captures: dict[int, list[held.Held]] = {}
        self._captured = 0
        self._changed = threading.Condition()
        self._progress = 0
        self._closed = False
        self._released: Counter[str] = Counter()

    # ---- prompts

    def admit(self, tasks: Sequence[PromptTask]) -> None:
        """Raises `ValueError` for an ordinal that was ever admitted; then nothing of ``tasks`` is."""
        with self._changed:
            self._core.admit(tasks)
            if self._journal:
                self._journal.admitted(task.prompt.ordinal for task in tasks)
            self._changed.notify_all()

    def lease_prompts(self, worker: str, index: int, max_groups: int, wait_s: float) -> list[PromptTask]:
        """Up to ``max_groups`` tasks, ascending; waits up to ``wait_s`` for the first. Empty: nothing yet, buffer full, or draining."""
        return self._poll(wait_s, lambda: self._core.lease_prompts(worker, index, max_groups, now=time.monotonic()), worker) or []

    def put_groups(self, worker: str, groups: Sequence[GroupInfo], records: Mapping[int, Records] | None = None) -> list[bool]:
        """False for a group that is refused: another result won or its ordinal is finished; the worker forgets it."""
        # Outside the lock, because the maker takes part; the refused ones too, so that nothing stays stashed with it.
        if self._store is not None:
            payloads = self._store.adopt_all([group.payload for group in groups])
            groups = [replace(group, payload=payload) for group, payload in zip(groups, payloads, strict=True)]
        with self._changed:
            accepted = self._core.put_groups(worker, groups, records)
            self._note(any(accepted))
            return accepted

    def fail_prompts(self, worker: str, ordinals: Sequence[int], reason: str) -> None:
        """Gives leases back; after `max_attempts` the ordinal is dropped and counted under ``reason`` (a short name, not a message)."""
        with self._changed:
            self._core.fail_prompts(worker, ordinals, reason)
            self._note(True)

    def cancelled(self, worker: str) -> list[int]:
        """Ordinals that ``worker`` generates in vain (another result won, or they were dropped): abort them. Each is told once."""
        with self._changed:
            return self._core.ledger.revoked(worker)

    # ---- rewards

    def lease_unscored(self, scorer: str, component: str, max_groups: int, wait_s: float) -> list[GroupInfo]:
        """Groups that wait for the scoring job ``component``, lowest ordinals first. A scorer's name serves one job."""
        return self._poll(wait_s, lambda: self._core.lease_unscored(scorer, component, max_groups, now=time.monotonic()), scorer) or []

    def put_rewards(self, scorer: str, rewards: Mapping[int, Records]) -> None:
        """By ordinal: one list of records per sample. Answers for groups that are gone or already answered are ignored."""
        with self._changed:
            self._core.put_rewards(scorer, rewards)
            self._note(True)

    def revise_rewards(self, rewards: Mapping[int, Records]) -> list[int]:
        """See `BufferCore.revise_rewards`."""
        with self._changed:
            revised = self._core.revise_rewards(rewards)
            self._note(bool(revised))
            return revised

    def still_ready(self, ordinals: Sequence[int]) -> list[int]:
        """Those that are scored and in no batch yet: what can be revised."""
        with self._changed:
            return self._core.still_ready(ordinals)

    def still_unscored(self, ordinals: Sequence[int]) -> list[int]:
        """Those that still wait for a score: the others were dropped, or answered by somebody else."""
        with self._changed:
            return self._core.still_unscored(ordinals)

    # ---- batches

    def sample(self, step: int, version: int, groups: int, wait_s: float) -> LearnBatch | None:
        """The batch of ``groups`` groups for learner step ``step``, leased to it; None when ``wait_s`` ran out.

        Asked again, the same step gets the same batch. Raises `ConfigError` when the buffer is too small to ever hold one.
        """
        return self._poll(wait_s, lambda: self._core.select(step, version, groups))

    def gather(self, tasks: Sequence[PromptTask], step: int, version: int, groups: int, wait_s: float) -> Gathering:
        """`admit`, `sample`, and how things stand then: one call, for whoever waits for batches all the time."""
        if tasks:
            self.admit(tasks)
        batch = self.sample(step, version, groups, wait_s)
        with self._changed:
            return Gathering(batch, self._core.outstanding(), self._progress)

    def confirm_trained(self, step: int, ordinals: Sequence[int]) -> dict[str, int]:
        """How things stand then, see `outstanding`. Raises `ValueError` for an ordinal that is not leased to ``step``: nothing is
        trained twice."""
        with self._changed:
            self._core.confirm_trained(step, ordinals)
            if self._journal:
                self._journal.trained(ordinals, self._core.staleness)
            self._note(True)
            return self._core.outstanding()

    def relend(self, batch: LearnBatch) -> bool:
        """See `BufferCore.relend`."""
        with self._changed:
            return self._core.relend(batch)

    def return_batch(self, step: int) -> None:
        """The learner failed: what it had not confirmed can be sampled again."""
        with self._changed:
            self._core.return_batch(step)
            self._note(True)

    def requeue_lost(self, ordinals: Sequence[int]) -> None:
        """The payloads cannot be fetched any more (owner or node died): generate these again. Return the learner's batch first."""
        with self._changed:
            self._core.requeue_lost(ordinals)
            self._note(True)

    def take_outcomes(self, ordinals: Sequence[int]) -> Outcomes:
        """For the archive: who rewarded these groups, and which others were dropped since it last asked. Told once."""
        with self._changed:
            return self._core.outcomes.take(ordinals)

    # ---- the driver

    def set_version(self, version: int) -> None:
        """Call when every engine has loaded ``version``."""
        with self._changed:
            self._core.set_version(version)
            if self._journal:
                self._journal.version(version)
            self._changed.notify_all()

    def set_num_workers(self, num_workers: int) -> None:
        """After rollout workers were added or removed: static shares (synchronous mode) are divided anew."""
        with self._changed:
            self._core.set_num_workers(num_workers)
            self._changed.notify_all()

    def release_worker(self, name: str) -> None:
        """A rollout worker or scorer is gone: its leases are reissued, its static share opens to others, its open calls end."""
        with self._changed:
            self._core.release_worker(name)
            self._released[name] += 1
            self._note(True)

    def outstanding(self) -> dict[str, int]:
        """See `BufferCore.outstanding`."""
        with self._changed:
            self._core.expire(time.monotonic())
            return self._core.outstanding()

    def fullness(self) -> float:
        """Share of `BufferConfig.max_bytes`, or of ``max_groups`` where that is more."""
        with self._changed:
            return self._core.fullness

    def holders(self) -> dict[str, list[int]]:
        """See `BufferCore.holders`."""
        with self._changed:
            return self._core.holders()

    def stats(self) -> dict[str, float]:
        with self._changed:
            return self._core.stats() | {"memory/buffer_bytes": float(resident_bytes())}

    def snapshot(self) -> dict[str, Any]:
        """See `snapshot.take`. The groups held at this moment can be written for a while: ``capture`` names them for `write_held`."""
        with self._changed:
            self._captured += 1
            self._captures[self._captured] = self._core.held()
            self._captures.pop(self._captured - _CAPTURES, None)
            return snapshots.take(self._core) | {"capture": self._captured}

    def write_held(self, capture: int, path: Path) -> int:
        """Writes the groups held at that snapshot (see `held`), beside all other calls; returns how many. Raises `StorageError`."""
        with self._changed:
            groups = self._captures.pop(capture)
        with storage_errors(path):
            return held.write(path, groups, self._fetch)

    def restore(self, snapshot: Mapping[str, Any], tasks: Iterable[PromptTask], path: Path | None = None) -> None:
        """See `snapshot.restore`; ``path`` is what `write_held` wrote with it, None gives up what was held."""
        keep = self._store.put if self._store is not None else lambda payload: payload
        groups = list(held.read(path, keep)) if path is not None else []
        with self._changed:
            snapshots.restore(self._core, snapshot, tasks, groups)
            if self._journal:
                self._journal.begin(snapshot)
            self._changed.notify_all()

    def trained_since(self, snapshot: Mapping[str, Any]) -> list[int]:
        """See `snapshot.trained_since`."""
        with self._changed:
            return snapshots.trained_since(self._core, snapshot)

    def rewind(self, tasks: Sequence[PromptTask], version: int) -> None:
        """See `BufferCore.rewind`."""
        tasks = list(tasks)
        with self._changed:
            self._core.rewind(tasks, version)
            if self._journal:
                self._journal.reopened(task.prompt.ordinal for task in tasks)
                self._journal.version(version)
            self._note(True)

    def unpark(self, count: int) -> int:
        """Queues up to ``count`` of the tasks that `rewind` was given; returns how many."""
        with self._changed:
            queued = self._core.ledger.unpark(count)
            if self._journal:
                self._journal.unparked(queued)
            self._changed.notify_all()
            return queued

    def reset(self) -> None:
        """Forgets everything, as a new buffer that `restore` may fill. Only while nothing is leased or generated."""
        with self._changed:
            self._core = self._new_core()
            if self._journal:
                self._journal.begin(snapshots.take(self._core))
            self._note(True)

    def drain(self) -> None:
        """No prompt is leased any more; results, rewards and samples go on."""
        with self._changed:
            self._core.draining = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drains, and every present and future wait returns at once."""
        with self._changed:
            self._core.draining = True
            self._closed = True
            self._changed.notify_all()

    # ---- inside

    def _fetch(self, payload: Any) -> Any:
        return payload if self._store is None else self._store.get(payload, timeout_s=_FETCH_S)

    def _new_core(self) -> BufferCore:
        core = self._make_core()
        if self._journal:
            core.ledger.on_drop = self._journal.dropped
        return core

    def _note(self, progress: bool) -> None:
        self._progress += progress
        self._changed.notify_all()

    def _poll(self, wait_s: float, attempt: Callable[[], T], caller: str = "") -> T | None:
        """First truthy answer of ``attempt``, asked under the lock after every change and every expiry; None at the limit.

        Also None when ``caller`` is released meanwhile: a lease given to the open call of a dead worker would stall until it expires.
        """
        limit = time.monotonic() + wait_s
        with self._changed:
            released = self._released[caller]
            while self._released[caller] == released:
                now = time.monotonic()
                if self._core.expire(now):
                    self._note(True)
                if answer := attempt():
                    return answer
                if self._closed or now >= limit:
                    return None
                expiry = self._core.next_expiry()
                self._changed.wait((limit if expiry is None else min(limit, expiry)) - now)
            return None
