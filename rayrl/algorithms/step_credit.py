"""What each step of a trajectory is paid, from what its component says of it: ``f(values, mask, **knobs) -> [B, S]``.

``values`` float32[B, S] step rewards, ``mask`` bool[B, S] True for the steps of a row, first ones first. The result is 0 outside the
mask and is placed on the last token of each step. Legend: ``B`` trajectories, ``S`` most steps of one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def none(values: Tensor, mask: Tensor) -> Tensor:
    """Steps are paid nothing."""
    return torch.zeros_like(values)
