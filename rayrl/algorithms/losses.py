"""Policy losses per token, before any reduction: ``f(LossInputs) -> LossOutput``.

A loss says what each action token contributes; how tokens are weighed against each other is a reduction (reductions.py).
The result is minimised. Rows are whole trajectories, because GSPO's ratio is a property of the sequence.

Notation: ``pi`` current policy, ``old`` the ratio's denominator (`LossInputs.prox_logprobs`), ``A`` advantage,
``w`` off-policy weight. Legend of shapes: ``B`` trajectories, ``T`` padded length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rayrl.algorithms.metrics import Metrics, masked_max, masked_sum
from rayrl.algorithms.ratios import k3, log_ratio


@dataclass(frozen=True, eq=False)
class LossInputs:
    """Float tensors [B, T] of one dtype; what stands outside ``action_mask`` is never read. Only ``logprobs`` has a gradient."""

    logprobs: Tensor
    """Current policy, with gradient."""
    prox_logprobs: Tensor
    """Denominator of the ratio: the policy at the start of the step, or with correction ``none`` the behaviour policy itself
    (`correction.ratio_denominator`)."""
    behavior_logprobs: Tensor
    """The policy that sampled the tokens; measured against, never differentiated."""
    advantages: Tensor
    action_mask: Tensor
    """bool[B, T]."""
    weights: Tensor
    """Off-policy correction `correction.correction_weights`; ones on policy."""
    clip_low: float = 0.2
    """The ratio is clipped below ``1 - clip_low``."""
    clip_high: float = 0.2
    """The ratio is clipped above ``1 + clip_high``."""


@dataclass(frozen=True, eq=False)
class LossOutput:
    token_loss: Tensor
    """float[B, T] with gradient, 0 outside the action mask."""
    metrics: Metrics
    """Sums over action tokens and maxima, see metrics.py."""


def ppo_clip(inputs: LossInputs, *, dual_clip: float = 0.0) -> LossOutput:
    """``-w min(rho A, clip(rho) A)``, ``rho = pi / old`` per token (PPO, arXiv 1707.06347 eq. 7; GRPO, arXiv 2402.03300 eq. 3).

    ``dual_clip`` c > 0: where A < 0 it is ``-w max(min(...), c A)``, so that a token whose ratio has run away stops teaching (dual clip,
    arXiv 1912.09729 eq. 5).
    """
    found = _clipped_surrogate(inputs, log_ratio(inputs.logprobs, inputs.prox_logprobs, inputs.action_mask))
    if not dual_clip:
        return found
    signal = _signal(inputs)
    bounded = torch.where(signal < 0, torch.minimum(found.token_loss, -dual_clip * signal), found.token_loss)
    return LossOutput(bounded, found.metrics)


def gspo(inputs: LossInputs) -> LossOutput:
    """`ppo_clip` with the sequence's length-normalised ratio ``s = exp(mean_t log(pi / old))`` (GSPO, arXiv 2507.18071 eq. 5-7).

    In the token form of the paper (GSPO-token, eq. 13-14) every token carries ``sg[s] * pi / sg[pi]``: the value is ``s``, and
    the gradient reaches each token's own log-prob. With one advantage per sequence and the reduction ``sequence_mean`` its
    gradient is that of the sequence form; clipping takes or leaves whole sequences.
    """
    mask = inputs.action_mask
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    of_sequence = log_ratio(inputs.logprobs.detach(), inputs.prox_logprobs, mask).sum(-1, keepdim=True) / lengths
    own_gradient = torch.where(mask, inputs.logprobs - inputs.logprobs.detach(), 0)
    return _clipped_surrogate(inputs, torch.where(mask, of_sequence, 0) + own_gradient)


def cispo(inputs: LossInputs) -> LossOutput:
    """``-w sg[clip(rho)] A log pi``: the importance weight is clipped, no token loses its gradient (CISPO, arXiv 2506.13585 eq. 4-5).

    ``clip_low >= 1`` means no lower bound, as in the paper.
    """
    ratio = log_ratio(inputs.logprobs.detach(), inputs.prox_logprobs, inputs.action_mask).exp()
    floor, ceiling = 1 - inputs.clip_low, 1 + inputs.clip_high
    token_loss = -ratio.clamp(floor, ceiling) * _signal(inputs) * _live_logprobs(inputs)
    return LossOutput(token_loss, _metrics(inputs, ratio, low=ratio < floor, high=ratio > ceiling))


def reinforce(inputs: LossInputs) -> LossOutput:
    """``-w A log pi`` (Williams 1992). It has no ratio: take one optimiser update per batch."""
    ratio = log_ratio(inputs.logprobs.detach(), inputs.prox_logprobs, inputs.action_mask).exp()
    never = torch.zeros_like(inputs.action_mask)
    return LossOutput(-_signal(inputs) * _live_logprobs(inputs), _metrics(inputs, ratio, low=never, high=never))


def _clipped_surrogate(inputs: LossInputs, log_ratios: Tensor) -> LossOutput:
    ratio, signal = log_ratios.exp(), _signal(inputs)
    floor, ceiling = 1 - inputs.clip_low, 1 + inputs.clip_high
    surrogate = torch.min(ratio * signal, ratio.clamp(floor, ceiling) * signal)
    # Outside the trust region on the other side the minimum picks the unclipped branch: that token is not counted.
    low, high = (ratio < floor) & (signal < 0), (ratio > ceiling) & (signal > 0)
    return LossOutput(-surrogate, _metrics(inputs, ratio.detach(), low=low, high=high))


def _signal(inputs: LossInputs) -> Tensor:
    """``w A``, 0 outside the mask. Weights are not negative, so they commute with the minimum of the clipped surrogate."""
    return torch.where(inputs.action_mask, inputs.weights * inputs.advantages, 0)


def _live_logprobs(inputs: LossInputs) -> Tensor:
    return torch.where(inputs.action_mask, inputs.logprobs, 0)


def _metrics(inputs: LossInputs, ratio: Tensor, *, low: Tensor, high: Tensor) -> Metrics:
    mask, logprobs = inputs.action_mask, inputs.logprobs.detach()
    return {
        "policy/clip_low": masked_sum(low, mask),
        "policy/clip_high": masked_sum(high, mask),
        "policy/ratio": masked_sum(ratio, mask),
        "policy/ratio_max": masked_max(ratio, mask),
        "policy/kl_old": masked_sum(k3(log_ratio(logprobs, inputs.prox_logprobs, mask)), mask),
        "policy/kl_behavior": masked_sum(k3(log_ratio(logprobs, inputs.behavior_logprobs, mask)), mask),
    }
