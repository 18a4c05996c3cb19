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
