"""What losses over whole groups are given and return: ``f(GroupInputs, **knobs) -> GroupLoss``, and what they share.

A loss returns the *sum* over the pairs at hand; the denominator, the pairs of the whole update, is known from metadata before any
forward pass. A micro-batch holds whole groups, hence whole pairs, and any split of a batch gives the same gradient.

Notation: ``pi`` the policy, ``ref`` the frozen reference, ``w`` and ``l`` the preferred and the other sample of a pair; sums run over
the action tokens of a sample. Legend of shapes: ``B`` trajectories, ``T`` padded length, ``P`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rayrl.algorithms.metrics import Metrics

PAIR_METRICS = ("pairs/accuracy", "pairs/margin", "pairs/chosen", "pairs/rejected")


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
    opponent_logprobs: Tensor | None = None
    """float[B, T]: weighted mean over the policies of `reference.opponents`; None where there are none."""
    no_pairs: bool = False
    """True where the whole update has no pair: then the denominator counts trajectories."""


@dataclass(frozen=True, eq=False)
class GroupLoss:
    sum: Tensor
    """Scalar with gradient."""
    metrics: Metrics
    """Sums over pairs (weighted as the loss is) or trajectories, and maxima, see metrics.py; logged as means over the denominator."""
    token_loss: Tensor | None = None
    """float[B, T]: a further term per action token, reduced over tokens as `algorithm.loss_reduction` says; None for none."""


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


def log_gain(inputs: GroupInputs, anchor: str = "reference", of: Callable[[Tensor, Tensor], Tensor] = sums) -> Tensor:
    """float[B]: ``log pi - log anchor`` of each sample, summed (or by another ``of``) over its action tokens.

    ``anchor`` previous is the policy that sampled, which is the last round's policy of iterative methods.
    """
    other = inputs.behavior_logprobs if anchor == "previous" else reference(inputs)
    return of(inputs.logprobs - other, inputs.action_mask)


def difference(inputs: GroupInputs, values: Tensor) -> Tensor:
    """float[P]: ``values[chosen] - values[rejected]``."""
    return values[inputs.chosen] - values[inputs.rejected]


def pair_loss(inputs: GroupInputs, f: Callable[[Tensor], Tensor], margin: Tensor, gain: Tensor) -> GroupLoss:
    """``sum_p weight_p f(margin_p)`` with the metrics that every loss on pairs shows; ``gain`` float[B] is measured only."""
    return GroupLoss((inputs.weight * f(margin)).sum(), pair_metrics(inputs, margin, gain))


def pair_metrics(inputs: GroupInputs, margin: Tensor, gain: Tensor) -> Metrics:
    """Share of pairs in the right order, mean margin, and the log-ratio of either side: suppression shows when both fall."""
    weight, gain, margin = inputs.weight.double(), gain.detach().double(), margin.detach().double()
    shown = (margin > 0, margin, gain[inputs.chosen], gain[inputs.rejected])
    return {key: (weight * values).sum() for key, values in zip(PAIR_METRICS, shown, strict=True)}
