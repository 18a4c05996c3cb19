"""Estimators of evaluation against enumeration of all subsets, simulation and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rayrl.evaluation import estimators as e


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n in range(1, 8):
        for c in range(n + 1):
            marks = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(marks, k))
                assert e.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert e.pass_at_k(1000, 500, 400) <= 1, "no overflow"
    with pytest.raises(ValueError, match="pass@3"):
        e.pass_at_k(2, 1, 3)


def test_a_task_is_aligned_by_what_many_tries_find():
    assert e.alignment(e.pass_curve([8, 1, 2, 3], 8)) == "aligned"
    assert e.alignment(e.pass_curve([0, 0, 0, 0, 1], 8)) == "not aligned"
    assert list(e.pass_curve([1], 8)) == [1, 2, 4, 8] and list(e.pass_curve([1], 6)) == [1, 2, 4]


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    for _ in range(50):
        total = int(rng.integers(1, 7))
        proxy, gold = rng.integers(0, 4, total) + np.arange(total) * 1e-9, rng.normal(size=total)
        for n in range(1, total + 1):
            chosen = [max(s, key=lambda i: proxy[i]) for s in itertools.combinations(range(total), n)]
            assert e.best_of_n(proxy, gold, n) == pytest.approx(np.mean([gold[i] for i in chosen]))
    assert math.isfinite(e.best_of_n(np.arange(3000), np.arange(3000), 1500))
    assert e.best_of_n_kl(1) == 0 and e.best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_on_a_token_tree_heterogeneity_is_the_variance_of_the_return():
    """sum_h E Var_a Q(s_h, a) = Var r, by martingale differences; here on random binary trees of depth 3."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        policy = {s: rng.uniform(0.1, 0.9) for h in range(3) for s in itertools.product((0, 1), repeat=h)}
        value = {s: float(rng.normal()) for s in itertools.product((0, 1), repeat=3)}
        chance = lambda s, policy=policy: math.prod(policy[s[:h]] if s[h] else 1 - policy[s[:h]] for h in range(len(s)))
        q = dict(value)
        total = 0.0
        for h in (2, 1, 0):
            for s in itertools.product((0, 1), repeat=h):
                p, left, right = policy[s], q[(*s, 0)], q[(*s, 1)]
                q[s] = (1 - p) * left + p * right
                total += chance(s) * p * (1 - p) * (left - right) ** 2
        mean = sum(chance(s) * v for s, v in value.items())
        assert total == pytest.approx(sum(chance(s) * (v - mean) ** 2 for s, v in value.items()))
    draws = rng.normal(size=1000)
    assert e.heterogeneity(draws) == pytest.approx(np.var(draws, ddof=1)) and e.heterogeneity([3.0]) == 0
    assert (e.bilevel_return(1, 16), e.bilevel_return(16, 16), e.bilevel_return(None, 16)) == (16, 1, 0)


def test_a_constant_return_is_concentrated_at_its_mean():
    assert e.anti_concentration([2.0] * 5, 1.0) == 1.0
    assert e.anti_concentration([0, 0, 0, 1], 0.25) == 0.25


def test_the_best_policy_in_a_chi2_ball_beats_random_ones_and_has_the_closed_form():
    rng = np.random.default_rng(2)
    for _ in range(30):
        n = int(rng.integers(2, 6))
        r, p = rng.normal(size=n), rng.dirichlet(np.ones(n) * 3)
        for kappa in (0.01, 0.3, 100.0):
            value, q = e.best_in_chi2_ball(r, p, kappa)
            assert q.min() >= 0 and q.sum() == pytest.approx(1)
            assert (q**2 / p).sum() - 1 <= kappa + 1e-6
            sigma = math.sqrt(p @ r**2 - (p @ r) ** 2)
            assert value <= p @ r + sigma * math.sqrt(kappa) + 1e-6
            if (1 + (r - p @ r) * math.sqrt(kappa) / sigma).min() >= 0:
                assert value == pytest.approx(p @ r + sigma * math.sqrt(kappa), abs=1e-5)
            for other in rng.dirichlet(np.ones(n), 200):
                if (other**2 / p).sum() - 1 <= kappa:
                    assert other @ r <= value + 1e-6


def test_ranking_measures():
    ranking, relevant = ["a", "b", "c", "d"], {"b", "d", "x"}
    assert e.reciprocal_rank(ranking, relevant, 4) == 0.5 and e.reciprocal_rank(ranking, relevant, 1) == 0
    assert e.recall(ranking, relevant, 4) == pytest.approx(2 / 3) and e.recall(["b", "b"], relevant, 2) == pytest.approx(1 / 3)
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert e.ndcg(ranking, relevant, 4) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert e.ndcg(ranking, set(), 4) == e.recall(ranking, set(), 4) == 0
