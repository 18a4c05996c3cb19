"""From a loss per token to one number that does not depend on how the batch was split.

A reduction has two halves. The *denominator* is a property of the global batch's metadata (how many action tokens each
trajectory has) and is known before any forward pass. The *sum* is a property of the tokens at hand. Every micro-batch of
every rank contributes its sum; ``total of sums / denominator`` is the loss, and because a gradient is linear, any split
into whole trajectories yields the same gradient.

Legend of shapes: ``B`` trajectories of a micro-batch, ``T`` padded length, ``N`` trajectories of the global batch.
Rows without an action token (padding rows of a rank that has no work left) count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayrl.algorithms import registry


class Reduced(NamedTuple):
    """What one micro-batch contributes."""

    sum: Tensor
    """Scalar with gradient: add over micro-batches and ranks, then divide by the global denominator."""
    denominator: Tensor
    """Scalar: this micro-batch's share of the global denominator."""


@dataclass(frozen=True)
class Reduction:
    """One way of weighing tokens: how a row is summed, and how much a row adds to the denominator."""

    mean_over_row: bool
    """Divide each row's sum by its own number of action tokens."""
    count: Callable[[Any, int], Any]
    """``(action_tokens [N], max_tokens) -> [N]``: each row's share of the denominator (numpy arrays or tensors)."""


TOKEN_MEAN = Reduction(mean_over_row=False, count=lambda lengths, max_tokens: lengths)
"""Every token weighs the same: ``sum over tokens / global tokens`` (DAPO, arXiv 2503.14476 eq. 8)."""

SEQUENCE_MEAN = Reduction(mean_over_row=True, count=lambda lengths, max_tokens: lengths > 0)
"""Every trajectory weighs the same: token weight ``1 / len_i``, denominator ``N`` (GRPO, arXiv 2402.03300 eq. 3)."""

FIXED_LENGTH = Reduction(mean_over_row=False, count=lambda lengths, max_tokens: (lengths > 0) * max_tokens)
"""A constant in place of the length: ``sum over tokens / (N * max_tokens)`` (Dr. GRPO, arXiv 2503.20783 section 3.2)."""


def reduce(reduction: str, token_loss: Tensor, action_mask: Tensor, max_tokens: int) -> Reduced:
    """Contribution of one micro-batch of whole trajectories.

    ``token_loss`` float[B, T], ``action_mask`` bool[B, T]; ``max_tokens`` is the constant of ``fixed_length`` (the most action
    tokens that a trajectory may have) and must be the same on every rank. Values outside the mask are never read.
    """
    rule: Reduction = registry.load(registry.REDUCTIONS, reduction, "algorithm.loss_reduction")
    lengths = action_mask.sum(-1)
    rows = torch.where(action_mask, token_loss, 0).sum(-1)
    if rule.mean_over_row:
        rows = rows / lengths.clamp(min=1)
    return Reduced(rows.sum(), rule.count(lengths, max_tokens).sum().to(token_loss.dtype))


def denominator(reduction: str, action_tokens: Sequence[int] | np.ndarray, max_tokens: int) -> float:
    """Global denominator from metadata: ``action_tokens`` int[N] of every trained trajectory of every rank.

    Never below 1, so that a batch in which nothing may be trained on gives a loss of 0 instead of NaN.
    """
    rule: Reduction = registry.load(registry.REDUCTIONS, reduction, "algorithm.loss_reduction")
    return float(max(np.sum(rule.count(np.asarray(action_tokens, dtype=np.int64), max_tokens)), 1))
