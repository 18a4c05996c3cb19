"""The policy loss of environment agents: PPO's clipped surrogate on single actions, with ONI's symmetric ratio bounds."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST, _LARGEST = 0.05, 20.0
"""Bounds of the ratio itself: beyond them the surrogate has no gradient (ONI, Sample Factory)."""


def clipped_surrogate(ratios: Tensor, advantages: Tensor, clip: float, weights: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """``-w·min(ρA, clip(ρ, 1/(1+ε), 1+ε)·A)`` per action (Schulman et al. 2017, eq. 7), and metrics as sums over actions.

    ``ratios`` float32[T, B] with gradient: π(a|x) / μ(a|x); ``advantages`` float32[T, B] without. ``weights`` float32[T, B] where the
    ratio is to a proximal policy: its truncated importance weight against μ (Hilton et al. 2021, arXiv 2110.00641, eq. 2).
    """
    low, high = 1 / (1 + clip), 1 + clip
    bounded = ratios.clamp(_SMALLEST, _LARGEST)
    loss = -torch.min(bounded * advantages, bounded.clamp(low, high) * advantages)
    if weights is not None:
        loss = weights * loss
    detached = ratios.detach()
    metrics = {
        "policy/ratio": detached.sum(dtype=torch.float64),
        "policy/ratio_max": detached.max().double(),
        "policy/clip_low": ((detached < low) & (advantages < 0)).sum(dtype=torch.float64),
        "policy/clip_high": ((detached > high) & (advantages > 0)).sum(dtype=torch.float64),
    }
    return loss, metrics
