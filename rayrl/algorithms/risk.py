"""RiskPO: the lower part of the reward distribution is what is trained on (arXiv 2510.00911).

0/1 rewards are too coarse for quantiles, so the responses to B questions are added up into *bundles*; the bundle score 0 … B is
the random variable whose quantiles are tracked from step to step. Two defects of the released code are not followed: its tracked
quantiles never reach the advantage, and responses are combined by index instead of at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayrl.algorithms.credit import OutcomeInputs

LEVELS = np.arange(1, 20) * 0.05
"""Tracked quantile levels: 5 % … 95 %."""
_FLOOR = 1e-3
"""A standard deviation up to this counts as none: dividing by it would only blow up noise."""


def riskpo(
    state: Mapping[str, Any] | None,
    inputs: OutcomeInputs,
    *,
    alpha: float = 0.2,
    beta: float = 0.8,
    w: float = 1.5,
    bundle: int = 5,
    spread: str = "uniform",
    form: str = "paper",
    quantile_lr: float = 0.1,
    seeking: bool = False,
    divide: bool = False,
) -> tuple[dict[str, Any], Tensor]:
    """Advantages float32[N] from the mixed value-at-risk of bundle scores R, with ``a``, ``b`` the tracked quantiles of alpha, beta:

        g_R = (R - a)+ - (R - b)+ + a - b  in [a - b, 0]        g_C = -(a - R)+  <= 0
        paper:  A = w g_C + g_R            repo:  A = (w g_C / alpha + g_R / (beta - alpha)) / (w + 1)

    Hence a bundle above ``b`` is silent and one in the lower tail is pushed down hardest; an all-wrong batch still teaches.
    ``seeking`` adds the upper tail ``(R - b)+ / (1 - beta)`` (the paper's ablation); ``divide`` divides by the standard deviation of A.

    How the responses of a bundle share A: ``uniform`` (paper) each the whole of it; ``std`` divided by the question's standard
    deviation; ``score`` half of it for a right and one and a half for a wrong one; ``sum_mean`` in proportion to the deviation from
    the question's mean, equal parts where the deviations cancel.

    Questions that do not fill the last bundle, responses beyond the smallest group of a bundle, and what is not kept have advantage
    0. Quantiles are empirical in the first step; later ``q_s += quantile_lr (s - mean 1[R < q_s])``, after they were used.
    """
    rewards, rng = inputs.rewards.double().numpy(), inputs.rng if inputs.rng is not None else np.random.default_rng(0)
    group, kept = inputs.group.numpy(), inputs.kept.numpy()
    questions = [np.flatnonzero((group == g) & kept) for g in np.unique(group[kept])]
    advantages = np.zeros(len(rewards))
    bundles = _bundles(questions, bundle, rng)
    if not bundles:
        return dict(state or {}), torch.from_numpy(advantages).float()

    scores = np.array([rewards[members].sum() for members in bundles])
    quantiles = np.array(state["quantiles"]) if state and "quantiles" in state else np.quantile(scores, LEVELS)
    low, high = (float(quantiles[np.abs(LEVELS - level).argmin()]) for level in (alpha, beta))
    middle = np.maximum(scores - low, 0) - np.maximum(scores - high, 0) + low - high
    tail = -np.maximum(low - scores, 0)
    gain = w * tail + middle if form == "paper" else (w * tail / alpha + middle / (beta - alpha)) / (w + 1)
    if seeking:
        gain = gain + np.maximum(scores - high, 0) / (1 - beta)
    if divide:
        std = gain.std(ddof=1) if len(gain) > 1 else 0.0
        gain = gain / (std if std > _FLOOR else 1.0)
    means, stds = _per_question(questions, rewards)
    for members, value in zip(bundles, gain, strict=True):
        advantages[members] = _share(spread, value, rewards[members], means[members], stds[members])
    if state and "quantiles" in state:
        quantiles = quantiles + quantile_lr * (LEVELS - (scores[:, None] < quantiles).mean(0))
    remembered = {"quantiles": quantiles.tolist(), "risk_low": low, "risk_high": high, "risk_lower_tail": float(tail.mean())}
    return remembered, torch.from_numpy(advantages).float()


def _bundles(questions: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices [size] of one response per question; each response of a question is used at most once, in random order."""
    made = []
    for first in range(0, len(questions) - size + 1, size):
        shuffled = [rng.permutation(q) for q in questions[first : first + size]]
        fewest = min(map(len, shuffled))
        made += [np.array([q[j] for q in shuffled]) for j in range(fewest)]
    return made


def _per_question(questions: list[np.ndarray], rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64[N] each: mean, and sample standard deviation (1 where it is at most `_FLOOR`), of each response's question."""
    means, stds = np.zeros(len(rewards)), np.ones(len(rewards))
    for members in questions:
        std = rewards[members].std(ddof=1) if len(members) > 1 else 0.0
        means[members], stds[members] = rewards[members].mean(), std if std > _FLOOR else 1.0
    return means, stds


def _share(spread: str, value: float, rewards: np.ndarray, means: np.ndarray, stds: np.ndarray) -> np.ndarray:
    if spread == "std":
        return value / stds
    if spread == "score":
        return value * np.where(rewards > 0, 0.5, 1.5)
    if spread == "sum_mean":
        deviations = rewards - means
        total = deviations.sum()
        return np.full(len(rewards), value / len(rewards)) if abs(total) < _FLOOR else value * deviations / total
    return np.full(len(rewards), value)
