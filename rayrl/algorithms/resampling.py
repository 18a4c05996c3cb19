"""How often each trajectory is trained on: ``f(BatchInputs, **knobs) -> int64[N]``, after advantages are known. numpy only.

0 leaves a trajectory out, 2 counts it twice: its loss and its share of the denominator are multiplied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayrl.algorithms.batch import BatchInputs
from rayrl.types import FloatArray

RULES = ("bon", "br", "bw", "pow", "uniform")


def none(inputs: BatchInputs) -> NDArray[np.int64]:
    """Everything that is kept, once."""
    return inputs.kept.astype(np.int64)


def policy_filter(inputs: BatchInputs, *, rule: str = "bw", mode: str = "filter", power: float = 2.0) -> NDArray[np.int64]:
    """Policy filtration (PF-PPO, arXiv 2409.06957): train where a learned reward can be trusted, on the best and the worst samples.

    ``mode`` reweight draws as many samples as are kept, with replacement, by `rank_weights`. filter keeps each of the chosen once:
    best and worst (bw), best and one other at random (br), best (bon); pow and uniform have no filter form and are drawn. Groups are
    those of the prompt and ties go by order, as in the authors' code (verl ranks over the whole batch). Advantages come before.
    """
    times = np.zeros(len(inputs.rewards), np.int64)
    if mode == "filter" and rule in ("bon", "br", "bw"):
        for members in inputs.groups():
            order = members[np.argsort(inputs.rewards[members], kind="stable")]
            times[order[-1]] = 1
            if rule == "bw" and len(order) > 1:
                times[order[0]] = 1
            elif rule == "br" and len(order) > 1:
                times[inputs.rng.choice(order[:-1])] = 1
        return times
    kept = np.flatnonzero(inputs.kept)
    if len(kept):
        weights = rank_weights(inputs, rule, power)[kept]
        times[kept] = inputs.rng.multinomial(len(kept), weights / weights.sum())
    return times


def rank_weights(inputs: BatchInputs, rule: str, power: float = 2.0) -> NDArray[np.float64]:
    """float64[N], 0 where not kept: 1 in sum for each group, or for pow ``|reward|^power`` over the batch (uniform if all are 0).

    bon 1 on the best; br 1/2 on the best and 1/(2(n-1)) on the others; bw 1/2 on the best and on the worst; uniform 1/n. A group of
    one has weight 1.
    """
    weights = np.zeros(len(inputs.rewards))
    if rule == "pow":
        weights[inputs.kept] = np.abs(inputs.rewards[inputs.kept].astype(np.float64)) ** power
        return weights if weights.sum() > 0 else inputs.kept.astype(np.float64)
    for members in inputs.groups():
        order, n = members[np.argsort(inputs.rewards[members], kind="stable")], len(members)
        if rule == "uniform":
            weights[order] = 1 / n
        elif rule == "bon" or n == 1:
            weights[order[-1]] = 1.0
        elif rule == "br":
            weights[order[:-1]], weights[order[-1]] = 1 / (2 * (n - 1)), 0.5
        else:
            weights[order[0]] = weights[order[-1]] = 0.5
    return weights


def r_squared(rewards: FloatArray, truth: FloatArray, weights: NDArray[np.float64]) -> float:
    """Weighted coefficient of determination of ``truth ~ rewards``: ``cov_w^2 / (var_w var_w)``; 0 where either does not vary."""
    w = weights / weights.sum()
    x, y = rewards - (w * rewards).sum(), truth - (w * truth).sum()
    variance = (w * x**2).sum() * (w * y**2).sum()
    return float((w * x * y).sum() ** 2 / variance) if variance > 0 else 0.0


def best_rule(inputs: BatchInputs, truth: FloatArray, rules: tuple[str, ...] = ("br", "bw", "uniform")) -> tuple[str, dict[str, float]]:
    """The rule under which the model's reward explains the true score best, and all scores: on a small labelled set, before a run.

    bon is left out by default: one sample per prompt explains itself well and trains badly (the paper's own table).
    """
    scores = {rule: r_squared(inputs.rewards[inputs.kept], truth[inputs.kept], rank_weights(inputs, rule)[inputs.kept]) for rule in rules}
    return max(scores, key=scores.__getitem__), scores
