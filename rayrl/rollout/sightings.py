"""What an env worker tells the annotator: which texts were shown, and how often. It never waits for an answer.

At most one call is under way; what is seen meanwhile is added up and goes with the next one. The annotator answers with the keys whose
text it lacks, and those texts go along then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from rayrl.agent_types import Fragment

MAX_KEYS = 100_000
"""Distinct texts kept, told or not; beyond it new ones are dropped and counted."""


_ROUNDS = 3
"""Calls that a waiting worker makes for one fragment: what was shown, the texts that were lacking, their answer."""


class Later(Protocol):
    """A call under way."""

    def wait(self, timeout_s: float) -> bool: ...

    def result(self, timeout_s: float) -> Any: ...


class Sightings:
    """Owned by the worker's thread. ``sight(texts, sightings, first_sightings)`` starts a call of `protocols.Annotator.sight`."""

    def __init__(self, sight: Callable[[dict[int, bytes], dict[int, int], dict[int, int]], Later], wait_s: float = 0.0) -> None:
        """``wait_s`` 0 never waits; else each call is waited for so long: what was shown is known before anything is trained on it."""
        self._sight, self._wait_s = sight, wait_s
        self._under_way: Later | None = None
        self._told: dict[int, bytes] = {}
        self._known: dict[int, bytes] = {}
        self._new: dict[int, bytes] = {}
        self._seen: Counter[int] = Counter()
        self._firsts: Counter[int] = Counter()
        self._dropped = self._lost = 0

    def tell(self, fragment: Fragment) -> None:
        """Takes a fragment in, and starts a call unless one is under way."""
        for key, text in fragment.texts.items():
            if len(self._known) < MAX_KEYS:
                self._known[key] = self._new[key] = text
            else:
                self._dropped += 1
        shown = fragment.message_hash != 0
        keys, places, counts = np.unique(fragment.message_hash[shown], return_inverse=True, return_counts=True)
        firsts = np.bincount(places, weights=fragment.message_count[shown] == 1, minlength=len(keys))
        for key, count, first in zip(keys.tolist(), counts.tolist(), firsts.astype(int).tolist(), strict=True):
            if key in self._known:
                self._seen[key] += count
                self._firsts[key] += first
        self._go_on()
        for _ in range(_ROUNDS if self._wait_s else 0):
            if self._under_way is not None and self._under_way.wait(self._wait_s):
                self._go_on()

    def stats(self) -> dict[str, float]:
        """Texts that were dropped because there were too many, and calls that failed."""
        return {"sightings_dropped": float(self._dropped), "sightings_lost": float(self._lost)}

    def _go_on(self) -> None:
        if self._under_way is not None:
            if not self._under_way.wait(0.0):
                return
            pending, self._under_way = self._under_way, None
            try:
                self._new |= {key: self._known[key] for key in pending.result(0.0) if key in self._known}
            except Exception:  # the annotator died: what it was told last goes to its replacement with the next call
                self._lost += 1
                self._new |= self._told
        if self._seen or (self._new and self._wait_s):
            texts, seen, firsts = self._new, dict(self._seen), dict(self._firsts)
            self._told, self._new = texts, {}
            self._seen.clear()
            self._firsts.clear()
            self._under_way = self._sight(texts, seen, firsts)
