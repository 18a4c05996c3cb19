"""Several rewards that claim to say the same, as one: ``f(components, weights, **knobs) -> float32[n]``. numpy only: the buffer runs it.

A component is a member: a reward model, a head, a judge. Its weight is its scale; NaN means that it has no score for that sample,
and the others decide. Members on different scales must be brought to one by their weights, else the one with the smallest values
is always the worst.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rayrl.types import FloatArray


def mean(components: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """Mean of the members that have a score."""
    return np.nanmean(_members(components, weights), axis=0).astype(np.float32)


def worst_case(components: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """Least member (WCO, Coste et al. 2024, arXiv 2310.02743 section 4)."""
    return np.nanmin(_members(components, weights), axis=0).astype(np.float32)


def uncertainty_weighted(
    components: Mapping[str, FloatArray], weights: Mapping[str, float], *, lam: float = 0.1, ddof: int = 0
) -> FloatArray:
    """``mean - lam * variance`` over members (UWO, arXiv 2310.02743 section 4); the variance of a single member is 0.

    ``ddof`` 0 is the population variance (the authors' best-of-n code), 1 the sample variance (their PPO code).
    """
    members = _members(components, weights)
    count = (~np.isnan(members)).sum(0)
    centred = members - np.nanmean(members, axis=0)
    variance = np.nansum(centred**2, axis=0) / np.maximum(count - ddof, 1)
    return (np.nanmean(members, axis=0) - lam * variance).astype(np.float32)


def robust(components: Mapping[str, FloatArray], weights: Mapping[str, float], *, w: float = 0.6, deviation: str = "_std") -> FloatArray:
    """``w * nominal + (1 - w) * worst`` (reward-robust RLHF, arXiv 2409.15360); w = 1 trusts the nominal member, 0 is `worst_case`.

    The nominal member is the one whose component NAME + ``deviation`` is least for the sample, the first among equals; where no
    member states a deviation it is the mean. (A digest of the paper prints the weight both ways round: here w multiplies the nominal.)
    """
    names = [name for name in components if not (name.endswith(deviation) and name.removesuffix(deviation) in components)]
    members = _members({name: components[name] for name in names}, weights)
    nominal = np.nanmean(members, axis=0)
    stated = [name for name in names if name + deviation in components]
    if stated:
        spread = np.full(members.shape, np.inf)
        for row, name in enumerate(names):
            if name in stated:
                spread[row] = components[name + deviation]
        spread = np.where(np.isnan(spread) | np.isnan(members), np.inf, spread)
        pick = spread.argmin(0)
        some = np.isfinite(spread.min(0))
        nominal = np.where(some, members[pick, np.arange(members.shape[1])], nominal)
    return (w * nominal + (1 - w) * np.nanmin(members, axis=0)).astype(np.float32)


def _members(components: Mapping[str, FloatArray], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """float64[M, n], scaled. Raises `ValueError` for a sample without any score: the caller must not ask for it."""
    members = np.stack([weights[name] * np.asarray(values, np.float64) for name, values in components.items()])
    if np.isnan(members).all(0).any():
        raise ValueError("a sample without any score has no reward")
    return members
