"""The critic's loss per token, reduced like any other token loss (reductions.py; PPO uses ``token_mean``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rayrl.algorithms.losses import LossOutput
from rayrl.algorithms.metrics import masked_sum


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, action_mask: Tensor, clip: float) -> LossOutput:
    """``max((V - R)^2, (old + clip(V - old) - R)^2) / 2`` per action token (PPO2; Huang et al., "The 37 implementation details of PPO").

    ``values`` float[B, T] with gradient, ``old_values`` those that the returns were computed with, ``returns`` the targets; what
    stands outside ``action_mask`` is never read. ``clip`` 0 is the plain squared error.
    """
    values, old, target = (torch.where(action_mask, x, 0) for x in (values, old_values.detach(), returns.detach()))
    loss = (values - target).square()
    clipped = torch.zeros_like(action_mask)
    if clip > 0:
        bounded = (old + (values - old).clamp(-clip, clip) - target).square()
        clipped = bounded > loss
        loss = torch.max(loss, bounded)
    error = target - values
    metrics = {
        "value/clip": masked_sum(clipped, action_mask),
        "value/mean": masked_sum(values, action_mask),
        "value/error": masked_sum(error, action_mask),
        "value/error_sq": masked_sum(error.square(), action_mask),
        "value/return": masked_sum(target, action_mask),
        "value/return_sq": masked_sum(target.square(), action_mask),
    }
    return LossOutput(loss / 2, metrics)


def explained_variance(means: Mapping[str, float]) -> float:
    """``1 - Var(R - V) / Var(R)`` from the averaged metrics of `value_loss`; 0 where the returns do not vary."""
    variance = means["value/return_sq"] - means["value/return"] ** 2
    residual = means["value/error_sq"] - means["value/error"] ** 2
    return 1 - residual / variance if variance > 0 else 0.0
