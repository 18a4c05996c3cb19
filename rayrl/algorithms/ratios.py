"""The one place where a probability ratio is bounded: every exponential in this room is taken of `log_ratio`."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ±20: beyond e^20 a ratio says that a token is useless, not how useless. No gradient beyond it."""


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``log(pi / old)`` clamped to ±20, and 0 where ``mask`` is False; what stands there is never read. All [B, T]."""
    return torch.where(mask, logprobs - old_logprobs, 0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(log_ratio: Tensor) -> Tensor:
    """``e^x - 1 - x``: Schulman's estimate of ``KL(p || q)`` from samples of p, where ``x = log(q / p)``. Never negative."""
    return log_ratio.expm1() - log_ratio
