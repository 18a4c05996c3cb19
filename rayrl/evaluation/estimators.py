"""What a policy or a scorer is worth, from samples that were scored once: unbiased estimators and their closed forms. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, log

import numpy as np
from numpy.typing import NDArray


def pass_at_k(samples: int, right: int, k: int) -> float:
    """``1 - C(n - c, k) / C(n, k)``: chance that one of k samples is right, from c right ones among n (Chen et al. 2021, arXiv 2107.03374).

    Exact integers, no overflow. Raises `ValueError` for k above n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1 - comb(samples - right, k) / comb(samples, k)


def pass_curve(right: Sequence[int], samples: int) -> dict[int, float]:
    """`pass_at_k` averaged over prompts, for k = 1, 2, 4, … up to ``samples``; ``right`` are right samples per prompt."""
    ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return {k: float(np.mean([pass_at_k(samples, c, k) for c in right])) for k in ks}


def alignment(curve: dict[int, float], *, aligned: float = 0.7, weak: float = 0.3) -> str:
    """``aligned``, ``between`` or ``not aligned`` by pass@k at the largest k (Mirage or Method, arXiv 2508.21188).

    Where a model is aligned with a task, odd rewards (random, negative only, one example) may still help; where it is not, only true
    rewards do. The thresholds are this code's own.
    """
    best = curve[max(curve)]
    return "aligned" if best >= aligned else "not aligned" if best <= weak else "between"


def best_of_n(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """Expected gold score of the answer with the best proxy score among n, from N scored answers (arXiv 2310.02743):

    ``sum_{i >= n} C(i-1, n-1) / C(N, n) * gold_(i)`` with answers sorted by proxy; equal proxies keep their order.
    """
    total = len(proxy)
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} needs at least {n} answers, there are {total}")
    order = np.argsort(np.asarray(proxy), kind="stable")
    whole = comb(total, n)
    weights = np.array([comb(i - 1, n - 1) / whole for i in range(1, total + 1)])
    return float(weights @ np.asarray(gold, dtype=np.float64)[order])


def best_of_n_kl(n: int) -> float:
    """``ln n - (n - 1) / n``: KL of best-of-n from the policy it samples, in nats."""
    return log(n) - (n - 1) / n


def bilevel_return(solved_at: int | None, horizon: int) -> int:
    """``H - h* + 1`` with h* the first step (from 1) whose prefix is right, 0 where none is (arXiv 2502.12118)."""
    return 0 if solved_at is None else horizon - solved_at + 1


def heterogeneity(returns: Sequence[float]) -> float:
    """Sample variance of bi-level returns of one prompt: for deterministic token dynamics ``sum_h E Var_a Q(s_h, a)`` (2502.12118)."""
    return float(np.var(returns, ddof=1)) if len(returns) > 1 else 0.0


def anti_concentration(returns: Sequence[float], kappa: float) -> float:
    """``P(r >= E r + sigma sqrt(kappa))`` with the population standard deviation; 1 where sigma is 0 (2502.12118)."""
    r = np.asarray(returns, dtype=np.float64)
    return float(np.mean(r >= r.mean() + r.std() * kappa**0.5))


def best_in_chi2_ball(returns: Sequence[float], probabilities: Sequence[float], kappa: float) -> tuple[float, NDArray[np.float64]]:
    """Largest mean return of a policy within ``chi^2 <= kappa`` of ``probabilities``, and that policy.

    The density ratio is ``max(0, 1 + (r - eta) lam)`` with mean 1; while no ratio is cut at 0 the value is ``E r + sigma sqrt(kappa)``.
    Beyond what any reweighting can reach all mass is on the best return.
    """
    r, p = np.asarray(returns, np.float64), np.asarray(probabilities, np.float64)
    top = p * (r == r.max())
    limit = top / top.sum()
    if ((limit**2 / p).sum() - 1) <= kappa:
        return float(limit @ r), limit

    def policy(temperature: float) -> NDArray[np.float64]:
        low, high = r.min() - temperature, r.max()
        for _ in range(200):  # the threshold at which max(0, r - eta) / temperature has mean 1
            eta = (low + high) / 2
            low, high = (eta, high) if (p * np.maximum(r - eta, 0)).sum() > temperature else (low, eta)
        q = p * np.maximum(r - (low + high) / 2, 0)
        return q / q.sum()

    small, large = 1e-12, 1e6 * max(float(np.ptp(r)), 1e-12)
    for _ in range(200):
        middle = (small * large) ** 0.5
        small, large = (middle, large) if (policy(middle) ** 2 / p).sum() - 1 > kappa else (small, middle)
    best = policy(large)
    return float(best @ r), best


def reciprocal_rank(ranking: Sequence[object], relevant: set, k: int) -> float:
    """1 over the rank of the first relevant item among the first k; 0 without one."""
    return next((1 / rank for rank, item in enumerate(ranking[:k], 1) if item in relevant), 0.0)


def recall(ranking: Sequence[object], relevant: set, k: int) -> float:
    """Share of distinct relevant items among the first k; 0 where nothing is relevant."""
    return len(set(ranking[:k]) & relevant) / len(relevant) if relevant else 0.0


def ndcg(ranking: Sequence[object], relevant: set, k: int) -> float:
    """Binary DCG over its ideal (not over max(0.3, ideal), as the DDRO code has it); 0 where nothing is relevant."""
    gains = [1 / np.log2(rank + 1) for rank in range(1, k + 1)]
    ideal = sum(gains[: len(relevant)])
    return float(sum(g for g, item in zip(gains, ranking, strict=False) if item in relevant) / ideal) if ideal else 0.0
