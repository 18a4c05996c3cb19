"""Token credit: one advantage per action token, from the tokens that this rank holds.

A TOKEN estimator is ``f(TokenInputs, reduce) -> TokenAdvantages``. ``reduce`` returns the sum of a float64 tensor over all ranks (the
identity on one rank). An estimator that whitens calls it twice, unconditionally, so that ranks without tokens take part too.

A trajectory is the sequence of its *action* tokens. What the environment wrote between two turns is cut out before any
recurrence runs and is not a time step: values and rewards pass over it as if it were not there, and nothing is read at or
written to its positions. The last action token is terminal (no bootstrap), also where a length limit ended the episode.

Legend of shapes: ``B`` trajectories, ``T`` padded length. Rows that must not be trained on have an all-False mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]

_MIN_VARIANCE = 1e-8
"""Floor under the variance when whitening, as in OpenRLHF."""


def alone(x: Tensor) -> Tensor:
    """The sum over one rank."""
    return x


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """Rewards, and for PPO values, of the tokens at hand."""

    token_rewards: Tensor
    """float32[B, T]: see `token_rewards`."""
    action_mask: Tensor
    """bool[B, T]."""
    values: Tensor | None = None
    """float32[B, T]: the critic's estimate *before* the action token at the same position; gae only."""
    baseline: Tensor | None = None
    """float32[B]: subtracted from the trajectory's reward (`credit.group_mean`); reinforce_pp_baseline only."""
    gamma: float = 1.0
    """Discount per action token."""
    lam: float = 0.95
    """GAE's lambda."""
    group: Tensor | None = None
    """int64[B]: which prompt; whole groups are at hand."""
    outcomes: Tensor | None = None
    """float32[B]: the reward of the whole trajectory, which ``token_rewards`` holds on the last action token."""
    kl: Tensor | None = None
    """float32[B, T]: the KL penalty per token that is part of ``token_rewards``; None where there is none."""
    step_rewards: Tensor | None = None
    """float32[B, T]: what each step is paid, on its last token; part of ``token_rewards``. None without `algorithm.steps`."""
    step_tokens: Tensor | None = None
    """int64[B, T]: on the last token of a step the number of its tokens; 0 elsewhere."""


@dataclass(frozen=True, eq=False)
class TokenAdvantages:
    advantages: Tensor
    """float32[B, T], 0 outside the action mask."""
    returns: Tensor | None = None
    """float32[B, T], 0 outside the action mask: the critic's targets; None without a critic."""


def token_rewards(rewards: Tensor, action_mask: Tensor, kl: Tensor | None = None, kl_coef: float = 0.0) -> Tensor:
    """float32[B, T]: the outcome ``rewards`` float32[B] on the last action token, minus ``kl_coef * kl`` on every action token.

    ``kl`` float32[B, T] is a per-token estimate (`kl.estimate`), given where the KL penalty is part of the reward
    (arXiv 2009.01325 section 3.4). A trajectory without an action token receives nothing.
    """
    remaining = action_mask.flip(-1).cumsum(-1).flip(-1)
    is_last = action_mask & (remaining == 1)
    out = torch.where(is_last, rewards[:, None], 0)
    return out if kl is None else out - kl_coef * torch.where(action_mask, kl.detach(), 0)


def gae_raw(inputs: TokenInputs, reduce: Reduce = alone) -> TokenAdvantages:
    """Generalised advantage estimation (arXiv 1506.02438 eq. 16): ``A_t = sum_l (gamma lam)^l delta_{t+l}``.

    ``delta_t = r_t + gamma V_{t+1} - V_t`` over consecutive action tokens; returns are ``A_t + V_t``. Nothing is
    normalised, so ``reduce`` is not called. Raises `ValueError` without values.
    """
    if inputs.values is None:
        raise ValueError("gae needs the critic's values")
    steps = _Steps(inputs.action_mask)
    rewards, values = steps.take(inputs.token_rewards), steps.take(inputs.values.detach())
    delta = rewards + inputs.gamma * _shift(values, 1) - values
    advantages = discounted_sums(delta, inputs.gamma * inputs.lam)
    return TokenAdvantages(steps.put(advantages), steps.put(advantages + values))


