"""What methods that look at a whole batch are given. numpy only: metadata of every trajectory, the same on every rank.

Legend: ``N`` trajectories of the batch in group order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rayrl.types import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class BatchInputs:
    """The scalars of a batch. Where ``kept`` is False nothing may be read but ``group``."""

    rewards: FloatArray
    """float32[N]: aggregated and, after the shaping, shaped rewards."""
    group: NDArray[np.int64]
    """int64[N]: which prompt, 0 … G-1, ascending."""
    lengths: NDArray[np.int64]
    """int64[N]: action tokens."""
    kept: BoolArray
    """bool[N]: False for trajectories that must not be trained on."""
    components: Mapping[str, FloatArray] = field(default_factory=dict)
    """float32[N] per weighted reward component, in the configuration's order; NaN where a score failed."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each of them."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    """Drawn from the run's seed and the step: equal on every rank, and in a resumed run."""

    def groups(self) -> Iterator[NDArray[np.int64]]:
        """Indices of the kept trajectories of each group that has any, ascending."""
        for g in range(int(self.group.max(initial=-1)) + 1):
            members = np.flatnonzero((self.group == g) & self.kept)
            if members.size:
                yield members

    def matrix(self) -> NDArray[np.float64]:
        """float64[C, N]: the components as rows."""
        return np.stack([np.asarray(values, dtype=np.float64) for values in self.components.values()])


@dataclass(frozen=True, eq=False)
class Shaped:
    rewards: FloatArray
    """float32[N]; what stands where ``kept`` is False is never read."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What a person wants to see of it, by name; logged as ``shaping/<name>``."""
