"""A generation engine with continuous batching, in simulated time.

All running sequences advance by one token per decoding step, whose duration depends on how many there are. So one number, the
decoding steps done so far, dates every sequence: one that starts at step s with n tokens ends at step s + n, whatever comes and
goes meanwhile. Each start, end and pause costs one event; tokens cost none.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import simpy

from rayrl.simulation.scenario import Scenario

_ROUNDING = 1e-6
"""Of a decoding step."""


@dataclass
class Group:
    """All samples of one prompt."""

    lengths: list[int]
    order: int
    left: int = 0
    leased: int = -1
    """Weights when an engine took it: the buffer's promise counts from here."""
    version: int = -1
    """Weights of its first token."""


@dataclass
class Engine:
    env: simpy.Environment
    scenario: Scenario
    on_done: Callable[[Group], None]
    version: int = 0
    busy_s: float = 0.0
    pace: float = 1.0
    """How many times longer than usual a decoding step takes at present."""
    standing: int = 0
    """Reasons to stand still at present: weights, a restart."""
    _steps: float = 0.0
    _then: float = 0.0
    _running: list[tuple[float, int, Group]] = field(default_factory=list)
    _waiting: deque[tuple[int, Group]] = field(default_factory=deque)
    _ids: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self._wake = self.env.event()
        self.env.process(self._run())

    @property
    def load(self) -> int:
        """Sequences that run or wait."""
        return len(self._running) + len(self._waiting)

    def take(self, group: Group) -> None:
        group.left, group.version, group.leased = len(group.lengths), -1, self.version
        self._waiting.extend((length, group) for length in group.lengths)
        self._call()

    def keep_pace(self, pace: float) -> None:
        """From now on."""
        self._advance()
        self.pace = pace
        self._call()

    def stand_still(self, seconds: float) -> Generator[simpy.Event, Any, None]:
        """A process: generation pauses, running sequences keep their place."""
        self._advance()
        self.standing += 1
        self._call()
        yield self.env.timeout(seconds)
        self.standing -= 1
        self._call()

    def fail(self) -> list[Group]:
        """Loses all that runs or waits; the groups that must be generated anew."""
        self._advance()
        lost = {g.order: g for _, _, g in self._running} | {g.order: g for _, g in self._waiting}
        self._running.clear()
        self._waiting.clear()
        self._call()
        return list(lost.values())

    def _call(self) -> None:
        """Makes the engine look again."""
        if not self._wake.triggered:
            self._wake.succeed()

    def _advance(self) -> None:
        """Books what happened since the last look."""
        now = self.env.now
        if self._running and not self.standing:
            self._steps += (now - self._then) / self._step_s()
            self.busy_s += now - self._then
        self._then = now

    def _step_s(self) -> float:
        return self.pace * (self.scenario.iteration_s + self.scenario.sequence_s * len(self._running))

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._advance()
            while self._running and self._running[0][0] <= self._steps + _ROUNDING:
                group = heapq.heappop(self._running)[2]
                group.left -= 1
                if group.left == 0:
                    self.on_done(group)
            while self._waiting and len(self._running) < self.scenario.max_running:
                length, group = self._waiting.popleft()
                if group.version < 0:
                    group.version = self.version
                heapq.heappush(self._running, (self._steps + max(1, length), next(self._ids), group))
            self._wake = self.env.event()
            if self._running and not self.standing:
                yield self._wake | self.env.timeout((self._running[0][0] - self._steps) * self._step_s())
            else:
                yield self._wake
