"""Every wait has a name, an owner and a limit from one table (`DeadlinesConfig`).

When a limit runs out the error says who waited for whom and for how long, and where to look. No role is imported here: a
deadline is a clock and two names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches

from rayrl.config.schema import DeadlinesConfig
from rayrl.errors import DeadlineExceeded

_LOOK_AT = {
    "start_s": "the role's log: model loading and the first compilation are the slow parts",
    "generate_s": "the rollout logs, and buffer/in_flight_groups: no group was finished in all that time",
    "score_s": "the logs of scorer, judges and reward models, and buffer/unscored_groups: no reward arrived in all that time",
    "learn_s": "the learner logs: on several ranks one may have died while the others wait for it",
    "sync_s": "the engine logs and the size of the weight update",
    "save_s": "free space and speed of the file system of the run folder",
    "call_s": "the log of the role that was called",
    "drain_s": "the log of the role that did not end",
    "placement_s": "`rayrl plan`: the cluster may lack what the placement asks for",
}


class Deadline:
    """One wait in progress. Not thread-safe: it belongs to the waiter."""

    def __init__(self, name: str, waiter: str, waited_for: str, limit_s: float) -> None:
        """``name``: key of the table, e.g. ``generate_s``. ``limit_s``: seconds from now, or from the last `restart`."""
        self.name = name
        self.waiter = waiter
        self.waited_for = waited_for
        self.limit_s = limit_s
        self.restart()

    def restart(self) -> None:
        """There was progress: the limit counts from now."""
        self._started = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def remaining(self, at_most: float = float("inf")) -> float:
        """Seconds left, never negative; ``at_most`` caps it to the slice of a polling wait."""
        return max(0.0, min(at_most, self.limit_s - self.elapsed()))

    def check(self) -> None:
        """Raises `DeadlineExceeded` once the limit ran out."""
        if self.elapsed() >= self.limit_s:
            raise self.error()

    def error(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.waiter} waited {self.elapsed():.0f} s for {self.waited_for} ({self.name})",
            f"look at {_LOOK_AT.get(self.name, f'why {self.waited_for} is slow')}; if it only needs longer, raise deadlines.{self.name} "
            f"(now {self.limit_s:g})",
        )


class Deadlines:
    """The table, and the waits that are open at present. Thread-safe."""

    def __init__(self, config: DeadlinesConfig) -> None:
        self._limits = {f.name: float(getattr(config, f.name)) for f in fields(config)}
        self._open: dict[int, Deadline] = {}
        self._lock = threading.Lock()

    def limit(self, name: str) -> float:
        """Seconds. Raises `KeyError` with the nearest known name."""
        if name not in self._limits:
            near = get_close_matches(name, self._limits, n=1)
            raise KeyError(f"no deadline is named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return self._limits[name]

    def start(self, name: str, waiter: str, waited_for: str) -> Deadline:
        return Deadline(name, waiter, waited_for, self.limit(name))

    @contextmanager
    def waiting(self, name: str, waiter: str, waited_for: str) -> Iterator[Deadline]:
        """A deadline that `stuck` can see while the block runs."""
        deadline = self.start(name, waiter, waited_for)
        with self._lock:
            self._open[id(deadline)] = deadline
        try:
            yield deadline
        finally:
            with self._lock:
                del self._open[id(deadline)]

    def wait_until(self, condition: Callable[[], bool], name: str, waiter: str, waited_for: str, every_s: float = 0.05) -> None:
        """Asks ``condition`` every ``every_s`` seconds. Raises `DeadlineExceeded` when it stays false for the named limit."""
        with self.waiting(name, waiter, waited_for) as deadline:
            while not condition():
                deadline.check()
                time.sleep(deadline.remaining(at_most=every_s))

    def stuck(self, longer_than_s: float = 0.0) -> list[str]:
        """Open waits, longest first, e.g. ``driver waits 12 s for rollout (generate_s, limit 600 s)``: the edge a watchdog reports."""
        with self._lock:
            waits = sorted(self._open.values(), key=Deadline.elapsed, reverse=True)
        return [
            f"{w.waiter} waits {w.elapsed():.0f} s for {w.waited_for} ({w.name}, limit {w.limit_s:g} s)"
            for w in waits
            if w.elapsed() >= longer_than_s
        ]
