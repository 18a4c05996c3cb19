"""Rewards that depend on the other samples: ``f(BatchInputs, **knobs) -> Shaped``, before any advantage. numpy only.

Every rank computes the same from the same metadata. A stateful shaping is ``f(state, BatchInputs, **knobs) -> (state, Shaped)``.
What is not kept keeps its reward, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayrl.algorithms.batch import BatchInputs, Shaped

BANDS = ("low", "medium", "high")
"""Difficulty bands by the share of right answers: low is hard."""


def none(inputs: BatchInputs) -> Shaped:
    """The rewards as they are."""
    return Shaped(inputs.rewards)


def win_rate(inputs: BatchInputs, *, tie_band: float = 0.0) -> Shaped:
    """``w_i = mean over siblings j of 1[i beats j] + 1/2 [tie]`` (Pref-GRPO, arXiv 2508.20751): scale-free within the group.

    Every weighted component is a judge that compares values, and calls differences up to ``tie_band`` a tie; their win rates are
    averaged by weight. A comparison in which a score failed is not made: the rate is over those made, 1/2 where there are none. All
    ties give 1/2 to everybody. A full round robin adds up to n / 2.
    """
    judges = {name: (inputs.weights[name], np.asarray(v, np.float64)) for name, v in inputs.components.items()}
    judges = judges or {"reward": (1.0, inputs.rewards.astype(np.float64))}
    rewards, ties, made = np.zeros(len(inputs.rewards)), 0.0, 0.0
    for members in inputs.groups():
        total = np.zeros(len(members))
        for weight, values in judges.values():
            ahead = values[members][:, None] - values[members][None, :]
            compared = ~np.isnan(ahead) & ~np.eye(len(members), dtype=bool)
            won = np.where(compared, (ahead > tie_band) + 0.5 * (np.abs(ahead) <= tie_band), 0).sum(1)
            count = compared.sum(1)
            total += weight * np.where(count > 0, won / np.maximum(count, 1), 0.5)
            ties, made = ties + (compared & (np.abs(ahead) <= tie_band)).sum(), made + count.sum()
        rewards[members] = total / sum(weight for weight, _ in judges.values())
    return Shaped(rewards.astype(np.float32), {"tie_share": ties / max(made, 1.0)})


def majority(inputs: BatchInputs) -> Shaped:
    """1 for the answer that most samples of the prompt gave, else 0: a label that nobody had to give (TTRL, arXiv 2504.16084).

    Rewards are numbers that stand for answers (verifier ``answer_number``); negative ones stand for none. The first among equally
    frequent answers wins.
    """
    rewards, agreed = np.zeros(len(inputs.rewards), np.float32), 0.0
    for members in inputs.groups():
        given = [value for value in inputs.rewards[members].tolist() if value >= 0]
        if given:
            counts = {value: given.count(value) for value in dict.fromkeys(given)}
            chosen = max(counts, key=counts.__getitem__)
            rewards[members] = inputs.rewards[members] == chosen
            agreed += counts[chosen]
    return Shaped(rewards, {"agreement_share": agreed / max(int(inputs.kept.sum()), 1)})


def short_wrong(inputs: BatchInputs, *, penalty: float = 0.5, tau: float = 1.0, threshold: float = 1.0) -> Shaped:
    """Wrong answers that are shorter than ``tau`` times the mean right one lose up to ``penalty``, in proportion (HARMO, 2510.05283).

    Against the hack of answering briefly and wrongly. A group without a right answer, or with right ones only, is left alone; an
    empty answer loses all of ``penalty``. The published text leaves shape and constants open; these are parameters.
    """
    rewards, punished = inputs.rewards.astype(np.float64), 0
    for members in inputs.groups():
        right = inputs.rewards[members] >= threshold
        if right.any():
            floor = tau * inputs.lengths[members[right]].mean()
            short = members[~right & (inputs.lengths[members] < floor)]
            rewards[short] -= penalty * (floor - inputs.lengths[short]) / floor
            punished += len(short)
    return Shaped(rewards.astype(np.float32), {"punished_share": punished / max(int(inputs.kept.sum()), 1)})


def laser(inputs: BatchInputs, *, bonus: float = 0.5, target: int = 256, kind: str = "reward", threshold: float = 1.0) -> Shaped:
    """Right answers of at most ``target`` tokens earn ``bonus`` (LASER, arXiv 2505.15612).

    ``kind`` penalty takes it from right answers that are longer instead, hybrid does both. Wrong answers are never shaped.
    """
    targets = np.full(len(inputs.rewards), target)
    return Shaped(_length_bonus(inputs, targets, bonus, kind, threshold))


def laser_d(
    state: Mapping[str, Any] | None,
    inputs: BatchInputs,
    *,
    bonus: float = 0.5,
    target: int = 256,
    step: int = 32,
    every: int = 20,
    threshold: float = 1.0,
) -> tuple[dict[str, Any], Shaped]:
    """`laser` whose target follows the difficulty of the problem and is re-estimated as the run goes (LASER-D, arXiv 2505.15612).

    Band of a group by its share of right answers: high from 2/3, medium from 1/3, else low. Every ``every`` steps, from all answers of
    these steps, with the other closure (low up to 1/3, medium up to 2/3): the target of a band is the smallest multiple of ``step``
    that the share ``1 / c`` of the band's answers does not exceed, ``c`` = floor(2n/3), floor(n/3), 1 for high, medium, low and n
    samples per problem; never more than the longest answer of the batch. Until then, and for a band without answers, ``target``.

    The paper measures coverage on extra rollouts of held-out problems; here the run's own answers are used, which costs nothing.
    """
    state = dict(state or {"steps": 0, "seen": {band: [] for band in BANDS}} | {f"target_{band}": target for band in BANDS})
    longest = int(inputs.lengths[inputs.kept].max(initial=1))
    targets, seen = np.zeros(len(inputs.rewards), np.int64), {band: list(lengths) for band, lengths in state["seen"].items()}
    most = 1
    for members in inputs.groups():
        share, most = float((inputs.rewards[members] >= threshold).mean()), max(most, len(members))
        targets[members] = min(state[f"target_{BANDS[(share >= 1 / 3) + (share >= 2 / 3)]}"], longest)
        seen[BANDS[(share > 1 / 3) + (share > 2 / 3)]] += inputs.lengths[members].tolist()
    state |= {"steps": state["steps"] + 1, "seen": seen}
    if state["steps"] % every == 0:
        chances = {"low": 1, "medium": most // 3, "high": 2 * most // 3}
        state |= {f"target_{b}": _covering(seen[b], chances[b], step, longest) if seen[b] else state[f"target_{b}"] for b in BANDS}
        state["seen"] = {band: [] for band in BANDS}
    return state, Shaped(_length_bonus(inputs, targets, bonus, "reward", threshold))


def grpo_lambda(inputs: BatchInputs, *, lam: float = 0.2, alpha: float = 0.6) -> Shaped:
    """Right answers of the best groups lose with length: ``1 - alpha sigmoid((L - mean) / std)`` (GRPO-lambda, arXiv 2505.18086).

    The best groups are the ``ceil(lam K)`` (at least one, none for lam 0) of the K groups with the largest share of right answers,
    earlier ones first among equals. Mean and population standard deviation are those of the group's right answers; a single one, or
    equal lengths, count as average. All other rewards stay 0 and 1: what is not yet mastered is not pressed to be short.
    """
    groups, rewards = list(inputs.groups()), inputs.rewards.astype(np.float64)
    shares = np.array([inputs.rewards[members].mean() for members in groups])
    count = 0 if lam == 0 else min(len(groups), max(1, int(np.ceil(round(lam * len(groups), 9)))))
    chosen = np.argsort(-shares, kind="stable")[:count]
    for k in chosen:
        right = groups[k][inputs.rewards[groups[k]] > 0]
        lengths = inputs.lengths[right].astype(np.float64)
        if len(right):
            std = lengths.std()
            z = (lengths - lengths.mean()) / std if std > 0 else np.zeros(len(right))
            rewards[right] = 1 - alpha / (1 + np.exp(-z))
    shown = {"selected_share": len(chosen) / max(len(groups), 1), "selected_accuracy": float(shares[chosen].mean()) if count else 0.0}
    return Shaped(rewards.astype(np.float32), shown)


def _length_bonus(inputs: BatchInputs, targets: np.ndarray, bonus: float, kind: str, threshold: float) -> np.ndarray:
    right, fits = inputs.kept & (inputs.rewards >= threshold), inputs.lengths <= targets
    gain = np.where(fits, bonus if kind != "penalty" else 0.0, -bonus if kind != "reward" else 0.0)
    return (inputs.rewards + np.where(right, gain, 0)).astype(np.float32)


def _covering(lengths: list[int], chances: int, step: int, longest: int) -> int:
    """Smallest multiple of ``step`` with ``floor(coverage * chances) >= 1``; ``longest`` where there is none below it."""
    values = np.array(lengths)
    for threshold in range(step, longest, step):
        if np.floor((values <= threshold).mean() * chances + 1e-9) >= 1:
            return threshold
    return longest