def gae(inputs: TokenInputs, reduce: Reduce = alone) -> TokenAdvantages:
    """`gae_raw` with advantages whitened over the action tokens of the global batch, as PPO for language models does.

    Returns are those before whitening (Huang et al., "The N implementation details of RLHF with PPO", 2023).
    """
    raw = gae_raw(inputs)
    return TokenAdvantages(whiten(raw.advantages, inputs.action_mask, reduce), raw.returns)


def reinforce_pp(inputs: TokenInputs, reduce: Reduce = alone) -> TokenAdvantages:
    """REINFORCE++ (arXiv 2501.03262): discounted reward-to-go, normalised over the action tokens of the global batch.

    The per-token KL penalty is part of ``token_rewards``.
    """
    steps = _Steps(inputs.action_mask)
    to_go = steps.put(discounted_sums(steps.take(inputs.token_rewards), inputs.gamma))
    return TokenAdvantages(whiten(to_go, inputs.action_mask, reduce))


def reinforce_pp_baseline(inputs: TokenInputs, reduce: Reduce = alone) -> TokenAdvantages:
    """REINFORCE++ with a group baseline (arXiv 2501.03262): reward minus group mean, then as `reinforce_pp`.

    The KL penalty belongs into the loss. Raises `ValueError` without a baseline.
    """
    if inputs.baseline is None:
        raise ValueError("reinforce_pp_baseline needs a baseline per trajectory")
    centred = inputs.token_rewards - token_rewards(inputs.baseline, inputs.action_mask)
    return reinforce_pp(replace(inputs, token_rewards=centred), reduce)


def whiten(values: Tensor, mask: Tensor, reduce: Reduce) -> Tensor:
    """``(x - mean) / std`` of ``values[B, T]`` over the True positions of all ranks; 0 elsewhere. Population variance, float64 inside."""
    inside = torch.where(mask, values, 0).double()
    total, count = reduce(torch.stack([inside.sum(), mask.sum().double()]))
    centred = torch.where(mask, inside - total / count.clamp(min=1), 0)
    variance = reduce(centred.square().sum()) / count.clamp(min=1)
    return (centred * variance.clamp(min=_MIN_VARIANCE).rsqrt()).to(values.dtype)


def discounted_sums(x: Tensor, factor: float) -> Tensor:
    """``y_t = x_t + factor * y_{t+1}`` along the last axis of ``x[B, T]``, in log2(T) passes over the tensor.

    After the pass with stride s, ``y_t`` holds the first 2s terms of ``sum_k factor^k x_{t+k}``.
    """
    stride = 1
    while stride < x.shape[-1]:
        x = x + factor**stride * _shift(x, stride)
        stride *= 2
    return x


class _Steps:
    """Moves the action tokens of each row to its front, in order, and back: the view without environment tokens."""

    def __init__(self, action_mask: Tensor) -> None:
        self._mask = action_mask
        self._order = (~action_mask).to(torch.uint8).argsort(dim=-1, stable=True)
        self._live = action_mask.gather(-1, self._order)

    def take(self, x: Tensor) -> Tensor:
        """``x[B, T]`` with action tokens first and 0 after them."""
        return torch.where(self._live, x.gather(-1, self._order), 0)

    def put(self, x: Tensor) -> Tensor:
        """Inverse of `take`; 0 outside the action mask."""
        return torch.where(self._mask, torch.empty_like(x).scatter_(-1, self._order, x), 0)


def _shift(x: Tensor, by: int) -> Tensor:
    """``x[:, t + by]`` at ``t``, 0 beyond the end."""
    return F.pad(x[..., by:], (0, by))
