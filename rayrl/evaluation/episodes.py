"""What whole episodes of an environment agent say of it. Pure: the episodes are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from rayrl.agent_types import EpisodeRecord


@dataclass(frozen=True)
class EpisodeExam:
    step: int
    mean_return: float
    """Undiscounted, of the environment's own reward."""
    mean_length: float
    """Steps."""
    count: int
    ends: dict[str, int]
    """Episodes by the reason of their end."""
    sums: dict[str, float]
    """Means of what the environment counts, e.g. ``success``."""
    episodes: list[dict[str, Any]] = field(default_factory=list)
    """The first of them, whole records."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Generations to read: an agent writes none."""
    watched: pa.RecordBatch | None = None
    """One more episode, to look at (`rollout.watched`); no part of the numbers."""

    def metrics(self) -> dict[str, float]:
        found = {"eval/return": self.mean_return, "eval/length_steps": self.mean_length, "eval/episodes_count": float(self.count)}
        return found | {f"eval/episode/{name}": value for name, value in self.sums.items()}

    def to_json(self) -> dict[str, Any]:
        return asdict(replace(self, watched=None))


def examine(step: int, episodes: Sequence[EpisodeRecord]) -> EpisodeExam:
    """NaN where there is no episode."""
    mean = lambda numbers: float(np.mean(numbers)) if numbers else float("nan")
    names = sorted({name for episode in episodes for name in episode.sums})
    return EpisodeExam(
        step=step,
        mean_return=mean([e.total_reward for e in episodes]),
        mean_length=mean([e.length for e in episodes]),
        count=len(episodes),
        ends=dict(Counter(e.end for e in episodes)),
        sums={name: mean([e.sums[name] for e in episodes if name in e.sums]) for name in names},
        episodes=[{**asdict(e), "sums": dict(e.sums)} for e in episodes[:8]],
    )
