"""A learner step under way: what was handed over, and what is waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayrl.runtime.pool import Joint
from rayrl.types import LearnBatch


@dataclass(eq=False)
class Working:
    """A learner step under way, and the export of the weights that it makes."""

    batch: LearnBatch
    step: Joint
    weights: Joint
    collected_s: float
    """Seconds the driver waited for the batch."""
    waited_s: float = 0.0
    """Seconds the driver waited for the learner."""
    metrics: dict[str, float] = field(default_factory=dict)
    handed_over: dict[str, float] = field(default_factory=dict)
    """What colocated engines gave up for the step, and how long that took."""
    token_records: Joint | None = None
    """For the archive; None where trajectories are not kept."""
