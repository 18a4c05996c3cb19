"""Device memory that an engine gives up while the learner works, and takes back: measured on both sides, never assumed."""

from __future__ import annotations

from rayrl.errors import PlacementError

_SLACK = 0.02
"""Share that drivers and contexts may take meanwhile."""


class MemoryLease:
    def __init__(self) -> None:
        self._given = 0
        """Bytes."""

    def gave(self, before: int, after: int) -> int:
        """Free bytes before and after the engine went to sleep; returns what it gave up."""
        self._given = after - before
        return self._given

    def check(self, free: int) -> None:
        """Raises `PlacementError` where the engine cannot have back what it gave: waking up would end in an out-of-memory error."""
        if free < (1 - _SLACK) * self._given:
            gib = lambda nbytes: f"{nbytes / 2**30:.1f} GiB"
            raise PlacementError(
                f"the engine cannot wake up: it gave {gib(self._given)} of the device away, {gib(free)} are free, others keep "
                f"{gib(self._given - free)}",
                "`nvidia-smi` lists them; lower learner.token_budget or rollout.kv_cache_gib, or set placement.mode=disaggregated",
            )
