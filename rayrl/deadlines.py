"""Every wait has a name, an owner and a limit from one table (`DeadlinesConfig`).

While somebody waits, the process knows it: who for whom, since when, with which step, version or ordinals. A `Watchdog` says it
while there is still time, and when the limit runs out the error says the same. No role is imported here: a deadline is a clock and
two names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
_CALLS = {
    **dict.fromkeys(("start", "build"), "start_s"),
    **dict.fromkeys(("rollout", "score"), "generate_s"),
    **dict.fromkeys(("step", "export_weights", "token_records", "logprobs", "leave_transfer"), "learn_s"),
    **dict.fromkeys(("update_weights", "join_transfer", "open_transfer", "sleep", "wake"), "sync_s"),
    **dict.fromkeys(("save", "begin_save", "write_held", "load", "save_pretrained"), "save_s"),
    **dict.fromkeys(("run", "stop"), "drain_s"),
}
"""Which limit a call on a role is given."""
_UNHURRIED_S, _PATIENCE, _LONG_S = 5.0, 0.25, 60.0
"""A wait is worth a word after a quarter of its limit, but not before 5 s and not after a minute."""


def name_of(method: str) -> str:
    """Key of the table that limits a call, e.g. ``update_weights`` -> ``sync_s``."""
    return _CALLS.get(method, "call_s")


class Deadline:
    """One wait in progress. It belongs to the waiter; a watchdog may read it meanwhile."""

    def __init__(self, name: str, waiter: str, waited_for: str, limit_s: float, about: str = "", since: float | None = None) -> None:
        """``name``: key of the table, e.g. ``generate_s``. ``limit_s``: seconds from now, or from the last `restart`.
        ``about``: which step, weight version or ordinals. ``since``: monotonic time at which it began, if before now."""
        self.name = name
        self.waiter = waiter
        self.waited_for = waited_for
        self.limit_s = limit_s
        self.about = about
        self.restart()
        if since is not None:
            self._started = since

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

    @property
    def edge(self) -> str:
        """E.g. ``driver waits 31 s for rollout-0.update_weights of version 7, since 10:31:02 (sync_s, limit 300 s)``."""
        return f"{self.waiter} waits {self._rest()} ({self.name}, limit {self.limit_s:g} s)"

    def error(self, log: str = "") -> DeadlineExceeded:
        """``log``: the last words of who was waited for."""
        hint = (
            f"look at {_LOOK_AT.get(self.name, f'why {self.waited_for} is slow')}; if it only needs longer, raise deadlines.{self.name} "
            f"(now {self.limit_s:g})"
        )
        return DeadlineExceeded(f"{self.waiter} waited {self._rest()} ({self.name})", f"{hint}\n{log}" if log else hint)

    def _rest(self) -> str:
        began = time.strftime("%H:%M:%S", time.localtime(time.time() - self.elapsed()))
        return f"{self.elapsed():.0f} s for {self.waited_for}{f' of {self.about}' if self.about else ''}, since {began}"


class OpenWaits:
    """The waits of a process that are open at present. Thread-safe."""

    def __init__(self) -> None:
        self.me = "driver"
        """Who waits where nobody else is named: the role that the process plays."""
        self._open: dict[int, Deadline] = {}
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self, deadline: Deadline) -> Iterator[Deadline]:
        """``deadline`` can be seen while the block runs."""
        with self._lock:
            self._open[id(deadline)] = deadline
        try:
            yield deadline
        finally:
            with self._lock:
                del self._open[id(deadline)]

    def longest_first(self) -> list[Deadline]:
        with self._lock:
            return sorted(self._open.values(), key=Deadline.elapsed, reverse=True)


OPEN = OpenWaits()
"""Of this process."""


class Watchdog:
    """A thread that names the edge on which the process is stuck, long before the limit, and again each time the wait has doubled."""

    def __init__(self, say: Callable[[str], None], waits: OpenWaits = OPEN, every_s: float = 1.0) -> None:
        """``say`` is called from the watchdog's own thread."""
        self._say, self._waits, self._every_s = say, waits, every_s
        self._ended = threading.Event()
        self._said: dict[int, tuple[Deadline, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def look(self) -> None:
        """One round: says what is worth a word."""
        waits = self._waits.longest_first()
        said, self._said = self._said, {}
        for wait in waits:
            known, next_s = said.get(id(wait), (wait, patience(wait.limit_s)))
            if known is not wait or wait.elapsed() < patience(wait.limit_s):  # another wait, or there was progress
                next_s = patience(wait.limit_s)
            if wait.elapsed() >= next_s:
                self._say(wait.edge)
                next_s = 2 * wait.elapsed()
            self._said[id(wait)] = (wait, next_s)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self.look()


def patience(limit_s: float) -> float:
    """Seconds after which a wait is worth a word."""
    return min(max(_UNHURRIED_S, _PATIENCE * limit_s), _LONG_S)
