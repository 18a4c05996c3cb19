"""Losses over pairs of samples of one prompt: ``f(GroupInputs, **knobs) -> GroupLoss``.

A loss returns the *sum* over the pairs at hand; the denominator, the pairs of the whole update, is known from metadata before any
forward pass. A micro-batch holds whole groups, hence whole pairs, and any split of a batch gives the same gradient.

Notation: ``pi`` the policy, ``ref`` the frozen reference, ``w`` and ``l`` the preferred and the other sample of a pair; sums run over
the action tokens of a sample. Legend of shapes: ``B`` trajectories, ``T`` padded length, ``P`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rayrl.algorithms.metrics import Metrics


@dataclass(frozen=True, eq=False)
class GroupInputs:
    """Whole groups of one micro-batch. What stands outside ``action_mask`` is never read; only ``logprobs`` has a gradient."""

    logprobs: Tensor
    """float[B, T], with gradient."""
    prox_logprobs: Tensor
    """float[B, T]: the policy at the start of the step, or the behaviour policy (`correction.ratio_denominator`)."""
    behavior_logprobs: Tensor
    """float[B, T]: the policy that sampled the tokens."""
    reference_logprobs: Tensor | None
    """float[B, T]: the frozen reference; None where none runs."""
    action_mask: Tensor
    """bool[B, T]; no row is empty."""
    group: Tensor
    """int64[B]: which prompt, numbered over the batch."""
    rewards: Tensor
    """float[B]."""
    chosen: Tensor
    """int64[P]: row of the preferred sample."""
    rejected: Tensor
    """int64[P]."""
    target: Tensor
    """float[P]: `pairs.Pairs.target`."""
    weight: Tensor
    """float[P]: share of the pair in the denominator; multiply each pair's loss by it."""
    no_pairs: bool = False
    """True where the whole update has no pair: then the denominator counts trajectories."""


@dataclass(frozen=True, eq=False)
class GroupLoss:
    sum: Tensor
    """Scalar with gradient."""
    metrics: Metrics
    """Sums over pairs (weighted as the loss is) or trajectories, and maxima, see metrics.py; logged as means over the denominator."""


def dpo(inputs: GroupInputs, *, beta: float = 0.1) -> GroupLoss:
    """``-log sigmoid(beta [(log pi - log ref)(w) - (log pi - log ref)(l)])`` (DPO, arXiv 2305.18290 eq. 7).

    On pairs of fresh samples this is online DPO (Guo et al., arXiv 2402.04792). At the reference the loss is log 2.
    """
    gain = log_gain(inputs)
    return pair_loss(inputs, lambda z: F.softplus(-z), beta * difference(inputs, gain), gain)


def sums(logprobs: Tensor, mask: Tensor) -> Tensor:
    """float[B]: log-probability of each whole sample."""
    return torch.where(mask, logprobs, 0).sum(-1)


def means(logprobs: Tensor, mask: Tensor) -> Tensor:
    """float[B]: mean log-probability per action token; 0 for an empty row."""
    return sums(logprobs, mask) / mask.sum(-1).clamp(min=1)


def reference(inputs: GroupInputs) -> Tensor:
    """``reference_logprobs``; raises `ValueError` where no reference runs."""
    if inputs.reference_logprobs is None:
        raise ValueError("this loss needs the log-probs of the reference model")
    return inputs.reference_logprobs


def log_gain(inputs: GroupInputs, of: Callable[[Tensor, Tensor], Tensor] = sums) -> Tensor:
    """float[B]: ``log pi - log ref`` of each sample, summed (or by another ``of``) over its action tokens."""
    return of(inputs.logprobs - reference(inputs), inputs.action_mask)


def difference(inputs: GroupInputs, values: Tensor) -> Tensor:
    """float[P]: ``values[chosen] - values[rejected]``."""
    return values[inputs.chosen] - values[inputs.rejected]


def pair_loss(inputs: GroupInputs, f: Callable[[Tensor], Tensor], margin: Tensor, gain: Tensor) -> GroupLoss:
    """``sum_p weight_p f(margin_p)`` with the metrics that every loss on pairs shows; ``gain`` float[B] is measured only."""
    return GroupLoss((inputs.weight * f(margin)).sum(), pair_metrics(inputs, margin, gain))


def pair_metrics(inputs: GroupInputs, margin: Tensor, gain: Tensor) -> Metrics:
    """Share of pairs in the right order, mean margin, and the log-ratio of either side: suppression shows when both fall."""
    weight, gain, margin = inputs.weight.double(), gain.detach().double(), margin.detach().double()
    return {
        "pairs/accuracy": (weight * (margin > 0)).sum(),
        "pairs/margin": (weight * margin).sum(),
        "pairs/chosen": (weight * gain[inputs.chosen]).sum(),
        "pairs/rejected": (weight * gain[inputs.rejected]).sum(),
    }
