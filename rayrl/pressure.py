"""Back-pressure: rollout is held back before memory runs out, not after.

Above 80 % of the object store (on its fullest node) or of the buffer only the batch of the next step is admitted, so that what lies
there is trained on and let go; below 70 % the pacing of the configuration returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

HIGH, LOW = 0.8, 0.7
_LOOK_S = 1.0


class Pressure:
    """Asked by the driver whenever it might admit prompts; looks at most once a second."""

    def __init__(self, shares: dict[str, Callable[[], float]], say: Callable[[bool, str], None], look_s: float = _LOOK_S) -> None:
        """``shares``: by name of the store, the share of it that is in use. ``say`` is told of each change."""
        self._shares, self._say, self._look_s = shares, say, look_s
        self._looked = float("-inf")
        self.high = False

    def __call__(self) -> bool:
        if time.monotonic() - self._looked >= self._look_s:
            self._looked = time.monotonic()
            self._look()
        return self.high

    def _look(self) -> None:
        found = {name: share() for name, share in self._shares.items()}
        name = max(found, key=lambda n: found[n])
        before, self.high = self.high, found[name] >= (LOW if self.high else HIGH)
        if self.high and not before:
            self._say(True, f"the {name} is {found[name]:.0%} full: only the next batch is generated until it is below {LOW:.0%}")
        elif before and not self.high:
            self._say(False, f"the {name} is {found[name]:.0%} full: rollout runs ahead again")
