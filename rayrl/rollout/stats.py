"""What a rollout worker counts. Written by its threads, read by anyone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rayrl.telemetry.process import resident_bytes

COUNTERS = (
    "tokens",
    "completions",
    "groups",
    "groups_refused",
    "failed_episodes",
    "weight_updates",
    "engine_steps",
    "busy_s",
    "wait_s",
    "control_s",
    "paused_s",
)
"""``tokens`` and ``completions``: sampled, evaluations included. ``groups``: published; ``groups_refused``: of those, not taken by
the buffer (a lease had expired). ``engine_steps``: calls of the engine's step, for an engine in this process its decoding steps.
``failed_episodes``: prompts given back because an environment or a request failed. ``busy_s``: inside engine steps; ``wait_s``:
nothing to generate; ``control_s``: inside weight updates, canary included; ``paused_s``: the part of it in which generation
stood still."""


class RolloutStats:
    """Sums since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(COUNTERS, 0.0)
        self._started = time.monotonic()

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - started})

    def snapshot(self) -> dict[str, float]:
        """All counters, ``uptime_s`` and ``rss_bytes`` of this process."""
        with self._lock:
            sums = dict(self._sums)
        return sums | {"uptime_s": time.monotonic() - self._started, "rss_bytes": float(resident_bytes())}
