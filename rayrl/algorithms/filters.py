"""Group filters: ``f(rewards float32[n], kept bool[n]) -> reason to drop the group, or None``. numpy only: the buffer runs them.

A dropped group is counted under the reason and replaced; ``rewards`` where ``kept`` is False is never read.
"""

from __future__ import annotations

from rayrl.types import BoolArray, FloatArray


def none(rewards: FloatArray, kept: BoolArray) -> str | None:
    """Keeps every group."""
    return None


def zero_variance(rewards: FloatArray, kept: BoolArray) -> str | None:
    """Drops groups whose kept rewards are all equal: their group-relative advantages are 0.

    DAPO's dynamic sampling (arXiv 2503.14476 section 3.2). A group with one kept sample has no variance either.
    """
    scored = rewards[kept]
    if scored.size == 0:
        return "no_kept_samples"
    return "zero_variance" if scored.min() == scored.max() else None
