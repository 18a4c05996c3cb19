"""The ordinal ledger: where every admitted prompt is, and that it ends exactly once.

    queued ──lease──► in_flight ──result──► buffered ──sample──► leased ──confirm──► trained
       ▲  expired, worker lost │               │ payload lost       │ learner failed
       └───────────────────────┴───────────────┘◄───── buffered ◄───┘
    any state but trained ──► dropped(reason)          trained ──weights lost──► queued

Pure: no threads, no clock (``now`` in seconds is an argument), no payloads. Every operation is O(log n) amortised in the
number of live ordinals; counts are kept incrementally; finished ordinals are remembered as ranges.

Late results: a result is accepted from whoever brings it first while the ordinal is queued or in flight. So a worker whose
lease expired may still win; whoever comes second is refused.

Static shares (synchronous mode): with ``num_workers`` > 0 worker ``index`` is given only ordinals with
``ordinal % num_workers == index``, in ascending order, so that who generates what does not depend on timing. The share of a
worker that was released is open to every other worker until a worker with its index leases again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayrl.buffer.heap import OrdinalHeap
from rayrl.buffer.ranges import RangeSet
from rayrl.types import OrdinalState, PromptTask

_LIVE = (OrdinalState.QUEUED, OrdinalState.IN_FLIGHT, OrdinalState.BUFFERED, OrdinalState.LEASED)


@dataclass(slots=True)
class _Entry:
    task: PromptTask
    state: OrdinalState = OrdinalState.QUEUED
    attempts: int = 0
    worker: str = ""
    lease: int = 0
    version: int = 0
    """Weight version when it was leased: a lower bound of the versions that its tokens can carry."""


class Ledger:
    """See the module docstring. Unless a docstring says otherwise, a transition from a wrong state raises `ValueError`."""

    def __init__(self, *, lease_s: float, max_attempts: int, num_workers: int = 0) -> None:
        """``num_workers`` 0 gives any queued ordinal to any worker; otherwise shares are static."""
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.trained = RangeSet()
        self.dropped = RangeSet()
        self.dropped_by: Counter[str] = Counter()
        self.counts: dict[OrdinalState, int] = dict.fromkeys(_LIVE, 0)
        self.in_flight_at: Counter[int] = Counter()
        """Ordinals in flight by the weight version at which they were leased."""
        self.on_drop: Callable[[int, str], None] = lambda ordinal, reason: None
        self.reissued = 0
        self._entries: dict[int, _Entry] = {}
        self._parked: dict[int, PromptTask] = {}
        """Trained once, but the weights are lost; not queued yet."""
        self._expiry: list[tuple[float, int, int]] = []
        self._leases = 0
        self._held: dict[str, set[int]] = {}
        self._revoked: dict[str, set[int]] = {}
        self._index: dict[str, int] = {}
        self._open_shares: set[int] = set()
        self.set_num_workers(num_workers)

    def set_num_workers(self, num_workers: int) -> None:
        """Re-divides the queued ordinals (O(n)); leases that are out stay where they are."""
        self.num_workers = num_workers
        self._shares = [OrdinalHeap() for _ in range(max(1, num_workers))]
        self._open_shares = {i for i in self._open_shares if i < num_workers}
        for ordinal, entry in self._entries.items():
            if entry.state is OrdinalState.QUEUED:
                self._enqueue(ordinal)

    def admit(self, tasks: Iterable[PromptTask]) -> None:
        """Queues new ordinals. Raises `ValueError`, before anything changes, for an ordinal that was ever admitted."""
        tasks = list(tasks)
        seen: set[int] = set()
        for task in tasks:
            ordinal = task.prompt.ordinal
            if ordinal in seen or self.state(ordinal) is not None:
                raise ValueError(f"prompt ordinal {ordinal} is admitted twice (state {self.state(ordinal)})")
            seen.add(ordinal)
        for task in tasks:
            self._entries[task.prompt.ordinal] = _Entry(task)
            self.counts[OrdinalState.QUEUED] += 1
            self._enqueue(task.prompt.ordinal)

    def lease(self, worker: str, index: int, count: int, *, now: float, version: int) -> list[PromptTask]:
        """Up to ``count`` tasks in ascending ordinal order, leased to ``worker`` until ``now + lease_s``."""
        self._index[worker] = index
        self._open_shares.discard(index)
        tasks: list[PromptTask] = []
        while len(tasks) < count and (share := self._next_share(index)) is not None and (top := share.pop()) is not None:
            ordinal = top[1]
            entry = self._entries[ordinal]
            self._move(entry, OrdinalState.IN_FLIGHT)
            self._leases += 1
            entry.worker, entry.lease, entry.version = worker, self._leases, version
            entry.attempts += 1
            self.in_flight_at[version] += 1
            self._held.setdefault(worker, set()).add(ordinal)
            heapq.heappush(self._expiry, (now + self.lease_s, ordinal, self._leases))
            tasks.append(replace(entry.task, lease_id=f"{ordinal}#{entry.attempts}"))
        return tasks

    def expire(self, now: float) -> int:
        """Takes back every lease that ran out by ``now``; returns how many."""
        expired = 0
        while self._expiry and self._expiry[0][0] <= now:
            _, ordinal, lease = heapq.heappop(self._expiry)
            if self._is_current(ordinal, lease):
                self._take_back(ordinal, "attempts")
                expired += 1
        return expired

    def next_expiry(self) -> float | None:
        """When the next lease runs out, in the seconds of ``now``."""
        while self._expiry and not self._is_current(*self._expiry[0][1:]):
            heapq.heappop(self._expiry)
        return self._expiry[0][0] if self._expiry else None

    def release(self, worker: str) -> int:
        """The worker is gone: its leases go back to the queue and its static share opens. Returns the number of leases."""
        index = self._index.pop(worker, None)
        if index is not None and self.num_workers and index not in self._index.values():
            self._open_shares.add(index)
        held = sorted(self._held.get(worker, ()))
        for ordinal in held:
            self._take_back(ordinal, "attempts")
        self._revoked.pop(worker, None)
        return len(held)

    def fail(self, worker: str, ordinal: int, reason: str) -> bool:
        """The holder of a lease gives it back; after ``max_attempts`` the ordinal is dropped for ``reason``. False: not the holder."""
        if ordinal not in self._held.get(worker, ()):
            return False
        self._take_back(ordinal, reason)
        return True

    def deliver(self, ordinal: int, worker: str) -> bool:
        """A result arrived: buffered. False, and nothing changes, when another result won or the ordinal is finished or unknown."""
        entry = self._entries.get(ordinal)
        if entry is None or entry.state not in (OrdinalState.QUEUED, OrdinalState.IN_FLIGHT):
            self._revoked.get(worker, set()).discard(ordinal)  # the refusal tells it
            return False
        if entry.state is OrdinalState.IN_FLIGHT:
            if entry.worker != worker:
                self._revoked.setdefault(entry.worker, set()).add(ordinal)
            self._end_lease(ordinal, entry)
        else:
            self._share(ordinal).discard(ordinal)
        self._move(entry, OrdinalState.BUFFERED)
        return True

    def requeue(self, ordinal: int) -> None:
        """The result of a buffered or leased ordinal was lost: it is generated again, or dropped after ``max_attempts``."""
        entry = self._entry(ordinal, OrdinalState.BUFFERED, OrdinalState.LEASED)
        self._back_to_queue(ordinal, entry, "attempts")

    def to_learner(self, ordinal: int) -> None:
        self._move(self._entry(ordinal, OrdinalState.BUFFERED), OrdinalState.LEASED)

    def from_learner(self, ordinal: int) -> None:
        self._move(self._entry(ordinal, OrdinalState.LEASED), OrdinalState.BUFFERED)

    def finish_trained(self, ordinal: int) -> None:
        entry = self._entry(ordinal, OrdinalState.LEASED)
        self.trained.add(ordinal)
        self._forget(ordinal, entry)

    def drop(self, ordinal: int, reason: str) -> None:
        """Ends any live ordinal; a worker that still holds it hears of it through `revoked`."""
        entry = self._entry(ordinal, *_LIVE)
        if entry.state is OrdinalState.IN_FLIGHT:
            self._revoked.setdefault(entry.worker, set()).add(ordinal)
            self._end_lease(ordinal, entry)
        elif entry.state is OrdinalState.QUEUED:
            self._share(ordinal).discard(ordinal)
        self.dropped.add(ordinal)
        self.dropped_by[reason] += 1
        self._forget(ordinal, entry)
        self.on_drop(ordinal, reason)

    def reopen(self, tasks: Sequence[PromptTask]) -> None:
        """The weights that these trained ordinals went into are lost. They wait, parked, until `unpark` queues them again."""
        for task in tasks:
            self.trained.remove(task.prompt.ordinal)
        self.park(tasks)

    def park(self, tasks: Sequence[PromptTask]) -> None:
        """Unfinished ordinals that wait for `unpark`."""
        self._parked |= {task.prompt.ordinal: task for task in tasks}

    def unpark(self, count: int) -> int:
        """Queues the lowest parked ordinals, at most ``count``; returns how many."""
        ordinals = sorted(self._parked)[:count]
        self.admit([self._parked.pop(ordinal) for ordinal in ordinals])
        return len(ordinals)

    @property
    def num_parked(self) -> int:
        return len(self._parked)

    def restore(self, trained: Iterable[Sequence[int]], dropped: Iterable[Sequence[int]], dropped_by: Mapping[str, int]) -> None:
        """Takes over the finished ordinals of an earlier life, as `RangeSet.ranges`. Raises `ValueError` unless the ledger is new."""
        if self._entries or len(self.trained) or len(self.dropped):
            raise ValueError("a ledger is restored before anything is admitted to it")
        self.trained, self.dropped, self.dropped_by = RangeSet(trained), RangeSet(dropped), Counter(dropped_by)

    def revoked(self, worker: str) -> list[int]:
        """Ordinals that ``worker`` still generates in vain, each told once: another result won, or they were dropped."""
        return sorted(self._revoked.pop(worker, ()))

    def state(self, ordinal: int) -> OrdinalState | None:
        """None for an ordinal that was never admitted."""
        if (entry := self._entries.get(ordinal)) is not None:
            return entry.state
        if ordinal in self.trained:
            return OrdinalState.TRAINED
        if ordinal in self._parked:
            return OrdinalState.QUEUED
        return OrdinalState.DROPPED if ordinal in self.dropped else None

    def task(self, ordinal: int) -> PromptTask:
        return self._entries[ordinal].task

    def live(self) -> list[int]:
        """Ordinals without a terminal state, ascending (O(n log n))."""
        return sorted([*self._entries, *self._parked])

    def by_state(self) -> dict[str, list[int]]:
        """The same by state, for snapshots; ``parked`` apart from ``queued``."""
        found: dict[str, list[int]] = {str(state): [] for state in _LIVE} | {"parked": sorted(self._parked)}
        for ordinal in sorted(self._entries):
            found[str(self._entries[ordinal].state)].append(ordinal)
        return found

    @property
    def num_live(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> dict[str, list[int]]:
        """Ordinals in flight, ascending, by worker."""
        return {worker: sorted(ordinals) for worker, ordinals in self._held.items()}

    def _entry(self, ordinal: int, *allowed: OrdinalState) -> _Entry:
        entry = self._entries.get(ordinal)
        if entry is None or entry.state not in allowed:
            expected = " or ".join(allowed)
            raise ValueError(f"ordinal {ordinal} is {self.state(ordinal) or 'unknown'}, expected {expected}")
        return entry

    def _move(self, entry: _Entry, state: OrdinalState) -> None:
        self.counts[entry.state] -= 1
        self.counts[state] += 1
        entry.state = state

    def _forget(self, ordinal: int, entry: _Entry) -> None:
        self.counts[entry.state] -= 1
        del self._entries[ordinal]

    def _is_current(self, ordinal: int, lease: int) -> bool:
        entry = self._entries.get(ordinal)
        return entry is not None and entry.state is OrdinalState.IN_FLIGHT and entry.lease == lease

    def _end_lease(self, ordinal: int, entry: _Entry) -> None:
        held = self._held[entry.worker]
        held.discard(ordinal)
        if not held:
            del self._held[entry.worker]
        self.in_flight_at[entry.version] -= 1
        if not self.in_flight_at[entry.version]:
            del self.in_flight_at[entry.version]

    def _take_back(self, ordinal: int, reason: str) -> None:
        entry = self._entry(ordinal, OrdinalState.IN_FLIGHT)
        self._end_lease(ordinal, entry)
        self._back_to_queue(ordinal, entry, reason)

    def _back_to_queue(self, ordinal: int, entry: _Entry, reason: str) -> None:
        self._move(entry, OrdinalState.QUEUED)
        self._enqueue(ordinal)
        if entry.attempts >= self.max_attempts:
            self.drop(ordinal, reason)
        else:
            self.reissued += 1

    def _share(self, ordinal: int) -> OrdinalHeap:
        return self._shares[ordinal % len(self._shares)]

    def _enqueue(self, ordinal: int) -> None:
        self._share(ordinal).push(0, ordinal)

    def _next_share(self, index: int) -> OrdinalHeap | None:
        """The share to lease from next: one's own, then the open ones."""
        own = [0] if not self.num_workers else [index] if index < self.num_workers else []
        for i in (*own, *sorted(self._open_shares)):
            if self._shares[i]:
                return self._shares[i]
        return None
