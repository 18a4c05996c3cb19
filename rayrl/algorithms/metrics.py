"""How metrics of micro-batches and ranks become one number: sums are added, maxima are compared, and one division comes last.

Every function of this room returns metrics as ``dict[str, Tensor]`` of detached scalars. A key that ends in ``_max`` is a
maximum; every other key is a sum over action tokens, so that all of them share one denominator: the action tokens they
were summed over. A mean is never averaged again, hence no split of a batch changes what is logged.
"""

from __future__ import annotations

import torch
from torch import Tensor

Metrics = dict[str, Tensor]

_MAX_SUFFIX = "_max"


def is_maximum(key: str) -> bool:
    """True where ranks are to be combined by maximum, False where by sum."""
    return key.endswith(_MAX_SUFFIX)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Detached sum of ``values[B, T]`` over ``mask`` bool[B, T], in float64 so that long batches do not lose digits."""
    return torch.where(mask, values.detach(), 0).sum(dtype=torch.float64)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Detached maximum of non-negative ``values[B, T]`` over ``mask`` bool[B, T]; 0 where the mask is empty."""
    inside = torch.where(mask, values.detach(), 0).to(torch.float64).flatten()
    return torch.cat([inside, inside.new_zeros(1)]).max()
