"""Off-policy correction: how much the policy of the start of the step trusts tokens that an older or inexact policy sampled.

Three policies are in play: *behaviour* sampled the tokens (an engine, maybe several versions ago), *prox* is the learner's
policy at the start of the step, *current* is being updated. The loss corrects current against prox by its ratio; the
weights here correct prox against behaviour, ``w = prox / behaviour`` (decoupled PPO: Hilton et al., arXiv 2110.00641; AReaL,
arXiv 2505.24298 section 5.2). With mode ``none`` there are no weights and the ratio is taken against behaviour itself.

Legend of shapes: ``B`` trajectories, ``T`` padded length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayrl.algorithms.metrics import Metrics, masked_max, masked_sum
from rayrl.algorithms.ratios import MAX_LOG_RATIO, k3, log_ratio
from rayrl.errors import ConfigError


def ratio_denominator(mode: str, prox_logprobs: Tensor | None, behavior_logprobs: Tensor) -> Tensor:
    """The log-probs that go into `LossInputs.prox_logprobs`: behaviour's for mode ``none`` (no extra forward pass), else prox's."""
    if mode == "none":
        return behavior_logprobs
    if prox_logprobs is None:
        raise ValueError(f"correction mode {mode!r} needs the log-probs of the policy at the start of the step")
    return prox_logprobs


@torch.no_grad()
def correction_weights(
    mode: str,
    prox_logprobs: Tensor,
    behavior_logprobs: Tensor,
    action_mask: Tensor,
    cap: float = 2.0,
    floor: float = 0.5,
    level: str = "token",
) -> tuple[Tensor, Metrics]:
    """Weights float[B, T] without gradient, never NaN and never negative, 1 outside the mask; and their metrics.

    - ``none``: 1.
    - ``truncated``: ``min(w, cap)`` (truncated importance sampling: biased, no token lost).
    - ``masked``: ``w`` where ``floor <= w <= cap``, else 0 (IcePop, masked importance sampling).
    - ``decoupled``: ``w`` where ``w <= cap``, else 0 (AReaL's cap on the behaviour weight).

    ``level``: ``token`` takes each token's own ratio; ``sequence`` takes the product over the action tokens of the row for all of
    them. A ratio that does not exist (both policies say probability 0, or a NaN) has weight 0 and is counted as ``undefined``.
    Raises `ConfigError` for another mode or level.
    """
    if mode == "none":
        return torch.ones_like(behavior_logprobs), {}
    if level not in ("token", "sequence"):
        raise ConfigError(f"algorithm.correction.level is {level!r}", "use token or sequence")

    undefined = action_mask & (prox_logprobs - behavior_logprobs).isnan()
    log_weights = log_ratio(prox_logprobs, behavior_logprobs, action_mask & ~undefined)
    if level == "sequence":
        undefined = action_mask & undefined.any(-1, keepdim=True)
        log_weights = log_weights.sum(-1, keepdim=True).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).expand_as(log_weights)
    raw = torch.where(undefined, 0, log_weights.exp())

    if mode == "truncated":
        weights = raw.clamp(max=cap)
    elif mode == "masked":
        weights = torch.where((raw >= floor) & (raw <= cap), raw, 0)
    elif mode == "decoupled":
        weights = torch.where(raw <= cap, raw, 0)
    else:
        raise ConfigError(f"algorithm.correction.mode is {mode!r}", "use none, truncated, masked or decoupled")

    metrics = {
        "correction/ratio": masked_sum(raw, action_mask),
        "correction/ratio_max": masked_max(raw, action_mask),
        "correction/weight": masked_sum(weights, action_mask),
        "correction/weight_sq": masked_sum(weights.square(), action_mask),
        "correction/changed": masked_sum(weights != raw, action_mask),
        "correction/undefined": masked_sum(undefined, action_mask),
    }
    return torch.where(action_mask, weights, 1), metrics


@torch.no_grad()
def mismatch_metrics(learner_logprobs: Tensor, behavior_logprobs: Tensor, action_mask: Tensor) -> Metrics:
    """How far the learner's log-probs [B, T] of the sampled tokens are from those the engine reported, in nats per token.

    ``abs`` mean and maximal distance, ``k1`` and ``k3`` Schulman's estimates of ``KL(behaviour || learner)``. At equal weights this
    is the numerical mismatch of the two implementations; otherwise staleness adds to it.
    """
    delta = log_ratio(learner_logprobs, behavior_logprobs, action_mask)
    return {
        "mismatch/abs": masked_sum(delta.abs(), action_mask),
        "mismatch/abs_max": masked_max(delta.abs(), action_mask),
        "mismatch/kl_k1": masked_sum(-delta, action_mask),
        "mismatch/kl_k3": masked_sum(k3(delta), action_mask),
    }
