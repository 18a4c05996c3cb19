"""What each step of a trajectory is paid, from what its component says of it: ``f(values, mask, **knobs) -> [B, S]``.

``values`` float32[B, S] step rewards, ``mask`` bool[B, S] True for the steps of a row, first ones first. The result is 0 outside the
mask and is placed on the last token of each step; rewards to go are sums of it. A row without a step is paid nothing.

Sources: PURE (arXiv 2504.15275) for the minimum forms; Clip and Delta (arXiv 2410.15115). Legend: ``B`` trajectories, ``S`` most
steps of one, ``T`` padded length in tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayrl.algorithms.token_credit import Reduce, TokenAdvantages, TokenInputs, _Steps, alone, discounted_sums, token_rewards


def none(values: Tensor, mask: Tensor) -> Tensor:
    """Steps are paid nothing."""
    return torch.zeros_like(values)


def sum_form(values: Tensor, mask: Tensor) -> Tensor:
    """Every step is paid its own reward: what adds easy steps is paid for each of them."""
    return torch.where(mask, values, 0)


def min_form(values: Tensor, mask: Tensor, *, temperature: float = 0.1) -> Tensor:
    """``softmax(-p / T)_k p_k`` over the steps of the row: their sum tends to the worst step for T -> 0 (PURE section 3.2).

    One step keeps its reward; equal rewards are shared equally.
    """
    weights = (-values / temperature).masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.where(mask, weights * values, 0)


def strict_min(values: Tensor, mask: Tensor) -> Tensor:
    """Paid so that the reward to go of step k is exactly ``min_{k' >= k} p_k'``: PURE's definition, over steps only.

    The released code takes the minimum over token rewards with the zeros between steps among them; this does not.
    """
    to_go = values.masked_fill(~mask, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    to_go = torch.where(mask, to_go, 0)
    return to_go - _next(to_go)


def clip(values: Tensor, mask: Tensor, *, eta: float = 0.9) -> Tensor:
    """``min(r_k - eta, 0)``: steps below the threshold are punished, none is rewarded (2410.15115, Clip)."""
    return torch.where(mask, (values - eta).clamp(max=0), 0)


def delta(values: Tensor, mask: Tensor) -> Tensor:
    """``r_k - r_{k+1}``, ``r_{K-1}`` for the last but one and 0 for the last step (2410.15115, Delta).

    The sum telescopes: the reward to go from step k < K is ``r_k``, however many steps follow. The last step is paid by the outcome.
    """
    last = mask & ~_next(mask)
    inner = torch.where(mask & ~last, values, 0)
    return inner - _next(inner)


def clip_delta(values: Tensor, mask: Tensor, *, eta: float = 0.9) -> Tensor:
    """`delta` of `clip`: bounded by 0 and independent of the number of steps (2410.15115; recommended there)."""
    return delta(clip(values, mask, eta=eta), mask)


def pure_rloo(inputs: TokenInputs, reduce: Reduce = alone, *, baseline: str = "token") -> TokenAdvantages:
    """Leave-one-out baselines for step rewards, and rewards to go without discount (PURE, appendix; its OpenRLHF branch).

    With ``O_j`` the sum of sample j's step rewards, every step of i has subtracted: ``token``: ``sum_{j != i} O_j / sum_{j != i} len_j``
    times the tokens of the step; ``step``: the mean over the others of ``O_j / steps_j`` (which favours few long steps). The outcome
    is compared with the mean of the others' outcomes and paid on the last token; the KL penalty stays per token. Without siblings
    both baselines are 0. Raises `ValueError` without steps.
    """
    if inputs.step_rewards is None or inputs.step_tokens is None or inputs.group is None or inputs.outcomes is None:
        raise ValueError("pure_rloo needs rewards of steps (algorithm.steps)")
    mask, rows = inputs.action_mask, len(inputs.action_mask)
    siblings = (inputs.group[:, None] == inputs.group[None, :]) & ~torch.eye(rows, dtype=torch.bool)
    others = siblings.double()
    paid, tokens = inputs.step_rewards.double().sum(-1), mask.sum(-1).double()
    ends = inputs.step_tokens > 0
    if baseline == "token":
        rate = (others @ paid) / (others @ tokens).clamp(min=1)
        base = rate[:, None] * inputs.step_tokens
    else:
        per_step = paid / ends.sum(-1).clamp(min=1)
        base = ((others @ per_step) / others.sum(-1).clamp(min=1))[:, None] * ends
    outcomes = inputs.outcomes.double()
    outcome = outcomes - (others @ outcomes) / others.sum(-1).clamp(min=1)
    rewards = inputs.step_rewards - base.float() + token_rewards(outcome.float(), mask, inputs.kl, 1.0)
    steps = _Steps(mask)
    return TokenAdvantages(steps.put(discounted_sums(steps.take(rewards), 1.0)))


def _next(x: Tensor) -> Tensor:
    """``x[:, k + 1]`` at k; 0 or False beyond the end."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], -1) if x.shape[-1] else x
