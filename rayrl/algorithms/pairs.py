"""Who is preferred to whom: ``f(BatchInputs, **knobs) -> Pairs`` from the samples of each prompt. numpy only.

A pair never leaves its group. Samples with equal rewards are never a pair, nor are samples without an action token. Order is
that of the trajectories, so that every rank builds the same list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayrl.algorithms.batch import BatchInputs
from rayrl.types import FloatArray


@dataclass(frozen=True, eq=False)
class Pairs:
    """``P`` pairs of trajectories of a batch."""

    chosen: NDArray[np.int64]
    """int64[P]: index of the preferred trajectory."""
    rejected: NDArray[np.int64]
    """int64[P]."""
    target: FloatArray
    """float32[P]: what the builder says of the pair beside its order: the difference of the rewards, or where the builder says so
    the probability that the chosen one is better."""
    weight: FloatArray
    """float32[P]: how much the pair counts, in the loss and in its denominator."""

    def __len__(self) -> int:
        return len(self.chosen)


def pairs_of(inputs: BatchInputs, found: Iterable[tuple[int, int]], target: Iterable[float] | None = None) -> Pairs:
    """``found`` (chosen, rejected) as `Pairs`; ``target`` defaults to the difference of the rewards."""
    table = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    chosen, rejected = table[:, 0], table[:, 1]
    rewards = np.where(inputs.kept, inputs.rewards, 0).astype(np.float64)
    values = rewards[chosen] - rewards[rejected] if target is None else np.array(list(target), dtype=np.float64)
    return Pairs(chosen, rejected, values.astype(np.float32), np.ones(len(table), np.float32))


def ranked(inputs: BatchInputs) -> list[NDArray[np.int64]]:
    """Members of each group that can be compared (kept, not empty), best first; equal rewards in their own order."""
    result = []
    for members in inputs.groups():
        able = members[inputs.lengths[members] > 0]
        result.append(able[np.argsort(-inputs.rewards[able], kind="stable")])
    return [members for members in result if len(members) > 1]


def best_worst(inputs: BatchInputs) -> Pairs:
    """One pair per prompt, the first of the best against the last of the worst; none where all rewards are equal."""
    found = [(int(m[0]), int(m[-1])) for m in ranked(inputs) if inputs.rewards[m[0]] > inputs.rewards[m[-1]]]
    return pairs_of(inputs, found)


def all_pairs(inputs: BatchInputs, *, per: str = "pair") -> Pairs:
    """Every ordered pair of samples of one prompt with different rewards.

    ``per`` pair: every pair weighs the same. prompt: every prompt that has pairs weighs the same (the mean over its pairs).
    """
    r = inputs.rewards
    found = [(int(a), int(b)) for m in ranked(inputs) for i, a in enumerate(m) for b in m[i + 1 :] if r[a] > r[b]]
    pairs = pairs_of(inputs, found)
    if per == "pair":
        return pairs
    return replace(pairs, weight=(1 / np.bincount(inputs.group[pairs.chosen])[inputs.group[pairs.chosen]]).astype(np.float32))


def verified(inputs: BatchInputs, *, threshold: float = 0.5, per_positive: int = 0) -> Pairs:
    """Every sample whose reward reaches ``threshold`` against every one below it: right answers as demonstrations, the others as hard
    negatives (DDRO's relevant and irrelevant documents; the experts and fresh samples of Diffusion-DRO, for text).

    ``per_positive`` bounds the negatives of one positive, drawn at random; 0 is all.
    """
    found = []
    for members in ranked(inputs):
        good, bad = (members[inputs.rewards[members] >= threshold], members[inputs.rewards[members] < threshold])
        for a in good:
            drawn = np.sort(inputs.rng.choice(bad, per_positive, replace=False)) if 0 < per_positive < len(bad) else bad
            found += [(int(a), int(b)) for b in drawn]
    return pairs_of(inputs, found)


def zermelo_best_worst(inputs: BatchInputs, *, smoothing: float = 0.1, drop_ties: bool = False) -> Pairs:
    """Strongest against weakest sample of each prompt, with the probability ``s_best / (s_best + s_worst)`` as target (iREPO).

    Every component is a judge who prefers the sample with the larger value (half a vote each for equal ones; a failed score gives no
    vote). Strengths are the Bradley-Terry maximum of the votes, see `zermelo`. All strengths equal: probability 1/2, which holds the
    policy still, or no pair with ``drop_ties``. A prompt nobody voted on has no pair.
    """
    matrix, found, target = inputs.matrix(), [], []
    for members in ranked(inputs):
        votes = _votes(matrix[:, members])
        if votes.sum() == 0:
            continue
        strengths = zermelo(votes, smoothing)
        best, worst = int(strengths.argmax()), int(len(strengths) - 1 - strengths[::-1].argmin())
        if best == worst or (drop_ties and strengths[best] == strengths[worst]):
            continue
        found.append((int(members[best]), int(members[worst])))
        target.append(strengths[best] / (strengths[best] + strengths[worst]))
    return pairs_of(inputs, found, target)


def zermelo(votes: NDArray[np.float64], smoothing: float = 0.1, *, tolerance: float = 1e-12, most: int = 10_000) -> NDArray[np.float64]:
    """Bradley-Terry strengths float64[n], geometric mean 1, of ``votes[i, j]`` for i over j, by Zermelo's fixed point (1929):

        s_i <- sum_j W_ij / sum_j (W_ij + W_ji) / (s_i + s_j)

    ``smoothing`` is added to every pair in both directions: strengths stay finite and every pair is connected.
    """
    n = len(votes)
    w = votes + smoothing * (1 - np.eye(n))
    strengths, both, wins = np.ones(n), w + w.T, w.sum(1)
    for _ in range(most):
        new = wins / (both / (strengths[:, None] + strengths[None, :])).sum(1)
        new /= np.exp(np.log(new).mean())
        if np.abs(new - strengths).max() < tolerance:
            return new
        strengths = new
    return strengths


def upo(
    inputs: BatchInputs, *, mu: float = 1.0, share: float = 1.0, pick: str = "easy", smooth: str = "none", temperature: float = 1.0
) -> Pairs:
    """Upper against lower half of each prompt's ranking, screened by the uncertainty of several passes (UPO, arXiv 2409.11212).

    Every component is one stochastic pass of an estimator (a head of an ensemble, or a pass with dropout); pass t says with
    probability ``sigmoid((h_tw - h_tl) / temperature)`` that w is better. A pair is kept when most passes agree with the ranking (a
    tie is no majority). Of those a ``share`` is drawn without replacement with weight ``(1 - B)^mu`` (``pick`` easy) or B (hard),
    B being `information_gain`; ``share`` 1 keeps all.

    The target is the smoothing a of the loss: ``none`` 0 (as released), ``uncertainty`` B / (2 ln 2), ``printed`` 1 / (P + 1) with P
    the sampling probability, which is above 1/2 and trains towards the reversed preference: offered, not recommended.
    """
    matrix, r, found, gains = inputs.matrix(), inputs.rewards, [], []
    for members in ranked(inputs):
        upper, lower = members[: (len(members) + 1) // 2], members[len(members) // 2 :]
        for a in upper:
            for b in lower:
                margins = (matrix[:, a] - matrix[:, b]) / temperature
                margins = margins[~np.isnan(margins)]
                if r[a] > r[b] and len(margins) and (margins > 0).sum() * 2 > len(margins):
                    p = 1 / (1 + np.exp(-margins.clip(-500, 500)))
                    found.append((int(a), int(b)))
                    gains.append(float(information_gain(np.stack([p, 1 - p], -1)[:, None, :])[0]))
    if not found:
        return pairs_of(inputs, [], [])
    b = np.array(gains)
    weights = (1 - b) ** mu if pick == "easy" else np.maximum(b, 0) + 1e-12
    chances = weights / weights.sum()
    count = min(len(found), max(1, round(share * len(found))))
    drawn = np.arange(len(found)) if count == len(found) else np.sort(inputs.rng.choice(len(found), count, replace=False, p=chances))
    a = {"none": np.zeros_like(b), "uncertainty": b / (2 * np.log(2)), "printed": 1 / (chances + 1)}[smooth]
    return pairs_of(inputs, [found[k] for k in drawn], a[drawn])


def information_gain(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """BALD in nats, float64[N] in [0, ln 2] for two classes: entropy of the mean minus mean of the entropies of ``p`` [T, N, classes]."""
    entropy = lambda q: -(q * np.log(np.maximum(q, 1e-300))).sum(-1)
    return np.maximum(entropy(p.mean(0)) - entropy(p).mean(0), 0)


def _votes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n, n] from ``values[judges, n]``: who prefers i over j, half a vote for equal values, none where one is NaN."""
    ahead = values[:, :, None] - values[:, None, :]
    votes = np.where(np.isnan(ahead), 0.0, (ahead > 0) + 0.5 * (ahead == 0)).sum(0)
    np.fill_diagonal(votes, 0)
    return votes
