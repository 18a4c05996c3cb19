"""What limits the speed of a step: one line from the busy and waiting seconds of every role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class RoleTime(NamedTuple):
    """Seconds of one role during one step, summed over its actors."""

    busy_s: float
    wait_s: float

    @property
    def busy_share(self) -> float:
        total = self.busy_s + self.wait_s
        return self.busy_s / total if total > 0 else 0.0


class Bound(NamedTuple):
    role: str
    """The role that the others wait for."""
    text: str
    """``rollout (learner waited 48 %)``"""

    def __str__(self) -> str:
        return f"bound={self.text}"


def find_bound(times: Mapping[str, RoleTime]) -> Bound | None:
    """The role with the largest busy share bounds the step; the text names the role that waited most because of it.

    For the learner, whose waiting is what a user pays for, its own waiting is named whenever another role is the bound.
    None when no role reported any time.
    """
    seen = {role: t for role, t in times.items() if t.busy_s + t.wait_s > 0}
    if not seen:
        return None
    role = max(sorted(seen), key=lambda r: seen[r].busy_share)
    others = [r for r in sorted(seen) if r != role]
    if not others:
        return Bound(role, f"{role} (busy {_percent(seen[role].busy_share)})")
    waiter = "learner" if "learner" in others else max(others, key=lambda r: 1 - seen[r].busy_share)
    return Bound(role, f"{role} ({waiter} waited {_percent(1 - seen[waiter].busy_share)})")


def step_bound(numbers: Mapping[str, float]) -> Bound | None:
    """From the metrics of one step, while the run goes on or afterwards. A role that said nothing is left out."""
    seconds, learned = numbers.get("step/total_s") or 0.0, numbers.get("learner/busy_s") or 0.0
    times = {role: RoleTime(numbers.get(f"{role}/busy_s") or 0.0, numbers.get(f"{role}/wait_s") or 0.0) for role in ("rollout", "rewards")}
    return find_bound(times | {"learner": RoleTime(learned, max(0.0, seconds - learned))})


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
