"""Which samples are trained on, and several rewards as one."""

from __future__ import annotations

import numpy as np
import pytest

from rayrl.algorithms.batch import BatchInputs
from rayrl.algorithms.ensembles import mean, robust, uncertainty_weighted, worst_case
from rayrl.algorithms.resampling import RULES, best_rule, none, policy_filter, r_squared, rank_weights


def random_batch(rng, kept=0.85, seed=0) -> BatchInputs:
    sizes = rng.integers(1, 7, rng.integers(1, 6))
    n = int(sizes.sum())
    rewards = rng.integers(-2, 3, n).astype(np.float32)
    return BatchInputs(
        rewards, np.repeat(np.arange(len(sizes)), sizes), np.ones(n, np.int64), rng.random(n) < kept, rng=np.random.default_rng(seed)
    )


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_those_of_the_rank_within_the_group(rule):
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = random_batch(rng)
        got = rank_weights(x, rule)
        assert (got[~x.kept] == 0).all() and (got >= 0).all()
        if rule == "pow":
            r2 = np.where(x.kept, x.rewards.astype(float) ** 2, 0)
            np.testing.assert_allclose(got, r2 if r2.sum() > 0 else x.kept.astype(float))
            continue
        for g in set(x.group[x.kept].tolist()):
            group = sorted((i for i in range(len(got)) if x.group[i] == g and x.kept[i]), key=lambda i: (x.rewards[i], i))
            n = len(group)
            if rule == "uniform":
                expected = [1 / n] * n
            elif n == 1 or rule == "bon":
                expected = [0.0] * (n - 1) + [1.0]
            elif rule == "br":
                expected = [1 / (2 * (n - 1))] * (n - 1) + [0.5]
            else:
                expected = [0.5] + [0.0] * (n - 2) + [0.5]
            np.testing.assert_allclose(got[group], expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["filter", "reweight"])
def test_only_kept_samples_are_trained_on_and_as_often_as_the_mode_says(rule, mode):
    rng = np.random.default_rng(1)
    for seed in range(200):
        x = random_batch(rng, seed=seed)
        times = policy_filter(x, rule=rule, mode=mode)
        assert (times[~x.kept] == 0).all() and times.min(initial=0) >= 0
        if mode == "reweight" or rule in ("pow", "uniform"):
            assert times.sum() == x.kept.sum()
            assert (times[rank_weights(x, rule) == 0] == 0).all()
        else:
            per_group = {g: int(times[x.group == g].sum()) for g in set(x.group[x.kept].tolist())}
            sizes = {g: int((x.kept & (x.group == g)).sum()) for g in per_group}
            assert per_group == {g: min(2 if rule != "bon" else 1, sizes[g]) for g in per_group} and times.max(initial=0) <= 1
    assert none(x).tolist() == x.kept.astype(int).tolist()


def test_equal_rewards_still_give_two_different_samples():
    x = BatchInputs(np.ones(4, np.float32), np.zeros(4, np.int64), np.ones(4, np.int64), np.ones(4, bool))
    assert policy_filter(x, rule="bw").tolist() == [1, 0, 0, 1]


def test_drawing_by_weight_has_the_weights_as_its_mean():
    x = BatchInputs(
        np.array([0, 1, 2], np.float32), np.zeros(3, np.int64), np.ones(3, np.int64), np.ones(3, bool), rng=np.random.default_rng(0)
    )
    mean_times = np.mean([policy_filter(x, rule="br", mode="reweight") for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean_times, [0.75, 0.75, 1.5], atol=0.06)


def test_the_chooser_takes_a_rule_that_avoids_the_noisy_middle():
    """The page's check: noise that is large only in the middle; never without a labelled set."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(300, 6)).astype(np.float32)
    noise = rng.normal(size=truth.shape) * 0.6 * np.exp(-(truth**2))
    x = BatchInputs((truth + noise).astype(np.float32).ravel(), np.repeat(np.arange(300), 6), np.ones(1800, np.int64), np.ones(1800, bool))
    rule, scores = best_rule(x, truth.ravel())
    assert rule in ("bw", "br") and scores[rule] > scores["uniform"]


def test_r_squared_is_the_squared_correlation():
    rng = np.random.default_rng(3)
    for _ in range(100):
        x, y = rng.normal(size=(2, 20)).astype(np.float32)
        w = rng.integers(0, 4, 20).astype(float) + 0.01
        c = np.cov(x, y, aweights=w)
        assert r_squared(x, y, w) == pytest.approx(c[0, 1] ** 2 / (c[0, 0] * c[1, 1]), rel=1e-4)
    assert r_squared(np.ones(5, np.float32), y[:5], np.ones(5)) == 0


def heads(rng, members, n, nan=0.0):
    components = {f"h{i}": np.where(rng.random(n) < nan, np.nan, rng.normal(size=n)).astype(np.float32) for i in range(members)}
    components["h0"] = np.nan_to_num(components["h0"])
    return components, {name: float(rng.uniform(0.5, 2)) for name in components}


def test_ensembles_equal_a_loop_over_members_and_skip_the_missing():
    rng = np.random.default_rng(4)
    for _ in range(300):
        n = int(rng.integers(1, 7))
        c, w = heads(rng, int(rng.integers(1, 6)), n, nan=0.2)
        for i in range(n):
            scores = [w[k] * float(c[k][i]) for k in c if not np.isnan(c[k][i])]
            one = {k: v[i : i + 1] for k, v in c.items()}
            assert mean(one, w)[0] == pytest.approx(np.mean(scores), abs=1e-6)
            assert worst_case(one, w)[0] == pytest.approx(min(scores), abs=1e-6)
            assert uncertainty_weighted(one, w, lam=0.5)[0] == pytest.approx(np.mean(scores) - 0.5 * np.var(scores), abs=1e-5)
            if len(scores) > 1:
                assert uncertainty_weighted(one, w, lam=0.5, ddof=1)[0] == pytest.approx(
                    np.mean(scores) - 0.5 * np.var(scores, ddof=1), abs=1e-5
                )
            assert robust(one, w, w=0.4)[0] == pytest.approx(0.4 * np.mean(scores) + 0.6 * min(scores), abs=1e-5)


def test_identical_members_make_every_rule_the_same():
    values = np.random.default_rng(5).normal(size=6).astype(np.float32)
    c, w = dict.fromkeys("abc", values), dict.fromkeys("abc", 1.0)
    for rule in (mean, worst_case, uncertainty_weighted, robust):
        np.testing.assert_allclose(rule(c, w), values, atol=1e-6)


def test_a_single_member_has_no_variance():
    c = {"a": np.array([3.0], np.float32)}
    assert uncertainty_weighted(c, {"a": 1.0}, ddof=1)[0] == 3.0


def test_the_most_certain_head_is_the_nominal_one():
    c = {
        "a": np.array([1.0, 1.0, 1.0], np.float32),
        "b": np.array([5.0, 5.0, 5.0], np.float32),
        "a_std": np.array([0.1, 0.9, 0.5], np.float32),
        "b_std": np.array([0.2, 0.2, 0.5], np.float32),
    }
    w = dict.fromkeys(c, 1.0)
    assert robust(c, w, w=1.0).tolist() == [1.0, 5.0, 1.0], "equal spreads take the first"
    assert robust(c, w, w=0.0).tolist() == [1.0, 1.0, 1.0]
    assert robust(c, w, w=0.5).tolist() == [1.0, 3.0, 1.0]


def test_a_sample_without_any_score_is_refused():
    with pytest.raises(ValueError, match="without any score"):
        mean({"a": np.array([np.nan], np.float32)}, {"a": 1.0})
