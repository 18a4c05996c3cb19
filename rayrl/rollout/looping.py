"""What every worker with a loop of its own has: the loop and its end, two helper threads, and calls from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from rayrl.errors import DeadlineExceeded
from rayrl.protocols import ReplayBuffer, Store
from rayrl.rollout.commands import Commands
from rayrl.rollout.lanes import LeaseLane, Packed, PublishLane
from rayrl.rollout.stats import RolloutStats
from rayrl.telemetry.spans import Burst, SpanRecorder
from rayrl.types import SyncReport, WeightUpdate

_IDLE_S = 0.2
"""Longest sleep of a loop that nothing wakes."""


class Updatable(Protocol):
    """An engine of either kind."""

    def update_weights(self, update: WeightUpdate) -> SyncReport: ...


class LoopingWorker:
    """One thread owns the engine and works in turns (`run`). Leasing and publishing happen in helper threads; control calls come from
    other threads, are executed between two turns and block only their caller.

    A subclass says what a turn is (`_turn`) and what its end takes (`_wind_up`). ``call_s`` limits every control call but a weight
    update, which has ``sync_s``; both in seconds.
    """

    kind: ClassVar[str]
    """In errors."""
    activity: ClassVar[str]
    """Name of the spans of its work."""
    stuck: ClassVar[str]
    """What is wrong when it does not stop."""
    _engine: Any
    """Of the subclass's kind, which narrows it."""

    def __init__(
        self,
        name: str,
        index: int,
        engine: Updatable,
        buffer: ReplayBuffer,
        store: Store,
        pack: Callable[[Any], Packed],
        refused: Callable[[Any], None] | None = None,
        *,
        call_s: float,
        sync_s: float,
    ) -> None:
        self.name, self._index, self._store = name, index, store
        self._engine, self._call_s, self._sync_s = engine, call_s, sync_s
        self._stats = RolloutStats()
        self.spans = SpanRecorder(name)
        self._burst = Burst(self.spans, self.activity)
        self._stopping, self._ended, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._commands = self._weights = self._lane()
        self._leases = LeaseLane(buffer, name, index, self._wake, call_s)
        self._publish = PublishLane(buffer, name, pack, self._stats, call_s, refused)

    def run(self) -> None:
        """Works until `stop`. An exception of the engine, an environment or a helper thread ends it and is raised here."""
        self._leases.start()
        self._publish.start()
        try:
            while not self._stopping.is_set():
                self._commands.execute()
                self._leases.check()
                self._publish.check()
                self._turn()
        finally:
            self._commands.close()
            try:
                self._wind_up()
            finally:
                self._ended.set()
        self._publish.check()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends `run` after the present turn; what is finished is still published, what is not is abandoned."""
        self._stopping.set()
        self._wake.set()
        if self._leases.started and not self._ended.wait(timeout_s):
            raise DeadlineExceeded(f"{self.kind} {self.name} did not stop within {timeout_s:.0f} s", self.stuck)

    def update_weights(self, update: WeightUpdate) -> SyncReport:
        """Fetches the buckets while the work goes on, then loads them between two steps. Raises `WeightSyncError`."""
        buckets = [b if isinstance(b, np.ndarray) else self._store.get(b, timeout_s=self._sync_s) for b in update.buckets]
        fetched = replace(update, buckets=buckets)

        def load() -> SyncReport:
            with self._stats.timed("control_s"):
                report = self._engine.update_weights(fetched)
            self._stats.add(weight_updates=1, paused_s=report.paused_s)
            return report

        if not self._leases.started:  # a replacement gets its weights before its loop starts: nobody else uses the engine yet
            return load()
        return self._weights.call("weight update", load, self._sync_s)

    # ---- for subclasses

    def _turn(self) -> None:
        raise NotImplementedError

    def _wind_up(self) -> None:
        """No further call is taken by now."""
        self._leases.close()
        self._publish.close()

    def _idle(self) -> None:
        """Until something wakes the loop, or for a moment."""
        self._burst.end()
        with self._stats.timed("wait_s"):
            self._wake.wait(timeout=_IDLE_S)
        self._wake.clear()

    def _lane(self) -> Commands:
        return Commands(f"{self.kind} {self.name}", self._wake)
