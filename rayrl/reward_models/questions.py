"""Which samples of a group are worth a question to the judge. Pure.

Pairs are of one prompt and of the present policy, and never of equal texts. With ``uncertainty`` those come first whose order the
model is least sure about; half of them stay random, so that what the model is wrongly sure about is looked at too.

Legend of shapes: ``n`` samples of a group, ``H`` heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from rayrl.types import FloatArray


def choose_pairs(texts: Sequence[str], heads: FloatArray | None, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """At most ``count`` pairs of samples with different texts, each pair of texts once.

    ``heads`` float32[n, H]: the model's scores; None chooses at random.
    """
    first_of = {text: i for i, text in reversed(list(enumerate(texts)))}
    candidates = list(combinations(sorted(first_of.values()), 2))
    candidates = [candidates[i] for i in rng.permutation(len(candidates))]
    if heads is None:
        return candidates[:count]
    margins = np.array([heads[a] - heads[b] for a, b in candidates]).reshape(-1, heads.shape[1])
    return _mixed(candidates, pair_uncertainty(margins), count)


def choose_singles(texts: Sequence[str], heads: FloatArray | None, count: int, rng: np.random.Generator) -> list[int]:
    """At most ``count`` samples with different texts; those whose heads disagree most first."""
    first_of = {text: i for i, text in reversed(list(enumerate(texts)))}
    candidates = [int(i) for i in rng.permutation(sorted(first_of.values()))]
    if heads is None:
        return candidates[:count]
    return _mixed(candidates, heads[candidates].std(1), count)


def pair_uncertainty(margins: FloatArray) -> FloatArray:
    """float[P]: entropy, in nats, of the mean over heads of P(first better), from float[P, H] differences of scores."""
    p = np.clip((1 / (1 + np.exp(-np.clip(margins, -50, 50)))).mean(1), 1e-9, 1 - 1e-9)
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def _mixed(shuffled: list, uncertainty: FloatArray, count: int) -> list:
    """The most uncertain of a shuffled list for one half of ``count``, the next in line for the other."""
    by_doubt = [shuffled[i] for i in np.argsort(-uncertainty, kind="stable")[: (count + 1) // 2]]
    rest = [c for c in shuffled if c not in by_doubt]
    return by_doubt + rest[: count - len(by_doubt)]
