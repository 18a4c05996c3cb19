"""Running mean and variance of a stream of minibatches, and the normalisation that uses them. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayrl.types import FloatArray


class RunningStats:
    """Mean 0, variance 1 and weight 1e-4 at the start; pooled with every minibatch and its *unbiased* variance.

    Pooling is that of two samples (Chan, Golub and LeVeque 1983, equation 2.1) with the minibatch's unbiased variance in place
    of its population variance, as in ONI's ranking reward. A minibatch of one value has variance 0.
    """

    def __init__(self) -> None:
        self.mean, self.variance, self.weight = 0.0, 1.0, 1e-4

    def update(self, values: FloatArray) -> None:
        """Pools float[B]; nothing for an empty array. Raises `ValueError` for a value that is not finite."""
        sample = np.asarray(values, np.float64).reshape(-1)
        if not len(sample):
            return
        if not np.isfinite(sample).all():
            raise ValueError("running statistics take finite values only")
        count, mean = len(sample), float(sample.mean())
        variance = float(sample.var(ddof=1)) if count > 1 else 0.0
        total, delta = self.weight + count, mean - self.mean
        pooled = self.variance * self.weight + variance * count + delta**2 * self.weight * count / total
        self.mean += delta * count / total
        self.variance, self.weight = pooled / total, total

    def normalize(self, values: FloatArray, epsilon: float = 1e-8) -> FloatArray:
        """float32[B]: ``(values - mean) / standard deviation`` under the present statistics."""
        scale = max(self.variance, epsilon) ** 0.5
        return ((np.asarray(values, np.float64) - self.mean) / scale).astype(np.float32)

    def update_and_normalize(self, values: FloatArray) -> FloatArray:
        """The statistics see the minibatch before it is normalised."""
        self.update(values)
        return self.normalize(values)

    def state(self) -> dict[str, Any]:
        """JSON-able and exact."""
        return {"mean": self.mean, "variance": self.variance, "weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        self.mean, self.variance, self.weight = state["mean"], state["variance"], state["weight"]
