"""The pure core of the label store: which questions exist, who waits, who is out, what is settled. No clock, no disk, no threads.

    new <-> queued -> in flight -> labelled | failed
                 ^________|  (given back, or another attempt later)

A settled question is never queued again. Everything is bounded: questions that wait, and questions that are remembered at all.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rayrl.annotations import Question, QuestionState
from rayrl.feedback.queue import BoundedQueue, Priority


@dataclass(slots=True)
class Entry:
    """One question without a label."""

    key: str
    question: Question
    template: str
    """Hash of its template."""
    items: tuple[int, ...]
    state: QuestionState = QuestionState.NEW
    urgent: bool = False
    """Somebody asked for it by name and waits; it goes before everything that was only sighted, oldest first."""
    asked: bool = False
    """It was sent to a judge before."""
    sightings: int = 0
    first_sightings: int = 0
    seen: int = 0
    """Tick of the newest sighting."""
    uncertainty: float = 0.0
    attempts: int = 0
    """Attempts that count against the limit."""
    tokens: int = 0
    cost_usd: float = 0.0
    reserved_tokens: int = 0
    """Budget that is set aside while it is in flight."""
    reserved_usd: float = 0.0


PRIORITIES: dict[str, Callable[[Entry], Priority]] = {
    "first_sightings": lambda e: (e.first_sightings, e.sightings, e.seen),
    "frequency": lambda e: (e.sightings, e.seen),
    "uncertainty": lambda e: (e.uncertainty, e.first_sightings, e.seen),
    "lifo": lambda e: (e.seen,),
}
"""Larger goes first."""


@dataclass
class Counts:
    """Since the store began; persisted with it."""

    asked: int = 0
    """Distinct questions that were sent to a judge at least once."""
    evicted: int = 0
    """Times a waiting question lost its place."""
    forgotten: int = 0
    """Questions that fell out of memory without a label."""
    refused: int = 0
    """Questions that are none: equal texts, too long a text."""


@dataclass
class Ledger:
    max_queued: int
    max_known: int
    priority: str = "first_sightings"
    max_attempts: int = 3
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._rank = PRIORITIES[self.priority]
        self._queue = BoundedQueue(self.max_queued)
        self._later: list[tuple[float, int, str]] = []
        self._entries: dict[str, Entry] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        """Entries in state new, the one not seen for longest first."""
        self.forgotten: list[Entry] = []
        """Since the caller last emptied it."""
        self.tick = 0

    # ---- looking ------------------------------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def entries(self) -> Iterable[Entry]:
        return self._entries.values()

    @property
    def backlog(self) -> int:
        """Questions that wait, those with another attempt later included: at most ``max_queued``."""
        return len(self._queue) + len(self._later)

    def top(self, count: int) -> list[Entry]:
        """The questions that would be asked next."""
        return [self._entries[key] for key in self._queue.top(count)]

    def due(self, now: float) -> float | None:
        """Seconds until a question can be asked: 0 when one waits, None when none does."""
        if len(self._queue):
            return 0.0
        return max(0.0, self._later[0][0] - now) if self._later else None

    # ---- coming in ----------------------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """A question that is not known yet. It is queued if there is room or it is more urgent than another."""
        assert entry.key not in self._entries
        self._entries[entry.key] = entry
        entry.state = QuestionState.NEW
        self._enqueue(entry)
        self._forget()

    def touch(self, entry: Entry, sightings: int = 0, first_sightings: int = 0) -> None:
        """It was seen again."""
        self.tick += 1
        entry.sightings += sightings
        entry.first_sightings += first_sightings
        entry.seen = self.tick
        self.rerank(entry)

    def rerank(self, entry: Entry) -> None:
        """Its priority changed: a waiting question moves, an idle one may find a place."""
        if entry.state is QuestionState.NEW:
            self._idle.move_to_end(entry.key)
            self._enqueue(entry)
        elif entry.state is QuestionState.QUEUED and entry.key in self._queue:
            self._queue.put(entry.key, self._priority(entry))

    # ---- going out and coming back ----------------------------------------------------------------------------------------------

    def lease(self, now: float) -> Entry | None:
        """The most urgent question, in flight from here on; None when none is due."""
        while self._later and self._later[0][0] <= now:
            self._enqueue(self._entries[heapq.heappop(self._later)[2]])
        key = self._queue.pop()
        if key is None:
            return None
        entry = self._entries[key]
        entry.state = QuestionState.IN_FLIGHT
        return entry

    def give_back(self, entry: Entry, not_before: float = 0.0, *, used: bool = False) -> bool:
        """No answer. ``used``: the attempt counts; the question comes up again at ``not_before`` (0: at once).

        False when that was its last attempt: the caller settles it as failed.
        """
        assert entry.state is QuestionState.IN_FLIGHT
        entry.attempts += used
        if entry.attempts >= self.max_attempts:
            return False
        if not_before and self.backlog < self.max_queued:
            self.tick += 1
            entry.state = QuestionState.QUEUED
            heapq.heappush(self._later, (not_before, self.tick, entry.key))
        else:
            self._enqueue(entry)
        return True

    def settle(self, entry: Entry) -> None:
        """It has its label, or failed for good; the ledger forgets it, the store remembers."""
        assert entry.state is QuestionState.IN_FLIGHT
        del self._entries[entry.key]

    def hold(self, entry: Entry) -> None:
        """Puts a waiting question in flight without asking it (a replayed answer is there already)."""
        self._queue.discard(entry.key)
        self._idle.pop(entry.key, None)
        entry.state = QuestionState.IN_FLIGHT

    # ---- inside ---------------------------------------------------------------------------------------------------------------

    def _priority(self, entry: Entry) -> Priority:
        return (1.0, -float(entry.seen)) if entry.urgent else (0.0, *self._rank(entry))

    def _enqueue(self, entry: Entry) -> None:
        self._queue.capacity = self.max_queued - len(self._later)
        lost = self._queue.put(entry.key, self._priority(entry)) if self._queue.capacity else entry.key
        waits_in_vain = entry.key in self._idle
        if lost != entry.key:
            self._idle.pop(entry.key, None)
            entry.state = QuestionState.QUEUED
        if lost is not None:
            self.counts.evicted += not (lost == entry.key and waits_in_vain)
            self._entries[lost].state = QuestionState.NEW
            self._idle.setdefault(lost)

    def _forget(self) -> None:
        while len(self._entries) > self.max_known and self._idle:
            key, _ = self._idle.popitem(last=False)
            self.forgotten.append(self._entries.pop(key))
            self.counts.forgotten += 1
