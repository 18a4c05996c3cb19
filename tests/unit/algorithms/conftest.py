"""Random batches of ragged, multi-turn trajectories, for all tests of the maths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture
def random_mask() -> Callable[..., Tensor]:
    """``(rng, rows, width) -> bool[rows, width]``: action tokens with gaps between turns; some rows may have none."""

    def make(rng: np.random.Generator, rows: int, width: int, *, allow_empty: bool = True) -> Tensor:
        mask = rng.random((rows, width)) < rng.uniform(0.2, 1.0)
        mask &= np.arange(width) < rng.integers(1, width + 1, size=(rows, 1))
        if allow_empty:
            mask[rng.random(rows) < 0.15] = False
        elif width:
            mask[np.arange(rows), rng.integers(0, width, size=rows)] = True
        return torch.from_numpy(mask)

    return make


@pytest.fixture
def tensor() -> Callable[..., Tensor]:
    """``(rng, *shape) -> float64`` standard normal."""

    def make(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape) * scale)

    return make
